"""What operators see of a site: registrations by state and reason, what it depends on, its spool, its policy."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from mdm_wire.errors import MdmError

from mdm_dicom_srm.register.rules.model import State

MAX_REASONS = 1000
_ASK_SECONDS = 5.0
_NO_ANSWER, _DEFECT = "NO_ANSWER", "INTERNAL"


@dataclass(frozen=True, slots=True)
class StateStatus:
    """Registrations in one state, and since when the oldest and the newest are in it, or were last tried."""

    state: State
    count: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True)
class StateReason:
    """Registrations in one state for one reason; `due` is when the next of them is tried, None where none will be."""

    state: State
    reason: str
    count: int
    oldest: datetime
    newest: datetime
    due: datetime | None
    example: UUID


@dataclass(frozen=True, slots=True)
class DependencyStatus:
    """Whether something that the service depends on answers; `reason` is why not."""

    name: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """How full the spool of this process is: bytes, and files."""

    quota: int
    stored: int
    pinned: int
    files: int


@dataclass(frozen=True, slots=True)
class ForwarderStatus:
    """What waits in the forwarder of the PACS: how many instances, since when, how many it was refused by reason; as reported at `at`."""

    waiting: int
    refused: Mapping[str, int]
    oldest: datetime | None
    at: datetime


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """An instance of dicom-srm, the machine it runs on, and its last heartbeat; `lost`: it was silent for too long."""

    name: str
    host: str
    started: datetime
    beat: datetime
    lost: bool


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """A site at a glance; `conflicts` counts entries of which instances state different values."""

    states: Sequence[StateStatus]
    conflicts: int
    dependencies: Sequence[DependencyStatus]
    spool: SpoolStatus
    forwarder: ForwarderStatus | None
    instances: Sequence[InstanceStatus]


class Site(Protocol):
    """The registry as operators see it; `SiteStore` has each method's contract."""

    def states(self) -> list[StateStatus]: ...
    def reasons(self, states: Sequence[State], limit: int) -> list[StateReason]: ...
    def filtered(self, limit: int) -> list[tuple[str, int]]: ...
    def instances(self) -> list[InstanceStatus]: ...
    def conflicts(self) -> int: ...


class Dependencies:
    """Asks what the service depends on, all at once; what does not answer in time is not asked again before it has."""

    def __init__(self, asks: Mapping[str, Callable[[], object]], seconds: float = _ASK_SECONDS) -> None:
        self._asks = asks
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(max(1, len(asks)), thread_name_prefix="oversight")
        self._asked: dict[str, Future[object]] = {}

    def status(self) -> list[DependencyStatus]:
        """Return whether each answers, after at most `seconds`."""
        for name, ask in self._asks.items():
            if name not in self._asked or self._asked[name].done():
                self._asked[name] = self._threads.submit(ask)
        asked = dict(self._asked)
        wait(asked.values(), self._seconds)
        return [DependencyStatus(name, _reason(future)) for name, future in asked.items()]

    def close(self) -> None:
        """End."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class SiteService:
    """Answers operators. `policy` are the settings that decide about images, by their names in the configuration."""

    site: Site
    dependencies: Dependencies
    spool: Callable[[], SpoolStatus]
    policy: Mapping[str, str]
    forwarder: Callable[[], ForwarderStatus | None]

    def status(self) -> SiteStatus:
        """Return the site at a glance."""
        states, conflicts, instances = self.site.states(), self.site.conflicts(), self.site.instances()
        return SiteStatus(states, conflicts, self.dependencies.status(), self.spool(), self.forwarder(), instances)

    def reasons(self, states: Sequence[State]) -> list[StateReason]:
        """Count registrations by state and reason, those in some states if given; at most `MAX_REASONS`, the most frequent."""
        return self.site.reasons(states or list(State), MAX_REASONS)

    def filtered(self) -> list[tuple[str, int]]:
        """Count what is left out by reason, by the site policy also by rule, such as `SITE_POLICY no-ct`."""
        return self.site.filtered(MAX_REASONS)


def _reason(future: "Future[object]") -> str:
    if not future.done():
        return _NO_ANSWER
    error = future.exception()
    if error is None:
        return ""
    return error.reason if isinstance(error, MdmError) else _DEFECT
