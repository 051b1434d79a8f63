"""A site whose services run as containers: its directory, and what each container sees of it."""

import json
import os
import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from mdm_forwarder.orthanc import HTTP_USER

from mdm_site import configuration, credential, toml
from mdm_site.configuration import MONITOR, OPERATOR, Document, OtherSite, PacsLink
from mdm_site.error import SiteError
from mdm_site.file import write_file
from mdm_site.orthanc import Orthanc
from mdm_site.pki import DevelopmentCa
from mdm_site.service import DICOM_SRM, SERVICES, SITE, Service

ORGANISATION = "MDM Site"
#: What each container sees: its own files, what all share, and where its state lies.
OWN, TRUST, SPOOL = PurePosixPath("/etc/mdm/service"), PurePosixPath("/etc/mdm/trust"), PurePosixPath("/var/lib/mdm/spool")
SERVICE_PORT = {service.name: 7003 for service in SERVICES} | {"catalog": 7001, "metadata": 7002, DICOM_SRM.name: 7006}
METRICS_PORT, SCP_PORT = 9464, 11112
#: dicom-srm's name on the hospital's network only: there, and nowhere else, its Storage SCP listens.
SCP_HOST = "dicom-srm-scp"
PACS_HOST, PACS_AE_TITLE, PACS_PORT, PACS_HTTP_PORT = "pacs", "ORTHANC", 4242, 8042
CALLERS = ("MDM", "STORESCU", "ECHOSCU", "FINDSCU", "GETSCU", "DCMSEND", "PYNETDICOM", "MODALITY", "TEST", "E2E", "BENCH")
_ANYWHERE = "0.0.0.0"  # noqa: S104 - within a container's own networks
_UNPRIVILEGED = 10001
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_ORGANISATION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 .-]{0,62}[A-Za-z0-9.])?")

#: Names of the ports published on the host, and their usual numbers.
PORTS = {"catalog": 7001, "metadata": 7002, "keystore-a": 7003, "keystore-b": 7004, "keystore-c": 7005, "dicom-srm": 7006, "pacs": 4242}
PORTS["scp"] = 11112


