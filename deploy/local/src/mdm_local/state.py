"""The state of a stack between commands: its name, ports, PACS and processes, and the stacks that it is coupled with."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mdm_site.file import write_file
from mdm_site.site import SITE, SiteError

from mdm_local.process import ProcessRecord

_VERSION = 1
_ORGANISATION = "MDM Local"


@dataclass(frozen=True)
class Coupling:
    """Another stack of this machine, and which of the two copies the other's metadata."""

    data_dir: str
    copies_us: bool = False
    copied_here: bool = False


@dataclass
class State:
    """Ports by listener, the kind of PACS, and the processes that were started and not yet ended.

    `only` are the services that the stack runs, all if empty; `others` are coupled stacks by their sites' names; `instances` of dicom-srm
    are one or two.
    """

    ports: dict[str, int] = field(default_factory=dict)
    pacs_kind: str = ""
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    name: str = SITE
    only: list[str] = field(default_factory=list)
    others: dict[str, Coupling] = field(default_factory=dict)
    instances: int = 1

    @property
    def organisation(self) -> str:
        """What the stack's authority issues certificates below."""
        return _ORGANISATION if self.name == SITE else self.name

    @classmethod
    def load(cls, path: Path) -> "State":
        """Return the state in a file; an empty one where there is none.

        Raises:
            SiteError: the file cannot be read, or another version wrote it.
        """
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise SiteError(f"{path}: cannot be read ({error}); `mdm-local down --purge` starts afresh") from error
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise SiteError(f"{path}: written by another version; stop that stack with the version that started it")
        processes = {name: ProcessRecord(**record) for name, record in document["processes"].items()}
        others = {name: Coupling(**item) for name, item in document.get("others", {}).items()}
        about = document.get("name", SITE), document.get("only", [])
        return cls(document["ports"], document["pacs_kind"], processes, *about, others, document.get("instances", 1))

    def save(self, path: Path) -> None:
        """Write the state so that a reader sees either the old one or the new one."""
        write_file(path, json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode() + b"\n")

    def running(self, name: str) -> ProcessRecord | None:
        """Return the record of a component that runs, or None."""
        record = self.processes.get(name)
        return record if record is not None and record.is_running() else None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock on changes of the stack, and hold it during the block."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
