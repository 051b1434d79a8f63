"""The ports: what the use cases need from the database."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import UUID

from mdm_service.identity.caller import Caller

from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.model import (
    Check,
    Collection,
    EntryWrite,
    SequenceState,
    StoredAttribute,
    StoredCollection,
    StoredEntry,
    StoredView,
    Validation,
    View,
)
from mdm_metadata.rules.query.cache import CompiledQuery
from mdm_metadata.rules.query.sql.statement import Statement
from mdm_metadata.rules.query.syntax.tree import Expression

Batch = Sequence[tuple[object, ...]]


class Transaction(Protocol):
    """One database transaction; it commits when its block ends without an exception."""

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        """Return the collections that exist among folded paths; they cannot be dropped until the transaction ends."""

    def list_collections(self, path: str, after: str, limit: int, caller: Caller) -> list[StoredCollection]:
        """Return collections at and below a folded path that the caller may list or get, those after `after`, by folded path."""

    def acl_permissions(self, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
        """Return the caller's permissions under each ACL that exists."""

    def insert_collections(self, collections: Sequence[Collection]) -> set[str]:
        """Insert collections, parents before children; return the folded paths of those that did not exist."""

    def drop_collection(self, collection_id: int) -> bool:
        """Drop a collection with its entries; False, changing nothing, when collections are below it, or views or references on it."""

    def entries(self, collection_id: int, keys: Iterable[str], caller: Caller) -> dict[str, StoredEntry]:
        """Return the entries that exist among `keys`, locked."""

    def entry_keys(self, collection_id: int, after: str, limit: int) -> list[str]:
        """Return at most `limit` keys that follow `after`, in order of their bytes."""

    def holders(self, collection_id: int, digests: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], str]:
        """Return the entry that has each unique value (slot, digest)."""

    def write(self, collection_id: int, entries: Sequence[EntryWrite]) -> None:
        """Insert entries or merge their values into those that exist; a None removes a value.

        Raises:
            Aborted: another transaction stored the same unique value meanwhile; repeat the transaction.
            Invalid: an entry would become too large.
        """

    def assign(self, collection_id: int, acls: Mapping[str, UUID]) -> None:
        """Point entries at ACLs."""

    def delete(self, collection_id: int, keys: Sequence[str]) -> None:
        """Delete entries."""

    def violations(self, collection_id: int, entries: Sequence[EntryWrite], checks: Sequence[Expression]) -> dict[str, int]:
        """Return, by key, the number of the first check that an entry would not fulfil once written."""

    def visible_keys(self, collection_id: int, keys: Iterable[str], caller: Caller) -> set[str]:
        """Return which entries exist that the caller may list, get or read; they cannot be deleted until the transaction ends."""

    def referenced_keys(self, collection_id: int, keys: Sequence[str]) -> set[str]:
        """Return which entries others refer to by a reference attribute."""

    def select_changed(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Lock the entries that a change concerns, and return the key and the new values of each.

        Raises:
            Invalid: a value cannot be computed.
        """

    def read(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, as the transaction sees them."""

    def sequences(self) -> "Sequences":
        """Return the sequences."""


class Alteration(Protocol):
    """One database transaction that locks a collection: nobody else writes its entries or changes its schema meanwhile."""

    def collection(self, path: str, caller: Caller) -> StoredCollection | None:
        """Lock and return the collection at a folded path; None if it does not exist."""

    def held(self, collection_id: int) -> StoredCollection | None:
        """Lock and return a collection by id, whatever the caller's permissions; None if it does not exist."""

    def begin(self, validation: Validation) -> None:
        """Record that a validation is running."""

    def end(self, number: int) -> None:
        """Delete the record of a validation."""

    def visible(self, path: str, caller: Caller) -> StoredCollection | None:
        """Return a collection, locked only against being dropped."""

    def acl_permissions(self, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
        """Return the caller's permissions under each ACL that exists."""

    def is_empty(self, collection_id: int) -> bool:
        """Return whether a collection has no entries."""

    def dependent_conditions(self, collection_id: int) -> list[str]:
        """Return the conditions of the views of a collection."""

    def used_slots(self, collection_id: int) -> set[str]:
        """Return every slot in use, or with values that are still to be erased."""

    def new_number(self, collection_id: int) -> int:
        """Return a number that no attribute of the collection ever had."""

    def add_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        """Add an attribute."""

    def update_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        """Update the description, slots and constraints of the attribute at a position."""

    def remove_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        """Remove an attribute; its values are still to be erased."""

    def retire_slot(self, collection_id: int, slot: str) -> None:
        """Record that the values in a slot are to be erased."""

    def forget_unique(self, collection_id: int, slot: str) -> None:
        """Remove the digests of an attribute that was unique."""

    def move_unique(self, collection_id: int, slot: str, target: str) -> None:
        """Move the digests of a unique attribute to its new slot."""

    def set_checks(self, collection_id: int, checks: Sequence[Check]) -> None:
        """Replace the checks of a collection."""

    def set_min_cell(self, collection_id: int, min_cell: int) -> None:
        """Set the minimum cell size."""

    def set_acls(self, collection_id: int, acl_id: UUID, default_acl_id: UUID) -> None:
        """Point a collection at other ACLs."""

    def insert_view(self, parent_id: int, view: View, stored: StoredView, acls: tuple[UUID, UUID], sensitive: bool) -> bool:
        """Insert a view; False if its path is taken."""


class Backfill(Protocol):
    """Batches of entries, each in a transaction of its own, so that writers wait for one batch at most."""

    def copy(self, collection_id: int, source: str, target: str) -> None:
        """Copy the values in one slot to another."""

    def erase(self, collection_id: int) -> None:
        """Erase the values in all slots that are to be erased."""

    def lacks_value(self, collection_id: int, slot: str) -> bool:
        """Return whether an entry has no value in a slot."""

    def longest(self, collection_id: int, slot: str) -> int:
        """Return the length of the longest text in a slot."""

    def fill_unique(self, collection_id: int, attribute: StoredAttribute) -> bool:
        """Store the digests of a unique attribute; False when two entries share a value."""

    def breaks(self, collection_id: int, check: Expression) -> bool:
        """Return whether an entry does not fulfil a check."""

    def dangles(self, collection_id: int, attribute: StoredAttribute) -> bool:
        """Return whether a value of a reference is the key of no entry."""


class Sequences(Protocol):
    """One database transaction on the sequences of a collection."""

    def create(self, collection_id: int, name: str, start: int, step: int) -> bool:
        """Create a sequence; False when there is one of this name."""

    def resume(self, collection_id: int, name: str, start: int, step: int) -> bool:
        """Create a sequence, or let an existing one go on at `start` if that is further; False when it has another step."""

    def drop(self, collection_id: int, name: str) -> bool:
        """Drop a sequence; False if it does not exist."""

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

    def rows(self, query: CompiledQuery) -> Iterator[Batch] | None:
        """Run a statement in one snapshot and yield its rows in batches, each as a list of columns.

        None, and nothing is run, if the query's condition does not hold in that snapshot.

        Raises:
            Invalid: a value cannot be computed. Exhausted: too slow, or too many rows. Cancelled: `cancel` was called.
        """

    def explain(self, statement: Statement) -> list[str]:
        """Return PostgreSQL's plan of a statement, line by line."""

    def cancel(self) -> None:
        """Stop the query, from any thread; without effect when none runs."""


class Store(Protocol):
    """The database."""

    def transaction(self, cancellation: Cancellation | None = None) -> AbstractContextManager[Transaction]:
        """Begin a transaction.

        Raises:
            Cancelled: the cancellation came before its end: nothing is changed, and the database has stopped working on it.
        """

    def writing(self, cancellation: Cancellation | None = None) -> Iterator[AbstractContextManager[Transaction]]:
        """Yield transactions to try, one after another, until one commits; the last failure is raised."""

    def querying(self) -> AbstractContextManager[QuerySession]:
        """Begin a query."""

    def altering(self) -> AbstractContextManager[Alteration]:
        """Begin a transaction that changes a schema."""

    def backfill(self) -> Backfill:
        """Return an object that works through all entries of a collection."""

    def hold(self, number: int) -> AbstractContextManager[bool]:
        """Hold a validation's number until the block ends or this process dies; False when another process holds it."""

    def validations(self) -> list[Validation]:
        """Return the validations that are running or were interrupted by a crash."""

    def unerased(self) -> list[int]:
        """Return the collections in which values are still to be erased."""
