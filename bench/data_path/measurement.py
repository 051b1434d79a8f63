"""The rows that are measured: each way of ours and of the reference, in turn."""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import own
import reference
from mdm_client import Client
from mdm_testing import usage
from mdm_testing.study import LARGE_SIDE, SMALL_SIDE, Study, make_multi_frame, make_study
from report import Row, Target, per_image

WARM_UP, SINGLES, CALLERS, SHARED, SENT = 40, 12, 16, 100, 100
REFERENCE = "the reference's Orthanc"
_OF_THE_IMAGE = "WADO-RS of the image"


class Measurement:
    """Both sides, and the rows. The reference has its studies once and for all; ours gets new ones in each round."""

    def __init__(self, stack: own.Own, orthanc: reference.Orthanc, client: Client, folder: Path, images: int, frames: int) -> None:
        self._own, self._orthanc, self._client, self._folder = stack, orthanc, client, folder
        self._images, self._frames, self._counted = images, frames, True
        #: Processor milliseconds for each image by way and part.
        self.processor: dict[str, dict[str, float]] = {}
        self.sdk = Row(f"SDK, {images:,} images of 0.5 MB, to Orthanc's anonymise + download", "images/s", Target(0.35, 0.6))
        self.command = Row("`mdm get`, its start included, to the same", "images/s", Target(0.3, 0.5))
        self.small = Row(f"SDK, {images:,} images of 38 KB, to the same", "images/s", Target(0.4, 0.6))
        self.frame = Row(f"one image of {frames} frames, {frames * 0.524:.0f} MB, to raw WADO-RS", "MB/s", Target(0.7, 0.9))
        self.registration = Row("registration by storescu, to storescu to Orthanc", "images/s", Target(200, 300), ratio=False)
        self.single = Row("one image not staged, SDK, to raw WADO-RS", "ms", Target(5, 3, least=False), digits=1)
        self.callers = Row(f"{CALLERS} callers of one study of {SHARED}, to raw WADO-RS", "files/s", Target(400, 600), ratio=False)
        self.rows = [self.sdk, self.command, self.small, self.frame, self.registration, self.single, self.callers]
        self._reference_study: dict[int, Study] = {}
        self._references = {side: self._reference(side, max(images, WARM_UP)) for side in (LARGE_SIDE, SMALL_SIDE)}

    def warm_up(self) -> None:
        """Take every way once with few images, and count nothing."""
        images, frames, self._images, self._frames, self._counted = self._images, self._frames, WARM_UP, 2, False
        self.round()
        self._images, self._frames, self._counted = images, frames, True

    def round(self) -> None:
        """Take every way once."""
        self._series(self.sdk, LARGE_SIDE, "0.5 MB")
        self._by_command()
        self._series(self.small, SMALL_SIDE, "38 KB")
        self._one_large_file()
        self._one_image_at_a_time()
        self._many_callers()
        self._store_in_reference()

    def used(self) -> dict[str, usage.Usage]:
        """Return what each part of both sides has used; the client is this process and its children."""
        return {"client": _of_client(), **self._servers()}

    def _servers(self) -> dict[str, usage.Usage]:
        return {**self._own.used(), REFERENCE: usage.of_processes([self._orthanc.pid])}

    def _series(self, row: Row, side: int, size: str) -> None:
        directory = self._prepare(self._images, side)
        self._add(row, self._images / self._measured(f"SDK, {size}", lambda: own.by_sdk(self._client, directory, self._images)))
        whole = self._counted and not row.reference  # in one round: these ways are slower by a factor
        for way, action in reference.ways(self._orthanc, self._references[side], self._images, whole=whole).items():
            self._add(row, self._images / self._measured(f"Orthanc, {way}, {size}", lambda action=action: timed(action)), way)

    def _by_command(self) -> None:
        directory = self._prepare(self._images, LARGE_SIDE)
        seconds = self._measured("`mdm get`, 0.5 MB", lambda: self._own.by_command(directory, self._images))
        self._add(self.command, self._images / seconds)
        self.command.reference = self.sdk.reference

    def _one_large_file(self) -> None:
        study = Study.new()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "frames.dcm"
            make_multi_frame(path, study, self._frames)
            megabytes = path.stat().st_size / 1e6
            self._own.supply.put([path])
            self._own.supply.register(Path(folder), 1)
            self._orthanc.put(Path(folder))
        [name] = self._own.supply.names(study)
        self._add(self.frame, megabytes / self._measured("SDK, one large image", lambda: own.by_sdk(self._client, name, 1), 1))
        path_of_image, connection = self._orthanc.series(study.series).wado_of(study.image(1)), self._orthanc.connect()
        raw = timed(lambda: connection.receive("GET", path_of_image, headers=reference.DICOM))
        self._add(self.frame, megabytes / raw, _OF_THE_IMAGE)
        connection.close()

    def _one_image_at_a_time(self) -> None:
        study = Study.new()
        self._prepare(SINGLES, LARGE_SIDE, study)
        series = self._references[LARGE_SIDE]
        connection, (first, *names) = self._orthanc.connect(), self._own.supply.names(study)
        own.by_sdk(self._client, first, 1)
        for number, name in enumerate(names):
            path = series.wado_of(self._reference_study[LARGE_SIDE].image(number + 1))
            self._add(self.single, own.by_sdk(self._client, name, 1) * 1000)
            self._add(self.single, timed(lambda path=path: connection.receive("GET", path, headers=reference.DICOM)) * 1000, _OF_THE_IMAGE)
        connection.close()

    def _many_callers(self) -> None:
        directory = self._prepare(SHARED, LARGE_SIDE)
        self._add(self.callers, CALLERS * SHARED / self._own.by_callers(directory, CALLERS, SHARED))
        study = Study.new()
        self._store(study, SHARED, LARGE_SIDE, self._orthanc.put)
        wado = self._orthanc.series(study.series).wado

        def raw() -> int:
            return self._orthanc.connect().receive("GET", wado, headers=reference.DICOM)

        seconds = timed(lambda: reference.in_threads([raw] * CALLERS))
        self._add(self.callers, CALLERS * SHARED / seconds, f"WADO-RS of the study, {CALLERS} connections")

    def _store_in_reference(self) -> None:
        seconds = self._store(Study.new(), SENT, LARGE_SIDE, self._orthanc.store)
        self._add(self.registration, SENT / seconds, "storescu to Orthanc")

    def _prepare(self, count: int, side: int, study: Study | None = None) -> str:
        """Make a study, put it into our PACS, register it; return its directory."""
        study = study or Study.new()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            paths = make_study(Path(folder), study, count, side)
            self._own.supply.put(paths)
            seconds = self._measured("registration", lambda: self._own.supply.register(Path(folder), count), count)
        if side == LARGE_SIDE and count == self._images:
            self._add(self.registration, count / seconds)
        return self._own.supply.names(study)[0].rsplit("/", 1)[0]

    def _reference(self, side: int, count: int) -> reference.Series:
        study = self._reference_study[side] = Study.new()
        self._store(study, count, side, self._orthanc.put)
        return self._orthanc.series(study.series)

    def _store(self, study: Study, count: int, side: int, store: Callable[[Path], None]) -> float:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            make_study(Path(folder), study, count, side)
            return timed(lambda: store(Path(folder)))

    def _add(self, row: Row, value: float, way: str = "") -> None:
        if self._counted:
            (row.reference.setdefault(way, []) if way else row.ours).append(value)

    def _measured(self, name: str, action: Callable[[], float], count: int = 0) -> float:
        """Do an action and keep what each part used of the processor for each image; return what it returns."""
        before = {**self._servers(), "client": _of_client()}
        seconds = action()
        client = _of_client()  # before what looking at the servers takes
        used = usage.difference({"client": client, **self._servers()}, before)
        theirs = {"client", REFERENCE}
        parts = {part: value for part, value in used.items() if (part in theirs if name.startswith("Orthanc") else part != REFERENCE)}
        if self._counted:
            self.processor[name] = per_image(parts, count or self._images)
        return seconds


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _of_client() -> usage.Usage:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.Usage(processor=time.process_time() + children.ru_utime + children.ru_stime)
