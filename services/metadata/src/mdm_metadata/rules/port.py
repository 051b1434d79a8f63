"""What the use cases need of the database, and what every one of them uses."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.errors import FailedPrecondition, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.interruption import Interruption
from mdm_metadata.rules.model import (
    Check,
    Collection,
    EntryWrite,
    SequenceState,
    StoredAttribute,
    StoredCollection,
    StoredEntry,
    StoredView,
    Trial,
    View,
)
from mdm_metadata.rules.query.compile import Statement
from mdm_metadata.rules.query.plan import Plan
from mdm_metadata.rules.query.tree import Expression

#: What lets a caller know that something is there.
VISIBLE = Permission.LIST | Permission.GET | Permission.READ

Outcome = MdmError | None
T = TypeVar("T")
Batch = Sequence[tuple[object, ...]]


class Transaction(Protocol):
    """One database transaction; it commits when its block ends without an exception."""

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        """Return the collections that exist among folded paths; they cannot be dropped until the transaction ends."""

    def list_collections(self, path: str, after: str, limit: int, caller: Caller) -> list[StoredCollection]:
        """Return collections at and below a folded path that the caller may list or get, those after `after`, by folded path."""

    def acl_permissions(self, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
        """Return what the caller may do under each ACL that exists."""

    def insert_collections(self, collections: Sequence[Collection]) -> set[str]:
        """Insert collections, parents before children; return the folded paths of those that did not exist."""

    def drop_collection(self, collection_id: int) -> bool:
        """Drop a collection with its entries; False, changing nothing, when collections are below it, or views or references on it."""

    def entries(self, collection_id: int, keys: Iterable[str], caller: Caller) -> dict[str, StoredEntry]:
        """Return the entries that exist among `keys`, locked."""

    def entry_keys(self, collection_id: int, after: str, limit: int) -> list[str]:
        """Return at most `limit` keys that follow `after`, in order of their bytes."""

    def holders(self, collection_id: int, digests: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], str]:
        """Return which entry holds each unique value (slot, digest)."""

    def write(self, collection_id: int, entries: Sequence[EntryWrite]) -> None:
        """Insert entries or merge their values into those that exist; a None removes a value.

        Raises:
            Aborted: another transaction took a unique value meanwhile; repeat the whole.
        """

    def assign(self, collection_id: int, acls: Mapping[str, UUID]) -> None:
        """Point entries at ACLs."""

    def delete(self, collection_id: int, keys: Sequence[str]) -> None:
        """Delete entries."""

    def violations(self, collection_id: int, entries: Sequence[EntryWrite], checks: Sequence[Expression]) -> dict[str, int]:
        """Return the number of the first check that an entry, as it would be after being written, does not fulfil, by key."""

    def visible_keys(self, collection_id: int, keys: Iterable[str], caller: Caller) -> set[str]:
        """Return which entries exist that the caller may list, get or read; they cannot be deleted until the transaction ends."""

    def referenced_keys(self, collection_id: int, keys: Sequence[str]) -> set[str]:
        """Return which entries others refer to by a reference attribute."""

    def select_changed(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Lock the entries that a change concerns and return key and new values of each.

        Raises:
            Invalid: a value cannot be computed.
        """

    def read(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, as the transaction sees them."""

    def sequences(self) -> "Sequences":
        """Return the sequences."""


class Alteration(Protocol):
    """One database transaction that holds a collection's schema alone: nobody writes entries or changes the schema meanwhile."""

    def collection(self, path: str, caller: Caller) -> StoredCollection | None:
        """Return the collection at a folded path, now locked; None when there is none."""

    def held(self, collection_id: int) -> StoredCollection | None:
        """Return a collection by id, now locked, whoever asks; None when there is none."""

    def begin(self, trial: Trial) -> None:
        """Note that a trial is under way."""

    def end(self, number: int) -> None:
        """Forget a trial."""

    def visible(self, path: str, caller: Caller) -> StoredCollection | None:
        """Return another collection, which is not locked alone."""

    def acl_permissions(self, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
        """Return what the caller may do under each ACL that exists."""

    def is_empty(self, collection_id: int) -> bool:
        """Tell whether a collection has no entries."""

    def dependent_conditions(self, collection_id: int) -> list[str]:
        """Return the conditions of the views of a collection."""

    def used_slots(self, collection_id: int) -> set[str]:
        """Return every stored name in use, or with values that are still to be erased."""

    def new_number(self, collection_id: int) -> int:
        """Return a number that no attribute of the collection ever had."""

    def add_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        """Add an attribute."""

    def update_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        """Give the attribute at a position another description, place or constraint."""

    def remove_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        """Remove an attribute; its values are still to be erased."""

    def retire_slot(self, collection_id: int, slot: str) -> None:
        """Note that the values under a stored name are to be erased."""

    def forget_unique(self, collection_id: int, slot: str) -> None:
        """Remove what is known of the values of an attribute that was unique."""

    def move_unique(self, collection_id: int, slot: str, target: str) -> None:
        """Note the values of a unique attribute under its new stored name."""

    def set_checks(self, collection_id: int, checks: Sequence[Check]) -> None:
        """Replace the checks of a collection."""

    def set_min_cell(self, collection_id: int, min_cell: int) -> None:
        """Set the smallest count that may be told."""

    def set_acls(self, collection_id: int, acl_id: UUID, default_acl_id: UUID) -> None:
        """Point a collection at other ACLs."""

    def insert_view(self, parent_id: int, view: View, stored: StoredView, acls: tuple[UUID, UUID], sensitive: bool) -> bool:
        """Insert a view; False when something is at its path."""


class Filling(Protocol):
    """Batches of entries, each in a transaction of its own, so that writers wait for one batch at most."""

    def copy(self, collection_id: int, source: str, target: str) -> None:
        """Copy the values under one stored name to another."""

    def erase(self, collection_id: int) -> None:
        """Erase the values under all stored names that are to be erased."""

    def lacks_value(self, collection_id: int, slot: str) -> bool:
        """Tell whether an entry has no value under a stored name."""

    def longest(self, collection_id: int, slot: str) -> int:
        """Return the length of the longest text under a stored name."""

    def fill_unique(self, collection_id: int, attribute: StoredAttribute) -> bool:
        """Note the values of a unique attribute; False when two entries share one."""

    def breaks(self, collection_id: int, check: Expression) -> bool:
        """Tell whether an entry does not fulfil a check."""

    def dangles(self, collection_id: int, attribute: StoredAttribute) -> bool:
        """Tell whether a value of a reference is the key of no entry."""


class Sequences(Protocol):
    """One database transaction on the sequences of a collection."""

    def create(self, collection_id: int, name: str, start: int, step: int) -> bool:
        """Create a sequence; False when there is one of this name."""

    def resume(self, collection_id: int, name: str, start: int, step: int) -> bool:
        """Create a sequence, or let one go on at `start` where that is further; False when it has another step."""

    def drop(self, collection_id: int, name: str) -> bool:
        """Drop a sequence; False when there is none."""

    def take(self, collection_id: int, name: str, count: int) -> tuple[int, int] | None:
        """Take numbers; return the first and the step, None when there is no such sequence.

        Raises:
            Exhausted: there are not so many within 64 bits; none is taken.
        """

    def states(self, collection_id: int) -> list[SequenceState]:
        """Return a collection's sequences by name."""


class QuerySession(Protocol):
    """A connection that only reads, for one query."""

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        """Return the collections that exist among folded paths at this moment."""

    def rows(self, plan: Plan) -> Iterator[Batch] | None:
        """Run a statement in one snapshot and yield its rows in batches, each as a list of columns.

        None, and nothing is run, where in that snapshot the questions it rests on have other answers.

        Raises:
            Invalid: a value cannot be computed. Exhausted: too slow, or too many rows. Cancelled: `cancel` was called.
        """

    def explain(self, statement: Statement) -> list[str]:
        """Return PostgreSQL's plan of a statement, line by line."""

    def cancel(self) -> None:
        """Stop what runs, from any thread; without effect when nothing does."""


class Store(Protocol):
    """The database."""

    def transaction(self, interruption: Interruption | None = None) -> AbstractContextManager[Transaction]:
        """Begin a transaction.

        Raises:
            Cancelled: the interruption came before its end: nothing is changed, and the database works on it no more.
        """

    def writing(self, interruption: Interruption | None = None) -> Iterator[AbstractContextManager[Transaction]]:
        """Yield transactions to try, one after another, until one commits; the last failure is raised."""

    def querying(self) -> AbstractContextManager[QuerySession]:
        """Begin a query."""

    def altering(self) -> AbstractContextManager[Alteration]:
        """Begin a transaction that changes a schema."""

    def filling(self) -> Filling:
        """Return the way to work through all entries of a collection."""

    def holding(self, number: int) -> AbstractContextManager[bool]:
        """Hold a trial's number until the block ends or this process dies; False when somebody else holds it."""

    def trials(self) -> list[Trial]:
        """Return the trials that are under way or were left by a crash."""

    def unerased(self) -> list[int]:
        """Return the collections in which values are still to be erased."""


def outcome_of(act: Callable[[T], None], item: T) -> Outcome:
    """Return the error that `act` raises for an item, None when it raises none."""
    try:
        act(item)
    except MdmError as error:
        return error
    return None


def allowed(found: StoredCollection | None, wanted: Permission, letter: str) -> StoredCollection:
    """Return a collection if its permissions suffice; unknown and invisible ones are told alike.

    Raises:
        Forbidden, NotFound: they do not.
    """
    if found is not None and found.permissions & wanted:
        return found
    if found is not None and found.permissions & VISIBLE:
        raise Forbidden("COLLECTION_FORBIDDEN", f"You need `{letter}` on the collection.")
    raise NotFound("COLLECTION_NOT_FOUND", "No such collection, or you may not see it.")


def holding(found: StoredCollection | None, wanted: Permission, letter: str) -> StoredCollection:
    """Return a collection that has entries of its own, if its permissions suffice; errors as `allowed`, and for a view Invalid."""
    collection = allowed(found, wanted, letter)
    if collection.view is not None:
        raise Invalid("COLLECTION_IS_VIEW", "This is a view or link: change the collection it shows.")
    if collection.is_replica and wanted is not Permission.READ:
        raise FailedPrecondition("COLLECTION_IS_REPLICA", "This is a copy of another service's collection: change it there.")
    return collection


def entry_refusal(found: StoredEntry | None, wanted: Permission, letter: str) -> Outcome:
    """Return why an entry may not be changed; unknown and invisible ones are told alike."""
    if found is not None and found.permissions & wanted:
        return None
    if found is not None and found.permissions & VISIBLE:
        return Forbidden("ENTRY_FORBIDDEN", f"You need `{letter}` under the entry's ACL.")
    return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")


def acl_refusal(acl_id: UUID, known: Mapping[UUID, int]) -> Outcome:
    """Return why an ACL cannot be referred to."""
    return None if acl_id in known else NotFound("ACL_NOT_FOUND", "No such ACL here: create it first.")


def check_batch(items: Sequence[object], limit: int, what: str) -> None:
    """Check the size of a batch.

    Raises:
        Invalid: it is too large.
    """
    if len(items) > limit:
        raise Invalid("BATCH_TOO_LARGE", f"At most {limit} {what} a call.")
