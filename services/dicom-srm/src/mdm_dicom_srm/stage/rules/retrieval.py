"""One retrieval of files of one series: PACS, keys, sealer, spool, and what becomes of each file."""

import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

from mdm_deid.outcome import Outcome
from mdm_wire.errors import MdmError, Unavailable
from mdm_wire.errors import NotFound as KeyNotFound

from mdm_dicom_srm import metrics
from mdm_dicom_srm.pacs.port import Located, MissingInstance, RetrievedInstance
from mdm_dicom_srm.stage.rules.held import HeldFiles
from mdm_dicom_srm.stage.rules.key_fetch import Asked, KeyFetch
from mdm_dicom_srm.stage.rules.model import State
from mdm_dicom_srm.stage.rules.port import Clock, NoSpace, Sealed, Sealer, Slot, Sources, Spool

_log = logging.getLogger(__name__)
# Room for what encryption and a longer header may add to a file.
_MARGIN = 64 * 1024
_MARGIN_RATIO = 1024
_HOLDER = "retrieval"
#: Why a file is not staged that registration is describing anew.
DESCRIBED_ANEW = "DESCRIBED_ANEW"


@dataclass(frozen=True, slots=True)
class RetrievalLimits:
    """Retrievals at a time, seconds without progress until one is given up, bytes in flight."""

    retrievals: int = 2
    stall_seconds: float = 120.0
    bytes_in_flight: int = 64 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Retrieval:
    """Files of one series: `open` are still to come, `sealing` have arrived, `stale` changed since they were located.

    `wanted_by` says whose requests wait for which files, as far as that was known before it began; `owner` whose turn it is.
    """

    wanted_by: dict[str, set[UUID]] = field(default_factory=dict)
    owner: str = ""
    located: dict[UUID, Located] = field(default_factory=dict)
    open: set[UUID] = field(default_factory=set)
    sealing: set[UUID] = field(default_factory=set)
    stale: set[UUID] = field(default_factory=set)
    progress: float = 0.0
    abandoned: bool = False

    def add(self, guid: UUID, located: Located, owners: Iterable[str]) -> None:
        """Have one more file retrieved, for requests of `owners`."""
        self.located[guid] = located
        self.open.add(guid)
        for owner in owners:
            self.wanted_by.setdefault(owner, set()).add(guid)

    def part_of(self, owner: str) -> "Retrieval":
        """Take out what one owner wants, to be retrieved by itself."""
        part = Retrieval(owner=owner, stale=self.stale)
        for guid in self.wanted_by.pop(owner):
            if guid in self.open:
                self.open.discard(guid)
                part.add(guid, self.located.pop(guid), (owner,))
        return part


class Pace:
    """How long a staged file takes, by those that were staged lately. Thread-safe."""

    _WEIGHT = 0.1

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._seconds: float | None = None

    def begun(self) -> None:
        """Note that work begins after a pause, which is no time of its files."""
        with self._lock:
            self._last = self._clock()

    def staged(self) -> None:
        """Note that a file has been staged."""
        with self._lock:
            now = self._clock()
            took, self._last = now - self._last, now
            self._seconds = took if self._seconds is None else self._seconds + self._WEIGHT * (took - self._seconds)

    def seconds(self, files: int) -> float | None:
        """Return how long so many files take; None while that is not known."""
        with self._lock:
            return None if self._seconds is None else self._seconds * files


