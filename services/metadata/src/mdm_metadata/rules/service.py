"""Use cases of the metadata service."""

from collections.abc import Mapping, Sequence

from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.alteration import Alterations
from mdm_metadata.rules.creation import Creation
from mdm_metadata.rules.interruption import Interruption
from mdm_metadata.rules.model import Assignment, Collection, Entry, SequenceState, StoredCollection, View, check_path, fold_path
from mdm_metadata.rules.planning import Membership
from mdm_metadata.rules.port import (
    Outcome,
    Store,
    Transaction,
    acl_refusal,
    allowed,
    check_batch,
    entry_refusal,
    holding,
    outcome_of,
)
from mdm_metadata.rules.reading import Reading, entry_referenced
from mdm_metadata.rules.viewing import create_sequence, create_view, drop_sequence, list_sequences, take_numbers
from mdm_metadata.rules.writing import Upsert

MAX_COLLECTIONS = 1_000
MAX_ENTRIES = 10_000


class MetadataService:
    """What callers may do with collections, entries and queries."""

    def __init__(self, store: Store, membership: Membership) -> None:
        self._store = store
        self.reading = Reading(store, membership)

    def create_collections(self, caller: Caller, collections: Sequence[Collection]) -> list[Outcome]:
        """Create collections in order. One that exists with the same schema counts as created.

        Each needs `w` on its parent; an ACL that is not named is the parent's default ACL.
        """
        check_batch(collections, MAX_COLLECTIONS, "collections")
        with self._store.transaction() as transaction:
            return Creation(transaction, caller, collections).run()

    def list_collections(self, caller: Caller, path: str, after: str, limit: int) -> list[StoredCollection]:
        """Return at most `limit` collections at and below `path`, after the folded path `after`, that the caller may list or get."""
        check_path(path)
        with self._store.transaction() as transaction:
            return transaction.list_collections(fold_path(path), after, limit, caller)

    def drop_collections(self, caller: Caller, paths: Sequence[str], interruption: Interruption | None = None) -> list[Outcome]:
        """Drop collections with their entries, in order. Each needs `d` and no collection below it."""
        check_batch(paths, MAX_COLLECTIONS, "collections")
        with self._store.transaction(interruption) as transaction:
            return [outcome_of(lambda path: self._drop(transaction, caller, path), path) for path in paths]

    def _drop(self, transaction: Transaction, caller: Caller, path: str) -> None:
        check_path(path)
        found = transaction.collections([fold_path(path)], caller).get(fold_path(path))
        collection = allowed(found, Permission.DELETE, "d")
        if collection.is_replica:
            raise FailedPrecondition("COLLECTION_IS_REPLICA", "This is a copy of another service's collection: change it there.")
        if fold_path(path) == "/":
            raise Invalid("ROOT", "The root collection cannot be dropped.")
        if not transaction.drop_collection(collection.id):
            raise FailedPrecondition("COLLECTION_NOT_EMPTY", "Collections are below it, or views or references on it: drop those first.")

    def upsert(
        self, caller: Caller, path: str, entries: Sequence[Entry | MdmError], interruption: Interruption | None = None
    ) -> list[Outcome]:
        """Insert or update entries; attributes not named keep their value, NULL removes one.

        Needs `w` on the collection, and `p` under an existing entry's ACL to point it at another. An entry that failed to be read is
        passed as its error. Messages name attribute and type, never a value.
        """
        check_batch(entries, MAX_ENTRIES, "entries")
        for attempt in self._store.writing(interruption):
            with attempt as transaction:
                collection = self._writable(transaction, caller, path)
                return Upsert(transaction, caller, collection).run(entries)
        raise AssertionError("a store tries at least once")

    def delete(self, caller: Caller, path: str, keys: Sequence[str], interruption: Interruption | None = None) -> list[Outcome]:
        """Delete entries. Needs `w` on the collection and `d` on each entry, or an operator where it is not sensitive."""
        check_batch(keys, MAX_ENTRIES, "keys")
        with self._store.transaction(interruption) as transaction:
            operated = self._operated(transaction, caller, path)
            collection = operated or self._writable(transaction, caller, path)
            found = transaction.entries(collection.id, keys, caller)
            outcomes = [None if operated and key in found else entry_refusal(found.get(key), Permission.DELETE, "d") for key in keys]
            deleted = [key for key, outcome in zip(keys, outcomes, strict=True) if outcome is None]
            kept = transaction.referenced_keys(collection.id, deleted)
            transaction.delete(collection.id, [key for key in deleted if key not in kept])
        return [entry_referenced() if key in kept else outcome for key, outcome in zip(keys, outcomes, strict=True)]

    def list_entry_keys(self, caller: Caller, path: str, after: str, limit: int) -> list[str]:
        """Return at most `limit` keys of entries that follow `after`, in order of their bytes, whatever their ACLs; for operators.

        Raises:
            NotFound: there is no such collection, or it is sensitive, a view or a copy.
        """
        with self._store.transaction() as transaction:
            collection = self._operated(transaction, caller, path)
            if collection is None:
                raise NotFound("COLLECTION_NOT_FOUND", "No such collection whose keys are listed: not of sensitive ones, views and copies.")
            return transaction.entry_keys(collection.id, after, limit)

    def assign(
        self, caller: Caller, assignments: Sequence[Assignment | MdmError], interruption: Interruption | None = None
    ) -> list[Outcome]:
        """Point entries at other ACLs. Needs `p` under the present one; an entry that the caller may not see is not found."""
        check_batch(assignments, MAX_ENTRIES, "assignments")
        wanted = [item for item in assignments if isinstance(item, Assignment)]
        refused: dict[int, MdmError] = {}
        with self._store.transaction(interruption) as transaction:
            collections = transaction.collections({fold_path(item.collection) for item in wanted}, caller)
            acls = transaction.acl_permissions({item.acl_id for item in wanted}, caller)
            for path, collection in sorted(collections.items()):
                mine = [item for item in wanted if fold_path(item.collection) == path]
                if collection.is_replica or collection.view is not None:
                    refused.update(
                        {id(item): Invalid("COLLECTION_READ_ONLY", "This is a copy or a view: change the original.") for item in mine}
                    )
                    continue
                found = transaction.entries(collection.id, {item.key for item in mine}, caller)
                for item in mine:
                    refusal = entry_refusal(found.get(item.key), Permission.CHANGE_ACL, "p") or acl_refusal(item.acl_id, acls)
                    if refusal is not None:
                        refused[id(item)] = refusal
                transaction.assign(collection.id, {item.key: item.acl_id for item in mine if id(item) not in refused})
        return [_assigned(item, collections, refused) for item in assignments]

    def alter(self, caller: Caller, path: str) -> Alterations:
        """Return the changes that can be made to a collection's schema."""
        return Alterations(self._store, caller, path)

    def create_views(self, caller: Caller, views: Sequence[View | MdmError]) -> list[Outcome]:
        """Create views and links, in order; see `viewing.create_view`."""
        check_batch(views, MAX_COLLECTIONS, "views")
        return [
            view if isinstance(view, MdmError) else outcome_of(lambda view: create_view(self._store, caller, view), view) for view in views
        ]

    def create_sequence(self, caller: Caller, path: str, name: str, start: int, step: int, *, resume: bool) -> None:
        """Create a sequence; see `viewing.create_sequence`."""
        create_sequence(self._store, caller, path, name, start, step, resume=resume)

    def drop_sequence(self, caller: Caller, path: str, name: str) -> None:
        """Drop a sequence; see `viewing.drop_sequence`."""
        drop_sequence(self._store, caller, path, name)

    def take_numbers(self, caller: Caller, path: str, name: str, count: int) -> tuple[int, int]:
        """Take numbers from a sequence; see `viewing.take_numbers`."""
        return take_numbers(self._store, caller, path, name, count)

    def list_sequences(self, caller: Caller, path: str) -> list[SequenceState]:
        """Return a collection's sequences; see `viewing.list_sequences`."""
        return list_sequences(self._store, caller, path)

    def _operated(self, transaction: Transaction, caller: Caller, path: str) -> StoredCollection | None:
        """Return a collection whose entries an operator may count off and delete, None if it is another one or the caller is none."""
        check_path(path)
        found = transaction.collections([fold_path(path)], caller).get(fold_path(path)) if caller.has_role(OPERATOR) else None
        return None if found is None or found.collection.sensitive or found.view is not None or found.is_replica else found

    def _writable(self, transaction: Transaction, caller: Caller, path: str) -> StoredCollection:
        check_path(path)
        return holding(transaction.collections([fold_path(path)], caller).get(fold_path(path)), Permission.WRITE, "w")


def _assigned(item: Assignment | MdmError, collections: Mapping[str, StoredCollection], refused: Mapping[int, MdmError]) -> Outcome:
    if isinstance(item, MdmError):
        return item
    if fold_path(item.collection) not in collections:
        return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")
    return refused.get(id(item))
