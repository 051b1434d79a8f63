"""A process that de-identifies the files that its parent names: python -m mdm_deid.cli.worker DESCRIPTOR."""

import contextlib
import filecmp
import mmap
import os
import re
import resource
import signal
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from mdm_deid.check.self_check import REASON, CheckedDeidentifier
from mdm_deid.cli.face import FaceAnswer, FaceQuestion, SeriesAnswer, SeriesQuestion, find_face, find_series
from mdm_deid.cli.report import Entry
from mdm_deid.deidentifier import Deidentifier
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.encoding.pydicom_log import silence_pydicom
from mdm_deid.outcome import Outcome, Result
from mdm_deid.pixels.drawn import SiteRules
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.rules.facts import PATIENT_ID, SOP_INSTANCE, STUDY, read_facts
from mdm_deid.rules.patient import Patient, PatientAnswer, PatientIdRule, PatientQuestion, patient_of
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.pseudonym import Pseudonymiser
from mdm_deid.rules.rule import FACE_UNMASKED

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


@dataclass(frozen=True)
class Order:
    """The settings of a run. `memory` limits the bytes that a worker may allocate; mapped files do not count."""

    profile: Profile
    pseudonymiser: Pseudonymiser
    pixels: PixelRules
    output: Path
    check: bool = True
    patient_ids: PatientIdRule = field(default_factory=PatientIdRule)
    memory: int = 4 << 30


@dataclass(frozen=True)
class Task:
    """One file; `named`: it was given itself, not found in a directory; `patient` is the one of its study, `face` what is known
    of its series, if it may show a face."""

    number: int
    path: Path
    named: bool
    patient: Patient | None = None
    face: FaceAnswer | None = None


#: What a worker is asked, and what it answers.
Request = Task | PatientQuestion | SeriesQuestion | FaceQuestion
Answer = Entry | PatientAnswer | SeriesAnswer | FaceAnswer


