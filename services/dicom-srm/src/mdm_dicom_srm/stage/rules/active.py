"""A request in memory, and what callers see of it."""

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from mdm_dicom_srm.stage.rules.model import Kind, ReadRights, Request, StagedFile, State


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """A request as it was at one moment, `now`; `files` are copies, `seen` counts the changes that it includes."""

    state: State
    files: tuple[StagedFile, ...]
    seen: int
    pending: int
    kind: Kind
    pin_seconds: int
    deadline: float
    now: float
    created: float = 0.0


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """A request in memory: `log` has the positions of files that changed, which watchers follow; `due` is when it is checked next.

    `begun` says whether its files are being staged: not before its start, nor while it is suspended. `shared` says whether other
    instances hold files of it: these are as they were when last `refreshed`. `used` is when a caller last asked for the request.
    `changed` is notified of changes, `settled` when no file is pending any more.
    """

    request: Request
    changed: threading.Condition
    settled: threading.Condition
    log: list[int] = field(default_factory=list)
    due: float = math.inf
    over_since: float = math.inf
    rights: ReadRights = field(default_factory=ReadRights)
    begun: bool = False
    shared: bool = False
    refreshed: float = -math.inf
    used: float = 0.0

    def status(self, positions: Iterable[int], now: float) -> RequestStatus:
        """Return the request with the files at some positions."""
        request = self.request
        files = tuple(request.files[position].copy() for position in positions)
        return RequestStatus(
            request.state, files, len(self.log), request.pending, request.kind, request.pin_seconds, request.deadline, now, request.created
        )


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How long ended requests are kept, in seconds, and how many files one caller may have in requests at a time."""

    retention_seconds: float = 3600
    files_per_owner: int = 100_000
