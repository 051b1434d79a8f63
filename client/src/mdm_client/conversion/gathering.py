"""Files of a download gathered by series, and converted as soon as a series is complete."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from uuid import UUID

from mdm_wire.errors import Conflict, FailedPrecondition, MdmError

from mdm_client.conversion.nifti import Converted, convert
from mdm_client.conversion.series import FetchedSeries, by_series
from mdm_client.fetch.download import FileResult
from mdm_client.fetch.plan import PlannedFile
from mdm_client.local_file import AtomicFile


@dataclass
class _Directory:
    """The files of one directory of the catalog, which is a series there."""

    lfn: str
    waiting: set[UUID] = field(default_factory=set)
    arrived: list[tuple[Path, str]] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a series: what was made of it, or the error. `name` is its directory's LFN, with a number if it has several."""

    name: str
    series: FetchedSeries | None = None
    converted: Converted | None = None
    error: MdmError | None = None


class Gathering:
    """Converts series of planned files in `folder`, a private one, where each file is removed once it was converted."""

    def __init__(self, files: Sequence[PlannedFile], folder: Path, program: str) -> None:
        self._folder = folder
        self._program = program
        self._directories: dict[str, _Directory] = {}
        self._of: dict[UUID, _Directory] = {}
        self._parents: dict[UUID, str] = {}
        #: The files to fetch: one of several names of a file is enough.
        self.files: list[PlannedFile] = []
        for file in files:
            if file.guid in self._of:
                continue
            lfn = file.location.lfn.rpartition("/")[0]
            directory = self._directories.setdefault(lfn, _Directory(lfn))
            directory.waiting.add(file.guid)
            self._of[file.guid] = directory
            parent = str(PurePosixPath(file.path).parent)
            self._parents[file.guid] = "" if parent == "." else parent
            self.files.append(file)

    @property
    def count(self) -> int:
        """The number of directories."""
        return len(self._directories)

    def add(self, result: FileResult) -> Iterator[Outcome]:
        """Take the result of a file; when it was the last of its directory, convert its series and yield what became of them."""
        directory = self._of[result.guid]
        directory.waiting.discard(result.guid)
        if result.error is not None:
            directory.failed += 1
        else:
            directory.arrived.append((result.path, self._parents[result.guid]))
        if not directory.waiting:
            yield from self._convert(directory)

    def _convert(self, directory: _Directory) -> Iterator[Outcome]:
        name = directory.lfn or "/"
        try:
            if directory.failed:
                total = directory.failed + len(directory.arrived)
                raise FailedPrecondition(
                    "SERIES_INCOMPLETE", f"{directory.failed} of its {total} files could not be fetched: nothing was made of the rest"
                )
            found = by_series(directory.arrived)
        except MdmError as error:
            yield Outcome(name, error=error)
        else:
            for series in found:
                called = f"{name} ({series.name})" if len(found) > 1 else name
                try:
                    yield Outcome(called, series, convert(self._program, series.files, self._folder))
                except MdmError as error:
                    yield Outcome(called, series, error=error)
        finally:
            for path, _ in directory.arrived:
                path.unlink(missing_ok=True)


class NiftiNames:
    """Paths of volumes below the output directory: the number of their series, in the directory where its files would be."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, series: FetchedSeries, converted: Converted) -> dict[str, Path]:
        """Return the path of each file of a series, and the file."""
        base = f"{series.parent}/{series.name}" if series.parent else series.name
        if base in self._given:
            base += f"-{series.text('SeriesInstanceUID').replace('.', '')[-6:]}"
        self._given.add(base)
        return {base + volume.mark + suffix: path for volume in converted.volumes for suffix, path in volume.files.items()}


def put(files: Mapping[str, Path | str], output: Path, *, replace: bool) -> None:
    """Give files their names below a directory, all or none of them: converted ones are moved there, texts are written.

    Raises:
        Conflict: LOCAL_FILE_EXISTS, unless `replace`. OSError: the directory cannot be written.
    """
    there = [path for path in files if (output / path).exists()]
    if there and not replace:
        raise Conflict("LOCAL_FILE_EXISTS", f"{output / there[0]}: exists; use --force to replace it")
    for name, content in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            content.replace(path)
        else:
            with AtomicFile(path) as file:
                file.write(content.encode())
