"""De-identification of many files by worker processes: a file that kills or stalls its worker costs only itself."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from mdm_deid.cli.face import FaceAnswer, FaceQuestion, SeriesAnswer, SeriesQuestion, files_of_series
from mdm_deid.cli.report import Entry
from mdm_deid.cli.worker import Answer, Order, Request, Task
from mdm_deid.outcome import Outcome
from mdm_deid.rules.patient import Patient, PatientAnswer, PatientQuestion
from mdm_deid.rules.rule import CLEAN_FACES

_START_SECONDS = 60.0


class WorkerNotStarted(Exception):
    """A worker process does not start; its error is on standard error."""


def find_files(inputs: Sequence[Path], output: Path) -> list[Task]:
    """Return the files named and those in the directories named, in a fixed order; the output directory is left out.

    Symbolic links to directories are not followed, and directories that cannot be listed have no files: both are returned
    themselves, so that the run reports them.

    Raises:
        FileNotFoundError: an input does not exist.
    """
    paths: list[tuple[Path, bool]] = []

    def unlisted(error: OSError) -> None:
        paths.append((Path(error.filename), False))

    for path in inputs:
        if not path.is_dir():
            path.lstat()
            paths.append((path, True))
            continue
        for folder, folders, names in os.walk(path, onerror=unlisted):
            below = Path(folder)
            folders[:] = sorted(name for name in folders if (below / name).resolve() != output)
            links = [name for name in folders if (below / name).is_symlink()]
            paths += [(below / name, False) for name in sorted((*names, *links))]
    return [Task(number, path, named) for number, (path, named) in enumerate(paths, 1)]


def run(order: Order, tasks: Sequence[Task], jobs: int, timeout: float) -> Iterator[Entry]:
    """Yield the outcome of every task as it comes, from `jobs` processes; a file that takes `timeout` seconds has failed.

    Every file is asked for its patient first: which patient a study is of follows from all its files, whatever their order.
    Where the profile asks for it, the mask of a face is made from all files of a series before the first of them is released.

    Raises:
        WorkerNotStarted: before anything was done, or when a lost worker cannot be replaced.
    """
    workers: list[_Worker] = []
    try:
        for number in range(min(jobs, len(tasks))):
            workers.append(_Worker(order, number))
        questions = [PatientQuestion(task.number, task.path) for task in tasks]
        said = {
            answer.number: answer.said for answer in _each(workers, questions, timeout) if isinstance(answer, PatientAnswer) and answer.said
        }
        patients = _patients(order, said.values())
        faces = _faces(workers, tasks, timeout) if CLEAN_FACES in order.profile.options else {}
        whole = (
            replace(task, patient=patients[said[task.number][0]] if task.number in said else None, face=faces.get(task.number))
            for task in tasks
        )
        yield from (answer for answer in _each(workers, whole, timeout) if isinstance(answer, Entry))
    finally:
        for worker in workers:
            worker.end()


def _patients(order: Order, said: Iterable[tuple[str, Patient]]) -> dict[str, Patient]:
    """Return the patient of each study."""
    studies: defaultdict[str, list[Patient]] = defaultdict(list)
    for study, patient in said:
        studies[study].append(patient)
    return {study: order.patient_ids.majority(patients) for study, patients in studies.items()}


def _faces(workers: Sequence["_Worker"], tasks: Sequence[Task], timeout: float) -> dict[int, FaceAnswer]:
    """Return for each file that may show a face the mask of its series, or why there is none."""
    answers = _each(workers, [SeriesQuestion(task.number, task.path) for task in tasks], timeout)
    series = files_of_series(answer for answer in answers if isinstance(answer, SeriesAnswer))
    paths = {task.number: task.path for task in tasks}
    questions = [FaceQuestion(first, tuple(paths[number] for number in numbers)) for first, numbers in sorted(series.items())]
    found: dict[int, FaceAnswer] = {}
    for answer in _each(workers, questions, timeout):
        # A worker that is lost answers with the entry of a failed file.
        face = answer if isinstance(answer, FaceAnswer) else FaceAnswer(answer.number, detail="worker_lost")
        found |= dict.fromkeys(series[answer.number], face)
    return found


def _each(workers: Sequence["_Worker"], requests: Iterable[Request], timeout: float) -> Iterator[Answer]:
    """Yield the answer to every request as it comes."""
    todo = iter(requests)
    busy = [worker for worker in workers if worker.take(next(todo, None))]
    while busy:
        now = time.monotonic()
        deadline = min(worker.began for worker in busy) + timeout
        ready = wait([worker.pipe for worker in busy], max(0.0, deadline - now))
        for worker in list(busy):
            if worker.pipe in ready:
                yield worker.answer()
            elif time.monotonic() - worker.began > timeout:
                yield worker.lose("timeout")
            else:
                continue
            if not worker.take(next(todo, None)):
                busy.remove(worker)


class _Worker:
    """A process, our end of its pipe, and its present task."""

    def __init__(self, order: Order, number: int) -> None:
        self._order = order
        self._part = order.output / f".mdm-deid-{os.getpid()}-{number}.part"
        self._task: Request | None = None
        self.began = 0.0
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "mdm_deid.cli.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self.pipe = Connection(ours.detach())
        try:
            self.pipe.send((self._order, self._part))
            if not self.pipe.poll(_START_SECONDS):
                raise EOFError
            self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            raise WorkerNotStarted from None

    def take(self, task: Request | None) -> bool:
        """Hand over the next task; return whether there was one."""
        self._task, self.began = task, time.monotonic()
        if task is not None:
            # A worker that has died since is noticed when its answer is read.
            with contextlib.suppress(OSError):
                self.pipe.send(task)
        return task is not None

    def answer(self) -> Answer:
        """Return the answer that has arrived; a worker that died is replaced."""
        try:
            answer: Answer = self.pipe.recv()
            return answer
        except (EOFError, OSError):
            return self.lose("worker_lost")

    def lose(self, reason: str) -> Entry:
        """Kill and replace the worker; its file has failed."""
        number = self._task.number if self._task else 0
        seconds = time.monotonic() - self.began
        self._process.kill()
        self.end()
        self._start()
        return Entry(number, Outcome.FAILED, reason, seconds=seconds)

    def end(self) -> None:
        """Close the pipe, which ends a worker that is idle; kill one that is not."""
        self.pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
