"""UpsertEntries: validation of entries, and what they become in the store."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_metadata.rules import value
from mdm_metadata.rules.access import Failure, acl_refusal
from mdm_metadata.rules.model import MAX_ENTRY, AttributeType, Entry, EntryWrite, Scalar, StoredAttribute, StoredCollection, check_key
from mdm_metadata.rules.port import Transaction
from mdm_metadata.rules.query.binding.change import bind_condition


class Upsert:
    """One batch of entries for one collection."""

    def __init__(self, transaction: Transaction, caller: Caller, collection: StoredCollection) -> None:
        self._transaction = transaction
        self._caller = caller
        self._collection = collection

    def run(self, entries: Sequence[Entry | MdmError]) -> list[Failure]:
        """Write what is valid; return what is wrong with each of the others."""
        keys = [entry.key for entry in entries if isinstance(entry, Entry)]
        default = self._collection.collection.default_acl_id
        assert default is not None
        self._existing = self._transaction.entries(self._collection.id, keys, self._caller)
        named = {entry.acl_id for entry in entries if isinstance(entry, Entry) and entry.acl_id is not None}
        self._acls = self._transaction.acl_permissions(named, self._caller)
        self._seen: set[str] = set()
        planned = [entry if isinstance(entry, MdmError) else self._planned(entry, default) for entry in entries]
        self._check_references(planned)
        self._check_conditions(planned)
        self._check_unique(planned)
        writes = [write for write in planned if isinstance(write, EntryWrite)]
        self._transaction.write(self._collection.id, writes)
        moved = {w.key: w.acl_id for w in writes if w.key in self._existing and self._existing[w.key].acl_id != w.acl_id}
        self._transaction.assign(self._collection.id, moved)
        return [None if isinstance(write, EntryWrite) else write for write in planned]

    def _planned(self, entry: Entry, default: UUID) -> EntryWrite | MdmError:
        try:
            return self._plan(entry, default)
        except MdmError as error:
            return error

    def _plan(self, entry: Entry, default: UUID) -> EntryWrite:
        check_key(entry.key)
        if entry.key in self._seen:
            raise Invalid("KEY_TWICE", "The key is in this batch twice.")
        self._seen.add(entry.key)
        existing = self._existing.get(entry.key)
        values, unique = self._values(entry, new=existing is None)
        if entry.acl_id is not None and (refusal := acl_refusal(entry.acl_id, self._acls)) is not None:
            raise refusal
        acl = entry.acl_id or (existing.acl_id if existing else default)
        if existing is not None and acl != existing.acl_id and not existing.permissions & Permission.CHANGE_ACL:
            raise Forbidden("ACL_CHANGE_FORBIDDEN", "You need `p` under the entry's present ACL to point it at another.")
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
        if sum(len(item.encode()) for item in values.values() if isinstance(item, str)) > MAX_ENTRY - MAX_ENTRY // 16:
            raise Invalid("ENTRY_TOO_LARGE", f"An entry has at most {MAX_ENTRY} bytes.")
        for stored in self._collection.attributes:
            if stored.attribute.not_null and (values.get(stored.slot) is None if new else values.get(stored.slot, "") is None):
                raise Invalid("VALUE_MISSING", f"Attribute {stored.attribute.name} must have a value.")
        if new:  # there is nothing that NULL could remove
            values = {slot: given for slot, given in values.items() if given is not None}
        return values, unique

    def _check_references(self, planned: list[EntryWrite | MdmError]) -> None:
        """Replace writes whose references are keys of no entry that the caller may see by errors."""
        for stored in self._collection.attributes:
            if stored.reference_id is None:
                continue
            given = {str(write.values[stored.slot]) for write in _writes(planned) if write.values.get(stored.slot) is not None}
            if not given:
                continue
            known = self._transaction.visible_keys(stored.reference_id, given, self._caller)
            if stored.reference_id == self._collection.id:
                known |= {write.key for write in _writes(planned)}
            _refuse(planned, partial(_dangling, stored, known))

    def _check_conditions(self, planned: list[EntryWrite | MdmError]) -> None:
        """Replace writes that would not fulfil a check by errors."""
        writes = _writes(planned)
        if not writes or not self._collection.checks:
            return
        conditions = [bind_condition(check.condition, self._collection) for check in self._collection.checks]
        broken = self._transaction.violations(self._collection.id, writes, conditions)
        names = [check.name for check in self._collection.checks]
        _refuse(
            planned,
            lambda write: (
                Invalid("VALUE_CHECK", f"The entry does not fulfil the check {names[broken[write.key]]}.") if write.key in broken else None
            ),
        )

    def _check_unique(self, planned: list[EntryWrite | MdmError]) -> None:
        """Replace writes whose unique values other entries hold, in the database or earlier in the batch, by errors."""
        digests = {(slot, digest) for write in _writes(planned) for slot, digest in write.unique.items() if digest is not None}
        if not digests:
            return
        holders = self._transaction.holders(self._collection.id, digests)
        names = {stored.slot: stored.attribute.name for stored in self._collection.attributes}
        for index, write in enumerate(planned):
            if not isinstance(write, EntryWrite):
                continue
            taken = [slot for slot, digest in write.unique.items() if digest and holders.get((slot, digest), write.key) != write.key]
            if taken:
                planned[index] = Conflict("VALUE_NOT_UNIQUE", f"Attribute {names[taken[0]]} is unique and another entry has this value.")
                continue
            holders.update({(slot, digest): write.key for slot, digest in write.unique.items() if digest is not None})


def to_scalar(kind: AttributeType, given: object) -> Scalar:
    """Return a value that PostgreSQL computed in the form in which callers give values."""
    if kind is AttributeType.FLOAT and isinstance(given, int):
        return float(given)
    return given if given is None or isinstance(given, int | float | bool) else str(given)


def _writes(planned: Sequence[EntryWrite | MdmError]) -> list[EntryWrite]:
    return [write for write in planned if isinstance(write, EntryWrite)]


def _dangling(stored: StoredAttribute, known: set[str], write: EntryWrite) -> MdmError | None:
    key = write.values.get(stored.slot)
    if key is None or str(key) in known:
        return None
    return NotFound("REFERENCE_NOT_FOUND", f"Attribute {stored.attribute.name}: no such entry in the collection it refers to.")


def _refuse(planned: list[EntryWrite | MdmError], refusal: Callable[[EntryWrite], MdmError | None]) -> None:
    for index, write in enumerate(planned):
        if isinstance(write, EntryWrite) and (error := refusal(write)) is not None:
            planned[index] = error
