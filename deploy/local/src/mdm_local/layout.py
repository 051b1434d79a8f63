"""The components of a stack, and its paths below its data directory."""

import os
from dataclasses import dataclass
from pathlib import Path

from mdm_site.site import CURATOR, DEMONSTRATION_USERS, DICOM_SRM, OPERATOR, SERVICES, Service

HOST = "127.0.0.1"
POSTGRES = "postgres"
PACS = "pacs"
FORWARDER = "pacs-forwarder"
SCP = "dicom-srm-scp"
CURATORS = "dicom-srm-curators"
DOOR = "dicom-srm-door"
SECOND_SCP = "dicom-srm-2-scp"
#: The second instance of dicom-srm, which a stack may have.
SECOND_SRM = Service("dicom-srm-2", DICOM_SRM.module, DICOM_SRM.name)
ALL_SERVICES = (*SERVICES, SECOND_SRM)
BY_NAME = {service.name: service for service in ALL_SERVICES}
PACS_HTTP = "pacs-http"
#: Everything that `start`, `stop` and `kill` know, in the order of starting.
COMPONENTS = (POSTGRES, PACS, *(service.name for service in ALL_SERVICES), FORWARDER)
#: Everything that listens on a TCP port, and the component that does.
LISTENERS = {
    **{service.name: service.name for service in ALL_SERVICES},
    SCP: DICOM_SRM.name,
    CURATORS: DICOM_SRM.name,
    DOOR: DICOM_SRM.name,
    SECOND_SCP: SECOND_SRM.name,
    PACS: PACS,
    PACS_HTTP: PACS,
}
USERS = (*DEMONSTRATION_USERS, OPERATOR, CURATOR)
CHECKOUT_MARK = Path("deploy/local/pyproject.toml")


@dataclass(frozen=True)
class Layout:
    """The data directory of one stack. It contains all files of the stack except the directory of a socket whose path would be too long."""

    root: Path

    @property
    def state_file(self) -> Path:
        """The file of the stack's state; see `State`."""
        return self.root / "state.json"

    @property
    def lock_file(self) -> Path:
        """The lock file of commands that change the stack."""
        return self.root / "lock"

    @property
    def pki(self) -> Path:
        """Development authority, its certificates and keys."""
        return self.root / "pki"

    @property
    def authorities(self) -> Path:
        """The authority and those of coupled stacks."""
        return self.pki / "authorities.crt"

    @property
    def trust(self) -> Path:
        """VO membership (`groups.toml`) and banned subjects (`banned`)."""
        return self.root / "trust"

    @property
    def spool(self) -> Path:
        """Staged ciphertext of dicom-srm."""
        return self.root / "spool"

    @property
    def results(self) -> Path:
        """The space for results of users: ciphertext."""
        return self.root / "results"

    @property
    def second_spool(self) -> Path:
        """Staged ciphertext of the second instance of dicom-srm; below the first one's, where nothing else is a directory."""
        return self.spool / "2"

    @property
    def pacs(self) -> Path:
        """The PACS: its configuration, storage and log, which contain patients' names as in any PACS."""
        return self.root / "pacs"

    @property
    def forward_queue(self) -> Path:
        """The queue of instances to forward to dicom-srm, and the list of those that it refused for good."""
        return self.pacs / "forward.sqlite"

    @property
    def forward_status(self) -> Path:
        """What waits in the forwarder, as it reports to dicom-srm."""
        return self.root / "forward-status.json"

    def secret(self, name: str) -> Path:
        """A secret of one component."""
        return self.root / "secret" / name

    def config(self, service: str) -> Path:
        """Configuration file of a service."""
        return self.root / "config" / f"{service}.toml"

    def client(self, user: str) -> Path:
        """Client configuration of a user."""
        return self.root / "client" / f"{user}.toml"

    def log(self, service: str) -> Path:
        """Log file of a service."""
        return self.root / "log" / f"{service}.log"

    def make(self) -> None:
        """Create the directories, readable by their owner only."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("pki", "trust", "spool", "results", "pacs", "secret", "config", "client", "log"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)


def default_root(start: Path | None = None) -> Path:
    """Return `.mdm-local` at the top of the checkout around `start` (default: the current directory), else the user's state directory."""
    here = (start or Path.cwd()).resolve()
    for directory in (here, *here.parents):
        if (directory / CHECKOUT_MARK).is_file():
            return directory / ".mdm-local"
    state_home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state_home) / "mdm-local"
