"""Execution of SELECT, UPDATE and DELETE for a caller."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Exhausted, MdmError
from mdm_wire.permission import Permission

from mdm_metadata.rules.access import allowed_original
from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.entry import Upsert, delete_locked
from mdm_metadata.rules.model import AttributeType, Entry, Scalar
from mdm_metadata.rules.port import Batch, Store, Transaction
from mdm_metadata.rules.query.binding.change import bind_change, changed_path
from mdm_metadata.rules.query.cache import QueryCache
from mdm_metadata.rules.query.compilation import Compilation, Membership, Request
from mdm_metadata.rules.query.merge import MergePlan
from mdm_metadata.rules.query.sql.statement import compile_change, compile_query
from mdm_metadata.rules.query.syntax.literal import to_constants
from mdm_metadata.rules.query.syntax.parse import parse_change
from mdm_metadata.rules.query.syntax.tree import Call, Change, Column, LiteralList, Output, Query, Readable, Source
from mdm_metadata.rules.value import to_scalar

MAX_CHANGED = 10_000
MAX_RETURNED = 3_000_000


@dataclass(frozen=True)
class Answer:
    """The columns of a query, its rows in batches of columns, and the way to stop it from another thread."""

    outputs: Sequence[Output]
    batches: Iterator[Batch]
    cancel: Callable[[], None]
    merge: MergePlan | None = None


class Queries:
    """Answers queries. A text that was asked before is neither parsed nor compiled again."""

    def __init__(self, store: Store, membership: Membership) -> None:
        self._store = store
        self._membership = membership
        self._cache = QueryCache()

    @contextmanager
    def query(self, caller: Caller, sql: str, parameters: Mapping[str, Scalar], *, partial: bool = False) -> Iterator[Answer]:
        """Evaluate a SELECT over the entries that the caller may read: it needs `r` on every collection and on every entry.

        With `partial`, the answer is this site's part of a query over several, with the merge plan.

        Raises:
            Invalid: the query is not allowed or cannot be computed; unknown and forbidden collections give one error.
            Aborted: the collections keep changing; safe to repeat.
        """
        compilation = Compilation(Request(caller, sql, to_constants(parameters), partial), self._cache, self._membership)
        with self._store.querying() as session:
            for query, merge in compilation.candidates(session.collections):
                batches = session.rows(query)
                if batches is not None:
                    yield Answer(query.statement.outputs, batches, session.cancel, merge)
                    return
            raise Aborted("COLLECTION_CHANGED", "The collections keep changing: try again.")

    def explain(self, caller: Caller, sql: str, parameters: Mapping[str, Scalar]) -> list[str]:
        """Return PostgreSQL's plan of a SELECT, which is not run. For operators, who need no permission on the collections."""
        compilation = Compilation(Request(caller, sql, to_constants(parameters)), self._cache, self._membership)
        with self._store.querying() as session:
            return session.explain(compilation.statement(session.collections))


@dataclass(frozen=True)
class Changed:
    """How many entries were changed, and the values to return."""

    count: int
    outputs: Sequence[Output]
    rows: Sequence[tuple[Any, ...]]


def change(store: Store, caller: Caller, sql: str, parameters: Mapping[str, Scalar], cancellation: Cancellation | None = None) -> Changed:
    """Carry out an UPDATE or DELETE, wholly or not at all. Needs `r` and `w` on the collection.

    It affects entries that the caller may read and, for DELETE, has `d` on. With LIMIT, entries that another call is changing
    are skipped.

    Raises:
        MdmError: it is not allowed, a new value is not valid, or too many entries are concerned.
    """
    tree = parse_change(sql)
    path, given = changed_path(tree, sql), to_constants(parameters)
    for attempt in store.writing(cancellation):
        with attempt as transaction:
            readable = {}
            collection = transaction.collections([path], caller).get(path)
            if collection is not None and collection.permissions & Permission.READ:
                readable[path] = Readable(allowed_original(collection, Permission.WRITE, "w"), caller)
            change = bind_change(tree, sql, readable.get, given)
            return _Execution(transaction, caller, change).run()
    raise AssertionError("a store tries at least once")


class _Execution:
    """One UPDATE or DELETE within a transaction."""

    def __init__(self, transaction: Transaction, caller: Caller, change: Change) -> None:
        self._transaction = transaction
        self._caller = caller
        self._change = change
        self._collection = change.readable.collection

    def run(self) -> Changed:
        """Find, check and change the entries.

        Raises:
            MdmError: one cannot be changed; then nothing is.
        """
        change = self._change
        limit = MAX_CHANGED + 1 if change.limit is None else change.limit
        if change.limit is not None and change.limit > MAX_CHANGED:
            raise _too_many()
        deletes = not change.sets
        statement = compile_change(change, int(Permission.DELETE) if deletes else 0, limit)
        rows = self._transaction.select_changed(statement)
        if len(rows) > MAX_CHANGED:
            raise _too_many()
        keys = [str(row[0]) for row in rows]
        if deletes:
            delete_locked(self._transaction, self._collection, keys)
            return Changed(len(keys), (), ())
        self._update(rows)
        return Changed(len(keys), change.returning, self._returned(keys))

    def _update(self, rows: Sequence[tuple[Any, ...]]) -> None:
        names = [(stored.attribute.name, stored.attribute.type) for stored, _ in self._change.sets]
        entries = []
        for key, *values in rows:
            given = {name: to_scalar(kind, value) for (name, kind), value in zip(names, values, strict=True)}
            entries.append(Entry(str(key), given))
        for failure in Upsert(self._transaction, self._caller, self._collection).run(entries):
            if failure is not None:
                raise failure

    def _returned(self, keys: Sequence[str]) -> Sequence[tuple[Any, ...]]:
        if not self._change.returning or not keys:
            return ()
        key = Column(0, "", AttributeType.TEXT)
        chosen = Call("IN LIST", (key, LiteralList(tuple(keys), AttributeType.TEXT)), AttributeType.BOOL)
        outputs = (*self._change.returning, Output("", key, AttributeType.TEXT))
        query = Query((Source(self._change.readable),), outputs, chosen, (), None, (), False, len(keys), None)
        places = {found: place for place, found in enumerate(keys)}
        rows = self._transaction.read(compile_query(query))
        if sum(len(str(value).encode()) for row in rows for value in row) > MAX_RETURNED:
            raise Exhausted("CHANGE_TOO_LARGE", "RETURNING would give more than 3 MB: use a smaller LIMIT, or fewer attributes.")
        return [row[:-1] for row in sorted(rows, key=lambda row: places[row[-1]])]


def _too_many() -> MdmError:
    return Exhausted("CHANGE_TOO_LARGE", f"At most {MAX_CHANGED} entries a call: use LIMIT {MAX_CHANGED} and repeat until 0 are changed.")
