"""The queue of retrievals: wanted files are gathered into one retrieval per series, callers take turns, and a few run at a time."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from mdm_dicom_srm.stage.rules.kept_copy import KeptCopies
from mdm_dicom_srm.stage.rules.model import State
from mdm_dicom_srm.stage.rules.port import Registrations
from mdm_dicom_srm.stage.rules.retrieval import DESCRIBED_ANEW, FilesInWork, Retrieval, RetrievalLimits, Retriever, log_failure

_log = logging.getLogger(__name__)


class RetrievalQueue:
    """Stages files in the background, as fair to callers as to whom it would be if each had a queue of its own.

    `limits.retrievals` run at a time. A caller for whom none runs gets one beside them, up to as many again: who asks for ten thousand
    files does not delay who asks for one.
    """

    def __init__(
        self, registrations: Registrations, retriever: Retriever, work: FilesInWork, limits: RetrievalLimits, copies: KeptCopies
    ) -> None:
        self._registrations = registrations
        self._copies = copies
        self._retriever = retriever
        self._work = work
        self._limits = limits
        self._changed = work.changed
        self._new: list[UUID] = []
        self._waiting: dict[str, Retrieval] = {}  # by Series Instance UID
        self._running: list[Retrieval] = []
        self._turn = 0
        self._served: dict[str, int] = {}  # the last turn of each caller who waits, or for whom a retrieval runs
        self._smallest: dict[str, bool] = {}  # whether that was its smallest retrieval
        self._dispatcher = threading.Thread(target=self._dispatch, name="stage-dispatch", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._dispatcher.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End; retrievals are broken off. What is not finished is staged again by the next process."""
        with self._changed:
            self._work.stopping = True
            for retrieval in self._running:
                retrieval.abandoned = True
            self._changed.notify_all()
        self._dispatcher.join(timeout)
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._running and time.monotonic() < deadline:
                self._changed.wait(0.1)
        self._copies.close()
        self._retriever.close()

    def expect(self, guids: Iterable[UUID]) -> None:
        """Prepare for files that will be submitted in a moment, if they are not here; returns at once."""
        self._retriever.expect(guids)

    def submit(self, guids: Iterable[UUID], owner: str) -> None:
        """Have files staged for a caller; the requests that wait for them receive what becomes of each. Returns at once."""
        with self._changed:
            self._new += self._work.add(guids, owner)
            self._changed.notify_all()

    def estimate(self, files: int) -> float | None:
        """Return in how many seconds so many files of one caller may be staged, beside those of others; None while that is not known."""
        with self._changed:
            callers = {retrieval.owner for retrieval in self._running}.union(*(item.wanted_by for item in self._waiting.values()))
        return self._work.pace.seconds(files * max(1, len(callers)))

    def check_stalled(self) -> None:
        """Give up retrievals that made no progress for too long, and what was prepared for nothing; to be called from time to time."""
        self._retriever.tidy()
        limit = time.monotonic() - self._limits.stall_seconds
        with self._changed:
            stalled = [retrieval for retrieval in self._running if retrieval.progress < limit and not retrieval.abandoned]
            for retrieval in stalled:
                retrieval.abandoned = True
                self._running.remove(retrieval)
            self._changed.notify_all()
        for retrieval in stalled:
            _log.warning("a retrieval made no progress for %.0f s and is given up", self._limits.stall_seconds)
            self._work.fail(retrieval, retrieval.open | retrieval.sealing, State.FILE_UNAVAILABLE, "PACS_TOO_SLOW")

    def _dispatch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._work.stopping or self._whose_turn())
                if self._work.stopping:
                    return
                new, self._new = self._new, []
            if new:
                self._locate(new)
            with self._changed:
                while (retrieval := self._next()) is not None:
                    retrieval.progress = time.monotonic()
                    if not self._running:
                        self._work.pace.begun()
                    self._running.append(retrieval)
                    threading.Thread(target=self._run, args=(retrieval,), name="stage-retrieve", daemon=True).start()

    def _next(self) -> Retrieval | None:
        """Take a retrieval of the caller who was served longest ago: its oldest and its smallest in turn.

        Of one that others wait for, too, only what this caller wants of it, if that is less than half: more would ask the PACS twice.
        """
        if not (owner := self._whose_turn()):
            return None
        self._turn += 1
        self._served[owner] = self._turn
        self._smallest[owner] = not self._smallest.get(owner, True)
        of_owner = {series: item for series, item in self._waiting.items() if owner in item.wanted_by}
        size = {series: len(item.wanted_by[owner]) for series, item in of_owner.items()}
        series = min(size, key=lambda key: size[key]) if self._smallest[owner] else next(iter(of_owner))
        found = of_owner[series]
        if len(found.wanted_by) > 1 and 2 * len(found.wanted_by[owner]) < len(found.open):
            part = found.part_of(owner)
            for guid in part.open:
                self._work.assign(guid, part)
            return part
        found.owner = owner
        return self._waiting.pop(series)

    def _whose_turn(self) -> str:
        """Return for whom a retrieval may begin now; empty for nobody."""
        running = Counter(retrieval.owner for retrieval in self._running)
        waiting = {owner for item in self._waiting.values() for owner in item.wanted_by}
        for owner in self._served.keys() - waiting - running.keys():
            del self._served[owner], self._smallest[owner]
        if len(self._running) >= self._limits.retrievals:
            waiting = {owner for owner in waiting if not running[owner]} if len(self._running) < 2 * self._limits.retrievals else set()
        return min(waiting, key=lambda owner: (running[owner], self._served.get(owner, 0)), default="")

    def _locate(self, guids: Sequence[UUID]) -> None:
        """Group files by series; a series that waits for its retrieval takes more files."""
        try:
            found = self._registrations.locators_of(guids)
        except Exception as error:
            log_failure("locators cannot be read", error)
            self._work.fail(None, guids, State.FILE_UNAVAILABLE, "REGISTRY_UNAVAILABLE")
            return
        unknown = self._copies.take([guid for guid in guids if guid not in found])
        if unknown:
            self._work.take_stale(unknown)
            self._work.fail(None, unknown, State.FILE_LOST, "NOT_REGISTERED")
        changing: list[UUID] = []
        with self._changed:
            stale = self._work.take_stale(found)
            for guid, located in found.items():
                if located is None or guid in stale:
                    changing.append(guid)
                    continue
                retrieval = self._waiting.setdefault(located.locator.series_uid, Retrieval())
                retrieval.add(guid, located, self._work.owners_of(guid))
                self._work.assign(guid, retrieval)
        if changing:
            self._work.fail(None, changing, State.FILE_UNAVAILABLE, DESCRIBED_ANEW)

    def _run(self, retrieval: Retrieval) -> None:
        try:
            self._retriever.run(retrieval)
        finally:
            with self._changed:
                self._changed.wait_for(lambda: retrieval.abandoned or not retrieval.sealing)
                if retrieval in self._running:
                    self._running.remove(retrieval)
                self._changed.notify_all()
