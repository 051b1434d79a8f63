"""What to fetch and where to put it: from names to GUIDs, SURLs and paths."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError, NotFound

from mdm_client.catalog.client import DIRECTORY, FILE, Entry, Location
from mdm_client.names import PERMISSION_BITS, Name, normalise_lfn

_READ = PERMISSION_BITS["r"]


class Catalog(Protocol):
    """What planning needs of the catalog."""

    def stat(self, names: Sequence[Name], with_replicas: bool = False) -> list[Entry | MdmError]:
        """Return each entry or its error."""

    def resolve(self, names: Sequence[Name]) -> list[Location | MdmError]:
        """Return each file's location or its error."""

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what is in a directory."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to fetch: where it is, and its path below the output directory."""

    location: Location
    path: str

    @property
    def guid(self) -> UUID:
        """Its GUID."""
        return self.location.guid


@dataclass(frozen=True, slots=True)
class PlanFailure:
    """A name that leads to no file."""

    name: str
    error: MdmError


@dataclass
class Plan:
    """The files to fetch, each once, under distinct paths, and the names that failed."""

    files: list[PlannedFile] = field(default_factory=list)
    failures: list[PlanFailure] = field(default_factory=list)


def make_plan(catalog: Catalog, names: Sequence[Name]) -> Plan:
    """Return what fetching `names` means.

    A file goes by the last name of its LFN; what is below a requested directory keeps its path relative to that
    directory. Of several files with one path all but the first get their GUID into the name.
    """
    plan = Plan()
    directories, singles = _split(catalog, names)
    found: list[tuple[Location, str]] = []
    for lfn in directories:
        try:
            found += _below(catalog, lfn, plan.failures)
        except MdmError as error:
            plan.failures.append(PlanFailure(lfn, error))
    for name, answer in zip(singles, catalog.resolve(singles) if singles else [], strict=True):
        if isinstance(answer, MdmError):
            plan.failures.append(PlanFailure(str(name), answer))
        else:
            found.append((answer, ""))
    _place(found, plan)
    return plan


def _split(catalog: Catalog, names: Sequence[Name]) -> tuple[list[str], list[Name]]:
    """Return the names of directories, and all others: whether those exist is for Resolve to tell."""
    by_lfn = [name for name in dict.fromkeys(names) if name.lfn]
    kinds = {
        name: answer.kind for name, answer in zip(by_lfn, catalog.stat(by_lfn) if by_lfn else [], strict=True) if isinstance(answer, Entry)
    }
    directories = [name.lfn for name in by_lfn if kinds.get(name) == DIRECTORY]
    return directories, [name for name in dict.fromkeys(names) if kinds.get(name) != DIRECTORY]


def _below(catalog: Catalog, root: str, failures: list[PlanFailure]) -> list[tuple[Location, str]]:
    """Return every file below a directory with its path relative to it."""
    found: list[tuple[Location, str]] = []
    unresolved: list[Name] = []
    for entry in catalog.list_entries(root, recursive=True, with_replicas=True):
        if entry.kind == DIRECTORY:
            continue
        if entry.kind == FILE and entry.guid and entry.surls and entry.permissions & _READ:
            found.append((Location(entry.lfn, entry.guid, entry.surls, entry.size), root))
        else:
            unresolved.append(Name(lfn=entry.lfn))
    for name, answer in zip(unresolved, catalog.resolve(unresolved) if unresolved else [], strict=True):
        if isinstance(answer, MdmError):
            if answer.reason != "NOT_A_FILE":  # a link to a directory, which is not part of this one
                failures.append(PlanFailure(name.lfn, answer))
        else:
            found.append((answer, root if answer.lfn.startswith(_prefix(root)) else ""))
    return found


def _place(found: Iterable[tuple[Location, str]], plan: Plan) -> None:
    taken: set[str] = set()
    seen: set[UUID] = set()
    for location, root in found:
        if location.guid in seen:
            continue
        seen.add(location.guid)
        try:
            path = _relative_path(location, root)
            if not location.surls:
                raise NotFound("NO_REPLICA", f"{location.lfn}: the catalog knows no available copy")
        except MdmError as error:
            plan.failures.append(PlanFailure(location.lfn or str(location.guid), error))
            continue
        if path in taken:
            pure = PurePosixPath(path)
            path = str(pure.with_name(f"{pure.stem}~{location.guid}{pure.suffix}"))
        taken.add(path)
        plan.files.append(PlannedFile(location, path))


def _relative_path(location: Location, root: str) -> str:
    """Return the path below the output directory. The LFN comes from a server: it is checked before it names a file."""
    lfn = normalise_lfn(location.lfn)
    if lfn == "/":
        raise Invalid("LFN_MALFORMED", f"{location.guid}: the catalog gives no file name for it")
    return lfn.removeprefix(_prefix(root)) if root else lfn.rpartition("/")[2]


def _prefix(root: str) -> str:
    return root if root == "/" else root + "/"


def existing(files: Iterable[PlannedFile], directory: Path) -> tuple[list[PlannedFile], list[PlannedFile]]:
    """Return the files that are already below `directory`, and the others."""
    there: list[PlannedFile] = []
    missing: list[PlannedFile] = []
    for file in files:
        (there if (directory / file.path).is_file() else missing).append(file)
    return there, missing
