"""Use cases of the metadata service, and the ports they need."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from mdm_service.acl import Permission
from mdm_service.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound
from mdm_service.identity import Caller

from mdm_metadata import value
from mdm_metadata.model import (
    Assignment,
    Collection,
    Entry,
    EntryWrite,
    Scalar,
    StoredCollection,
    StoredEntry,
    check_key,
    check_path,
    fold_path,
    parent_of,
)
from mdm_metadata.query.bind import bind, collection_paths
from mdm_metadata.query.compile import Statement, compile_query
from mdm_metadata.query.parse import parse
from mdm_metadata.query.tree import Output

MAX_COLLECTIONS = 1_000
MAX_ENTRIES = 10_000
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
        """Drop a collection with its entries; False, changing nothing, when collections are below it."""

    def entries(self, collection_id: int, keys: Iterable[str], caller: Caller) -> dict[str, StoredEntry]:
        """Return the entries that exist among `keys`, locked."""

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


class QuerySession(Protocol):
    """One read-only snapshot, for one query."""

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        """Return the collections that exist among folded paths."""

    def rows(self, statement: Statement) -> Iterator[Batch]:
        """Run a statement and yield its rows in batches, each as a list of columns; after `cancel` it just ends.

        Raises:
            Invalid: a value cannot be computed. Exhausted: too slow, or too many rows.
        """

    def cancel(self) -> None:
        """Stop what runs, from any thread; without effect when nothing does."""


class Store(Protocol):
    """The database."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin a transaction."""

    def writing(self) -> Iterator[AbstractContextManager[Transaction]]:
        """Yield transactions to try, one after another, until one commits; the last failure is raised."""

    def querying(self) -> AbstractContextManager[QuerySession]:
        """Begin a snapshot."""


@dataclass(frozen=True)
class Answer:
    """The columns of a query, its rows in batches of columns, and the way to stop it from another thread."""

    outputs: Sequence[Output]
    batches: Iterator[Batch]
    cancel: Callable[[], None]


