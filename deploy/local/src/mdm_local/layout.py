"""Where everything of a stack lies: paths below its data directory."""

import os
from dataclasses import dataclass
from pathlib import Path

from mdm_site.configuration import DEMONSTRATION_USERS, OPERATOR

USERS = (*DEMONSTRATION_USERS, OPERATOR)
CHECKOUT_MARK = Path("deploy/local/pyproject.toml")


@dataclass(frozen=True)
class Layout:
    """The data directory of one stack. Nothing of a stack lies outside it, save a socket directory where its path is too long."""

    root: Path

    @property
    def state_file(self) -> Path:
        """Ports, PACS and process ids."""
        return self.root / "state.json"

    @property
    def lock_file(self) -> Path:
        """Held by a command that changes the stack."""
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
    def groups_file(self) -> Path:
        """VO membership."""
        return self.root / "trust" / "groups.toml"

    @property
    def ban_list(self) -> Path:
        """Banned subjects, one a line."""
        return self.root / "trust" / "banned"

    @property
    def spool(self) -> Path:
        """Staged ciphertext of dicom-srm."""
        return self.root / "spool"

    @property
    def pacs(self) -> Path:
        """The PACS: its configuration, storage and log, which hold patients' names as any PACS does."""
        return self.root / "pacs"

    @property
    def forward_queue(self) -> Path:
        """What the PACS still has to forward to dicom-srm, and what was refused there for good."""
        return self.pacs / "forward.sqlite"

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
        for name in ("pki", "trust", "spool", "pacs", "secret", "config", "client", "log"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)


def default_root(start: Path | None = None) -> Path:
    """Return `.mdm-local` at the top of the checkout around `start` (default: the current directory), else the user's state directory."""
    here = (start or Path.cwd()).resolve()
    for directory in (here, *here.parents):
        if (directory / CHECKOUT_MARK).is_file():
            return directory / ".mdm-local"
    state_home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state_home) / "mdm-local"
