"""What the deployment promises: who reaches whom, what a container may do, what listens and how it refuses, where secrets are not."""

import json
import re
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from mdm_service.server import probe
from mdm_site.containers import DOOR_PORT, METRICS_PORT, SCP_PORT, SERVICE_PORT
from mdm_site.pki import DevelopmentCa
from mdm_site.site import BY_NAME, MONITOR
from mdm_testing.compose_stack import ComposeStack
from mdm_wire.tls import TlsFiles
from psycopg import conninfo

pytestmark = [pytest.mark.e2e, pytest.mark.compose]

DATABASES = tuple(f"{name}-db" for name in BY_NAME)
EVERYTHING = (*BY_NAME, *DATABASES, "pacs", "pacs-forwarder")
#: What answers on the grid's network, and nothing else does.
DOCUMENTED = {(name, port) for name in BY_NAME for port in (SERVICE_PORT[name], METRICS_PORT)}
DOCUMENTED |= {("dicom-srm", DOOR_PORT)}

_SCAN = """
import concurrent.futures, json, socket, sys
def is_open(target):
    with socket.socket() as probe:
        probe.settimeout(float(sys.argv[1]))
        return probe.connect_ex(tuple(target)) == 0
targets = json.loads(sys.stdin.read())
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print(json.dumps([target for target, found in zip(targets, pool.map(is_open, targets, chunksize=500)) if found]))
"""


def addresses(stack: ComposeStack, name: str) -> dict[str, str]:
    """Return a container's address by network."""
    networks = stack.inspect(name)["NetworkSettings"]["Networks"]
    return {network.removeprefix(f"{stack.project}_"): values["IPAddress"] for network, values in networks.items()}


def open_ports(stack: ComposeStack, targets: list[tuple[str, int]], timeout: float) -> set[tuple[str, int]]:
    """Return which of host and port a stranger on the grid's network can connect to."""
    stranger = ["docker", "run", "--rm", "-i", f"--network={stack.project}_grid", "--entrypoint=python3", "mdm/catalog:latest"]
    found = stack.run(*stranger, "-c", _SCAN, str(timeout), stdin=json.dumps(targets), timeout=300).stdout
    return {(host, port) for host, port in json.loads(found)}


def test_from_the_grid_only_what_is_documented_answers(stack: ComposeStack):
    hosts = {addresses(stack, name)["grid"]: name for name in BY_NAME}
    found = open_ports(stack, [(host, port) for host in hosts for port in range(1, 65536)], 2)
    assert {(hosts[host], port) for host, port in found} == DOCUMENTED


def test_pacs_scp_and_databases_are_unreachable_from_the_grid(stack: ComposeStack):
    pacs, scp = addresses(stack, "pacs")["hospital"], addresses(stack, "dicom-srm")["hospital"]
    hidden = [(pacs, 4242), (pacs, 8042), (scp, SCP_PORT)]
    hidden += [(address, 5432) for name in DATABASES for address in addresses(stack, name).values()]
    assert len(hidden) == 9
    assert open_ports(stack, hidden, 1) == set()


def test_each_container_is_on_its_own_networks_only(stack: ComposeStack):
    expected = {name: {"grid", f"db-{name}"} for name in BY_NAME} | {name: {f"db-{name.removesuffix('-db')}"} for name in DATABASES}
    expected |= {"pacs": {"hospital"}, "pacs-forwarder": {"hospital"}, "dicom-srm": {"grid", "hospital", "db-dicom-srm"}}
    assert {name: set(addresses(stack, name)) for name in EVERYTHING} == expected


