"""Configuration files, certificates and secrets of the services and clients of a stack."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdm_forwarder.orthanc import HTTP_USER
from mdm_site import configuration, file
from mdm_site.configuration import Document
from mdm_site.file import to_toml, write_file, write_secret
from mdm_site.instance import ae_title
from mdm_site.pki import DevelopmentCa
from mdm_site.site import DEMONSTRATION_MEMBERS, DICOM_SRM, KEYSTORES, SERVICES, OtherSite, Service

from mdm_local.layout import CURATORS, DOOR, HOST, SCP, SECOND_SCP, SECOND_SRM, USERS, Layout
from mdm_local.pacs.kind import StackPacs
from mdm_local.state import Coupling, State


def make_credentials(layout: Layout, organisation: str) -> None:
    """Make missing certificates and secrets, and renew certificates that expire within a week."""
    ca = DevelopmentCa(layout.pki, organisation)
    for service in SERVICES:
        ca.certify(service.name, ("localhost", HOST))
    for user in USERS:
        ca.certify(user, ())
    ca.renew_crl()
    write_secret(layout.secret("site-secret"), file.new_site_secret())
    for letter in KEYSTORES:
        write_secret(layout.secret(f"kek-{letter}"), file.new_key_encryption_key())
    write_secret(layout.secret("pacs-password"), file.new_password())
    account = {"username": HTTP_USER, "password": layout.secret("pacs-password").read_text().strip()}
    write_secret(layout.secret("pacs-credentials.json"), json.dumps(account).encode() + b"\n")


class Configuration:
    """The topology of a stack on one machine; writes its files. `conninfo(name)` gives a database's connection string."""

    def __init__(self, layout: Layout, state: State, pacs: StackPacs, conninfo: Callable[[str], str]) -> None:
        self._layout, self._ports, self._pacs, self._conninfo = layout, state.ports, pacs, conninfo
        self.name, self.organisation, self._instances = state.name, state.organisation, state.instances
        self._others = [found for name, coupling in state.others.items() if (found := _other(name, coupling))]

    def write(self) -> None:
        """Write the configuration of every service and every user; and the groups' members and the ban list, unless they are there."""
        configuration.write_trust(self, self._layout.trust, DEMONSTRATION_MEMBERS)
        authorities = (self._layout.pki / "ca.crt", *(other.certificate for other in self._others))
        self._layout.authorities.write_bytes(b"".join(Path(path).read_bytes() for path in authorities))
        for service in SERVICES:
            document = configuration.of_service(self, service) | ({"instance": "srm-1"} if service == DICOM_SRM else {})
            write_file(self._layout.config(service.name), to_toml(document).encode())
        if self._instances > 1:
            write_file(self._layout.config(SECOND_SRM.name), to_toml(self._second_instance()).encode())
        for user in USERS:
            write_file(self._layout.client(user), to_toml(configuration.of_client(self, user)).encode())

    def _second_instance(self) -> Document:
        """Return the configuration of the second instance of dicom-srm: the first one's, but for what it must have of its own."""
        first: Mapping[str, Any] = configuration.of_service(self, DICOM_SRM)
        return {
            **{name: section for name, section in first.items() if name not in ("curator", "door")},  # one of each is enough
            "instance": "srm-2",
            "listen": self.listen(SECOND_SRM),
            "scp": {**first["scp"], "port": self._ports[SECOND_SCP], "ae_title": ae_title(first["scp"]["ae_title"], 2)},
            "spool": {**first["spool"], "directory": self._layout.second_spool},
        }

    def listen(self, service: Service) -> Document:
        """Return the section `listen`: loopback only."""
        return {"host": HOST, "port": self._ports[service.name]}

    def metrics(self, service: Service) -> Document:
        """Return a section that serves no metrics."""
        return {"host": HOST, "port": 0}

    def identity(self, name: str) -> Document:
        """Return files in the authority's directory; users and the metadata service trust other sites' authorities too."""
        ca = self._layout.authorities if name in ("metadata", *USERS) else self._layout.pki / "ca.crt"
        return {"certificate": self._layout.pki / f"{name}.crt", "key": self._layout.pki / f"{name}.key", "ca": ca}

    def others(self) -> Sequence[OtherSite]:
        """The stacks that this one is coupled with and that still exist."""
        return self._others

    def trust(self, name: str) -> Path:
        """Return the path: the authority's own files are in its directory, the others in a separate one."""
        return (self._layout.trust if name in ("groups.toml", "banned") else self._layout.pki) / name

    def secret(self, service: Service, name: str) -> Path:
        """Return the path of a secret; all are in one directory."""
        return self._layout.secret(name.replace("kek", f"kek-{service.name.removeprefix('keystore-')}"))

    def database(self, service: Service) -> Document:
        """Return the section `database`: PostgreSQL listens on a Unix socket."""
        return {"conninfo": self._conninfo(service.database), "pool_min": 1, "pool_max": 8}

    def address(self, service: Service, caller: str) -> str:
        """Return host:port of a service on loopback."""
        return f"{HOST}:{self._ports[service.name]}"

    def instances(self, caller: str) -> list[str]:
        """Return host:port of one instance or two."""
        return [self.address(service, caller) for service in (DICOM_SRM, SECOND_SRM)[: self._instances]]

    def pacs(self) -> StackPacs:
        """Return the stack's PACS."""
        return self._pacs

    def scp(self) -> tuple[str, int]:
        """Return the address of the Storage SCP: loopback only."""
        return HOST, self._ports[SCP]

    def forwarder_status(self) -> Path:
        """Outside the PACS's directory, which names patients."""
        return self._layout.forward_status

    def curators(self) -> tuple[str, int]:
        """Listen on loopback."""
        return HOST, self._ports[CURATORS]

    def curator_addresses(self) -> list[str]:
        """Everybody is on this machine; the first instance has the only listener."""
        return [f"{HOST}:{self._ports[CURATORS]}"]

    def door(self) -> tuple[str, int]:
        """Listen on loopback."""
        return HOST, self._ports[DOOR]

    def spool(self) -> Path:
        """Return dicom-srm's spool."""
        return self._layout.spool

    def results(self) -> Path:
        """Return dicom-srm's space for results."""
        return self._layout.results


def _other(name: str, coupling: Coupling) -> OtherSite | None:
    """Return a coupled stack as it is now; None if it no longer exists."""
    layout = Layout(Path(coupling.data_dir))
    state = State.load(layout.state_file)
    if state.name != name or "metadata" not in state.ports:
        return None
    address = f"{HOST}:{state.ports['metadata']}"
    files = (layout.pki / "ca.crt", layout.pki / "ca.crl")
    return OtherSite(name, state.organisation, *files, (address,), coupling.copies_us, coupling.copied_here)
