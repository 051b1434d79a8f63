"""The model: collections, attributes and entries, and the rules that they must fulfil."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from uuid import UUID

from mdm_wire.errors import Invalid

KEY_NAME = "entry"
ACL_NAME = "entry_acl"
MAX_PATH = 1023
MAX_SEGMENT = 255
MAX_KEY = 255
MAX_ATTRIBUTES = 500
MAX_DESCRIPTION = 1000
MAX_UNIT = 64
MAX_CELL = 1_000_000
MAX_TEXT = 65_536
#: Bytes of all values of an entry together; the migrations have the same number.
MAX_ENTRY = 1_048_576
MAX_INDEXED_TEXT = 500
FIRST_UNINDEXED = 101

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class AttributeType(IntEnum):
    """The types of attributes; the numbers are those of the contract."""

    INT = 1
    FLOAT = 2
    NUMERIC = 3
    TEXT = 4
    VARCHAR = 5
    BOOL = 6
    DATE = 7
    TIMESTAMP = 8
    UUID = 9


#: The first letter of a slot, so that a slot has the same type in every collection.
LETTERS: Mapping[AttributeType, str] = {
    AttributeType.INT: "i",
    AttributeType.FLOAT: "f",
    AttributeType.NUMERIC: "n",
    AttributeType.TEXT: "t",
    AttributeType.VARCHAR: "t",
    AttributeType.BOOL: "b",
    AttributeType.DATE: "d",
    AttributeType.TIMESTAMP: "z",
    AttributeType.UUID: "u",
}
#: How many indexed attributes of each letter a collection may have; the migrations build one shared index for each.
INDEX_SLOTS: Mapping[str, int] = {"t": 16, "i": 6, "f": 3, "n": 1, "d": 3, "z": 2, "u": 3, "b": 1}


@dataclass(frozen=True)
class Attribute:
    """An attribute as its creator describes it."""

    name: str
    type: AttributeType
    length: int = 0
    unit: str = ""
    description: str = ""
    not_null: bool = False
    indexed: bool = False
    unique: bool = False
    references: str = ""

    @cached_property
    def folded(self) -> str:
        """The name as it is compared."""
        return self.name.lower()

    def check(self) -> None:
        """Check the attribute by itself.

        Raises:
            Invalid: it breaks a rule; the message names the attribute.
        """
        if not _NAME.fullmatch(self.name):
            raise Invalid("ATTRIBUTE_NAME", "An attribute's name is a letter, then letters, digits or underscores, at most 63 in all.")
        if self.folded in (KEY_NAME, ACL_NAME):
            raise Invalid("ATTRIBUTE_NAME", f"The names `{KEY_NAME}` and `{ACL_NAME}` are taken: the entry's key, and the id of its ACL.")
        if (self.type is AttributeType.VARCHAR) != (self.length != 0) or not 0 <= self.length <= MAX_TEXT:
            raise Invalid("ATTRIBUTE_LENGTH", f"Attribute {self.name}: VARCHAR, and only VARCHAR, has a length of 1 to {MAX_TEXT}.")
        if self.type is AttributeType.VARCHAR and self.indexed and self.length > MAX_INDEXED_TEXT:
            raise Invalid("ATTRIBUTE_LENGTH", f"Attribute {self.name}: an indexed VARCHAR has at most {MAX_INDEXED_TEXT} characters.")
        if len(self.unit) > MAX_UNIT or len(self.description) > MAX_DESCRIPTION:
            raise Invalid(
                "ATTRIBUTE_DESCRIPTION",
                f"Attribute {self.name}: at most {MAX_UNIT} characters of unit and {MAX_DESCRIPTION} of description.",
            )
        if self.references and self.type not in (AttributeType.TEXT, AttributeType.VARCHAR, AttributeType.UUID):
            raise Invalid("ATTRIBUTE_REFERENCE", f"Attribute {self.name}: a reference must be TEXT, VARCHAR or UUID, as keys are.")
        if self.references and not self.indexed:
            raise Invalid("ATTRIBUTE_REFERENCE", f"Attribute {self.name}: a reference needs an index.")
        if not (self.unit + self.description).isprintable():
            raise Invalid("ATTRIBUTE_DESCRIPTION", f"Attribute {self.name}: unit and description must be one printable line each.")


@dataclass(frozen=True)
class StoredAttribute:
    """An attribute with its slot.

    `position` never changes. Values are also written to the slot `moving_to` unless that is empty. `reference_id` is the collection whose
    keys the values are.
    """

    attribute: Attribute
    slot: str
    position: int = 0
    moving_to: str = ""
    reference_id: int | None = None


@dataclass(frozen=True)
class Check:
    """A condition, in the query language, that every entry of a collection fulfils."""

    name: str
    condition: str


@dataclass(frozen=True)
class ViewAttribute:
    """An attribute as a view shows it: its name there, and its name in the target."""

    name: str
    target: str


@dataclass(frozen=True)
class View:
    """A view as its creator describes it; a link shows all of its target, under the reader's own permissions."""

    path: str
    target: str
    attributes: tuple[ViewAttribute, ...] = ()
    condition: str = ""
    with_key: bool = False
    is_link: bool = False
    acl_id: UUID | None = None


