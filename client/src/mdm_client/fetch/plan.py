"""What to fetch: from names, directories, links and patterns to GUIDs, SURLs and paths."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_client.catalog.model import DIRECTORY, FILE, Entry, Location, Search
from mdm_client.catalog.pattern import Pattern, find_pattern
from mdm_client.fetch.layout import Layout
from mdm_client.names import Name

_READ = int(Permission.READ)
# Links to directories lead to copies of whole trees: a few of them that lead to each other would be any number of files.
MAX_LINKED_DIRECTORIES = 1_000


class Catalog(Protocol):
    """What planning needs of the catalog."""

    def stat(self, names: Sequence[Name], with_replicas: bool = False) -> list[Entry | MdmError]:
        """Return each entry or its error."""

    def resolve(self, names: Sequence[Name]) -> list[Location | MdmError]:
        """Return each file's location or its error."""

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what is in a directory, under paths that begin with `lfn` also where that leads through links."""

    def find(self, lfn: str, search: Search, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what meets a search below a directory."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to fetch: where it is, and its path below the output directory.

    `location.lfn` is the name by which it was asked for: of a link, the link's.
    """

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
    """The files to fetch, under distinct paths, and the names that failed. One file may have several paths: by links."""

    files: list[PlannedFile] = field(default_factory=list)
    failures: list[PlanFailure] = field(default_factory=list)


def make_plan(catalog: Catalog, names: Sequence[Name], *, literal: Sequence[Name] = (), with_digests: bool = False) -> Plan:
    """Return what fetching `names` and `literal` means; of `names`, an LFN with wildcards that is not itself an entry is a pattern.

    A file has its last name; a directory's files keep their path below it, and what a pattern matches its path below the directories that
    the pattern fixes. Of several directories and patterns each has a directory of its own name. `with_digests` asks for what the catalog
    knows of the size and SHA-256 of single files, too.
    """
    return _Planning(catalog, with_digests).plan(list(dict.fromkeys([*names, *literal])), frozenset(literal) - frozenset(names))


class _Planning:
    """One plan being made: what was found, each with the root whose path it does not show, in the order of the result."""

    def __init__(self, catalog: Catalog, with_digests: bool) -> None:
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
        # What cannot be seen now may be a directory: whether it can does not decide where the others go.
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
        """Add what is below a directory, whose path without links is `real`; `links` are the places of the links that led to it."""
        self._entries(self._catalog.list_entries(lfn, recursive=True, with_replicas=True), lfn, real, root, links)

    def _pattern(self, text: str, pattern: Pattern) -> None:
        """Add what matches; a directory that matches is meant with everything below it."""
        [base] = self._catalog.stat([Name(lfn=pattern.base)])
        real = _real(base, pattern.base)
        found = [e for e in self._catalog.find(pattern.base, pattern.search, with_replicas=True) if pattern.matches(e.lfn)]
        if not found:
            raise NotFound("NO_MATCH", f"{text}: nothing in the catalog matches, or it is not for you to see")
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
        """Add what is below the directory that a link leads to, under the link's name.

        Raises:
            Invalid: LINK_LOOP: it leads to a directory that it is in itself. TOO_MANY_LINKS.
        """
        [target] = self._catalog.stat([name])
        real = _real(target, name.lfn)
        if any(place.startswith(real.rstrip("/") + "/") for place in links):
            raise Invalid("LINK_LOOP", f"{name}: the link leads back to a directory that it is in; what is there is fetched once")
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
