"""Sealing in threads of this process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import UUID

from mdm_deid import Patient

from mdm_dicom_srm.judgement import Deidentifier, Judgement, MakeDeidentifier, judge, no_rules, under
from mdm_dicom_srm.shared_memory import Piece
from mdm_dicom_srm.stage.rules.port import JUDGE, DrawnFor, Sealed, Work
from mdm_dicom_srm.stage.rules.turn import TurnQueue
from mdm_dicom_srm.stage.sealing.sealed_file import seal


class ThreadSealer:
    """Seals in this process; enough where one core does all the work. Owners take turns, and judging is one of them."""

    def __init__(self, make: MakeDeidentifier, threads: int = 1, drawn: DrawnFor = no_rules) -> None:
        self._deidentifier: Deidentifier = make()
        self._drawn = drawn
        self._tasks: TurnQueue[tuple[Callable[[], Any], Future[Any]]] = TurnQueue()
        self._threads = [threading.Thread(target=self._work, name=f"stage-seal-{n}", daemon=True) for n in range(threads)]
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
        deidentifier = self._under(part10.view if isinstance(part10, Piece) else part10)

        def task() -> Sealed:
            if not isinstance(part10, Piece):
                return seal(deidentifier, part10, patient, guid, key, path, released)
            try:
                return seal(deidentifier, part10.view, patient, guid, key, path, released)
            finally:
                part10.release()

        return self._put(owner, task)

    def judge(self, part10: bytes | memoryview, patient: Patient | None, released: frozenset[str] = frozenset()) -> "Future[Judgement]":
        """See `judgement.judge`."""
        deidentifier = self._under(part10)
        return self._put(JUDGE, lambda: judge(deidentifier, part10, patient, released))

    def perform(self, work: Work, part10: bytes | memoryview) -> "Future[Any]":
        """See `port.Sealer`."""
        deidentifier = self._under(part10)
        return self._put(JUDGE, lambda: work(deidentifier, part10))

    def close(self) -> None:
        """End; what waits is cancelled."""
        for _, future in self._tasks.close():
            future.cancel()
        for thread in self._threads:
            thread.join()

    def _under(self, part10: bytes | memoryview) -> Deidentifier:
        return under(self._deidentifier, self._drawn(part10))

    def _put(self, owner: str, task: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self._tasks.put(owner, (task, future))
        return future

    def _work(self) -> None:
        while (item := self._tasks.get()) is not None:
            task, future = item
            if future.set_running_or_notify_cancel():
                try:
                    answer = task()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(answer)
            del item, task, future
