"""Transactions on PostgreSQL: the ports of the service."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any
from uuid import UUID

import psycopg
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl
from mdm_service.database import lock_held
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Cancelled
from psycopg_pool import ConnectionPool

from mdm_metadata.rules.access import VISIBLE
from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.model import Collection, EntryWrite, StoredCollection, StoredEntry, Validation
from mdm_metadata.rules.query.sql.compile import Statement
from mdm_metadata.rules.query.syntax.tree import Expression
from mdm_metadata.store import entry, schema
from mdm_metadata.store.alteration import PostgresAlteration
from mdm_metadata.store.backfill import PostgresBackfill
from mdm_metadata.store.sequence import PostgresSequences
from mdm_metadata.store.session import CANCEL_SECONDS, PostgresQuerySession, QueryLimits, read_all

ATTEMPTS = 3


class PostgresTransaction:
    """One transaction. See the port for what each method does."""

    def __init__(self, connection: psycopg.Connection, cache: schema.SchemaCache, limits: QueryLimits) -> None:
        self._connection = connection
        self._cache = cache
        self._seconds = limits.statement_seconds

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        """Return the collections that exist among folded paths; they cannot be dropped until the transaction ends."""
        return schema.find_collections(self._connection, self._cache, paths, caller)

    def list_collections(self, path: str, after: str, limit: int, caller: Caller) -> list[StoredCollection]:
        """Return collections at and below a folded path that the caller may list or get."""
        return schema.list_collections(self._connection, self._cache, path, after, limit, caller)

    def acl_permissions(self, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
        """Return what the caller may do under each ACL that exists."""
        return schema.acl_permissions(self._connection, ids, caller)

    def insert_collections(self, collections: Sequence[Collection]) -> set[str]:
        """Insert collections, parents before children; return the folded paths of those that did not exist."""
        return schema.insert_collections(self._connection, collections)

    def drop_collection(self, collection_id: int) -> bool:
        """Drop a collection with its entries; False when collections are below it, views show it or attributes refer to it."""
        self._connection.execute("SELECT FROM collection WHERE id = %s FOR UPDATE", (collection_id,))
        dropped = self._connection.execute(
            "DELETE FROM collection WHERE id = %(id)s AND NOT EXISTS (SELECT FROM collection WHERE parent_id = %(id)s)"
            " AND NOT EXISTS (SELECT FROM view WHERE target_id = %(id)s)"
            " AND NOT EXISTS (SELECT FROM attribute WHERE reference_id = %(id)s AND collection_id <> %(id)s) RETURNING id",
            {"id": collection_id},
        )
        return dropped.fetchone() is not None

    def entries(self, collection_id: int, keys: Iterable[str], caller: Caller) -> dict[str, StoredEntry]:
        """Return the entries that exist among `keys`, locked."""
        return entry.find_entries(self._connection, collection_id, keys, caller)

    def entry_keys(self, collection_id: int, after: str, limit: int) -> list[str]:
        """Return at most `limit` keys that follow `after`, in order of their bytes."""
        return entry.keys_after(self._connection, collection_id, after, limit)

    def holders(self, collection_id: int, digests: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], str]:
        """Return which entry holds each unique value."""
        return entry.find_holders(self._connection, collection_id, digests)

    def write(self, collection_id: int, entries: Sequence[EntryWrite]) -> None:
        """Insert entries or merge their values into those that exist."""
        entry.write_entries(self._connection, collection_id, entries)

    def assign(self, collection_id: int, acls: Mapping[str, UUID]) -> None:
        """Point entries at ACLs."""
        entry.assign_acls(self._connection, collection_id, acls)

    def delete(self, collection_id: int, keys: Sequence[str]) -> None:
        """Delete entries."""
        entry.delete_entries(self._connection, collection_id, keys)

    def violations(self, collection_id: int, entries: Sequence[EntryWrite], checks: Sequence[Expression]) -> dict[str, int]:
        """Return the number of the first check that an entry, as it would be after being written, does not fulfil, by key."""
        return entry.find_violations(self._connection, collection_id, entries, checks)

    def visible_keys(self, collection_id: int, keys: Iterable[str], caller: Caller) -> set[str]:
        """Return which entries exist that the caller may list, get or read; they cannot be deleted until the transaction ends."""
        return entry.visible_keys(self._connection, collection_id, keys, caller, int(VISIBLE))

    def referenced_keys(self, collection_id: int, keys: Sequence[str]) -> set[str]:
        """Return which entries others refer to by a reference attribute."""
        return entry.referenced_keys(self._connection, collection_id, keys)

    def select_changed(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Lock the entries that a change concerns and return key and new values of each."""
        return read_all(self._connection, statement, self._seconds, 1)

    def read(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, as the transaction sees them."""
        return read_all(self._connection, statement, self._seconds)

    def sequences(self) -> PostgresSequences:
        """Return the sequences."""
        return PostgresSequences(self._connection)


class PostgresStore:
    """The metadata database."""

    def __init__(self, pool: ConnectionPool, reading: ConnectionPool, limits: QueryLimits) -> None:
        self._pool = pool
        self._reading = reading
        self._limits = limits
        self._cache = schema.SchemaCache()

    @contextmanager
    def transaction(self, cancellation: Cancellation | None = None) -> Iterator[PostgresTransaction]:
        """Begin a transaction; it commits at the end of the block, unless it was interrupted."""
        with self._pool.connection() as connection, _cancelled_by(cancellation or Cancellation(), connection):
            yield PostgresTransaction(connection, self._cache, self._limits)

    def writing(self, cancellation: Cancellation | None = None) -> Iterator[AbstractContextManager[PostgresTransaction]]:
        """Yield transactions to try until one commits."""
        for attempt in range(ATTEMPTS):
            yield _Attempt(self.transaction(cancellation), last=attempt == ATTEMPTS - 1)

    @contextmanager
    def altering(self) -> Iterator[PostgresAlteration]:
        """Begin a transaction that changes a schema."""
        with self._pool.connection() as connection:
            yield PostgresAlteration(connection, self._cache)

    def backfill(self) -> PostgresBackfill:
        """Return the way to work through all entries of a collection."""
        return PostgresBackfill(self._pool)

    def hold(self, number: int) -> AbstractContextManager[bool]:
        """Hold a validation's number during the block, unless somebody else does; until this process dies at the latest."""
        return lock_held(self._pool, number)

    def validations(self) -> list[Validation]:
        """Return the validations that are under way or were left by a crash."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT number, collection_id, position, coalesce(check_name, ''), constraints FROM trial ORDER BY number"
            )
            return [
                Validation(number, collection, position, check, frozenset(tried)) for number, collection, position, check, tried in rows
            ]

    def unerased(self) -> list[int]:
        """Return the collections in which values are still to be erased."""
        with self._pool.connection() as connection:
            return [number for (number,) in connection.execute("SELECT DISTINCT collection_id FROM retired_slot ORDER BY 1")]

    @contextmanager
    def querying(self) -> Iterator[PostgresQuerySession]:
        """Begin a query on a connection that only reads."""
        with self._reading.connection() as connection:
            session = PostgresQuerySession(connection, self._cache, self._limits)
            try:
                yield session
            finally:
                session.end()

    def ensure_root(self, acl: Acl) -> None:
        """Make the root collection exist under exactly this ACL."""
        with self._pool.connection() as connection:
            acl_store.ensure(connection, acl)
            connection.execute(
                "INSERT INTO collection (path, folded_path, acl_id, default_acl_id) VALUES ('/', '/', %(acl)s, %(acl)s)"
                " ON CONFLICT (folded_path) DO UPDATE SET acl_id = excluded.acl_id, default_acl_id = excluded.default_acl_id",
                {"acl": acl.id},
            )


@contextmanager
def _cancelled_by(cancellation: Cancellation, connection: psycopg.Connection) -> Iterator[None]:
    """Let an cancellation stop what the connection does; it is then closed, lest a late cancel reaches its next user."""
    try:
        with cancellation.stopping(lambda: _cancel(connection)):
            yield
    except psycopg.errors.QueryCanceled:
        if not cancellation.is_set:
            raise
    finally:
        if cancellation.is_set:
            connection.close()
    if cancellation.is_set:
        raise Cancelled


def _cancel(connection: psycopg.Connection) -> None:
    with suppress(psycopg.Error):  # it ended by itself, or the database is away
        connection.cancel_safe(timeout=CANCEL_SECONDS)


class _Attempt:
    """A transaction whose failure by a concurrent one is swallowed, unless it is the last attempt."""

    def __init__(self, transaction: AbstractContextManager[PostgresTransaction], *, last: bool) -> None:
        self._transaction = transaction
        self._last = last

    def __enter__(self) -> PostgresTransaction:
        return self._transaction.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._transaction.__exit__(kind, error, trace)
        concurrent = isinstance(error, Aborted | psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure)
        return concurrent and not self._last
