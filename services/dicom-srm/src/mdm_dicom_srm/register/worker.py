"""Threads of registration: they run the pipeline on batches of the queue, inspect studies and scan, and correct sizes."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

from mdm_wire.errors import MdmError

from mdm_dicom_srm.register.rules.inspector import Inspector
from mdm_dicom_srm.register.rules.model import Batch
from mdm_dicom_srm.register.rules.pipeline import Pipeline
from mdm_dicom_srm.register.rules.port import Catalog, Queue, Registrations
from mdm_dicom_srm.register.rules.scan import Inspections, Scans, ScanStores
from mdm_dicom_srm.register.rules.scanner import Scanner

_log = logging.getLogger(__name__)
_IDLE_SECONDS = 1.0
_TROUBLE_SECONDS = 5.0
_GATHER_SECONDS = 0.2
_SIZES_AT_ONCE = 1_000


class Workers:
    """Run until stopped. While a batch is under way its lease is renewed, so a lease that ends means a dead worker."""

    def __init__(
        self, queue: Queue, pipeline: Pipeline, *, count: int, batch: int, lease_seconds: int, own: Callable[[], Sequence[bytes]] = tuple
    ) -> None:
        """Take at most `batch` registrations at a time; `own` returns the series whose instances have just arrived here."""
        self._queue = queue
        self._pipeline = pipeline
        self._batch = batch
        self._own = own
        self._lease_seconds = lease_seconds
        self._stopped = threading.Event()
        self._wake = threading.Condition()
        self._active: dict[UUID, None] = {}
        names = [f"register-{number}" for number in range(count)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self._heartbeat = threading.Thread(target=self._renew, name="register-lease", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        for thread in (*self._threads, self._heartbeat):
            thread.start()

    def stop(self, seconds: float = 20.0) -> None:
        """End after the batches under way; one that does not end in time is taken over when its lease runs out."""
        self._stopped.set()
        self.wake()
        for thread in (*self._threads, self._heartbeat):
            thread.join(seconds)

    def wake(self) -> None:
        """Read the queue at once: something was queued."""
        with self._wake:
            self._wake.notify_all()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                batch = self._queue.claim(self._batch, self._lease_seconds, self._own())
                if batch is None:
                    self._pipeline.tidy()
                    self._pause(_IDLE_SECONDS if self._pipeline.prepare_site() else _TROUBLE_SECONDS)
                else:
                    self._run(batch)
            except Exception as error:
                _log.error("the registration queue failed", extra={"error": type(error).__name__})
                self._stopped.wait(_TROUBLE_SECONDS)

    def _run(self, batch: Batch) -> None:
        self._active[batch.lease_id] = None
        try:
            self._pipeline.run(batch)
        finally:
            self._active.pop(batch.lease_id, None)

    def _pause(self, seconds: float) -> None:
        """Wait until something is queued, and then a moment for what follows it: a batch costs as much as some tens of instances."""
        with self._wake:
            woken = not self._stopped.is_set() and self._wake.wait(seconds)
        if woken:
            self._stopped.wait(_GATHER_SECONDS)

    def _renew(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 3):
            leases = list(self._active.copy())
            try:
                if leases:
                    self._queue.renew(leases, self._lease_seconds)
            except Exception as error:
                _log.error("leases were not renewed", extra={"error": type(error).__name__})


class InspectionWorkers:
    """Inspect studies, gather those of scans and begin the scheduled ones, until stopped. Leases are renewed as those of `Workers` are."""

    def __init__(
        self,
        stores: ScanStores,
        inspector: Inspector,
        scanner: Scanner,
        *,
        count: int,
        max_attempts: int,
        lease_seconds: int,
    ) -> None:
        self._inspections, self._scans = stores.inspections, stores.scans
        self._inspector, self._scanner = inspector, scanner
        self._max_attempts = max_attempts
        self._lease_seconds = lease_seconds
        self._stopped = threading.Event()
        self._wake = threading.Condition()
        self._leases: dict[UUID, Inspections | Scans] = {}
        works = [(f"inspect-{number}", self._inspect) for number in range(count)] + [("scan", self._gather)]
        self._threads = [threading.Thread(target=self._repeat, args=(work,), name=name, daemon=True) for name, work in works]
        self._threads.append(threading.Thread(target=self._renew, name="inspect-lease", daemon=True))

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End; what is under way and does not end in time is taken over when its lease runs out."""
        self._stopped.set()
        self.wake()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def wake(self) -> None:
        """Look at once: something is to be inspected or scanned."""
        with self._wake:
            self._wake.notify_all()

    def _repeat(self, work: Callable[[], bool]) -> None:
        """Do a work until there is none, wait, and look again."""
        while not self._stopped.is_set():
            try:
                if not work():
                    with self._wake:
                        self._wake.wait(_IDLE_SECONDS)
            except Exception as error:
                _log.error("inspections failed", extra={"error": type(error).__name__})
                self._stopped.wait(_TROUBLE_SECONDS)

    def _inspect(self) -> bool:
        """Inspect a study; return whether there was one."""
        inspection = self._inspections.claim(self._lease_seconds)
        if inspection is None:
            return False
        with self._held(inspection.lease_id, self._inspections):
            try:
                self._inspections.finish(inspection, self._inspector.inspect(inspection))
            except Exception as error:
                self._inspections.postpone(inspection, _reason("a study was not inspected", error), self._max_attempts)
        return True

    def _gather(self) -> bool:
        """Begin scheduled scans and gather the studies of a scan; return whether there was one."""
        self._scanner.start_due(datetime.now(UTC).date())
        listing = self._scans.claim(self._lease_seconds)
        if listing is None:
            self._scanner.forget()
            return False
        with self._held(listing.lease_id, self._scans):
            try:
                self._scanner.gather(listing)
            except Exception as error:
                self._scans.postpone(listing, _reason("a scan could not list its studies", error), self._max_attempts)
        self.wake()
        return True

    @contextmanager
    def _held(self, lease_id: UUID, store: Inspections | Scans) -> Iterator[None]:
        self._leases[lease_id] = store
        try:
            yield
        finally:
            self._leases.pop(lease_id, None)

    def _renew(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 3):
            try:
                for lease_id, store in self._leases.copy().items():
                    store.renew([lease_id], self._lease_seconds)
            except Exception as error:
                _log.error("leases were not renewed", extra={"error": type(error).__name__})


