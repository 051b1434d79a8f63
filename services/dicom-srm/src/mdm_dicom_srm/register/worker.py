"""Threads that take batches from the queue and run the pipeline on them."""

import logging
import threading
from uuid import UUID

from mdm_dicom_srm.register.rules.model import Batch
from mdm_dicom_srm.register.rules.pipeline import Pipeline
from mdm_dicom_srm.register.rules.port import Queue

_log = logging.getLogger(__name__)
_IDLE_SECONDS = 1.0
_TROUBLE_SECONDS = 5.0


class Workers:
    """Runs until stopped; while a batch is under way its lease is renewed, so a lease that ends means a dead worker."""

    def __init__(self, queue: Queue, pipeline: Pipeline, *, count: int, batch: int, lease_seconds: int) -> None:
        self._queue = queue
        self._pipeline = pipeline
        self._batch = batch
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
        """End after the batches under way; what does not end in time is taken over when its lease runs out."""
        self._stopped.set()
        self.wake()
        for thread in (*self._threads, self._heartbeat):
            thread.join(seconds)

    def wake(self) -> None:
        """Say that something was queued."""
        with self._wake:
            self._wake.notify_all()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                batch = self._queue.claim(self._batch, self._lease_seconds)
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
        with self._wake:
            if not self._stopped.is_set():
                self._wake.wait(seconds)

    def _renew(self) -> None:
        while not self._stopped.wait(self._lease_seconds / 3):
            leases = list(self._active.copy())
            try:
                if leases:
                    self._queue.renew(leases, self._lease_seconds)
            except Exception as error:
                _log.error("leases were not renewed", extra={"error": type(error).__name__})
