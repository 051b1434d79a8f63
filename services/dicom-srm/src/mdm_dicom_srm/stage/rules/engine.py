"""The staging engine: gathers wanted files into one retrieval per series and feeds what arrives to the sealer."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

from mdm_deid.outcome import Outcome
from mdm_wire.errors import MdmError, Unavailable
from mdm_wire.errors import NotFound as KeyNotFound

from mdm_dicom_srm.pacs.port import Located, Pacs, RetrievedInstance
from mdm_dicom_srm.stage import metrics
from mdm_dicom_srm.stage.rules.model import State
from mdm_dicom_srm.stage.rules.port import KeySource, Listener, NoSpace, Sealed, Sealer, Slot, Spool

_log = logging.getLogger(__name__)
# Room for what encryption and a longer header may add to a file.
_MARGIN = 64 * 1024
_MARGIN_RATIO = 1024
_HOLD = "engine"
_KEY_BATCH = 200
_CHANGED = "DESCRIBED_ANEW"

#: By GUID: None where the instance is being described anew; what is not registered is left out.
LocatorsOf = Callable[[Sequence[UUID]], Mapping[UUID, Located | None]]
#: Takes a file that de-identification does not release out of what can be fetched, with outcome and reason.
HoldBack = Callable[[UUID, Outcome, str], object]
#: Is told how many bytes users get of a staged file.
SizeListener = Callable[[UUID, int], None]


@dataclass(slots=True, eq=False)
class _Job:
    """One retrieval of files of one series: `open` are still to come, `sealing` have arrived, `stale` changed since it was planned."""

    located: dict[UUID, Located]
    open: set[UUID] = field(default_factory=set)
    sealing: set[UUID] = field(default_factory=set)
    stale: set[UUID] = field(default_factory=set)
    progress: float = 0.0
    abandoned: bool = False


class _Budget:
    """Bounds the bytes in flight between PACS and spool; a file larger than the bound goes alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._freed = threading.Condition()

    def take(self, size: int) -> None:
        with self._freed:
            self._freed.wait_for(lambda: not self._used or self._used + size <= self._size)
            self._used += size

    def give(self, size: int) -> None:
        with self._freed:
            self._used -= size
            self._freed.notify_all()


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Retrievals at a time, seconds without progress until one is given up, bytes in flight."""

    retrievals: int = 2
    stall_seconds: float = 120.0
    bytes_in_flight: int = 64 * 1024 * 1024


class StagingEngine:
    """Stages files in the background. A file is at most once in work, however many wait for it."""

    def __init__(
        self,
        pacs: Pacs,
        locators_of: LocatorsOf,
        keys: KeySource,
        sealer: Sealer,
        spool: Spool,
        listener: Listener,
        limits: EngineLimits,
        hold_back: HoldBack,
        sized: SizeListener | None = None,
    ) -> None:
        self._pacs = pacs
        self._locators_of = locators_of
        self._keys = keys
        self._sealer = sealer
        self._spool = spool
        self._listener = listener
        self._limits = limits
        self._hold_back = hold_back
        self._sized = sized
        self._budget = _Budget(limits.bytes_in_flight)
        self._key_threads = ThreadPoolExecutor(limits.retrievals, thread_name_prefix="stage-keys")
        self._wake = threading.Condition()
        self._in_work: dict[UUID, _Job | None] = {}
        self._new: list[UUID] = []
        self._stale: set[UUID] = set()  # of those that belong to no job yet
        self._jobs: dict[str, _Job] = {}
        self._running: list[_Job] = []
        self._oldest = False
        self._stopping = False
        self._dispatcher = threading.Thread(target=self._dispatch, name="stage-dispatch", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._dispatcher.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End; retrievals are broken off. What is not finished is staged again by the next process."""
        with self._wake:
            self._stopping = True
            for job in self._running:
                job.abandoned = True
            self._wake.notify_all()
        self._dispatcher.join(timeout)
        deadline = time.monotonic() + timeout
        with self._wake:
            while self._running and time.monotonic() < deadline:
                self._wake.wait(0.1)
        self._sealer.close()
        self._key_threads.shutdown(wait=False, cancel_futures=True)

    def submit(self, guids: Iterable[UUID]) -> None:
        """Have files staged; the listener receives what becomes of each. Returns at once."""
        with self._wake:
            for guid in guids:
                if guid not in self._in_work:
                    self._in_work[guid] = None
                    self._new.append(guid)
            self._wake.notify_all()

    def forget(self, guids: Iterable[UUID]) -> None:
        """Have what is in work of these files not become visible: what they hold has changed, or must not be given out any more."""
        with self._wake:
            for guid in guids:
                job = self._in_work.get(guid)
                if job is not None:
                    job.stale.add(guid)
                elif guid in self._in_work:
                    self._stale.add(guid)

    def check_stalled(self) -> None:
        """Give up retrievals that made no progress for too long; to be called from time to time."""
        limit = time.monotonic() - self._limits.stall_seconds
        with self._wake:
            stalled = [job for job in self._running if job.progress < limit and not job.abandoned]
            for job in stalled:
                job.abandoned = True
                self._running.remove(job)
            self._wake.notify_all()
        for job in stalled:
            _log.warning("a retrieval made no progress for %.0f s and is given up", self._limits.stall_seconds)
            left = tuple(job.open | job.sealing)
            self._finish(job, left)
            self._tell(left, State.FILE_UNAVAILABLE, "PACS_TOO_SLOW")

    def _dispatch(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._new or self._stopping or self._startable())
                if self._stopping:
                    return
                new, self._new = self._new, []
            if new:
                self._locate(new)
            with self._wake:
                while self._startable():
                    job = self._next()
                    job.progress = time.monotonic()
                    self._running.append(job)
                    threading.Thread(target=self._run, args=(job,), name="stage-retrieve", daemon=True).start()

    def _next(self) -> _Job:
        """Take the oldest job and the smallest in turn: a single image does not wait for all of somebody's studies."""
        self._oldest = not self._oldest
        series = next(iter(self._jobs)) if self._oldest else min(self._jobs, key=lambda key: len(self._jobs[key].open))
        return self._jobs.pop(series)

    def _startable(self) -> bool:
        return bool(self._jobs) and len(self._running) < self._limits.retrievals

    def _locate(self, guids: list[UUID]) -> None:
        """Group files by series; a series that waits for its retrieval takes more files."""
        try:
            found = self._locators_of(guids)
        except Exception as error:
            _log_failure("locators cannot be read", error)
            self._finish(None, guids)
            self._tell(guids, State.FILE_UNAVAILABLE, "REGISTRY_UNAVAILABLE")
            return
        unknown = [guid for guid in guids if guid not in found]
        if unknown:
            self._stale.difference_update(unknown)
            self._finish(None, unknown)
            self._tell(unknown, State.FILE_LOST, "NOT_REGISTERED")
        with self._wake:
            usable = {guid: located for guid, located in found.items() if located is not None and guid not in self._stale}
            self._stale.difference_update(found)
            for guid, located in usable.items():
                job = self._jobs.setdefault(located.locator.series_uid, _Job({}))
                job.located[guid] = located
                job.open.add(guid)
                self._in_work[guid] = job
        changing = [guid for guid in found if guid not in usable]
        if changing:
            self._finish(None, changing)
            self._tell(changing, State.FILE_UNAVAILABLE, _CHANGED)

    def _run(self, job: _Job) -> None:
        try:
            self._finish(job, [guid for guid in job.open if not self._listener.wanted(guid)])
            if job.open:
                self._listener.started(tuple(job.open))
                with metrics.RETRIEVAL_SECONDS.time():
                    self._retrieve(job)
        except Unavailable as error:
            self._fail(job, State.FILE_UNAVAILABLE, error.reason)
        except NoSpace:
            self._fail(job, State.NO_FREE_SPACE, "SPOOL_FULL")
        except Exception as error:
            self._fail(job, State.INTERNAL_ERROR, _log_failure("a retrieval failed", error))
        finally:
            with self._wake:
                self._wake.wait_for(lambda: job.abandoned or not job.sealing)
                if job in self._running:
                    self._running.remove(job)
                self._wake.notify_all()

    def _retrieve(self, job: _Job) -> None:
        guids = tuple(job.open)
        guid_of = {job.located[guid].locator.sop_uid: guid for guid in guids}
        keys = self._ask_keys(guids)
        # Closing a generator runs its clean-up now: the association or connection is given back.
        arriving = cast("Generator[RetrievedInstance]", self._pacs.retrieve([job.located[guid].locator for guid in guids]))
        with closing(arriving):
            for instance in arriving:
                job.progress = time.monotonic()
                guid = guid_of.pop(instance.sop_uid, None)
                if guid is not None and guid in job.open and not job.abandoned:
                    self._take(job, guid, instance.part10, self._key(keys[guid], guid))
                if job.abandoned or not any(map(self._listener.wanted, job.open)):
                    self._finish(job, tuple(job.open))
                    return
        self._fail(job, State.FILE_LOST, "NOT_IN_PACS")

    def _ask_keys(self, guids: Sequence[UUID]) -> "dict[UUID, Future[Mapping[UUID, bytes | Exception]]]":
        """Begin to fetch keys while the PACS is already answering; the first do not wait for the last."""
        keys: dict[UUID, Future[Mapping[UUID, bytes | Exception]]] = {}
        for start in range(0, len(guids), _KEY_BATCH):
            batch = guids[start : start + _KEY_BATCH]
            keys |= dict.fromkeys(batch, self._key_threads.submit(self._keys.get_keys, batch))
        return keys

    def _key(self, keys: "Future[Mapping[UUID, bytes | Exception]]", guid: UUID) -> bytes | Exception:
        try:
            return keys.result(self._limits.stall_seconds)[guid]
        except (MdmError, TimeoutError) as error:
            return error

    def _take(self, job: _Job, guid: UUID, part10: bytes, key: bytes | Exception) -> None:
        """Pass an instance that arrived to the sealer.

        Raises:
            NoSpace: the spool is full.
        """
        if isinstance(key, Exception):
            gone = isinstance(key, KeyNotFound)
            state, reason = (State.FILE_LOST, "KEY_NOT_FOUND") if gone else (State.FILE_UNAVAILABLE, "KEY_UNAVAILABLE")
            self._finish(job, (guid,))
            self._tell((guid,), state, reason)
            return
        if not self._listener.wanted(guid):
            self._finish(job, (guid,))
            return
        size = len(part10)
        slot = self._spool.reserve(guid, size + _MARGIN + size // _MARGIN_RATIO)
        self._budget.take(size)
        job.progress = time.monotonic()
        with self._wake:
            job.open.discard(guid)
            job.sealing.add(guid)
        self._sealer.seal(part10, job.located[guid].patient, guid, key, slot.path).add_done_callback(partial(self._sealed, job, slot, size))

    def _sealed(self, job: _Job, slot: Slot, size: int, future: "Future[Sealed]") -> None:
        """Make a sealed file visible, or clean up and say why not. Runs in a thread of the sealer."""
        self._budget.give(size)
        job.progress = time.monotonic()
        sealed = Sealed(state=State.FILE_UNAVAILABLE, reason="STOPPING") if future.cancelled() else future.result()
        if sealed.state is None:
            sealed = self._commit(job, slot, sealed)
        if sealed.state is not None:
            self._spool.discard(slot)
        if sealed.verdict is not None:
            self._refused(slot.guid, *sealed.verdict)
        self._finish(job, (slot.guid,))
        if sealed.state is None:
            self._listener.ready(slot.guid)
            self._spool.unpin(slot.guid, _HOLD)
            if self._sized is not None:
                self._sized(slot.guid, sealed.plain_size)
            metrics.FILES.labels("STAGED").inc()
            metrics.BYTES.inc(sealed.size)
        else:
            self._tell((slot.guid,), sealed.state, sealed.reason)

    def _refused(self, guid: UUID, outcome: Outcome, reason: str) -> None:
        """Have registration follow a verdict that it has not seen: the PACS holds another file now than the one registered."""
        try:
            self._hold_back(guid, outcome, reason)
        except Exception as error:
            _log_failure("a file that may not leave is still listed", error)

    def _commit(self, job: _Job, slot: Slot, sealed: Sealed) -> Sealed:
        """Make a sealed file visible unless it changed meanwhile; return what became of it."""
        # Under the lock, so that a file is forgotten either here or in the spool.
        with self._wake:
            if slot.guid in job.stale:
                return Sealed(state=State.FILE_UNAVAILABLE, reason=_CHANGED)
            try:
                self._spool.commit(slot, sealed.size, _HOLD)
                return sealed
            except OSError as error:
                _log_failure("a staged file cannot be kept", error)
                return Sealed(state=State.INTERNAL_ERROR, reason="SPOOL_WRITE")

    def _fail(self, job: _Job, state: State, reason: str) -> None:
        """Fail what has not arrived."""
        left = tuple(job.open)
        self._finish(job, left)
        self._tell(left, state, reason)

    def _tell(self, guids: Sequence[UUID], state: State, reason: str) -> None:
        # What a shutdown breaks off has not failed: the next process stages it.
        if not self._stopping:
            metrics.FILES.labels(state.value).inc(len(guids))
            for guid in guids:
                _log.warning("not staged", extra={"guid": str(guid), "state": state.value, "reason": reason})
            self._listener.failed(guids, state, reason)

    def _finish(self, job: _Job | None, guids: Iterable[UUID]) -> None:
        """Take files out of work, so that whoever asks next starts anew."""
        with self._wake:
            for guid in guids:
                if guid in self._in_work and self._in_work[guid] is job:
                    del self._in_work[guid]
                if job is not None:
                    job.open.discard(guid)
                    job.sealing.discard(guid)
            if job is not None and not job.sealing:
                self._wake.notify_all()


def _log_failure(what: str, error: Exception) -> str:
    """Log an unforeseen error without its message, which may identify; return the id under which it is found."""
    number = uuid4().hex[:12]
    place = traceback.extract_tb(error.__traceback__)[-1]
    _log.error("%s [%s]: %s at %s:%s", what, number, type(error).__name__, Path(place.filename).name, place.lineno)
    return f"ERROR_{number}"
