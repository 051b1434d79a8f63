"""Listing directories and summing them up: walks that keep no connection, and in memory only a page per level."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Invalid, MdmError, NotFound
from mdm_wire.path import Lfn, join, names
from mdm_wire.permission import Permission

from mdm_catalog.rules.access import Location, Rights, not_found
from mdm_catalog.rules.model import Entry, EntryKind, EntryView, Node, Target, Usage
from mdm_catalog.rules.namespace.lookup import locate
from mdm_catalog.rules.port import ReadTransaction, Store
from mdm_catalog.rules.value import MAX_SIZE, Condition

PAGE = 1_000
# Below this depth pages are small, so that a deep tree of wide directories cannot fill the memory.
_DEEP, _DEEP_PAGE = 8, 50
# Pages read on one view: a recursive listing or a search reads many small pages for one batch.
_PAGES_PER_VIEW = 500


@dataclass
class _Frame:
    """A directory being listed: the last name yielded, and what is read but not yet yielded."""

    lfn: Lfn
    directory_id: int
    after: str
    traversable: bool
    pending: deque[Entry] = field(default_factory=deque)
    exhausted: bool = False


class Listing:
    """One List or Find call: the entries below a directory, down to `depth` (0: all), that meet the condition if there is one.

    The order is that of the names from the root down (`path.names`): a directory, then its contents; siblings by the bytes of
    their names. Each batch is read on its own view: what is made meanwhile appears if it sorts after what was yielded, nothing
    appears twice, and the rights that count are those at the time of the batch.
    """

    def __init__(self, store: Store, caller: Caller, *, depth: int, with_replicas: bool, condition: Condition | None = None) -> None:
        self._store = store
        self._caller = caller
        self._depth = depth
        self._with_replicas = with_replicas
        self._condition = condition

    def batches(self, lfn: Lfn, after: Lfn | None) -> Iterator[list[EntryView]]:
        """Yield the entries in `lfn`, or `lfn` itself if it is not a directory, in batches of at most 1,000; `after` resumes.

        Below a link to a directory paths begin with the link's. Batches may be empty.

        Raises:
            NotFound, Forbidden: the caller may not list it. Invalid: `after` does not lie below `lfn`.
        """
        skipped = _below(lfn, after)
        start = self._store.read(partial(self._start, lfn, skipped))
        if isinstance(start, EntryView):
            if after is None and (self._condition is None or self._condition.met_by(start.entry)):
                yield [start]
            return
        while start:
            yield self._store.read(partial(self._fill, start))

    def _start(self, lfn: Lfn, skipped: Sequence[str], reading: ReadTransaction) -> EntryView | list[_Frame]:
        rights = Rights(reading, self._caller)
        [location] = locate(reading, rights, [Target(lfn=lfn)])
        if location.problem is None and isinstance(rights.why_hidden(location), NotFound):
            # A broken link lists itself; so does one to an entry that the caller may not see, so that the two look alike.
            [location] = locate(reading, rights, [Target(lfn=lfn)], follow=False)
        node = _granted(location, rights.why_hidden(location))
        if node.kind != EntryKind.DIRECTORY:
            entry = reading.entries([node.id])[node.id]
            replicas = reading.replicas([node.id]).get(node.id, ()) if self._with_replicas else ()
            return EntryView(lfn, entry, rights.permissions_under(node.acl_id), replicas)
        _granted(location, rights.why_refused(location, Permission.LIST))
        return self._frames(reading, rights, _Frame(lfn, node.id, "", _traversable(rights, node.acl_id)), skipped)

    def _frames(self, reading: ReadTransaction, rights: Rights, top: _Frame, skipped: Sequence[str]) -> list[_Frame]:
        """Return the stack from which a listing continues after the names in `skipped`, relative to its top."""
        stack = [top]
        for name in skipped:
            frame = stack[-1]
            frame.after = name
            node = reading.children([(frame.directory_id, name)]).get((frame.directory_id, name))
            if node is None or not self._descends(rights, stack, node.kind, node.acl_id):
                break
            stack.append(_Frame(join(frame.lfn, name), node.id, "", _traversable(rights, node.acl_id)))
        return stack

    def _fill(self, stack: list[_Frame], reading: ReadTransaction) -> list[EntryView]:
        """Return the next batch and leave `stack` at the place to continue; empty at the end, or after many pages without a match."""
        rights = Rights(reading, self._caller)
        found: list[tuple[Lfn, Entry]] = []
        pages = 0
        while stack and len(found) < PAGE and pages < _PAGES_PER_VIEW:
            frame = stack[-1]
            if not frame.pending and not frame.exhausted:
                pages += 1
                limit = PAGE if len(stack) <= _DEEP else _DEEP_PAGE
                frame.pending.extend(reading.page(frame.directory_id, frame.after, limit, self._condition))
                frame.exhausted = len(frame.pending) < limit
                rights.load(entry.acl_id for entry in frame.pending)
            if not frame.pending:
                stack.pop()
                continue
            entry = frame.pending.popleft()
            frame.after = entry.name
            lfn = join(frame.lfn, entry.name)
            if self._condition is None or self._condition.met_by(entry):
                found.append((lfn, entry))
            if self._descends(rights, stack, entry.kind, entry.acl_id):
                stack.append(_Frame(lfn, entry.id, "", _traversable(rights, entry.acl_id)))
        replicas = reading.replicas([entry.id for _, entry in found if entry.kind == EntryKind.FILE]) if self._with_replicas else {}
        return [EntryView(lfn, entry, rights.permissions_under(entry.acl_id), replicas.get(entry.id, ())) for lfn, entry in found]

    def _descends(self, rights: Rights, stack: Sequence[_Frame], kind: EntryKind, acl_id: UUID) -> bool:
        deeper = not self._depth or len(stack) < self._depth
        return deeper and kind == EntryKind.DIRECTORY and stack[-1].traversable and bool(rights.permissions_under(acl_id) & Permission.LIST)


def _granted(location: Location, refusal: MdmError | None) -> Node:
    if refusal is not None or location.node is None:
        raise refusal or not_found()
    return location.node


def _traversable(rights: Rights, acl_id: UUID) -> bool:
    return bool(rights.permissions_under(acl_id) & Permission.TRAVERSE)


def _below(lfn: Lfn, after: Lfn | None) -> tuple[str, ...]:
    """Return the names of `after` relative to `lfn`."""
    top, last = names(lfn), names(after) if after is not None else names(lfn)
    if last[: len(top)] != top:
        raise Invalid("AFTER_OUTSIDE", "`after` must be the listed path or lie below it.")
    return last[len(top) :]


def sum_up(reading: ReadTransaction, caller: Caller, lfn: Lfn, depth: int) -> list[Usage]:
    """Return the usage of a directory, and of each directory down to `depth` below it, in order of path.

    Only what the caller may list is counted.

    Raises:
        NotFound, Forbidden: the caller may not list the directory. Invalid: it is not a directory.
    """
    rights = Rights(reading, caller)
    [location] = locate(reading, rights, [Target(lfn=lfn)])
    refusal: MdmError | None = rights.why_hidden(location) or rights.why_refused(location, Permission.LIST | Permission.TRAVERSE)
    if refusal is not None or location.node is None:
        raise refusal or not_found()
    if location.node.kind != EntryKind.DIRECTORY:
        raise Invalid("NOT_A_DIRECTORY", "This is not a directory: only directories have a usage.")
    totals: dict[tuple[str, ...], list[int]] = {}
    for below, *own in reading.usage(caller, location.node.id, depth):
        for length in range(len(below) + 1):
            total = totals.setdefault(below[:length], [0] * len(own))
            for place, amount in enumerate(own):
                total[place] += amount
    return [_usage(lfn, below, *total) for below, total in sorted(totals.items(), key=lambda item: [name.encode() for name in item[0]])]


def _usage(top: Lfn, below: tuple[str, ...], files: int, directories: int, links: int, size: int, closed: int) -> Usage:
    return Usage(reduce(join, below, top), files, directories, links, min(size, MAX_SIZE), closed)
