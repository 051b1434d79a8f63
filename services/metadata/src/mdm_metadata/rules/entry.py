"""Entries by key: upserting, deleting, listing keys, pointing at other ACLs."""

from collections.abc import Mapping, Sequence

from mdm_service.identity.caller import Caller
from mdm_service.policy import OPERATOR
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules.access import Failure, acl_refusal, allowed_original, check_batch, entry_refusal
from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.model import Assignment, Entry, StoredCollection, check_path, fold_path
from mdm_metadata.rules.port import Store, Transaction
from mdm_metadata.rules.upsert import Upsert

MAX_ENTRIES = 10_000


def upsert(
    store: Store, caller: Caller, path: str, entries: Sequence[Entry | MdmError], cancellation: Cancellation | None = None
) -> list[Failure]:
    """Insert or update entries; attributes not named keep their value, NULL removes one.

    Needs `w` on the collection, and `p` under an existing entry's ACL to point it at another. An entry that failed to be read is
    passed as its error. Messages name attribute and type, never a value.
    """
    check_batch(entries, MAX_ENTRIES, "entries")
    for attempt in store.writing(cancellation):
        with attempt as transaction:
            collection = _writable(transaction, caller, path)
            return Upsert(transaction, caller, collection).run(entries)
    raise AssertionError("a store tries at least once")


def delete(store: Store, caller: Caller, path: str, keys: Sequence[str], cancellation: Cancellation | None = None) -> list[Failure]:
    """Delete entries. Needs `w` on the collection and `d` on each entry, or an operator where it is not sensitive."""
    check_batch(keys, MAX_ENTRIES, "keys")
    with store.transaction(cancellation) as transaction:
        operated = _operated(transaction, caller, path)
        collection = operated or _writable(transaction, caller, path)
        found = transaction.entries(collection.id, keys, caller)
        outcomes = [None if operated and key in found else entry_refusal(found.get(key), Permission.DELETE, "d") for key in keys]
        deleted = [key for key, outcome in zip(keys, outcomes, strict=True) if outcome is None]
        kept = transaction.referenced_keys(collection.id, deleted)
        transaction.delete(collection.id, [key for key in deleted if key not in kept])
    return [_referenced() if key in kept else outcome for key, outcome in zip(keys, outcomes, strict=True)]


def delete_locked(transaction: Transaction, collection: StoredCollection, keys: Sequence[str]) -> None:
    """Delete locked entries.

    Raises:
        FailedPrecondition: another entry refers to one of them.
    """
    if transaction.referenced_keys(collection.id, keys):
        raise _referenced()
    transaction.delete(collection.id, keys)


def list_keys(store: Store, caller: Caller, path: str, after: str, limit: int) -> list[str]:
    """Return at most `limit` keys of entries that follow `after`, in order of their bytes, whatever their ACLs; for operators.

    Raises:
        NotFound: there is no such collection, or it is sensitive, a view or a copy.
    """
    with store.transaction() as transaction:
        collection = _operated(transaction, caller, path)
        if collection is None:
            raise NotFound("COLLECTION_NOT_FOUND", "No such collection whose keys are listed: not of sensitive ones, views and copies.")
        return transaction.entry_keys(collection.id, after, limit)


def assign(
    store: Store, caller: Caller, assignments: Sequence[Assignment | MdmError], cancellation: Cancellation | None = None
) -> list[Failure]:
    """Point entries at other ACLs. Needs `p` under the present one; an entry that the caller may not see is not found."""
    check_batch(assignments, MAX_ENTRIES, "assignments")
    wanted = [item for item in assignments if isinstance(item, Assignment)]
    refused: dict[int, MdmError] = {}
    with store.transaction(cancellation) as transaction:
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


def _referenced() -> MdmError:
    """Return the refusal to delete an entry that others refer to."""
    return FailedPrecondition("ENTRY_REFERENCED", "Other entries refer to it: delete or change those first.")


def _operated(transaction: Transaction, caller: Caller, path: str) -> StoredCollection | None:
    """Return a collection whose entries an operator may count off and delete, None if it is another one or the caller is no operator."""
    check_path(path)
    found = transaction.collections([fold_path(path)], caller).get(fold_path(path)) if caller.has_role(OPERATOR) else None
    return None if found is None or found.collection.sensitive or found.view is not None or found.is_replica else found


def _writable(transaction: Transaction, caller: Caller, path: str) -> StoredCollection:
    check_path(path)
    return allowed_original(transaction.collections([fold_path(path)], caller).get(fold_path(path)), Permission.WRITE, "w")


def _assigned(item: Assignment | MdmError, collections: Mapping[str, StoredCollection], refused: Mapping[int, MdmError]) -> Failure:
    if isinstance(item, MdmError):
        return item
    if fold_path(item.collection) not in collections:
        return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")
    return refused.get(id(item))
