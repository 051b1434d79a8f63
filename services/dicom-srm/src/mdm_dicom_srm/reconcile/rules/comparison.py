"""One pass over registry, catalog, metadata, keystores and spool, window by window of GUIDs; nothing is changed."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from typing import Generic, TypeVar
from uuid import UUID

from mdm_dicom_srm.reconcile.rules.model import Grid, HeldKey, Kind, Name, Note, Registry, Row, Spool
from mdm_dicom_srm.register.rules.description import IMAGES
from mdm_dicom_srm.register.rules.model import LEVELS, State

_WINDOW = 1000
#: A registration in one of these states has nothing in the grid, and none is on its way.
WITHOUT = (State.REMOVED, State.FILTERED, State.QUARANTINED)
Item = TypeVar("Item")


class Window:
    """What listings have in one range of GUIDs."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {row.guid: row for row in rows}
        self.names: set[UUID] = set()
        self.entries: set[UUID] = set()
        self.keys: dict[UUID, HeldKey] = {}
        self.copies: set[UUID] = set()

    def suspects(self, names: Mapping[UUID, Name], rows: Mapping[UUID, Row], too_young: datetime) -> dict[UUID, set[Kind]]:
        """Return what differs, by GUID, given the names that the catalog has and the rows as they are now."""
        found: dict[UUID, set[Kind]] = {}
        for guid in self.rows.keys() | self.names | self.entries | self.keys.keys() | self.copies:
            row = rows.get(guid)
            if row is not None and not row.settled:
                continue
            if row is not None and row.state is State.PUBLISHED:
                kinds = self._lacking(row, names.get(guid))
            elif row is None or row.state in WITHOUT:
                kinds = self._left_over(guid, row, guid in names, too_young)
            else:
                kinds = set()
            if kinds:
                found[guid] = kinds
        return found

    def _lacking(self, row: Row, name: Name | None) -> set[Kind]:
        kinds = set()
        if name is None:
            kinds.add(Kind.NAME_MISSING)
        else:
            if row.lfn and name.lfn != row.lfn:
                kinds.add(Kind.NAME_DIFFERS)
            if row.size is not None and name.size != row.size:
                kinds.add(Kind.SIZE_DIFFERS)
            if name.acl_id is not None and name.acl_id != row.acl_id:
                kinds.add(Kind.ACL_DIFFERS)
        if row.guid not in self.entries:
            kinds.add(Kind.ENTRY_MISSING)
        key = self.keys.get(row.guid)
        if key is None or not key.whole:
            kinds.add(Kind.KEY_MISSING if key is None else Kind.KEY_SHORT)
        return kinds

    def _left_over(self, guid: UUID, row: Row | None, named: bool, too_young: datetime) -> set[Kind]:
        kinds = {Kind.NAME_UNREGISTERED} if named else set()
        if guid in self.entries:
            kinds.add(Kind.ENTRY_UNREGISTERED)
        key = self.keys.get(guid)
        if key is not None and key.ours and key.created < too_young:
            kinds.add(Kind.KEY_OF_REMOVED if row is not None and row.state is State.REMOVED else Kind.KEY_UNREGISTERED)
        if guid in self.copies:
            kinds.add(Kind.COPY_UNREGISTERED)
        return kinds


