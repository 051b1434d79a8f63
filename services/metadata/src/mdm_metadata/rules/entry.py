"""Entries by key: upserting, deleting, listing keys, assigning ACLs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_service.policy import DICOM_SRM, OPERATOR
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules import value
from mdm_metadata.rules.access import Failure, acl_refusal, check_batch, entry_refusal, find_collection, writable_collection
from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.model import (
    MAX_ENTRY,
    Assignment,
    Entry,
    EntryWrite,
    Scalar,
    StoredAttribute,
    StoredCollection,
    StoredEntry,
    check_key,
    fold_path,
)
from mdm_metadata.rules.port import Store, Transaction
from mdm_metadata.rules.query.binding.change import bind_condition

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
            collection = writable_collection(transaction, caller, path)
            return Upsert(transaction, caller, collection).run(entries)
    raise AssertionError("a store tries at least once")


def delete(store: Store, caller: Caller, path: str, keys: Sequence[str], cancellation: Cancellation | None = None) -> list[Failure]:
    """Delete entries. Needs `w` on the collection and `d` on each entry, or, unless it is sensitive, an operator."""
    check_batch(keys, MAX_ENTRIES, "keys")
    with store.transaction(cancellation) as transaction:
        operated = _operated(transaction, caller, path)
        collection = operated or writable_collection(transaction, caller, path)
        found = transaction.entries(collection.id, keys, caller)
        failures = [None if operated and key in found else entry_refusal(found.get(key), Permission.DELETE, "d") for key in keys]
        deleted = [key for key, failure in zip(keys, failures, strict=True) if failure is None]
        kept = transaction.referenced_keys(collection.id, deleted)
        transaction.delete(collection.id, [key for key in deleted if key not in kept])
    return [_referenced() if key in kept else failure for key, failure in zip(keys, failures, strict=True)]


def delete_locked(transaction: Transaction, collection: StoredCollection, keys: Sequence[str]) -> None:
    """Delete locked entries.

    Raises:
        FailedPrecondition: another entry refers to one of them.
    """
    if transaction.referenced_keys(collection.id, keys):
        raise _referenced()
    transaction.delete(collection.id, keys)


def list_keys(store: Store, caller: Caller, path: str, after: str, limit: int) -> list[str]:
    """Return at most `limit` keys of entries that follow `after`, in order of their bytes, whatever their ACLs.

    For operators, of collections that are not sensitive; for a dicom-srm, of those that it may write.

    Raises:
        NotFound: there is no such collection, or it is a view, a copy or another one.
    """
    with store.transaction() as transaction:
        collection = _operated(transaction, caller, path)
        if collection is None and caller.has_role(DICOM_SRM):
            collection = writable_collection(transaction, caller, path)
        if collection is None:
            raise NotFound(
                "COLLECTION_NOT_FOUND", "No such collection, or its keys cannot be listed because it is sensitive, a view or a copy."
            )
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
    """Return the error for an entry that cannot be deleted because others refer to it."""
    return FailedPrecondition("ENTRY_REFERENCED", "Other entries refer to it: delete or change those first.")


def _operated(transaction: Transaction, caller: Caller, path: str) -> StoredCollection | None:
    """Return a collection whose entries an operator may list and delete; None if it is another one or the caller is not an operator."""
    found = find_collection(transaction, caller, path) if caller.has_role(OPERATOR) else None
    return None if found is None or found.collection.sensitive or found.view is not None or found.is_replica else found


def _assigned(item: Assignment | MdmError, collections: Mapping[str, StoredCollection], refused: Mapping[int, MdmError]) -> Failure:
    if isinstance(item, MdmError):
        return item
    if fold_path(item.collection) not in collections:
        return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")
    return refused.get(id(item))


class Upsert:
    """One batch of entries for one collection."""

    def __init__(self, transaction: Transaction, caller: Caller, collection: StoredCollection) -> None:
        self._transaction = transaction
        self._caller = caller
        self._collection = collection
        self._existing: Mapping[str, StoredEntry] = {}
        self._acls: Mapping[UUID, int] = {}
        self._seen: set[str] = set()

    def run(self, entries: Sequence[Entry | MdmError]) -> list[Failure]:
        """Write the entries that are valid; return what is wrong with each of the others."""
        given = [entry for entry in entries if isinstance(entry, Entry)]
        self._existing = self._transaction.entries(self._collection.id, [entry.key for entry in given], self._caller)
        self._acls = self._transaction.acl_permissions({entry.acl_id for entry in given if entry.acl_id is not None}, self._caller)
        items = [entry if isinstance(entry, MdmError) else self._checked(entry) for entry in entries]
        self._check_references(items)
        self._check_conditions(items)
        self._check_unique(items)
        writes = [write for write in items if isinstance(write, EntryWrite)]
        self._transaction.write(self._collection.id, writes)
        moved = {w.key: w.acl_id for w in writes if w.key in self._existing and self._existing[w.key].acl_id != w.acl_id}
        self._transaction.assign(self._collection.id, moved)
        return [None if isinstance(write, EntryWrite) else write for write in items]

    def _checked(self, entry: Entry) -> EntryWrite | MdmError:
        try:
            return self._to_write(entry)
        except MdmError as error:
            return error

    def _to_write(self, entry: Entry) -> EntryWrite:
        check_key(entry.key)
        if entry.key in self._seen:
            raise Invalid("KEY_TWICE", "The key is twice in this batch.")
        self._seen.add(entry.key)
        existing = self._existing.get(entry.key)
        values, unique = self._values(entry, new=existing is None)
        if entry.acl_id is not None and (refusal := acl_refusal(entry.acl_id, self._acls)) is not None:
            raise refusal
        acl = entry.acl_id or (existing.acl_id if existing else self._collection.collection.default_acl_id)
        assert acl is not None
        if existing is not None and acl != existing.acl_id and not existing.permissions & Permission.CHANGE_ACL:
            raise Forbidden("ACL_CHANGE_FORBIDDEN", "Permission denied: assigning another ACL needs `p` on the entry's present one.")
        return EntryWrite(entry.key, acl, values, unique)

    def _values(self, entry: Entry, *, new: bool) -> tuple[dict[str, Scalar], dict[str, bytes | None]]:
        values: dict[str, Scalar] = {}
        unique: dict[str, bytes | None] = {}
        by_name = self._collection.by_name
        for name, given in entry.values.items():
            stored = by_name.get(name.lower())
            if stored is None:
                raise Invalid("ATTRIBUTE_UNKNOWN", "The collection has no attribute of one of the names given.")
            if stored.slot in values:
                raise Invalid("ATTRIBUTE_TWICE", f"Attribute {stored.attribute.name} is given twice; case does not matter.")
            values[stored.slot] = value.to_stored(stored.attribute, given)
            if stored.moving_to:
                values[stored.moving_to] = values[stored.slot]
            if stored.attribute.unique:
                unique[stored.slot] = None if given is None else value.digest(stored.attribute, values[stored.slot])
        if sum(len(text.encode()) for text in values.values() if isinstance(text, str)) > MAX_ENTRY - MAX_ENTRY // 16:
            raise Invalid("ENTRY_TOO_LARGE", f"An entry has at most {MAX_ENTRY} bytes.")
        for stored in self._collection.attributes:
            if stored.attribute.not_null and (values.get(stored.slot) is None if new else values.get(stored.slot, "") is None):
                raise Invalid("VALUE_MISSING", f"Attribute {stored.attribute.name} must have a value.")
        if new:  # there is nothing that NULL could remove
            values = {slot: given for slot, given in values.items() if given is not None}
        return values, unique

    def _check_references(self, items: list[EntryWrite | MdmError]) -> None:
        """Replace the writes that refer to an entry that does not exist, or that the caller may not see, by errors."""
        for stored in self._collection.attributes:
            if stored.reference_id is None:
                continue
            given = {str(write.values[stored.slot]) for write in _writes(items) if write.values.get(stored.slot) is not None}
            if not given:
                continue
            known = self._transaction.visible_keys(stored.reference_id, given, self._caller)
            if stored.reference_id == self._collection.id:
                known |= {write.key for write in _writes(items)}
            _refuse(items, partial(_dangling, stored, known))

    def _check_conditions(self, items: list[EntryWrite | MdmError]) -> None:
        """Replace the writes that would not fulfil a check by errors."""
        writes, checks = _writes(items), self._collection.checks
        if not writes or not checks:
            return
        conditions = [bind_condition(check.condition, self._collection) for check in checks]
        broken = self._transaction.violations(self._collection.id, writes, conditions)

        def refusal(write: EntryWrite) -> MdmError | None:
            number = broken.get(write.key)
            return None if number is None else Invalid("VALUE_CHECK", f"The entry does not fulfil the check {checks[number].name}.")

        _refuse(items, refusal)

    def _check_unique(self, items: list[EntryWrite | MdmError]) -> None:
        """Replace the writes of unique values that another entry has, in the database or earlier in the batch, by errors."""
        digests = {(slot, digest) for write in _writes(items) for slot, digest in write.unique.items() if digest is not None}
        if not digests:
            return
        holders = self._transaction.holders(self._collection.id, digests)
        names = {stored.slot: stored.attribute.name for stored in self._collection.attributes}
        for index, write in enumerate(items):
            if not isinstance(write, EntryWrite):
                continue
            taken = [slot for slot, digest in write.unique.items() if digest and holders.get((slot, digest), write.key) != write.key]
            if taken:
                items[index] = Conflict("VALUE_NOT_UNIQUE", f"Attribute {names[taken[0]]} is unique and another entry has this value.")
                continue
            holders.update({(slot, digest): write.key for slot, digest in write.unique.items() if digest is not None})


def _writes(items: Sequence[EntryWrite | MdmError]) -> list[EntryWrite]:
    return [write for write in items if isinstance(write, EntryWrite)]


def _dangling(stored: StoredAttribute, known: set[str], write: EntryWrite) -> MdmError | None:
    key = write.values.get(stored.slot)
    if key is None or str(key) in known:
        return None
    return NotFound("REFERENCE_NOT_FOUND", f"Attribute {stored.attribute.name}: no such entry in the collection it refers to.")


def _refuse(items: list[EntryWrite | MdmError], refusal: Callable[[EntryWrite], MdmError | None]) -> None:
    for index, write in enumerate(items):
        if isinstance(write, EntryWrite) and (error := refusal(write)) is not None:
            items[index] = error
