"""Several instances of dicom-srm in containers, by docs/operator/instances.md: each has a Storage SCP, listeners and C-MOVE of its own."""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mdm_local.process import allocate_ports
from mdm_site.file import to_toml
from mdm_testing.compose_stack import ComposeStack
from mdm_testing.image import Image, make_image
from mdm_testing.process import eventually
from mdm_testing.repository import execute
from mdm_testing.stack import Mdm
from pynetdicom import AE

pytestmark = [pytest.mark.e2e, pytest.mark.compose, pytest.mark.timeout(1800)]
FIRST, SECOND = "dicom-srm", "dicom-srm-2"
VERIFICATION = "1.2.840.10008.1.1"
PORTS = ("MDM_PORT_DICOM_SRM_2", "MDM_PORT_SCP_2", "MDM_PORT_CURATOR_2")


@pytest.fixture(scope="module")
def pair(stack: ComposeStack) -> Iterator[ComposeStack]:
    """The site with two instances; the ports are chosen beforehand, as other stacks may have the usual ones."""
    with (stack.site / "site.env").open("a") as variables:
        variables.writelines(f"{name}={port}\n" for name, port in allocate_ports(PORTS, {}, ()).items())
    printed = execute("instances", SITE=stack.site)
    assert "destination at the PACS: MDM2 at" in printed
    stack.start(SECOND)
    try:
        yield stack
    finally:
        execute("instances-fewer", SITE=stack.site)
        stack.start(FIRST)


def port(stack: ComposeStack, name: str) -> int:
    lines = (stack.site / "site.env").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}=")).partition("=")[2])


def only(stack: ComposeStack, user: str, section: str, address: str, directory: Path) -> Path:
    """Write a user's configuration that knows one address of the section `srm` or `curator`."""
    original = stack.client_config(user)
    document = tomllib.loads(original.read_text())
    document |= {name: str(original.parent / document[name]) for name in ("certificate", "key", "ca")}
    document[section] = {"hospital-a": [address]}
    path = directory / f"{user}-only.toml"
    path.write_text(to_toml(document))
    return path


@pytest.fixture
def by_second(pair: ComposeStack, tmp_path: Path) -> Path:
    """Alice's configuration, with the second instance alone."""
    return only(pair, "alice", "srm", f"{pair.address}:{port(pair, 'MDM_PORT_DICOM_SRM_2')}", tmp_path)


def echoes(host: str, number: int, title: str) -> bool:
    entity = AE("ORTHANC")
    entity.add_requested_context(VERIFICATION)
    association = entity.associate(host, number, ae_title=title)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0


def stored(pair: ComposeStack, mdm: Mdm, folder: Path) -> tuple[Image, str]:
    image = make_image(folder / "image.dcm", "CT_small.dcm")
    pair.store(image.path)
    return image, mdm.registered(image.patient_id)[0]["lfn"]


def test_a_further_instance_is_confined_as_the_first_is(pair: ComposeStack):
    first, second = (pair.inspect(name) for name in (FIRST, SECOND))
    own = ("Binds", "PortBindings", "ContainerIDFile", "NetworkMode", "Mounts", "Links")
    hosts = [{key: value for key, value in found["HostConfig"].items() if key not in own} for found in (first, second)]
    assert hosts[0] == hosts[1]
    assert first["Config"]["User"] == second["Config"]["User"] and first["Image"] == second["Image"]
    assert first["NetworkSettings"]["Networks"].keys() == second["NetworkSettings"]["Networks"].keys()


def test_the_relay_sends_each_port_to_its_own_storage_scp(pair: ComposeStack):
    host = pair.description["scp"]["host"]
    for variable, title, other in (("MDM_PORT_SCP", "MDM", "MDM2"), ("MDM_PORT_SCP_2", "MDM2", "MDM")):
        eventually(lambda variable=variable, title=title: echoes(host, port(pair, variable), title), timeout=60)
        assert not echoes(host, port(pair, variable), other), "the AE title of another instance"


def test_users_and_curators_reach_each_instance(pair: ComposeStack, mdm: Mdm, by_second: Path, tmp_path):
    assert sorted(row["instance"] for row in mdm("alice", "--json", "srm", "space").rows()) == [FIRST, SECOND]
    _, lfn = stored(pair, mdm, tmp_path)
    staged = mdm("alice", "--json", "stage", lfn, config=by_second)
    assert staged.rows()[0]["token"].startswith(SECOND), staged.err
    address = f"{pair.description['scp']['host']}:{port(pair, 'MDM_PORT_CURATOR_2')}"
    curator = only(pair, "curator", "curator", address, tmp_path)
    eventually(lambda: mdm("curator", "quarantine", "ls", config=curator).code == 0, timeout=60)


def test_one_killed_costs_no_user_a_command(pair: ComposeStack, mdm: Mdm, tmp_path):
    _, lfn = stored(pair, mdm, tmp_path)
    pair.stop(FIRST)
    try:
        result, files = mdm.get("alice", lfn)
        assert (result.code, len(files)) == (0, 1), result.err
    finally:
        pair.start(FIRST)


@contextmanager
def retrieving(pair: ComposeStack, way: str) -> Iterator[None]:
    """Have every instance retrieve in one way; the configuration is changed once, and the others follow."""
    file = pair.site / "dicom-srm" / "service.toml"
    before = file.read_text()
    try:
        file.write_text(before.replace('retrieve = ["wado-rs", "c-get"]', f'retrieve = ["{way}"]'))
        execute("instances-follow", SITE=pair.site)
        for name in (FIRST, SECOND):
            pair.start(name)
        yield
    finally:
        file.write_text(before)
        execute("instances-follow", SITE=pair.site)
        for name in (FIRST, SECOND):
            pair.start(name)


def test_each_instance_gets_by_c_move_what_it_asks_for(pair: ComposeStack, mdm: Mdm, by_second: Path, tmp_path):
    pair.docker("restart", pair.container("pacs"))  # it knows the second destination since then
    pair.start("pacs")
    image, lfn = stored(pair, mdm, tmp_path)
    with retrieving(pair, "c-move"):
        checked = execute("instances-check", SITE=pair.site)
        assert "FAILED" not in checked and "C-MOVE" in checked
        for number, config in enumerate((by_second, None)):
            out = tmp_path / f"out-{number}"
            result = mdm("alice", "get", lfn, "-o", str(out), "--timeout", "60", config=config)
            assert result.code == 0 and len(list(out.rglob("*.dcm"))) == 1, result.err
        own = pair.site / "dicom-srm" / "instance-2.toml"
        right = own.read_text()
        own.write_text(right.replace('ae_title = "MDM2"', 'ae_title = "MDM"'))
        pair.docker("restart", pair.container(SECOND))
        told = "scp.ae_title: MDM is the AE title of the instance dicom-srm, too"
        eventually(lambda: told in json.dumps(pair.compose("logs", "--no-color", SECOND).stdout), timeout=90, interval=1)
        own.write_text(right)
    assert image.patient_id.encode() not in b"".join(pair.logs().values())
