"""Configuration files of the services and clients of a stack."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mdm_forwarder.orthanc import HTTP_USER
from mdm_site import configuration, toml
from mdm_site.configuration import Document, OtherSite, PacsLink
from mdm_site.file import write_file
from mdm_site.service import SERVICES, Service

from mdm_local.component import SCP
from mdm_local.layout import USERS, Layout
from mdm_local.pacs.kind import Pacs
from mdm_local.state import Coupling, State

HOST = "127.0.0.1"


class Configuration:
    """The topology of a stack, everything on one machine; writes its files. `conninfo(name)` gives a database's connection string."""

    def __init__(self, layout: Layout, state: State, pacs: Pacs, conninfo: Callable[[str], str]) -> None:
        self._layout, self._ports, self._pacs, self._conninfo = layout, state.ports, pacs, conninfo
        self.name, self.organisation = state.name, state.organisation
        self._others = [found for name, coupling in state.others.items() if (found := _other(name, coupling))]

    def write(self) -> None:
        """Write the configuration of every service and every user, and the groups' members unless they are there."""
        if not self._layout.groups_file.exists():
            self._write(self._layout.groups_file, configuration.groups(self, configuration.DEMONSTRATION_MEMBERS))
        authorities = (self._layout.pki / "ca.crt", *(other.certificate for other in self._others))
        self._layout.authorities.write_bytes(b"".join(Path(path).read_bytes() for path in authorities))
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
        """Everybody's files lie in the authority's directory. Users and metadata deal with other sites."""
        ca = self._layout.authorities if name in ("metadata", *USERS) else self._layout.pki / "ca.crt"
        return {"certificate": self._layout.pki / f"{name}.crt", "key": self._layout.pki / f"{name}.key", "ca": ca}

    def others(self) -> Sequence[OtherSite]:
        """The stacks that this one is coupled with and that are still there."""
        return self._others

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
        write_file(path, toml.dumps(document).encode())


def _other(name: str, coupling: Coupling) -> OtherSite | None:
    """Return a coupled stack as it is now, None if it is gone."""
    layout = Layout(Path(coupling.data_dir))
    state = State.load(layout.state_file)
    if state.name != name or "metadata" not in state.ports:
        return None
    address = f"{HOST}:{state.ports['metadata']}"
    files = (layout.pki / "ca.crt", layout.pki / "ca.crl")
    return OtherSite(name, state.organisation, *files, (address,), coupling.copies_us, coupling.copied_here)
