"""Sealing in worker processes."""

import functools
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from mdm_deid import Patient
from mdm_deid.outcome import Outcome
from mdm_service.settings import ConfigurationError

from mdm_dicom_srm.judgement import Deidentifier, Drawn, Judgement, MakeDeidentifier, judge, no_rules, under
from mdm_dicom_srm.shared_memory import BlockPool, Piece
from mdm_dicom_srm.stage.rules.model import State
from mdm_dicom_srm.stage.rules.port import JUDGE, DrawnFor, Sealed
from mdm_dicom_srm.stage.rules.turn import TurnQueue
from mdm_dicom_srm.stage.sealing.sealed_file import seal
from mdm_dicom_srm.stage.sealing.worker import Work, Worker, WorkerLost

_log = logging.getLogger(__name__)
# What is sent to a worker at once: a message costs as much as sealing a very small file.
_MOST_FILES = 16
_ENOUGH_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Task:
    """What a worker does with a file, where the answer goes, and what it is when the worker is lost; `path` is what it writes."""

    work: Work
    piece: Piece
    lost: Any
    path: Path | None = None
    future: "Future[Any]" = field(default_factory=Future)

    def finish(self, answer: Any) -> None:
        self.piece.release()
        self.future.set_result(answer)


class ProcessSealer:
    """Seals in `processes` worker processes, each fed by a thread; what it works on lies in memory that both share.

    A worker that dies or needs more than `timeout` seconds for an instance is replaced, and only that instance fails.
    """

    def __init__(self, make: MakeDeidentifier, processes: int, timeout: float = 120.0, drawn: DrawnFor = no_rules) -> None:
        """Start the workers.

        Raises:
            ConfigurationError: one does not start; it has written why to standard error.
        """
        self._make = make
        self._timeout = timeout
        self._drawn = drawn
        self._pool = BlockPool()
        self._tasks: TurnQueue[_Task] = TurnQueue()
        workers = [Worker() for _ in range(processes)]
        if not all([worker.prepare(make) for worker in workers]):  # noqa: C419 - all of them have to be prepared
            for worker in workers:
                worker.end()
            raise ConfigurationError("spool.processes: a sealing worker does not start; its error stands above; 0 does without workers")
        self._threads = [
            threading.Thread(target=self._feed, args=(worker,), name=f"stage-seal-{n}", daemon=True) for n, worker in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    def seal(
        self,
        part10: bytes | memoryview | Piece,
        patient: Patient | None,
        guid: UUID,
        key: bytes,
        path: Path,
        owner: str,
        released: frozenset[str] = frozenset(),
    ) -> "Future[Sealed]":
        """See `port.Sealer`."""
        work = functools.partial(seal, patient=patient, guid=guid, key=key, path=path, released=released)
        return self._put(owner, _Task(work, self._shared(part10), Sealed(state=State.INTERNAL_ERROR, reason="STAGING_WORKER_LOST"), path))

    def judge(self, part10: bytes | memoryview, patient: Patient | None, released: frozenset[str] = frozenset()) -> "Future[Judgement]":
        """See `judgement.judge`; an instance whose worker is lost has failed."""
        work = functools.partial(judge, patient=patient, released=released)
        return self._put(JUDGE, _Task(work, self._shared(part10), Judgement(Outcome.FAILED, "WORKER_LOST")))

    def perform(self, work: Work, part10: bytes | memoryview) -> "Future[Any]":
        """See `port.Sealer`."""
        return self._put(JUDGE, _Task(work, self._shared(part10), None))

    def close(self) -> None:
        """End the workers once they have finished what they are doing; what waits is cancelled."""
        for task in self._tasks.close():
            task.future.cancel()
        for thread in self._threads:
            thread.join(timeout=self._timeout)

    def _shared(self, part10: bytes | memoryview | Piece) -> Piece:
        return part10 if isinstance(part10, Piece) else self._pool.put(part10)

    def _put(self, owner: str, task: _Task) -> "Future[Any]":
        if drawn := self._drawn(task.piece.view):
            task.work = functools.partial(_work_under, drawn, task.work)
        self._tasks.put(owner, task)
        return task.future

    def _feed(self, first: Worker) -> None:
        worker: Worker | None = first
        while batch := self._batch():
            while batch:
                worker = worker or self._started()
                try:
                    if worker is None:
                        raise WorkerLost(0)
                    answers = worker.do([(task.work, task.piece) for task in batch], self._timeout)
                except WorkerLost as lost:
                    _log.error("a staging worker ended or hung; it is replaced")
                    if worker is not None:
                        worker.end()
                    worker = None
                    _begin_again(batch, lost.position)
                else:
                    for task, answer in zip(batch, answers, strict=True):
                        task.finish(answer)
                    batch = []
        if worker is not None:
            worker.end()

    def _batch(self) -> list[_Task]:
        """Wait for work; return what one worker is to do at once, leaving their shares to the others. Empty at the end."""
        first = self._tasks.get()
        if first is None:
            return []
        batch, size = [first], first.piece.size
        share = min(_MOST_FILES, -(-len(self._tasks) // len(self._threads)))
        while len(batch) < share and size < _ENOUGH_BYTES and (task := self._tasks.poll()) is not None:
            batch.append(task)
            size += task.piece.size
        return batch

    def _started(self) -> Worker | None:
        worker = Worker()
        if worker.prepare(self._make):
            return worker
        worker.end()
        return None


def _work_under(drawn: Drawn, work: Work, deidentifier: Deidentifier, part10: memoryview) -> Any:
    return work(under(deidentifier, drawn), part10)


def _begin_again(batch: list[_Task], position: int) -> None:
    """Take the task at which a worker was lost out of a batch, as failed; what was written for the others is written again."""
    failed = batch.pop(position)
    for task in batch:
        if task.path is not None:
            task.path.unlink(missing_ok=True)
    failed.finish(failed.lost)
