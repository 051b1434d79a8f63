"""Configuration files of the services and clients of a stack."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mdm_forwarder.orthanc import HTTP_USER
from mdm_site import configuration, toml
from mdm_site.configuration import Document, PacsLink
from mdm_site.service import SERVICES, Service

from mdm_local import credential
from mdm_local.component import SCP
from mdm_local.layout import USERS, Layout
from mdm_local.pacs.kind import Pacs

HOST = "127.0.0.1"


class Configuration:
    """The topology of a stack, everything on one machine; writes its files. `conninfo(name)` gives a database's connection string."""

    def __init__(self, layout: Layout, ports: Mapping[str, int], pacs: Pacs, conninfo: Callable[[str], str]) -> None:
        self._layout, self._ports, self._pacs, self._conninfo = layout, ports, pacs, conninfo
        self._ca = credential.authority(layout)
        self.organisation = self._ca.organisation

    def write(self) -> None:
        """Write the configuration of every service and every user."""
        for service in SERVICES:
            self._write(self._layout.config(service.name), configuration.of_service(self, service))
        for user in USERS:
            self._write(self._layout.client(user), configuration.of_client(self, user))

    def listen(self, service: Service) -> Document:
        """Listen on loopback."""
        return {"host": HOST, "port": self._ports[service.name]}

    def metrics(self, service: Service) -> Document:
        """No metrics."""
        return {"host": HOST, "port": 0}

    def identity(self, name: str) -> Document:
        """Everybody's files lie in the authority's directory."""
        return {"certificate": self._layout.pki / f"{name}.crt", "key": self._layout.pki / f"{name}.key", "ca": self._ca.certificate_file}

    def trust(self, name: str) -> Path:
        """What the authority writes lies with it, the rest apart."""
        found = {"groups.toml": self._layout.groups_file, "banned": self._layout.ban_list}
        return found.get(name) or self._layout.pki / name

    def secret(self, service: Service, name: str) -> Path:
        """One directory holds all secrets."""
        return self._layout.secret(name.replace("kek", f"kek-{service.name.removeprefix('keystore-')}"))

    def database(self, service: Service) -> Document:
        """PostgreSQL listens on a Unix socket."""
        return {"conninfo": self._conninfo(service.database), "pool_min": 1, "pool_max": 8}

    def address(self, service: Service, caller: str) -> str:
        """Everybody is on this machine."""
        return f"{HOST}:{self._ports[service.name]}"

    def pacs(self) -> PacsLink:
        """Return the way to the PACS."""
        link = self._pacs
        return PacsLink(link.ae_title, link.host, link.port, link.dicomweb, HTTP_USER, link.password_file)

    def scp(self) -> tuple[str, int]:
        """Listen on loopback."""
        return HOST, self._ports[SCP]

    def spool(self) -> Path:
        """Return dicom-srm's spool."""
        return self._layout.spool

    def _write(self, path: Path, document: Mapping[str, object]) -> None:
        scratch = path.with_suffix(".new")
        scratch.write_text(toml.dumps(document))
        scratch.replace(path)