class Comparison:
    """Compares a site. `collection` returns the path of a collection; `min_age`: what is younger may still be under way.

    `results` returns which files are results of users, which are no registrations and left alone.
    """

    def __init__(
        self,
        registry: Registry,
        grid: Grid,
        spool: Spool,
        collection: Callable[[str], str],
        min_age: timedelta,
        results: Callable[[Sequence[UUID]], set[UUID]] = lambda _guids: set(),
    ) -> None:
        self._registry, self._grid, self._spool = registry, grid, spool
        self._collection = collection
        self._min_age = min_age
        self._results = results

    def run(self, note: Note) -> None:
        """Pass over everything once; what differs is looked at a second time before it is noted.

        Raises:
            MdmError: a service does not answer; nothing may be concluded from a part.
        """
        names, keys = _Listing(self._images(self._grid.listed_names()), _same), _Listing(self._grid.keys(), lambda key: key.guid)
        entries = _Listing(_guids(self._grid.entry_keys(self._collection(IMAGES))), _same)
        copies = _Listing(self._images(iter(sorted(self._spool.listed()))), _same)
        after: UUID | None = None
        while True:
            rows = self._registry.page(after, _WINDOW)
            last = rows[-1].guid if len(rows) == _WINDOW else None
            window = Window(rows)
            window.names.update(names.until(last))
            window.entries.update(entries.until(last))
            window.keys.update((key.guid, key) for key in keys.until(last))
            window.copies.update(copies.until(last))
            self._note(window, note)
            if last is None:
                break
            after = last
        for level in LEVELS:
            self._compare_shared(level, note)

    def _images(self, guids: Iterator[UUID]) -> Iterator[UUID]:
        """Yield the files that are no results, in the order given."""
        while batch := list(islice(guids, _WINDOW)):
            results = self._results(batch)
            yield from (guid for guid in batch if guid not in results)

    def _note(self, window: Window, note: Note) -> None:
        too_young = datetime.now(UTC) - self._min_age
        named = {row.guid for row in window.rows.values() if row.state is State.PUBLISHED and row.settled} | window.names
        first = window.suspects(self._grid.names(sorted(named)), window.rows, too_young)
        if not first:
            return
        # What was changed meanwhile was under way.
        again = self._registry.rows(list(first))
        second = window.suspects(self._grid.names(sorted(first.keys() & named)), again, too_young)
        same = [guid for guid in first if _version(window.rows, guid) == _version(again, guid)]
        kept = {guid: first[guid] & second.get(guid, set()) for guid in same}
        for kind in Kind:
            guids = sorted(guid for guid, kinds in kept.items() if kind in kinds)
            if guids:
                note(kind, [str(guid) for guid in guids])

    def _compare_shared(self, level: str, note: Note) -> None:
        """Compare the shared entries of a level with what instances support, both in order of the bytes of their keys."""
        with self._registry.shared_keys(level) as supported:
            there = ((key, 1) for key in self._grid.entry_keys(self._collection(level)))
            merged = heapq.merge(((key, 0) for key in supported), there)
            missing: list[str] = []
            unsupported: list[str] = []
            for key, group in groupby(merged, key=lambda item: item[0]):
                sides = {side for _, side in group}
                if len(sides) == 1:
                    (missing if sides == {0} else unsupported).append(key)
        earlier = self._registry.has_earlier()  # they state nothing, and may share what nobody else does
        for keys in _batches(missing):
            if kept := sorted(set(keys) & self._registry.supported(level, keys)):
                note(Kind.SHARED_MISSING, [f"{level}/{key}" for key in kept])
        for keys in _batches([] if earlier else unsupported):
            if kept := sorted(set(keys) - self._registry.supported(level, keys)):
                note(Kind.SHARED_UNSUPPORTED, [f"{level}/{key}" for key in kept])


class _Listing(Generic[Item]):
    """A listing in order of GUID, taken range by range."""

    def __init__(self, items: Iterator[Item], guid: Callable[[Item], UUID]) -> None:
        self._items, self._guid = items, guid
        self._next: list[Item] = []

    def until(self, last: UUID | None) -> Iterator[Item]:
        """Yield what has not been taken and is not behind `last`; with None everything."""
        while self._next or self._advance():
            if last is not None and self._guid(self._next[0]) > last:
                return
            yield self._next.pop()

    def _advance(self) -> bool:
        self._next = list(islice(self._items, 1))
        return bool(self._next)


def _same(guid: UUID) -> UUID:
    return guid


def _guids(keys: Iterable[str]) -> Iterator[UUID]:
    for key in keys:
        try:
            yield UUID(key)
        except ValueError:
            continue  # somebody's own record, of no image of ours


def _version(rows: Mapping[UUID, Row], guid: UUID) -> tuple[State, int] | None:
    row = rows.get(guid)
    return None if row is None else (row.state, row.version)


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), _WINDOW):
        yield items[start : start + _WINDOW]