class FilesInWork:
    """The files that are being staged, each by at most one retrieval, however many wait for it.

    Thread-safe; `changed` also guards the retrievals.
    """

    def __init__(self, requests: HeldFiles) -> None:
        self.changed = threading.Condition()
        self.stopping = False
        self.requests = requests
        self.pace = Pace()
        self._retrieval_of: dict[UUID, Retrieval | None] = {}
        self._owners: dict[UUID, set[str]] = {}
        self._stale: set[UUID] = set()  # of those that belong to no retrieval yet

    def add(self, guids: Iterable[UUID], owner: str) -> list[UUID]:
        """Take files into work for requests of `owner`; return those that were not."""
        with self.changed:
            new: list[UUID] = []
            for guid in guids:
                if guid not in self._retrieval_of:
                    self._retrieval_of[guid] = None
                    self._owners[guid] = set()
                    new.append(guid)
                self._owners[guid].add(owner)
                retrieval = self._retrieval_of[guid]
                if retrieval is not None and guid in retrieval.open:
                    retrieval.wanted_by.setdefault(owner, set()).add(guid)
            return new

    def unknown(self, guids: Iterable[UUID]) -> list[UUID]:
        """Return which files are not being staged."""
        with self.changed:
            return [guid for guid in guids if guid not in self._retrieval_of]

    def owners_of(self, guid: UUID) -> set[str]:
        """Return for whom a file is staged."""
        with self.changed:
            return set(self._owners.get(guid, ()))

    def assign(self, guid: UUID, retrieval: Retrieval) -> None:
        """Note by which retrieval a file comes."""
        with self.changed:
            self._retrieval_of[guid] = retrieval

    def forget(self, guids: Iterable[UUID]) -> None:
        """Have files in work not become visible: their content has changed, or must not be given out any more."""
        with self.changed:
            for guid in guids:
                retrieval = self._retrieval_of.get(guid)
                if retrieval is not None:
                    retrieval.stale.add(guid)
                elif guid in self._retrieval_of:
                    self._stale.add(guid)

    def take_stale(self, guids: Iterable[UUID]) -> set[UUID]:
        """Return those of the files without a retrieval that were forgotten; from now on they count as new."""
        with self.changed:
            stale = self._stale.intersection(guids)
            self._stale -= stale
            return stale

    def finish(self, retrieval: Retrieval | None, guids: Iterable[UUID]) -> None:
        """Take files out of work, so that the next request for them starts anew."""
        with self.changed:
            for guid in tuple(guids):
                if guid in self._retrieval_of and self._retrieval_of[guid] is retrieval:
                    del self._retrieval_of[guid], self._owners[guid]
                if retrieval is not None:
                    retrieval.open.discard(guid)
                    retrieval.sealing.discard(guid)
            if retrieval is not None and not retrieval.sealing:
                self.changed.notify_all()

    def drop_unwanted(self, retrieval: Retrieval) -> None:
        """Take files out of work that nobody waits for any more."""
        # Under the lock, so that who begins to wait for one now either is seen here or finds it out of work.
        with self.changed:
            self.finish(retrieval, [guid for guid in retrieval.open if not self.requests.wanted(guid)])

    def fail(self, retrieval: Retrieval | None, guids: Iterable[UUID], state: State, reason: str) -> None:
        """Take files out of work and fail them for the requests that wait for them."""
        failed = tuple(guids)
        self.finish(retrieval, failed)
        # What a shutdown breaks off has not failed: the next process stages it.
        if not self.stopping:
            metrics.STAGED_FILES.labels(state.value).inc(len(failed))
            for guid in failed:
                _log.warning("not staged", extra={"guid": str(guid), "state": state.value, "reason": reason})
            self.requests.failed(failed, state, reason)


