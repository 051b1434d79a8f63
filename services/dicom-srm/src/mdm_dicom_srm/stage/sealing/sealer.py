"""Sealing and judging several instances at once: in worker processes (one core each), or in threads of this process."""

import contextlib
import functools
import logging
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

from mdm_deid import Patient
from mdm_deid.outcome import Outcome
from mdm_service.errors import ConfigurationError

from mdm_dicom_srm.judgement import Deidentifier, Judgement, MakeDeidentifier, judge
from mdm_dicom_srm.stage.rules.model import State
from mdm_dicom_srm.stage.rules.port import Sealed
from mdm_dicom_srm.stage.sealing.seal import seal

_log = logging.getLogger(__name__)
_START_SECONDS = 60.0

#: What a worker does with an instance; sent to processes, so a module-level function or a functools.partial of one.
Work = Callable[[Deidentifier, bytes], Any]
# The work, the instance, what comes of it when the worker is lost, and where the answer goes.
_Task = tuple[Work, bytes, Any, "Future[Any]"]


class ThreadSealer:
    """Seals in this process; enough where one core does all the work."""

    def __init__(self, make: MakeDeidentifier, threads: int = 1) -> None:
        self._deidentifier: Deidentifier = make()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stage-seal")

    def seal(self, part10: bytes, patient: Patient | None, guid: UUID, key: bytes, path: Path) -> "Future[Sealed]":
        """See `seal.seal`."""
        return self._pool.submit(seal, self._deidentifier, part10, patient, guid, key, path)

    def judge(self, part10: bytes, patient: Patient | None) -> "Future[Judgement]":
        """See `judgement.judge`."""
        return self._pool.submit(judge, self._deidentifier, part10, patient)

    def close(self) -> None:
        """End; what waits is cancelled."""
        self._pool.shutdown(cancel_futures=True)


class ProcessSealer:
    """Seals in `processes` worker processes, each fed by a thread over a socket pair.

    A worker that dies or needs more than `timeout` seconds for an instance is replaced, and only that instance fails.
    """

    def __init__(self, make: MakeDeidentifier, processes: int, timeout: float = 120.0) -> None:
        """Start the workers.

        Raises:
            ConfigurationError: one does not start; it has written why to standard error.
        """
        self._make = make
        self._timeout = timeout
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        workers = [_Worker() for _ in range(processes)]
        if not all([worker.prepare(make) for worker in workers]):  # noqa: C419 - each one is to be prepared
            for worker in workers:
                worker.end()
            raise ConfigurationError("spool.processes: a sealing worker does not start; its error stands above; 0 does without workers")
        self._threads = [
            threading.Thread(target=self._feed, args=(worker,), name=f"stage-seal-{n}", daemon=True) for n, worker in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    def seal(self, part10: bytes, patient: Patient | None, guid: UUID, key: bytes, path: Path) -> "Future[Sealed]":
        """See `seal.seal`."""
        work = functools.partial(seal, patient=patient, guid=guid, key=key, path=path)
        return self._put(work, part10, Sealed(state=State.INTERNAL_ERROR, reason="STAGING_WORKER_LOST"))

    def judge(self, part10: bytes, patient: Patient | None) -> "Future[Judgement]":
        """See `judgement.judge`; an instance that costs its worker has failed."""
        return self._put(functools.partial(judge, patient=patient), part10, Judgement(Outcome.FAILED, "WORKER_LOST"))

    def _put(self, work: Work, part10: bytes, lost: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._tasks.put((work, part10, lost, future))
        return future

    def close(self) -> None:
        """End the workers; what they are at is finished first."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout=self._timeout)

    def _feed(self, first: "_Worker") -> None:
        worker: _Worker | None = first
        while (task := self._tasks.get()) is not None:
            work, part10, lost, future = task
            worker = worker or self._started()
            answer = worker.do(work, part10, self._timeout) if worker else None
            if answer is None:
                _log.error("a staging worker ended or hung; it is replaced")
                if worker is not None:
                    worker.end()
                worker = None
                answer = lost
            del work, part10, task
            future.set_result(answer)
        if worker is not None:
            worker.end()

    def _started(self) -> "_Worker | None":
        worker = _Worker()
        if worker.prepare(self._make):
            return worker
        worker.end()
        return None


class _Worker:
    """A worker process and our end of its pipe."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
        with theirs:
            command = [sys.executable, "-m", "mdm_dicom_srm.stage.sealing.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._pipe = Connection(ours.detach())

    def prepare(self, make: MakeDeidentifier) -> bool:
        """Give the worker its de-identifier; return whether it is ready."""
        with contextlib.suppress(EOFError, OSError):
            self._pipe.send(make)
            if self._pipe.poll(_START_SECONDS):
                self._pipe.recv()
                return True
        return False

    def do(self, work: Work, part10: bytes, timeout: float) -> Any:
        """Return what `work` returns, or None when the worker is lost."""
        with contextlib.suppress(EOFError, OSError):
            self._pipe.send(work)
            self._pipe.send_bytes(part10)
            if self._pipe.poll(timeout):
                return self._pipe.recv()
        return None

    def end(self) -> None:
        """Close the pipe, which ends a worker that is idle; kill one that is not."""
        self._pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