class Refused(Exception):
    """A file gets no output; `reason` is a stable code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FileWorker:
    """De-identifies files into a directory tree: pseudonym / study / instance."""

    def __init__(self, order: Order, part: Path) -> None:
        """Write each file as `part` first; it gets its name only when it is whole and checked."""
        self._order = order
        self._part = part
        self._deidentifier = Deidentifier(order.profile, order.pseudonymiser, order.pixels, order.patient_ids)
        self._check = CheckedDeidentifier(self._deidentifier, order.profile) if order.check else None

    def answer(self, request: Request) -> Answer:
        """Return the outcome for a file, or what is asked of it or of its series; never raises."""
        if isinstance(request, SeriesQuestion):
            return find_series(request, map_file)
        if isinstance(request, FaceQuestion):
            return find_face(request, map_file)
        return self.find_patient(request) if isinstance(request, PatientQuestion) else self.run(request)

    def find_patient(self, request: PatientQuestion) -> PatientAnswer:
        """Return which patient a file names, whatever it is; never raises."""
        try:
            said = patient_of(map_file(request.path))
        # Why it cannot be read is reported when it is de-identified.
        except Exception:
            said = None
        return PatientAnswer(request.number, said if said and said[0] else None)

    def run(self, task: Task) -> Entry:
        """Return the outcome for a file, whatever it is; never raises."""
        began = time.perf_counter()
        try:
            entry = self._run(task)
        except Refused as error:
            entry = Entry(task.number, Outcome.FAILED, error.reason)
        except MemoryError:
            entry = Entry(task.number, Outcome.FAILED, "out_of_memory")
        except Exception as error:
            entry = Entry(task.number, Outcome.FAILED, f"defect_{type(error).__name__}")
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
        return replace(entry, seconds=time.perf_counter() - began)

    def _run(self, task: Task) -> Entry:
        if not task.named and task.path.is_symlink() and task.path.is_dir():
            return Entry(task.number, Outcome.FILTERED, "linked_directory")
        content = map_file(task.path)
        result = self._under(task).deidentify(content, task.patient)
        if result.reason == "not_part10" and not task.named:
            return Entry(task.number, Outcome.FILTERED, "not_dicom")
        if result.outcome is not Outcome.RELEASED or result.data is None:
            face = task.face.detail if task.face and result.reason == FACE_UNMASKED else ""
            return Entry(task.number, result.outcome, result.reason, face=face)
        return self._released(task, content, result, result.data)

    def _under(self, task: Task) -> Deidentifier:
        """Return the de-identifier that follows the mask of the task's series, too."""
        if task.face is None or task.face.rule is None:
            return self._deidentifier
        rules = SiteRules(self._order.pixels, [task.face.rule], self._deidentifier.suspicions)
        return self._deidentifier.with_pixels(rules)

    def _released(self, task: Task, content: memoryview, result: Result, data: Sequence[bytes | memoryview]) -> Entry:
        size = self._write(data)
        written = map_file(self._part)
        found = self._check.leaks(content, [written], same_pixels=not result.pixel_rule) if self._check else frozenset()
        if found:
            return Entry(task.number, Outcome.QUARANTINED, REASON, found=tuple(sorted(found)))
        name = _name(written)
        self._publish(self._order.output / name)
        return Entry(
            task.number,
            Outcome.RELEASED,
            output=name.as_posix(),
            size=size,
            counts=result.counts,
            pixel_rule=result.pixel_rule,
            attribute_rules=result.attribute_rules,
            face=task.face.rule.name if task.face and task.face.rule else "",
            checked=self._check is not None,
        )

    def _write(self, data: Sequence[bytes | memoryview]) -> int:
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                return sum(_write_all(file.fileno(), part) for part in data)
        except OSError as error:
            raise Refused("output_unwritable") from error

    def _publish(self, path: Path) -> None:
        """Give the file its name; an equal file of an earlier run may be there already."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._part.chmod(0o666 & ~_umask())
            path.hardlink_to(self._part)
        except FileExistsError:
            if not filecmp.cmp(path, self._part, shallow=False):
                raise Refused("output_exists") from None
        except OSError as error:
            # No hard links on this file system.
            if path.exists():
                raise Refused("output_exists") from error
            try:
                self._part.replace(path)
            except OSError:
                raise Refused("output_unwritable") from error


def map_file(path: Path) -> memoryview:
    """Return a file's bytes without reading them into memory; an empty file, which cannot be mapped, gives an empty view.

    Raises:
        Refused: `not_a_file`, `unreadable`.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Refused("not_a_file")
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)) if status.st_size else memoryview(b"")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Refused("unreadable") from error


def _write_all(descriptor: int, part: bytes | memoryview) -> int:
    view, done = memoryview(part).cast("B"), 0
    while done < len(view):
        done += os.write(descriptor, view[done : done + (64 << 20)])
    return done


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _name(written: memoryview) -> Path:
    """Return the path of an output file, made of its new values alone: names of the input may identify.

    Raises:
        Refused: `invalid_uid`, if the profile keeps UIDs and this one cannot be a file's name.
    """
    opened = open_part10(written)
    facts = read_facts(opened.data, opened.start, opened.encoding)
    parts = [facts.uid(PATIENT_ID), facts.uid(STUDY) or "no-study", facts.uid(SOP_INSTANCE)]
    if not all(_NAME.fullmatch(part) for part in parts):
        raise Refused("invalid_uid")
    return Path(parts[0], parts[1], parts[2] + ".dcm")


def main(descriptor: int) -> None:
    """De-identify what comes over the pipe until the other end closes it. Secrets stay in memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_pydicom()
    with Connection(descriptor) as pipe:
        try:
            order, part = pipe.recv()
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (order.memory if hard == resource.RLIM_INFINITY else min(order.memory, hard), hard))
            worker = FileWorker(order, part)
            pipe.send(None)
            while True:
                pipe.send(worker.answer(pipe.recv()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
