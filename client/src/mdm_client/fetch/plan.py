"""Plans of a fetch: names, directories, links and patterns become GUIDs, SURLs and paths; comparison with local files."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial
from pathlib import Path
from uuid import UUID

from mdm_wire.errors import Conflict, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import DIRECTORY, FILE, Entry, Location, Pattern, find_pattern
from mdm_client.fetch.layout import Layout
from mdm_client.name_syntax import Name

_READ = int(Permission.READ)
# Each link to a directory copies a whole tree: a few links to each other would make any number of files.
MAX_LINKED_DIRECTORIES = 1_000


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to fetch, and its path below the output directory.

    `location.lfn` is the name that was asked for; for a link, the name of the link.
    """

    location: Location
    path: str

    @property
    def guid(self) -> UUID:
        return self.location.guid


@dataclass(frozen=True, slots=True)
class PlanFailure:
    """A name for which no file can be fetched, with the error."""

    name: str
    error: MdmError


@dataclass
class Plan:
    """The files to fetch, under distinct paths, and the names that failed. One file may have several paths: by links."""

    files: list[PlannedFile] = field(default_factory=list)
    failures: list[PlanFailure] = field(default_factory=list)


def make_plan(catalog: CatalogClient, names: Sequence[Name], *, literal: Sequence[Name] = (), with_digests: bool = False) -> Plan:
    """Return the plan to fetch `names` and `literal`. An LFN in `names` that has wildcards and is not an entry itself is a pattern.

    The path of a single file is its last name. Files of a directory keep their paths below it, and matches of a pattern their paths
    below the directory before its first wildcard. If there are several directories and patterns, each gets a directory of its own.
    With `with_digests`, the catalog is asked for the size and SHA-256 of single files, too.
    """
    return _Planning(catalog, with_digests).plan(list(dict.fromkeys([*names, *literal])), frozenset(literal) - frozenset(names))


class _Planning:
    """The making of a plan: collects the files in order, each with the root of its path."""

    def __init__(self, catalog: CatalogClient, with_digests: bool) -> None:
        self._catalog = catalog
        self._with_digests = with_digests
        self._found: list[tuple[Location, str]] = []
        self._failures: list[PlanFailure] = []
        self._linked_directories = 0

    def plan(self, names: Sequence[Name], literal: frozenset[Name]) -> Plan:
        stated = self._stat(names)
        directories = [name.lfn for name in names if name.lfn and _kind(stated.get(name)) == DIRECTORY]
        absent = [name for name in names if name.lfn and name not in literal and isinstance(stated.get(name), NotFound)]
        patterns = {name: found for name in absent if (found := find_pattern(name.lfn))}
        for lfn in directories:
            self._guarded(lfn, partial(self._directory, lfn, _real(stated[Name(lfn=lfn)], lfn), lfn, ()))
        for name, pattern in patterns.items():
            self._guarded(name.lfn, partial(self._pattern, name.lfn, pattern))
        self._singles([name for name in names if name.lfn not in directories and name not in patterns], stated)
        roots = list(dict.fromkeys([*directories, *(pattern.base for pattern in patterns.values())]))
        # A name that cannot be seen now may be a directory: where the others go must not depend on that.
        perhaps_roots = [name for name in names if name.lfn and _kind(stated.get(name)) != FILE]
        return self._laid_out(Layout(roots, several=len(perhaps_roots) > 1))

    def _stat(self, names: Sequence[Name]) -> dict[Name, Entry | MdmError]:
        asked = [name for name in names if name.lfn or self._with_digests]
        return dict(zip(asked, self._catalog.stat(asked) if asked else [], strict=True))

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except MdmError as error:
            self._failures.append(PlanFailure(name, error))

    def _directory(self, lfn: str, real: str, root: str, links: tuple[str, ...]) -> None:
        """Add the files below a directory, whose path without links is `real`; `links` are the paths of the links that were followed."""
        self._entries(self._catalog.list_entries(lfn, recursive=True, with_replicas=True), lfn, real, root, links)

    def _pattern(self, text: str, pattern: Pattern) -> None:
        """Add the matches; for a directory that matches, the files below it."""
        [base] = self._catalog.stat([Name(lfn=pattern.base)])
        real = _real(base, pattern.base)
        found = [e for e in self._catalog.find(pattern.base, pattern.search, with_replicas=True) if pattern.matches(e.lfn)]
        if not found:
            raise NotFound("NO_MATCH", f"{text}: no entry that you may see matches")
        self._entries(iter(found), pattern.base, real, pattern.base, ())
        for entry in found:
            if entry.kind == DIRECTORY:
                self._directory(entry.lfn, real.rstrip("/") + "/" + _below(entry.lfn, pattern.base), pattern.base, ())

    def _entries(self, entries: Iterator[Entry], lfn: str, real: str, root: str, links: tuple[str, ...]) -> None:
        unresolved: list[Name] = []
        for entry in entries:
            if entry.kind == DIRECTORY:
                continue
            if entry.kind == FILE and entry.guid and entry.surls and entry.permissions & _READ:
                self._found.append((Location(entry.lfn, entry.guid, entry.surls, entry.size, entry.sha256), root))
            else:
                unresolved.append(Name(lfn=entry.lfn))
        for name, answer in zip(unresolved, self._catalog.resolve(unresolved) if unresolved else [], strict=True):
            if not isinstance(answer, MdmError):
                self._found.append((replace(answer, lfn=name.lfn), root))
            elif answer.reason == "NOT_A_FILE":
                place = real.rstrip("/") + "/" + _below(name.lfn, lfn)
                self._guarded(name.lfn, partial(self._linked, name, root, (*links, place)))
            else:
                self._failures.append(PlanFailure(name.lfn, answer))

    def _linked(self, name: Name, root: str, links: tuple[str, ...]) -> None:
        """Add the files below the directory that a link points to, under the link's name.

        Raises:
            Invalid: LINK_LOOP: the link points to a directory that contains it. TOO_MANY_LINKS.
        """
        [target] = self._catalog.stat([name])
        real = _real(target, name.lfn)
        if any(place.startswith(real.rstrip("/") + "/") for place in links):
            raise Invalid("LINK_LOOP", f"{name}: the link points to a directory that contains it; its files are fetched only once")
        self._linked_directories += 1
        if self._linked_directories > MAX_LINKED_DIRECTORIES:
            raise Invalid("TOO_MANY_LINKS", f"{name}: more than {MAX_LINKED_DIRECTORIES:,} links to directories; fetch less at a time")
        self._directory(name.lfn, real, root, links)

    def _singles(self, names: Sequence[Name], stated: dict[Name, Entry | MdmError]) -> None:
        for name, answer in zip(names, self._catalog.resolve(names) if names else [], strict=True):
            if isinstance(answer, MdmError):
                self._failures.append(PlanFailure(str(name), answer))
                continue
            location = replace(answer, lfn=name.lfn or answer.lfn)
            entry = stated.get(name)
            if isinstance(entry, Entry):
                location = replace(location, size=entry.size, sha256=entry.sha256)
            self._found.append((location, ""))

    def _laid_out(self, layout: Layout) -> Plan:
        plan = Plan(failures=self._failures)
        seen: set[tuple[UUID, str]] = set()
        for location, root in self._found:
            if (location.guid, location.lfn) in seen:
                continue
            seen.add((location.guid, location.lfn))
            try:
                if not location.surls:
                    raise NotFound("NO_REPLICA", f"{location.lfn}: the catalog knows no available copy")
                plan.files.append(PlannedFile(location, layout.place(location.lfn, root, location.guid)))
            except MdmError as error:
                plan.failures.append(PlanFailure(location.lfn or str(location.guid), error))
        return plan