class _Budget:
    """Bounds the bytes in flight between PACS and spool. A caller who has none in flight may have one file beyond it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used: Counter[str] = Counter()
        self._freed = threading.Condition()

    def take(self, size: int, owner: str) -> None:
        with self._freed:
            self._freed.wait_for(lambda: not self._used[owner] or self._used.total() + size <= self._size)
            self._used[owner] += size

    def give(self, size: int, owner: str) -> None:
        with self._freed:
            self._used[owner] -= size
            if not self._used[owner]:
                del self._used[owner]
            self._freed.notify_all()


class Retriever:
    """Carries out retrievals, several at once; what arrives is sealed into the spool."""

    def __init__(self, sources: Sources, sealer: Sealer, spool: Spool, work: FilesInWork, limits: RetrievalLimits) -> None:
        self._sources = sources
        self._sealer = sealer
        self._spool = spool
        self._work = work
        self._wanted = work.requests.wanted
        self._stall_seconds = limits.stall_seconds
        self._budget = _Budget(limits.bytes_in_flight)
        self._keys = KeyFetch(sources.keys, 2 * limits.retrievals)

    def close(self) -> None:
        """End sealing and fetching keys."""
        self._sealer.close()
        self._keys.close()

    def expect(self, guids: Iterable[UUID]) -> None:
        """Begin to fetch the keys of files that are going to be staged, the first few of those that the spool does not have."""
        wanted = list(guids)
        held = self._spool.holds(wanted)
        new = self._work.unknown(guid for guid in wanted if guid not in held)
        kept = self._sources.kept.sizes(new) if new else {}
        self._keys.expect([guid for guid in new if guid not in kept])

    def tidy(self) -> None:
        """Forget keys that were fetched for nothing; to be called from time to time."""
        self._keys.forget_old()

    def run(self, retrieval: Retrieval) -> None:
        """Retrieve the files that are still wanted; return when all of them have been passed to the sealer or have failed."""
        try:
            self._work.drop_unwanted(retrieval)
            if retrieval.open:
                self._work.requests.started(tuple(retrieval.open))
                with metrics.RETRIEVAL_SECONDS.time():
                    self._retrieve(retrieval)
        except Unavailable as error:
            self._work.fail(retrieval, retrieval.open, State.FILE_UNAVAILABLE, error.reason)
        except NoSpace:
            self._work.fail(retrieval, retrieval.open, State.NO_FREE_SPACE, "SPOOL_FULL")
        except Exception as error:
            self._work.fail(retrieval, retrieval.open, State.INTERNAL_ERROR, log_failure("a retrieval failed", error))

    def _retrieve(self, retrieval: Retrieval) -> None:
        guids = tuple(retrieval.open)
        guid_of = {retrieval.located[guid].locator.sop_uid: guid for guid in guids}
        keys = self._keys.ask(guids)
        # Closing a generator runs its clean-up now: the association or connection is given back.
        locators = [retrieval.located[guid].locator for guid in guids]
        arriving = cast("Generator[RetrievedInstance | MissingInstance]", self._sources.pacs.retrieve(locators))
        with closing(arriving):
            for instance in arriving:
                retrieval.progress = time.monotonic()
                guid = guid_of.pop(instance.sop_uid, None)
                if guid is not None and guid in retrieval.open and not retrieval.abandoned:
                    if isinstance(instance, MissingInstance):
                        state = State.FILE_LOST if instance.gone else State.FILE_UNAVAILABLE
                        self._work.fail(retrieval, (guid,), state, instance.reason)
                        if instance.gone:
                            self._sources.registrations.missing((guid,))
                    else:
                        self._take(retrieval, guid, instance, self._key(keys[guid], guid))
                if retrieval.abandoned:
                    self._work.finish(retrieval, retrieval.open)
                    return
                if not any(map(self._wanted, retrieval.open)):
                    self._work.drop_unwanted(retrieval)
                    if not retrieval.open:
                        return
        self._work.fail(retrieval, retrieval.open, State.FILE_UNAVAILABLE, "PACS_NOT_DELIVERED")

    def _key(self, keys: Asked, guid: UUID) -> bytes | Exception:
        try:
            return keys.result(self._stall_seconds)[guid]
        except (MdmError, TimeoutError) as error:
            return error

    def _take(self, retrieval: Retrieval, guid: UUID, instance: RetrievedInstance, key: bytes | Exception) -> None:
        """Pass an instance that arrived to the sealer.

        Raises:
            NoSpace: the spool is full.
        """
        if isinstance(key, Exception):
            lost = isinstance(key, KeyNotFound)
            state, reason = (State.FILE_LOST, "KEY_NOT_FOUND") if lost else (State.FILE_UNAVAILABLE, "KEY_UNAVAILABLE")
            self._work.fail(retrieval, (guid,), state, reason)
            return
        if not self._wanted(guid):
            self._work.drop_unwanted(retrieval)
        if guid not in retrieval.open:
            return
        size = len(instance.part10)
        slot = self._spool.reserve(guid, size + _MARGIN + size // _MARGIN_RATIO)
        self._budget.take(size, retrieval.owner)
        retrieval.progress = time.monotonic()
        with self._work.changed:
            retrieval.open.discard(guid)
            retrieval.sealing.add(guid)
        sealed = self._submit(instance, retrieval.located[guid], key, slot, retrieval.owner)
        sealed.add_done_callback(partial(self._sealed, retrieval, slot, size))

    def _submit(self, instance: RetrievedInstance, located: Located, key: bytes, slot: Slot, owner: str) -> "Future[Sealed]":
        """Have an instance sealed under the rules that curators made for it; what cannot be read of them fails this file only."""
        try:
            released = self._sources.registrations.released(instance.part10) if located.released else frozenset()
            return self._sealer.seal(instance.piece or instance.part10, located.patient, slot.guid, key, slot.path, owner, released)
        except Exception as error:
            if instance.piece is not None:
                instance.piece.release()
            reason = log_failure("an instance cannot be given to the sealer", error)
            failed: Future[Sealed] = Future()
            failed.set_result(Sealed(state=State.FILE_UNAVAILABLE, reason=reason))
            return failed

    def _sealed(self, retrieval: Retrieval, slot: Slot, size: int, future: "Future[Sealed]") -> None:
        """Make a sealed file visible, or clean up and say why not. Runs in a thread of the sealer."""
        self._budget.give(size, retrieval.owner)
        retrieval.progress = time.monotonic()
        sealed = Sealed(state=State.FILE_UNAVAILABLE, reason="STOPPING") if future.cancelled() else future.result()
        if sealed.state is None:
            sealed = self._commit(retrieval, slot, sealed)
        if sealed.state is not None:
            self._spool.discard(slot)
        if sealed.verdict is not None:
            self._hold_back(slot.guid, *sealed.verdict)
        if sealed.state is not None:
            self._work.fail(retrieval, (slot.guid,), sealed.state, sealed.reason)
            return
        self._work.finish(retrieval, (slot.guid,))
        self._work.requests.ready(slot.guid)
        self._work.pace.staged()
        self._spool.unpin(slot.guid, _HOLDER)
        self._sources.registrations.note_size(slot.guid, sealed.plain_size)
        metrics.STAGED_FILES.labels("STAGED").inc()
        metrics.STAGED_BYTES.inc(sealed.size)

    def _commit(self, retrieval: Retrieval, slot: Slot, sealed: Sealed) -> Sealed:
        """Make a sealed file visible unless it changed meanwhile; return what became of it."""
        # Under the lock, so that a file is forgotten either here or in the spool.
        with self._work.changed:
            if slot.guid in retrieval.stale:
                return Sealed(state=State.FILE_UNAVAILABLE, reason=DESCRIBED_ANEW)
            try:
                self._spool.commit(slot, sealed.size, _HOLDER)
                return sealed
            except OSError as error:
                log_failure("a staged file cannot be kept", error)
                return Sealed(state=State.INTERNAL_ERROR, reason="SPOOL_WRITE")

    def _hold_back(self, guid: UUID, outcome: Outcome, reason: str) -> None:
        """Report a verdict that registration has not seen: the PACS holds another file now than the one registered."""
        try:
            self._sources.registrations.hold_back(guid, outcome, reason)
        except Exception as error:
            log_failure("a file that may not leave is still listed", error)


def log_failure(what: str, error: Exception) -> str:
    """Log an unforeseen error without its message, which may identify; return the id under which it is found."""
    number = uuid4().hex[:12]
    place = traceback.extract_tb(error.__traceback__)[-1]
    _log.error("%s [%s]: %s at %s:%s", what, number, type(error).__name__, Path(place.filename).name, place.lineno)
    return f"ERROR_{number}"