class MetadataService:
    """What callers may do with collections, entries and queries."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_collections(self, caller: Caller, collections: Sequence[Collection]) -> list[Outcome]:
        """Create collections in order. One that exists with the same schema counts as created.

        Each needs `w` on its parent; an ACL that is not named is the parent's default ACL.
        """
        _check_batch(collections, MAX_COLLECTIONS, "collections")
        with self._store.transaction() as transaction:
            return _Creation(transaction, caller, collections).run()

    def list_collections(self, caller: Caller, path: str, after: str, limit: int) -> list[StoredCollection]:
        """Return at most `limit` collections at and below `path`, after the folded path `after`, that the caller may list or get."""
        check_path(path)
        with self._store.transaction() as transaction:
            return transaction.list_collections(fold_path(path), after, limit, caller)

    def drop_collections(self, caller: Caller, paths: Sequence[str]) -> list[Outcome]:
        """Drop collections with their entries, in order. Each needs `d` and no collection below it."""
        _check_batch(paths, MAX_COLLECTIONS, "collections")
        with self._store.transaction() as transaction:
            return [_outcome(lambda path: self._drop(transaction, caller, path), path) for path in paths]

    def _drop(self, transaction: Transaction, caller: Caller, path: str) -> None:
        check_path(path)
        found = transaction.collections([fold_path(path)], caller).get(fold_path(path))
        collection = _allowed(found, Permission.DELETE, "d")
        if fold_path(path) == "/":
            raise Invalid("ROOT", "The root collection cannot be dropped.")
        if not transaction.drop_collection(collection.id):
            raise FailedPrecondition("COLLECTION_NOT_EMPTY", "There are collections below it: drop them first.")

    def upsert(self, caller: Caller, path: str, entries: Sequence[Entry | MdmError]) -> list[Outcome]:
        """Insert or update entries; attributes not named keep their value, NULL removes one.

        Needs `w` on the collection, and `p` under an existing entry's ACL to point it at another. An entry that failed to be read is
        passed as its error. Messages name attribute and type, never a value.
        """
        _check_batch(entries, MAX_ENTRIES, "entries")
        for attempt in self._store.writing():
            with attempt as transaction:
                collection = self._writable(transaction, caller, path)
                batch = _Upsert(transaction, caller, collection)
                return batch.run(entries)
        raise AssertionError("a store tries at least once")

    def delete(self, caller: Caller, path: str, keys: Sequence[str]) -> list[Outcome]:
        """Delete entries. Needs `w` on the collection and `d` on each entry."""
        _check_batch(keys, MAX_ENTRIES, "keys")
        with self._store.transaction() as transaction:
            collection = self._writable(transaction, caller, path)
            found = transaction.entries(collection.id, keys, caller)
            outcomes = [_entry_refusal(found.get(key), Permission.DELETE, "d") for key in keys]
            transaction.delete(collection.id, [key for key, outcome in zip(keys, outcomes, strict=True) if outcome is None])
        return outcomes

    def assign(self, caller: Caller, assignments: Sequence[Assignment | MdmError]) -> list[Outcome]:
        """Point entries at other ACLs. Needs `p` under the present one; an entry that the caller may not see is not found."""
        _check_batch(assignments, MAX_ENTRIES, "assignments")
        wanted = [item for item in assignments if isinstance(item, Assignment)]
        refused: dict[int, MdmError] = {}
        with self._store.transaction() as transaction:
            collections = transaction.collections({fold_path(item.collection) for item in wanted}, caller)
            acls = transaction.acl_permissions({item.acl_id for item in wanted}, caller)
            for path, collection in sorted(collections.items()):
                mine = [item for item in wanted if fold_path(item.collection) == path]
                found = transaction.entries(collection.id, {item.key for item in mine}, caller)
                for item in mine:
                    refusal = _entry_refusal(found.get(item.key), Permission.CHANGE_ACL, "p") or _acl_refusal(item.acl_id, acls)
                    if refusal is not None:
                        refused[id(item)] = refusal
                transaction.assign(collection.id, {item.key: item.acl_id for item in mine if id(item) not in refused})
        return [_assigned(item, collections, refused) for item in assignments]

    def _writable(self, transaction: Transaction, caller: Caller, path: str) -> StoredCollection:
        check_path(path)
        return _allowed(transaction.collections([fold_path(path)], caller).get(fold_path(path)), Permission.WRITE, "w")

    @contextmanager
    def query(self, caller: Caller, sql: str) -> Iterator[Answer]:
        """Evaluate a SELECT over what the caller may read: `r` on every collection and on every entry.

        Raises:
            Invalid: the query is not allowed or cannot be computed; unknown and forbidden collections are told alike.
        """
        tree = parse(sql)
        paths = collection_paths(tree, sql)
        with self._store.querying() as session:
            found = session.collections(set(paths), caller)
            readable = {path: collection for path, collection in found.items() if collection.permissions & Permission.READ}
            statement = compile_query(bind(tree, sql, readable.get), caller)
            yield Answer(statement.outputs, session.rows(statement), session.cancel)


class _Creation:
    """One batch of CreateCollections."""

    def __init__(self, transaction: Transaction, caller: Caller, collections: Sequence[Collection]) -> None:
        self._transaction = transaction
        self._collections = collections
        paths = {path for item in collections for path in (item.folded, parent_of(item.folded))}
        self._known: dict[str, tuple[Collection, int]] = {
            path: (stored.collection, stored.permissions) for path, stored in transaction.collections(paths, caller).items()
        }
        named = {acl for item in collections for acl in (item.acl_id, item.default_acl_id) if acl is not None}
        defaults = {known.default_acl_id for known, _ in self._known.values() if known.default_acl_id is not None}
        self._acls = transaction.acl_permissions(named | defaults, caller)
        self._caller = caller

    def run(self) -> list[Outcome]:
        new: list[Collection] = []
        outcomes: list[Outcome] = [_outcome(lambda item: self._plan(item, new), item) for item in self._collections]
        inserted = self._transaction.insert_collections(new)
        lost = [item.folded for item in new if item.folded not in inserted]
        if lost:  # created by somebody else since we looked
            existing = self._transaction.collections(lost, self._caller)
            for index, item in enumerate(self._collections):
                if item.folded in existing and outcomes[index] is None:
                    outcomes[index] = _outcome(lambda item: _check_same(item, existing[item.folded].collection), item)
        return outcomes

    def _plan(self, item: Collection, new: list[Collection]) -> None:
        item.check()
        if item.folded == "/":
            raise Invalid("ROOT", "The root collection exists by configuration.")
        parent, permissions = self._known.get(parent_of(item.folded), (None, 0))
        if parent is None or not permissions & (VISIBLE | Permission.WRITE):
            raise NotFound("PARENT_NOT_FOUND", "The parent collection does not exist, or you may not see it: create parents first.")
        if not permissions & Permission.WRITE:
            raise Forbidden("PARENT_FORBIDDEN", "You need `w` on the parent collection.")
        existing, _ = self._known.get(item.folded, (None, 0))
        if existing is not None:
            _check_same(item, existing)
            return
        acl = item.acl_id or parent.default_acl_id
        default = item.default_acl_id or parent.default_acl_id
        for acl_id in (acl, default):
            if (refusal := None if acl_id is None else _acl_refusal(acl_id, self._acls)) is not None:
                raise refusal
        complete = Collection(item.path, item.attributes, acl, default, item.sensitive)
        new.append(complete)
        self._known[item.folded] = (complete, self._acls[acl] if acl else 0)


class _Upsert:
    """One batch of UpsertEntries into one collection."""

    def __init__(self, transaction: Transaction, caller: Caller, collection: StoredCollection) -> None:
        self._transaction = transaction
        self._caller = caller
        self._collection = collection

    def run(self, entries: Sequence[Entry | MdmError]) -> list[Outcome]:
        keys = [entry.key for entry in entries if isinstance(entry, Entry)]
        default = self._collection.collection.default_acl_id
        assert default is not None
        self._existing = self._transaction.entries(self._collection.id, keys, self._caller)
        named = {entry.acl_id for entry in entries if isinstance(entry, Entry) and entry.acl_id is not None}
        self._acls = self._transaction.acl_permissions(named, self._caller)
        self._seen: set[str] = set()
        planned = [entry if isinstance(entry, MdmError) else self._planned(entry, default) for entry in entries]
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
        if entry.acl_id is not None and (refusal := _acl_refusal(entry.acl_id, self._acls)) is not None:
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
            if stored.attribute.unique:
                unique[stored.slot] = None if given is None else value.digest(stored.attribute, values[stored.slot])
        for stored in self._collection.attributes:
            if stored.attribute.not_null and (values.get(stored.slot) is None if new else values.get(stored.slot, "") is None):
                raise Invalid("VALUE_MISSING", f"Attribute {stored.attribute.name} must have a value.")
        return values, unique

    def _check_unique(self, planned: list[EntryWrite | MdmError]) -> None:
        """Replace writes whose unique values other entries hold, in the database or earlier in the batch, by errors."""
        writes = [write for write in planned if isinstance(write, EntryWrite)]
        digests = {(slot, digest) for write in writes for slot, digest in write.unique.items() if digest is not None}
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


def _outcome(act: Callable[[T], None], item: T) -> Outcome:
    try:
        act(item)
    except MdmError as error:
        return error
    return None


def _check_same(item: Collection, existing: Collection) -> None:
    if not item.same_schema(existing):
        raise Conflict("COLLECTION_EXISTS", "The collection exists with another schema.")


def _allowed(found: StoredCollection | None, wanted: Permission, letter: str) -> StoredCollection:
    """Return a collection if its permissions suffice; unknown and invisible ones are told alike."""
    if found is not None and found.permissions & wanted:
        return found
    if found is not None and found.permissions & VISIBLE:
        raise Forbidden("COLLECTION_FORBIDDEN", f"You need `{letter}` on the collection.")
    raise NotFound("COLLECTION_NOT_FOUND", "No such collection, or you may not see it.")


def _entry_refusal(found: StoredEntry | None, wanted: Permission, letter: str) -> Outcome:
    if found is not None and found.permissions & wanted:
        return None
    if found is not None and found.permissions & VISIBLE:
        return Forbidden("ENTRY_FORBIDDEN", f"You need `{letter}` under the entry's ACL.")
    return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")


def _acl_refusal(acl_id: UUID, known: Mapping[UUID, int]) -> Outcome:
    return None if acl_id in known else NotFound("ACL_NOT_FOUND", "No such ACL here: create it first.")


def _assigned(item: Assignment | MdmError, collections: Mapping[str, StoredCollection], refused: Mapping[int, MdmError]) -> Outcome:
    if isinstance(item, MdmError):
        return item
    if fold_path(item.collection) not in collections:
        return NotFound("ENTRY_NOT_FOUND", "No such entry, or you may not see it.")
    return refused.get(id(item))


def _check_batch(items: Sequence[object], limit: int, what: str) -> None:
    if len(items) > limit:
        raise Invalid("BATCH_TOO_LARGE", f"At most {limit} {what} a call.")
