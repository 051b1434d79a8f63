"""A site whose services run as containers: its directory, and the paths and addresses inside the containers."""

import os
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from mdm_forwarder.orthanc import HTTP_USER, TARGET

from mdm_site import configuration, file, instance
from mdm_site.configuration import Document
from mdm_site.file import to_toml, write_file, write_secret
from mdm_site.pacs import CALLING_AE_TITLES, MDM_AE_TITLE, Orthanc, Pacs
from mdm_site.pki import DevelopmentCa
from mdm_site.site import (
    CURATOR,
    DEMONSTRATION_MEMBERS,
    DEMONSTRATION_USERS,
    DICOM_SRM,
    MONITOR,
    OPERATOR,
    SERVICES,
    SITE,
    OtherSite,
    Service,
    check_names,
    subject,
)
from mdm_site.upgrade import upgrade_dicom_srm

ORGANISATION = "MDM Site"
#: What each container sees: its own files, what all share, and where its state lies.
OWN, TRUST, SPOOL = PurePosixPath("/etc/mdm/service"), PurePosixPath("/etc/mdm/trust"), PurePosixPath("/var/lib/mdm/spool")
SERVICE_PORT = {service.name: 7003 for service in SERVICES} | {"catalog": 7001, "metadata": 7002, DICOM_SRM.name: 7006}
RESULTS = PurePosixPath("/var/lib/mdm-results")
FORWARDER_STATUS = PurePosixPath("/var/lib/mdm-forwarder/status.json")
METRICS_PORT, SCP_PORT, CURATOR_PORT, DOOR_PORT = 9464, 11112, 7010, 7011
#: dicom-srm's name on the hospital's network only: there, and nowhere else, its Storage SCP and its listener for curators listen.
SCP_HOST = instance.scp_host(1)
PACS_HOST, PACS_AE_TITLE, PACS_PORT, PACS_HTTP_PORT = "pacs", "ORTHANC", 4242, 8042
_ANYWHERE = "0.0.0.0"  # noqa: S104 - within a container's own networks
_UNPRIVILEGED = 10001
#: How many instances of dicom-srm there are, in `site.env`.
_INSTANCES = "MDM_SRM_INSTANCES"
_NO_MEMBERS: tuple[tuple[str, ...], ...] = ((), (), ())

#: Names of the ports published on the host, and their usual numbers.
PORTS = {"catalog": 7001, "metadata": 7002, "keystore-a": 7003, "keystore-b": 7004, "keystore-c": 7005, "dicom-srm": 7006, "pacs": 4242}
PORTS |= {"scp": 11112, "curator": 7010, "door": 7011}