@dataclass(frozen=True)
class StoredView:
    """A view as it is stored; `definer` is the subject under whose permissions it reads, None for a link."""

    target_id: int
    target_path: str
    definer: str | None
    condition: str | None
    with_key: bool
    names: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Collection:
    """A collection as its creator describes it; an absent ACL id means the parent's default."""

    path: str
    attributes: tuple[Attribute, ...] = ()
    acl_id: UUID | None = None
    default_acl_id: UUID | None = None
    sensitive: bool = False
    min_cell: int = 0

    @cached_property
    def folded(self) -> str:
        """The path as it is compared."""
        return fold_path(self.path)

    def check(self) -> None:
        """Check path and schema.

        Raises:
            Invalid: they break a rule; the message names the attribute.
        """
        check_path(self.path)
        check_min_cell(self.min_cell)
        if len(self.attributes) > MAX_ATTRIBUTES:
            raise Invalid("TOO_MANY_ATTRIBUTES", f"A collection has at most {MAX_ATTRIBUTES} attributes.")
        seen = set()
        for attribute in self.attributes:
            attribute.check()
            if attribute.folded in seen:
                raise Invalid("ATTRIBUTE_TWICE", f"Attribute {attribute.name} is there twice; names are compared without regard to case.")
            seen.add(attribute.folded)
        assign_slots(self.attributes)

    def is_satisfied_by(self, other: "Collection") -> bool:
        """Return whether `other` has every attribute described here, and the same sensitivity; it may have more, and other indexes."""
        theirs = {attribute.folded: _comparable(attribute) for attribute in other.attributes}
        mine = {attribute.folded: _comparable(attribute) for attribute in self.attributes}
        return mine.items() <= theirs.items() and self.sensitive == other.sensitive


def _comparable(attribute: Attribute) -> tuple[object, ...]:
    return (attribute.type, attribute.length, attribute.unit, attribute.not_null, attribute.unique)


@dataclass(frozen=True)
class StoredCollection:
    """A collection as it is stored, with the caller's permissions; `shown` is what a view shows of its target.

    `rev` counts the changes of its schema, `target_rev` those of a view's target: the schema of one id and these numbers never changes.
    """

    id: int
    collection: Collection
    attributes: tuple[StoredAttribute, ...]
    permissions: int
    checks: tuple[Check, ...] = ()
    view: StoredView | None = None
    has_key: bool = True
    is_replica: bool = False
    rev: int = 0
    target_rev: int = 0
    shown: tuple[ViewAttribute, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, StoredAttribute]:
        """Attributes by folded name."""
        return {stored.attribute.folded: stored for stored in self.attributes}


