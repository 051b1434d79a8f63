"""Metadata entries of patients, studies and series, which many instances share: what comes of their statements, and its writing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from mdm_dicom_srm.register.rules.description import INSTANCES
from mdm_dicom_srm.register.rules.model import SERIES, Key, SharedEntry, Statement, Value
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import Entry, Metadata, SharedEntryStore

T = TypeVar("T")
#: Attributes that say where an entry belongs: while instances move they differ, which is no conflict.
LINKS = frozenset({"patient", "study", "series", "lfn"})


@dataclass(frozen=True, slots=True)
class Merged:
    """The entry that statements amount to, and the attributes of which they give different values, in order."""

    acl_id: UUID
    values: Mapping[str, Value]
    conflicts: tuple[str, ...]


def merge(statements: Iterable[tuple[Statement, int]]) -> Merged:
    """Return what statements, each with the number of instances that make it, amount to.

    A value stands against silence. Of different values the one that most instances state wins, of equally many the first in order of
    their text: so the order in which instances arrive does not matter.
    """
    given: defaultdict[str, defaultdict[Value, int]] = defaultdict(lambda: defaultdict(int))
    owners: defaultdict[str, int] = defaultdict(int)
    for statement, count in statements:
        owners[str(statement.acl_id)] += count
        for name, value in statement.values.items():
            if value is None:
                given[name]
            else:
                given[name][value] += count
    conflicts = (name for name, counts in given.items() if len(counts) > 1 and name not in LINKS)
    return Merged(UUID(_first(owners)), {name: _first(counts) for name, counts in given.items()}, tuple(sorted(conflicts)))


def _first(counts: Mapping[T, int]) -> T | None:
    return min(counts, key=lambda value: (-counts[value], str(value)), default=None)


class SharedEntries:
    """Brings shared entries to what all instances together state. Safe for several threads and processes; every step may be repeated."""

    def __init__(self, store: SharedEntryStore, metadata: Metadata, names: Names) -> None:
        self._store = store
        self._metadata = metadata
        self._names = names

    def write(self, keys: Iterable[Key]) -> None:
        """Write the entries that are due; one that no instance shares any more is removed.

        Raises:
            MdmError: the metadata service is away or refuses one; those after it are not written yet.
        """
        for level, key in sorted(keys):
            # The turn keeps others from overwriting this entry with what they read before.
            with self._store.turn(level, key) as entry:
                if entry is not None and entry.count == 0:
                    self._metadata.remove(self._names.collection(level), [key])
                    entry.save(b"", ())
                elif entry is not None and entry.statements:
                    self._write(level, key, entry)
                elif entry is not None:
                    entry.save(entry.written or b"", ())  # all that is left are instances that state nothing

    def write_left(self) -> None:
        """Write what a process that ended has left unwritten; see `write`."""
        self.write(self._store.left())

    def _write(self, level: str, key: str, entry: SharedEntry) -> None:
        merged = merge(entry.statements)
        values = dict(merged.values)
        if entry.earlier:
            # The values of instances that have stated nothing are in the entry already: silence of the others does not remove them.
            values = {name: value for name, value in values.items() if value is not None}
        if level == SERIES:
            values[INSTANCES] = entry.count
        digest = self._names.statement_digest(Statement(level, key, merged.acl_id, values).encode())
        if digest != entry.written:
            for error in self._metadata.upsert(self._names.collection(level), [Entry(key, merged.acl_id, values)]):
                if error is not None:
                    raise error
        entry.save(digest, merged.conflicts)