def test_ports_are_published_only_on_the_addresses_that_the_site_names(stack: ComposeStack):
    published = [
        binding["HostIp"]
        for name in EVERYTHING
        for port in stack.inspect(name)["NetworkSettings"]["Ports"].values()
        for binding in port or ()
    ]
    assert len(published) == len(BY_NAME) + 2, "a port of each service, the relay's, and the door's"
    assert set(published) == {stack.address, "127.0.0.1"}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_container_may_do_little(name: str, stack: ComposeStack):
    found = stack.inspect(name)
    host, user = found["HostConfig"], found["Config"]["User"]
    assert not re.fullmatch(r"(0|root)?(:.*)?", user)
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
    for mount in found["Mounts"]:
        assert mount["Type"] == "volume" or not mount["RW"], f"{mount['Destination']} of the host can be written"


def test_no_container_sees_another_ones_secrets(stack: ComposeStack):
    for name in EVERYTHING:
        sources = {Path(mount["Source"]).name for mount in stack.inspect(name)["Mounts"] if mount["Type"] == "bind"}
        own = "pacs" if name.startswith("pacs") else name
        assert sources <= {own, "trust"}
    assert not list((stack.site / "trust").glob("*.key"))


def secrets(stack: ComposeStack) -> set[bytes]:
    """Return every secret of the site: whole values, and lines of private keys. The password in orthanc.json has a file of its own, too."""
    found: set[bytes] = set()
    for path in stack.secret_files():
        content = path.read_bytes()
        if path.name == "site-secret":
            found.add(content.strip())
        elif path.name != "orthanc.json":
            lines = [line.strip() for line in content.splitlines() if not line.startswith(b"-----")]
            found |= {line for line in lines if len(line) >= 32}
    return found


def test_no_secret_is_in_images_environment_logs_or_what_the_engine_reports(stack: ComposeStack):
    wanted = secrets(stack)
    assert len(wanted) > 20
    images = sorted({stack.inspect(name)["Config"]["Image"] for name in EVERYTHING})
    places = {f"inspect {name}": json.dumps(stack.inspect(name)).encode() for name in EVERYTHING}
    places |= {f"history {image}": stack.docker("history", "--no-trunc", image).stdout.encode() for image in images}
    places |= {f"inspect {image}": stack.docker("inspect", image).stdout.encode() for image in images}
    for name in EVERYTHING:
        places[f"environment {name}"] = stack.docker("exec", stack.container(name), "cat", "/proc/1/environ").stdout.encode()
    places |= {f"log {name}": content for name, content in stack.logs().items()}
    assert [place for place, content in places.items() for secret in wanted if secret in content] == []
    names = "-name '*.key' -o -name '*password*' -o -name kek -o -name site-secret"
    search = f"find /etc/mdm /opt/mdm /var/lib/mdm \\( {names} \\) 2>/dev/null; true"
    for image in images:
        assert stack.docker("run", "--rm", "--entrypoint=/bin/sh", image, "-c", search).stdout == ""


def handshake(address: tuple[str, int], change: Callable[[ssl.SSLContext], None], ca: Path, first: bytes = b"") -> bytes:
    """Connect by TLS, after `first` in plaintext, and return the first bytes of what the server answers to an HTTP request."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    change(context)
    with socket.create_connection(address, 5) as raw:
        if first:
            raw.sendall(first)
            assert raw.recv(1) == b"S", "PostgreSQL offers no TLS"
        with context.wrap_socket(raw) as secured:
            secured.settimeout(5)
            secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            return secured.recv(9)


def with_certificate(files: TlsFiles) -> Callable[[ssl.SSLContext], None]:
    return lambda context: context.load_cert_chain(files.certificate, files.key)


@pytest.fixture(scope="module")
def strangers(stack: ComposeStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    """Certificates of the operator's name that no listener may accept: of a foreign authority, expired."""
    own = stack.authority
    foreign = DevelopmentCa(tmp_path_factory.mktemp("foreign"), own.organisation)
    past = datetime.now(UTC) - timedelta(days=1)
    operator = own.subject("operator")
    expired = own.issue(operator, hosts=(), name="expired-operator", not_before=past - timedelta(days=9), not_after=past)
    return {"foreign": foreign.issue(operator, hosts=()), "expired": expired}