def _reason(what: str, error: Exception) -> str:
    """Log why something is done later; return the reason."""
    if isinstance(error, MdmError):
        _log.warning(what, extra={"reason": error.reason})
        return error.reason
    _log.error(what, extra={"error": type(error).__name__})
    return "INTERNAL"


class SizeCorrection:
    """Corrects the sizes of files once users get them: the PACS's header is longer or shorter than theirs.

    Sizes are gathered for a moment, and the catalog receives those that differ, many at once. The moment is short: a user who has
    fetched files compares them with the catalog's sizes next (`--skip-existing`). What a crash loses is corrected when the file is
    staged the next time.
    """

    def __init__(self, sizes: Registrations, catalog: Catalog, moment: float = 0.05, retry: float = 1.0) -> None:
        self._sizes = sizes
        self._catalog = catalog
        self._moment, self._retry = moment, retry
        self._lock = threading.Lock()
        self._waiting: dict[UUID, int] = {}
        self._stopped, self._noted = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="register-sizes", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Correct what is left and end."""
        self._stopped.set()
        self._noted.set()
        self._thread.join()
        self._try()

    def note(self, guid: UUID, size: int) -> None:
        """Take in how many bytes users get of a file; returns at once."""
        with self._lock:
            self._waiting[guid] = size
        self._noted.set()

    def flush(self) -> None:
        """Correct now the sizes that were taken in before.

        Raises:
            MdmError: the catalog is away or refuses; it is corrected the next time.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        try:
            while waiting:
                batch = dict(list(waiting.items())[:_SIZES_AT_ONCE])
                known = self._sizes.sizes_of(list(batch))
                wrong = {guid: size for guid, size in batch.items() if guid in known and known[guid] != size}
                if wrong:
                    self._catalog.set_sizes(wrong)
                    self._sizes.note_sizes(wrong)
                waiting = {guid: size for guid, size in waiting.items() if guid not in batch}
        except Exception:
            with self._lock:
                self._waiting = waiting | self._waiting
            raise

    def _run(self) -> None:
        while self._noted.wait() and not self._stopped.wait(self._moment):
            self._noted.clear()
            if not self._try():
                self._noted.set()
                self._stopped.wait(self._retry)

    def _try(self) -> bool:
        try:
            self.flush()
        except Exception as error:
            _log.warning("sizes are not corrected yet", extra={"error": type(error).__name__})
            return False
        return True