class ContainerSite:
    """The directory of one site. Only the account that the containers run as can read the secrets in it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def name(self) -> str:
        """The site's name, in paths and SURLs."""
        return self.environment().get("MDM_SITE_NAME", SITE)

    @property
    def organisation(self) -> str:
        """The organisation (O=) in the DNs that the site's CA issues."""
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
        """Make missing files and renew certificates that expire within a week; changes made by hand are kept.

        `hosts` are the names under which users reach the services from outside; the first goes into client configurations.
        Certificates are issued below `organisation`, by default the site's name. Without a `project`, containers and volumes are named
        after the site, so that two sites on one host do not share any.

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
        self._write_instances()
        for user in (OPERATOR, MONITOR, CURATOR, *(DEMONSTRATION_USERS if demonstration else ())):
            self.add_user(user)
        self.hand_over()

    def renew(self) -> list[str]:
        """Renew certificates that expire within a week and publish the CRL; return the names that have new certificates.

        A site with certificates of another authority (MDM_CERTIFICATES=own) is left unchanged.
        """
        variables = self.environment()
        if variables.get("MDM_CERTIFICATES") == "own":
            return []
        ca = self.ca
        # Curators come by the address in the hospital's network, so the certificates name it, too.
        hosts = list(dict.fromkeys((*variables["MDM_HOSTS"].split(","), variables["MDM_HOSPITAL_ADDRESS"])))
        renewed = []
        for service in SERVICES:
            database = f"{service.name}-db"
            for name, names in ((service.name, (service.name, *hosts, "localhost", "127.0.0.1")), (database, (database, "localhost"))):
                if ca.certify(name, names):
                    renewed.append(name)
                self._install(name, self.root / name, "tls")
        for directory in (self.root / "client").glob("*"):
            if ca.certify(directory.name, ()):
                renewed.append(directory.name)
            self._install(directory.name, directory, directory.name)
        ca.renew_crl()
        self.publish_revocations()
        self.publish_authorities()
        return renewed

    def publish_revocations(self) -> None:
        """Copy the authority's certificate and CRL to where the services read them."""
        for name in ("ca.crt", "ca.crl"):
            write_file(self.root / "trust" / name, (self.root / "ca" / name).read_bytes())

    def publish_authorities(self) -> None:
        """Write the bundle of the site's authority and those of other sites, for users and the metadata service."""
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
        self.ca.certify(name, ())
        self._install(name, directory, name)
        self.write_client(name)
        return self.client(name)

    def write_client(self, name: str) -> None:
        """Write a user's configuration, and the authorities that the user trusts."""
        write_file(self.client(name).with_name("ca.crt"), (self.root / "trust" / "authorities.crt").read_bytes())
        self.client(name).write_text(to_toml(configuration.of_client(self, name)))

    def hand_over(self) -> None:
        """Make the containers' account the owner of the files that they read; only needed, and possible, for root."""
        if os.geteuid() != 0:
            return
        variables = self.environment()
        uid, gid = int(variables["MDM_UID"]), int(variables["MDM_GID"])
        for name in ("trust", "pacs", "relay", *(s.name for s in SERVICES), *(f"{s.name}-db" for s in SERVICES)):
            for path in (self.root / name, *(self.root / name).rglob("*")):
                os.chown(path, uid, gid)

    def listen(self, service: Service) -> Document:
        """Return the listener: all interfaces of the container."""
        return {"host": _ANYWHERE, "port": SERVICE_PORT[service.name]}

    def metrics(self, service: Service) -> Document:
        """Return the metrics listener: all interfaces, mutual TLS."""
        return {"host": _ANYWHERE, "port": METRICS_PORT}

    def identity(self, name: str) -> Document:
        """Return certificate, key and ca: a service's are mounted into its container, a user's are beside the client configuration."""
        if name in SERVICE_PORT:
            roots = "authorities.crt" if name == "metadata" else "ca.crt"
            return {"certificate": OWN / "tls.crt", "key": OWN / "tls.key", "ca": TRUST / roots}
        return {"certificate": f"{name}.crt", "key": f"{name}.key", "ca": "ca.crt"}

    def trust(self, name: str) -> PurePosixPath:
        """Return the path of a file of trust, which all services share."""
        return TRUST / name

    def secret(self, service: Service, name: str) -> PurePosixPath:
        """Return the path of a secret in the service's own container."""
        return OWN / name

    def database(self, service: Service) -> Document:
        """Return the section `database`: the service's own PostgreSQL, reached by mutual TLS and a password."""
        tls = f"sslmode=verify-full sslrootcert={TRUST}/ca.crt sslcert={OWN}/tls.crt sslkey={OWN}/tls.key ssl_min_protocol_version=TLSv1.3"
        place = f"host={service.name}-db dbname={service.database} user={service.database} connect_timeout=5"
        return {"conninfo": f"{place} {tls}", "password_file": OWN / "database-password"}

    def address(self, service: Service, caller: str) -> str:
        """Return host:port: the service's name on the grid network for other services, the published port for users."""
        if caller in SERVICE_PORT:
            return f"{service.name}:{SERVICE_PORT[service.name]}"
        variables = self.environment()
        return f"{variables['MDM_HOSTS'].split(',')[0]}:{variables[port_variable(service.name)]}"

    def instances(self, caller: str) -> list[str]:
        """Return host:port of every instance of dicom-srm, as `address` does of the first."""
        variables = self.environment()
        others = range(2, self.instance_count + 1)
        if caller in SERVICE_PORT:
            found = [f"{instance.name_of(number)}:{SERVICE_PORT[DICOM_SRM.name]}" for number in others]
        else:
            host = variables["MDM_HOSTS"].split(",")[0]
            found = [f"{host}:{self.published('DICOM_SRM', number)}" for number in others]
        return [self.address(DICOM_SRM, caller), *found]

    @property
    def instance_count(self) -> int:
        """How many instances of dicom-srm there are."""
        return int(self.environment().get(_INSTANCES, 1))

    def set_instances(self, count: int, ports: Mapping[str, int]) -> None:
        """Have so many instances of dicom-srm; `ports` are published ones by their variables in `site.env`.

        Users get new client configurations. The containers are started and stopped by Compose.
        """
        numbers = range(2, count + 1)
        wanted = {
            instance.port_variable(name, number): instance.usual_port(name, number) for number in numbers for name in instance.PUBLISHED
        }
        before = self.environment()
        self._set_variables({_INSTANCES: count, **{name: ports.get(name, before.get(name, port)) for name, port in wanted.items()}})
        self._write_instances()
        for user in (self.root / "client").iterdir():
            self.write_client(user.name)
        self.hand_over()

    def published(self, name: str, number: int) -> str:
        """Return the port on this host of an instance; see `instance.PUBLISHED`."""
        return self.environment().get(instance.port_variable(name, number), str(instance.usual_port(name, number)))

    def _set_variables(self, variables: Mapping[str, object]) -> None:
        """Set variables in `site.env`; the others stay, and comments, too."""
        lines = self.environment_file.read_text().splitlines()
        left = {name: f"{name}={value}" for name, value in variables.items()}
        kept = [left.pop(line.partition("=")[0], line) for line in lines]
        write_file(self.environment_file, ("\n".join((*kept, *left.values())) + "\n").encode())

    def _write_instances(self) -> None:
        own, count = self.root / DICOM_SRM.name, self.instance_count
        (self.root / "relay").mkdir(mode=0o755, exist_ok=True)
        instance.write(own, self.root / "relay" / "instances.cfg", self.root / "instances.yaml", count)
        first = tomllib.loads((own / "service.toml").read_text())["scp"].get("ae_title", MDM_AE_TITLE)
        instance.introduce(self.root / "pacs" / "orthanc.json", first, count, TARGET)

    def pacs(self) -> Pacs:
        """Return the Orthanc of demonstrations; a real site enters its own PACS in dicom-srm's configuration."""
        return Pacs(
            PACS_AE_TITLE,
            PACS_HOST,
            PACS_PORT,
            f"http://{PACS_HOST}:{PACS_HTTP_PORT}/dicom-web",
            HTTP_USER,
            OWN / "pacs-password",
        )

    def scp(self) -> tuple[str, int]:
        """Return host and port of the Storage SCP, on the hospital's network only."""
        return SCP_HOST, SCP_PORT

    def forwarder_status(self) -> PurePosixPath:
        """In a volume that the forwarder writes and dicom-srm reads."""
        return FORWARDER_STATUS

    def curators(self) -> tuple[str, int]:
        """Listen on the hospital's network only."""
        return SCP_HOST, CURATOR_PORT

    def curator_addresses(self) -> list[str]:
        """Curators come through the relay on the hospital's network."""
        variables = self.environment()
        address = variables["MDM_HOSPITAL_ADDRESS"]
        host = variables["MDM_HOSTS"].split(",")[0] if address == "0.0.0.0" else address  # noqa: S104 - compared, not bound
        return [f"{host}:{self.published('CURATOR', number)}" for number in range(1, self.instance_count + 1)]

    def door(self) -> tuple[str, int]:
        """Listen beside gRPC."""
        return _ANYWHERE, DOOR_PORT

    def spool(self) -> PurePosixPath:
        """Return the path of dicom-srm's spool, a volume."""
        return SPOOL

    def results(self) -> PurePosixPath:
        """Return the path of the space for results, a volume that all instances share."""
        return RESULTS

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
            **{port_variable(name): port for name, port in {**PORTS, **ports}.items()},
        }
        text = "# Variables of deploy/compose.yaml for this site; docs/operator/operations.md explains each.\n"
        self.environment_file.write_text(text + "".join(f"{name}={value}\n" for name, value in variables.items()))

    def _make_trust(self, demonstration: bool) -> None:
        trust = self.root / "trust"
        trust.mkdir(mode=0o755, exist_ok=True)
        configuration.write_trust(self, trust, DEMONSTRATION_MEMBERS if demonstration else _NO_MEMBERS)

    def _make_service(self, service: Service) -> None:
        own, database = self.root / service.name, self.root / f"{service.name}-db"
        write_secret(own / "database-password", secrets.token_hex(32).encode() + b"\n")
        write_secret(database / "password", (own / "database-password").read_bytes())
        if service.module == "mdm_keystore":
            write_secret(own / "kek", file.new_key_encryption_key())
        if service == DICOM_SRM:
            write_secret(own / "site-secret", file.new_site_secret())
            write_secret(own / "pacs-password", file.new_password())
        settings = own / "service.toml"
        if not settings.exists():
            settings.write_text(to_toml(configuration.of_service(self, service)))
        elif service == DICOM_SRM:
            upgrade_dicom_srm(settings, subject(self.organisation, CURATOR), self.curators())

    def _make_pacs(self) -> None:
        directory = self.root / "pacs"
        directory.mkdir(mode=0o700, exist_ok=True)
        password = (self.root / DICOM_SRM.name / "pacs-password").read_text().strip()
        write_secret(directory / "password", password.encode() + b"\n")
        orthanc = Orthanc(
            ae_title=PACS_AE_TITLE,
            port=PACS_PORT,
            http_port=PACS_HTTP_PORT,
            storage=PurePosixPath("/var/lib/mdm/storage"),
            password=password,
            peer=(SCP_HOST, SCP_PORT),
            callers=CALLING_AE_TITLES,
            plugin=PurePosixPath("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
            local=False,
        )
        write_secret(directory / "orthanc.json", orthanc.configuration().encode())

    def _install(self, name: str, directory: Path, file: str) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        for kind in ("crt", "key"):
            write_file(directory / f"{file}.{kind}", (self.root / "ca" / f"{name}.{kind}").read_bytes(), private=kind == "key")


def _project(name: str) -> str:
    return "mdm" if name == SITE else f"mdm-{name}".replace(".", "-")


def port_variable(name: str) -> str:
    """Return the variable of `site.env` with a published port."""
    return "MDM_PORT_" + name.upper().replace("-", "_")