def _kind(answer: Entry | MdmError | None) -> str:
    return answer.kind if isinstance(answer, Entry) else ""


def _real(answer: Entry | MdmError, lfn: str) -> str:
    """Return the path of an entry without links; errors name the path that was asked for."""
    if isinstance(answer, MdmError):
        raise answer if lfn in answer.message else answer.at(lfn)
    return answer.lfn


def _below(lfn: str, root: str) -> str:
    return lfn.removeprefix("/" if root == "/" else f"{root}/")


class Comparison(Enum):
    """How a local file compares with the catalog's entry."""

    ABSENT = auto()
    SAME = auto()
    UNKNOWN = auto()  # the catalog knows neither size nor digest
    OTHER_SIZE = auto()
    OTHER_CONTENT = auto()
    NO_FILE = auto()


_DIFFERENCES = {Comparison.OTHER_SIZE: "size", Comparison.OTHER_CONTENT: "content", Comparison.NO_FILE: "type"}


@dataclass
class Selection:
    """Planned files: those to fetch, those to keep (`uncompared` of them because their size is unknown), and those refused."""

    wanted: list[PlannedFile] = field(default_factory=list)
    kept: list[PlannedFile] = field(default_factory=list)
    uncompared: int = 0
    refused: list[tuple[PlannedFile, MdmError]] = field(default_factory=list)


def select(files: Sequence[PlannedFile], directory: Path, *, skip_existing: bool, force: bool) -> Selection:
    """Compare planned files with what is in `directory`.

    With `skip_existing`, a file of the same size and, where the catalog knows it, the same SHA-256 stays. Whatever else exists is replaced
    with `force` and else refused.
    """
    found = Selection()
    for file in files:
        path = directory / file.path
        if not os.path.lexists(path) or (force and not skip_existing):
            found.wanted.append(file)
            continue
        comparison = compare(path, file.location) if skip_existing else Comparison.UNKNOWN
        if skip_existing and comparison not in _DIFFERENCES:
            found.kept.append(file)
            found.uncompared += comparison is Comparison.UNKNOWN
        elif force:
            found.wanted.append(file)
        else:
            found.refused.append((file, _in_the_way(path, comparison)))
    return found


def compare(path: Path, location: Location) -> Comparison:
    """Compare a local file with the catalog's entry; follow links, and read only files of the right size."""
    if not os.path.lexists(path):
        return Comparison.ABSENT
    if not path.is_file():
        return Comparison.NO_FILE
    if location.size is not None and path.stat().st_size != location.size:
        return Comparison.OTHER_SIZE
    if location.sha256:
        return Comparison.SAME if _digest(path) == location.sha256 else Comparison.OTHER_CONTENT
    return Comparison.UNKNOWN if location.size is None else Comparison.SAME


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _in_the_way(path: Path, comparison: Comparison) -> MdmError:
    difference = _DIFFERENCES.get(comparison)
    if difference:
        return Conflict("LOCAL_FILE_DIFFERS", f"{path}: exists, but its {difference} differs from the catalog; use --force to replace it")
    return Conflict("LOCAL_FILE_EXISTS", f"{path}: exists; use --skip-existing to keep equal files, or --force to replace it")
