"""What instances state of the patient, study and series that they share, and the one entry that comes of it."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")
Value = str | int | float | bool | None

PATIENTS, STUDIES, SERIES = "patients", "studies", "series"
LEVELS = (PATIENTS, STUDIES, SERIES)
#: Collection and key of a shared entry.
Key = tuple[str, str]
#: Attributes that say where an entry belongs: while instances move they differ, which is no conflict.
LINKS = frozenset({"patient", "study", "series", "lfn"})


@dataclass(frozen=True, slots=True)
class Statement:
    """What one instance says of the entry `key` of the collection `level`: values by attribute, None where it says nothing."""

    level: str
    key: str
    acl_id: UUID
    values: Mapping[str, Value]

    def encode(self) -> bytes:
        """Return the statement as bytes; equal statements give equal bytes."""
        return json.dumps([self.level, self.key, str(self.acl_id), dict(self.values)], sort_keys=True).encode()


def decode(content: bytes) -> Statement:
    """Return what `Statement.encode` wrote."""
    level, key, acl_id, values = json.loads(content)
    return Statement(level, key, UUID(acl_id), values)


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """A shared entry while nobody else writes it.

    `statements` are what its instances say, each with how many say it; `earlier` counts instances that an earlier version of this
    service published, which say nothing; `written` is the digest of what the metadata have, as far as that is known. `save` notes
    digest and conflicts of what they have now.
    """

    statements: Sequence[tuple[Statement, int]]
    earlier: int
    written: bytes | None
    save: Callable[[bytes, Sequence[str]], None]

    @property
    def count(self) -> int:
        """How many instances share the entry."""
        return sum(count for _, count in self.statements) + self.earlier


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