LISTENERS = [(name, "grpc") for name in BY_NAME] + [(name, "metrics") for name in BY_NAME] + [(name, "postgres") for name in DATABASES]
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@pytest.mark.parametrize(("name", "kind"), LISTENERS, ids=[" ".join(listener) for listener in LISTENERS])
def test_every_listener_refuses_all_but_mutual_tls_1_3(name, kind, stack: ComposeStack, strangers):
    where = addresses(stack, name)
    host = next(iter(where.values())) if kind == "postgres" else where["grid"]
    port = {"grpc": SERVICE_PORT.get(name), "metrics": METRICS_PORT, "postgres": 5432}[kind]
    address, ca = (host, port), stack.site / "ca" / "ca.crt"
    first = _SSL_REQUEST if kind == "postgres" else b""

    def refused(change: Callable[[ssl.SSLContext], None]) -> bool:
        try:
            return handshake(address, change, ca, first) == b""
        except (ssl.SSLError, ConnectionError):
            return True

    def old(context: ssl.SSLContext) -> None:
        with_certificate(TlsFiles(stack.site / "ca" / "operator.crt", stack.site / "ca" / "operator.key", ca))(context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    assert refused(old), "TLS 1.2"
    # A PostgreSQL asks for a certificate by its access rules, which come after the handshake: see the next test.
    if kind != "postgres":
        assert refused(lambda context: None), "no certificate"
    for who, files in strangers.items():
        assert refused(with_certificate(files)), who
    with socket.create_connection(address, 5) as raw:  # plaintext: not even HTTP's first line is answered by HTTP
        raw.settimeout(5)
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            answer = raw.recv(100)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("service", BY_NAME)
def test_a_database_lets_in_its_service_only_and_only_by_mutual_tls(service, stack: ComposeStack):
    good = stack.database(service)
    with psycopg.connect(good) as connection:
        assert connection.execute("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == ("TLSv1.3",)
    bad = {
        "plaintext": {"sslmode": "disable", "sslrootcert": None, "sslcert": None, "sslkey": None},
        "no certificate": {"sslcert": "/nonexistent", "sslkey": "/nonexistent"},
        "wrong password": {"password": "0" * 64},
        "superuser": {"user": "postgres"},
        "another database": {"dbname": "postgres"},
    }
    for what, changes in bad.items():
        parameters = {key: value for key, value in {**conninfo.conninfo_to_dict(good), **changes}.items() if value is not None}
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(conninfo.make_conninfo("", **parameters)).close()
            pytest.fail(what)


def test_a_revoked_certificate_is_refused_by_services_and_metrics(stack: ComposeStack):
    stack.mdm_site("add-user", "short-lived")
    client = stack.site / "client" / "short-lived"
    certificate, key, ca = (client / name for name in ("short-lived.crt", "short-lived.key", "ca.crt"))
    targets = {name: stack.address_of(name) for name in BY_NAME}
    assert [name for name, address in targets.items() if not probe.is_serving(address, certificate, key, ca)] == []
    stack.mdm_site("revoke", "short-lived")
    assert [name for name, address in targets.items() if probe.is_serving(address, certificate, key, ca)] == []


def test_metrics_are_for_the_monitor(stack: ComposeStack):
    files = {name: stack.site / "client" / MONITOR / f"{MONITOR}.{name}" for name in ("crt", "key")}
    for service in BY_NAME:
        context = ssl.create_default_context(cafile=str(stack.site / "ca" / "ca.crt"))
        context.check_hostname = False
        context.load_cert_chain(files["crt"], files["key"])
        with (
            socket.create_connection((addresses(stack, service)["grid"], METRICS_PORT), 5) as raw,
            context.wrap_socket(raw) as secured,
        ):
            secured.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: secured.recv(65536), b""))
        assert b"mdm_rpc_calls_total" in answer