class ContainerSite:
    """The directory of one site. Everything secret in it is readable by the account only that the containers run as."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def name(self) -> str:
        """The site's name, in paths and SURLs."""
        return self.environment().get("MDM_SITE_NAME", SITE)

    @property
    def organisation(self) -> str:
        """What the site's authority issues certificates below."""
        return self.environment().get("MDM_ORGANISATION", ORGANISATION)

    @property
    def ca(self) -> DevelopmentCa:
        """The site's own authority, made on first use; its key is mounted into no container."""
        (self.root / "ca").mkdir(mode=0o700, parents=True, exist_ok=True)
        return DevelopmentCa(self.root / "ca", self.organisation)

    @property
    def environment_file(self) -> Path:
        """The variables of the compose file."""
        return self.root / "site.env"

    def environment(self) -> dict[str, str]:
        """Return the variables of the compose file."""
        lines = self.environment_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def client(self, user: str) -> Path:
        """Return a user's client configuration file."""
        return self.root / "client" / user / "client.toml"

    def make(
        self,
        *,
        demonstration: bool,
        hosts: Sequence[str],
        ports: Mapping[str, int],
        project: str,
        name: str = SITE,
        organisation: str = "",
    ) -> None:
        """Make everything that is missing and renew certificates that expire within a week; what was changed by hand stays.

        `hosts` are the names under which users reach the services from outside; the first goes into client configurations.
        Certificates are issued below `organisation`: without one, below the site's name. Without a `project`, containers and volumes
        are named after the site, so that two on one host do not take each other's.

        Raises:
            SiteError: a name cannot be used.
        """
        chosen = organisation or (ORGANISATION if name == SITE else name)
        check_names(name, chosen)
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not self.environment_file.exists():
            named = {"MDM_SITE_NAME": name, "MDM_ORGANISATION": chosen}
            self._write_environment(demonstration, hosts, ports, project or _project(name), named)
        self._make_trust(demonstration)
        self.renew()
        for service in SERVICES:
            self._make_service(service)
        self._make_pacs()
        for user in (OPERATOR, MONITOR, *(configuration.DEMONSTRATION_USERS if demonstration else ())):
            self.add_user(user)
        self.hand_over()

    def renew(self) -> list[str]:
        """Renew what expires within a week and publish the CRL; return the names of those who have new certificates.

        A site with certificates of another authority (MDM_CERTIFICATES=own) is left as it is.
        """
        variables = self.environment()
        if variables.get("MDM_CERTIFICATES") == "own":
            return []
        ca = self.ca
        hosts = variables["MDM_HOSTS"].split(",")
        renewed = []
        for service in SERVICES:
            if credential.certify(ca, service.name, (service.name, *hosts, "localhost", "127.0.0.1")):
                renewed.append(service.name)
            if credential.certify(ca, f"{service.name}-db", (f"{service.name}-db", "localhost")):
                renewed.append(f"{service.name}-db")
            for name in (service.name, f"{service.name}-db"):
                self._install(name, self.root / name, "tls")
        for directory in (self.root / "client").glob("*"):
            if credential.certify(ca, directory.name, ()):
                renewed.append(directory.name)
            self._install(directory.name, directory, directory.name)
        credential.renew_revocations(ca)
        self.publish_revocations()
        self.publish_authorities()
        return renewed

    def publish_revocations(self) -> None:
        """Give authority and CRL to the services."""
        for name in ("ca.crt", "ca.crl"):
            write_file(self.root / "trust" / name, (self.root / "ca" / name).read_bytes())

    def publish_authorities(self) -> None:
        """Give the site's authority with those of other sites to who deals with other sites."""
        others = [self.root / "trust" / "sites" / other.certificate.name for other in self.others()]
        bundle = b"".join(path.read_bytes().rstrip() + b"\n" for path in (self.root / "trust" / "ca.crt", *others))
        write_file(self.root / "trust" / "authorities.crt", bundle)

    @property
    def others_file(self) -> Path:
        """The other sites that this one knows, by name."""
        return self.root / "sites.toml"

    def others(self) -> list[OtherSite]:
        """Return the other sites, as a container sees them."""
        known = tomllib.loads(self.others_file.read_text()) if self.others_file.exists() else {}
        place = TRUST / "sites"
        return [
            OtherSite(name, entry["organisation"], place / f"{name}.crt", place / f"{name}.crl", tuple(entry["metadata"]))
            for name, entry in known.items()
        ]

    def add_user(self, name: str) -> Path:
        """Issue a user's certificate, write the client configuration and return its path."""
        directory = self.client(name).parent
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        credential.certify(self.ca, name, ())
        self._install(name, directory, name)
        self.write_client(name)
        return self.client(name)

    def write_client(self, name: str) -> None:
        """Write a user's configuration, and the authorities that the user trusts."""
        write_file(self.client(name).with_name("ca.crt"), (self.root / "trust" / "authorities.crt").read_bytes())
        self.client(name).write_text(toml.dumps(configuration.of_client(self, name)))

    def hand_over(self) -> None:
        """Give what containers read to the account they run as; only root has anything to do, others own it already."""
        if os.geteuid() != 0:
            return
        variables = self.environment()
        uid, gid = int(variables["MDM_UID"]), int(variables["MDM_GID"])
        for name in ("trust", "pacs", *(s.name for s in SERVICES), *(f"{s.name}-db" for s in SERVICES)):
            for path in (self.root / name, *(self.root / name).rglob("*")):
                os.chown(path, uid, gid)

    def listen(self, service: Service) -> Document:
        """Listen on all of the container's networks."""
        return {"host": _ANYWHERE, "port": SERVICE_PORT[service.name]}

    def metrics(self, service: Service) -> Document:
        """Serve metrics, over mutual TLS as everything."""
        return {"host": _ANYWHERE, "port": METRICS_PORT}

    def identity(self, name: str) -> Document:
        """A service has its files in its container, a user beside the configuration."""
        if name in SERVICE_PORT:
            roots = "authorities.crt" if name == "metadata" else "ca.crt"
            return {"certificate": OWN / "tls.crt", "key": OWN / "tls.key", "ca": TRUST / roots}
        return {"certificate": f"{name}.crt", "key": f"{name}.key", "ca": "ca.crt"}

    def trust(self, name: str) -> PurePosixPath:
        """What all services share."""
        return TRUST / name

    def secret(self, service: Service, name: str) -> PurePosixPath:
        """Each service has its own secrets."""
        return OWN / name

    def database(self, service: Service) -> Document:
        """Each service has a PostgreSQL of its own, reached by mutual TLS and a password."""
        tls = f"sslmode=verify-full sslrootcert={TRUST}/ca.crt sslcert={OWN}/tls.crt sslkey={OWN}/tls.key ssl_min_protocol_version=TLSv1.3"
        place = f"host={service.name}-db dbname={service.database} user={service.database} connect_timeout=5"
        return {"conninfo": f"{place} {tls}", "password_file": OWN / "database-password"}

    def address(self, service: Service, caller: str) -> str:
        """Services call each other by name on the grid's network, users come through published ports."""
        if caller in SERVICE_PORT:
            return f"{service.name}:{SERVICE_PORT[service.name]}"
        variables = self.environment()
        return f"{variables['MDM_HOSTS'].split(',')[0]}:{variables[_port_variable(service.name)]}"

    def pacs(self) -> PacsLink:
        """The Orthanc of demonstrations; a real site writes its own into dicom-srm's configuration."""
        return PacsLink(
            PACS_AE_TITLE,
            PACS_HOST,
            PACS_PORT,
            f"http://{PACS_HOST}:{PACS_HTTP_PORT}/dicom-web",
            HTTP_USER,
            OWN / "pacs-password",
        )

    def scp(self) -> tuple[str, int]:
        """Listen on the hospital's network only."""
        return SCP_HOST, SCP_PORT

    def spool(self) -> PurePosixPath:
        """A volume."""
        return SPOOL

    def _write_environment(
        self, demonstration: bool, hosts: Sequence[str], ports: Mapping[str, int], project: str, named: Mapping[str, str]
    ) -> None:
        root = os.geteuid() == 0
        variables: dict[str, object] = {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_PROFILES": "pacs" if demonstration else "real-pacs",
            "MDM_SITE": self.root,
            **named,
            "MDM_UID": _UNPRIVILEGED if root else os.getuid(),
            "MDM_GID": _UNPRIVILEGED if root else os.getgid(),
            "MDM_HOSTS": ",".join(hosts),
            "MDM_GRID_ADDRESS": "127.0.0.1",
            "MDM_HOSPITAL_ADDRESS": "127.0.0.1",
            "MDM_TAG": "latest",
            **{_port_variable(name): port for name, port in {**PORTS, **ports}.items()},
        }
        text = "# Variables of deploy/compose.yaml for this site; docs/operator/operations.md explains each.\n"
        self.environment_file.write_text(text + "".join(f"{name}={value}\n" for name, value in variables.items()))

    def _make_trust(self, demonstration: bool) -> None:
        trust = self.root / "trust"
        trust.mkdir(mode=0o755, exist_ok=True)
        if not (trust / "groups.toml").exists():
            members = configuration.DEMONSTRATION_MEMBERS if demonstration else configuration.NO_MEMBERS
            (trust / "groups.toml").write_text(toml.dumps(configuration.groups(self, members)))
        if not (trust / "banned").exists():
            (trust / "banned").write_text(credential.empty_ban_list(self.organisation))

    def _make_service(self, service: Service) -> None:
        own, database = self.root / service.name, self.root / f"{service.name}-db"
        password = secrets.token_hex(32).encode() + b"\n"
        credential.secret(own / "database-password", password)
        credential.secret(database / "password", (own / "database-password").read_bytes())
        if service.module == "mdm_keystore":
            credential.secret(own / "kek", credential.new_key_encryption_key())
        if service == DICOM_SRM:
            credential.secret(own / "site-secret", credential.new_site_secret())
            credential.secret(own / "pacs-password", credential.new_password())
        if not (own / "service.toml").exists():
            (own / "service.toml").write_text(toml.dumps(configuration.of_service(self, service)))

    def _make_pacs(self) -> None:
        directory = self.root / "pacs"
        directory.mkdir(mode=0o700, exist_ok=True)
        password = (self.root / DICOM_SRM.name / "pacs-password").read_text().strip()
        credential.secret(directory / "password", password.encode() + b"\n")
        orthanc = Orthanc(
            ae_title=PACS_AE_TITLE,
            port=PACS_PORT,
            http_port=PACS_HTTP_PORT,
            storage=PurePosixPath("/var/lib/mdm/storage"),
            password=password,
            peer=(SCP_HOST, SCP_PORT),
            callers=CALLERS,
            plugin=PurePosixPath("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
            local=False,
        )
        credential.secret(directory / "orthanc.json", orthanc.configuration().encode())

    def _install(self, name: str, directory: Path, file: str) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        for kind in ("crt", "key"):
            write_file(directory / f"{file}.{kind}", (self.root / "ca" / f"{name}.{kind}").read_bytes(), private=kind == "key")


def _project(name: str) -> str:
    return "mdm" if name == SITE else f"mdm-{name}".replace(".", "-")


def check_names(name: str, organisation: str) -> None:
    """Refuse a site's name or organisation that could not stand in paths, files and DNs.

    Raises:
        SiteError: it is none; the message says what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise SiteError(f"{name}: a site's name is small letters, digits, dots and hyphens")
    if not _ORGANISATION.fullmatch(organisation):
        raise SiteError(f"{organisation}: an organisation is letters, digits, spaces, dots and hyphens, at most 64")


def describe(site: ContainerSite) -> str:
    """Return what a program needs to know of a site, as JSON: client configurations, the PACS, the compose variables."""
    variables = site.environment()
    users = sorted(path.name for path in (site.root / "client").iterdir())
    hospital = variables["MDM_HOSPITAL_ADDRESS"]
    document = {
        "site": str(site.root),
        "authority": site.name,
        "client_config": {user: str(site.client(user)) for user in users},
        "pacs": {"aet": PACS_AE_TITLE, "host": hospital, "port": int(variables[_port_variable("pacs")])},
        "scp": {"aet": configuration.MDM_AE_TITLE, "host": hospital, "port": int(variables[_port_variable("scp")])},
        "compose": variables,
    }
    return json.dumps(document, indent=1)


def _port_variable(name: str) -> str:
    return "MDM_PORT_" + name.upper().replace("-", "_")