@dataclass(frozen=True)
class SequenceState:
    """A sequence: its next number and its step; a step of 0 if the caller may know neither."""

    name: str
    next: int = 0
    step: int = 0


@dataclass(frozen=True)
class Validation:
    """Constraints that already hold for writers and are validated on all entries: those of the attribute at `position`, or a check."""

    number: int
    collection_id: int
    position: int | None = None
    check: str = ""
    constraints: frozenset[str] = frozenset()


Scalar = int | float | str | bool | None


@dataclass(frozen=True)
class Entry:
    """An entry as a caller sends it."""

    key: str
    values: Mapping[str, Scalar] = field(default_factory=dict)
    acl_id: UUID | None = None


@dataclass(frozen=True)
class EntryWrite:
    """An entry that was checked: values by slot; `unique` are digests by slot, None where the value is removed."""

    key: str
    acl_id: UUID
    values: Mapping[str, Scalar]
    unique: Mapping[str, bytes | None]


@dataclass(frozen=True)
class StoredEntry:
    """The ACL of an entry, and the caller's permissions on the entry."""

    acl_id: UUID
    permissions: int


@dataclass(frozen=True)
class Assignment:
    """The assignment of another ACL to one entry."""

    collection: str
    key: str
    acl_id: UUID


def fold_path(path: str) -> str:
    """Return a path in the form that is used for comparison."""
    return path.casefold()


def parent_of(path: str) -> str:
    """Return the path of the parent collection."""
    return path.rpartition("/")[0] or "/"


def check_path(path: str) -> None:
    """Check the form of a collection's path.

    Raises:
        Invalid: not an absolute path of printable segments, or too long.
    """
    if path == "/":
        return
    if not path.startswith("/") or len(path) > MAX_PATH or not path.isprintable():
        raise Invalid("PATH_MALFORMED", f"A collection's path starts with / and is printable, at most {MAX_PATH} characters.")
    for segment in path[1:].split("/"):
        if segment in ("", ".", "..") or len(segment) > MAX_SEGMENT:
            raise Invalid("PATH_MALFORMED", f"A segment of a path is 1 to {MAX_SEGMENT} characters and neither . nor ..")


def check_min_cell(min_cell: int) -> None:
    """Check a minimum cell size: 0 allows no counts, and 1, which would allow all, is refused.

    Raises:
        Invalid: it is neither 0 nor 2 to 1,000,000.
    """
    if not 0 <= min_cell <= MAX_CELL or min_cell == 1:
        raise Invalid("MIN_CELL", "A minimum cell size must be 0 (no counts) or 2 to 1,000,000.")


def check_key(key: str) -> None:
    """Check the form of an entry's key.

    Raises:
        Invalid: empty, too long or not printable.
    """
    if not key or len(key) > MAX_KEY or not key.isprintable():
        raise Invalid("KEY_MALFORMED", f"An entry's key is 1 to {MAX_KEY} printable characters.")


def assign_slots(attributes: Sequence[Attribute]) -> tuple[StoredAttribute, ...]:
    """Give each attribute a slot: the letter of its type, and a number that has an index or a higher one.

    Raises:
        Invalid: more indexed attributes of one type than there are indexes.
    """
    used: dict[str, int] = {}
    stored = []
    for position, attribute in enumerate(attributes):
        letter = LETTERS[attribute.type]
        if attribute.indexed:
            used[letter] = used.get(letter, 0) + 1
            if used[letter] > INDEX_SLOTS[letter]:
                raise Invalid(
                    "TOO_MANY_INDEXES",
                    f"Attribute {attribute.name}: at most {INDEX_SLOTS[letter]} indexed attributes of type {attribute.type.name}.",
                )
            stored.append(StoredAttribute(attribute, f"{letter}{used[letter]}", position))
        else:
            stored.append(StoredAttribute(attribute, f"{letter}{FIRST_UNINDEXED + position}", position))
    return tuple(stored)
