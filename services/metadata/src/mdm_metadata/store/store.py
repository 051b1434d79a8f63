"""The metadata database: transactions, alterations and queries, and their cancellation when the caller has disconnected."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType

import psycopg
from mdm_service.access.acl import Acl
from mdm_service.database import lock_held
from mdm_wire.errors import Aborted, Cancelled
from psycopg_pool import ConnectionPool

from mdm_metadata.rules.cancellation import Cancellation
from mdm_metadata.rules.model import Validation
from mdm_metadata.store.acl import ensure_root
from mdm_metadata.store.alteration import PostgresAlteration
from mdm_metadata.store.backfill import PostgresBackfill
from mdm_metadata.store.schema import SchemaCache
from mdm_metadata.store.session import CANCEL_SECONDS, PostgresQuerySession, QueryLimits
from mdm_metadata.store.transaction import PostgresTransaction

ATTEMPTS = 3


class PostgresStore:
    """The metadata database; its port describes each method."""

    def __init__(self, pool: ConnectionPool, reading: ConnectionPool, limits: QueryLimits) -> None:
        self._pool = pool
        self._reading = reading
        self._limits = limits
        self._cache = SchemaCache()

    @contextmanager
    def transaction(self, cancellation: Cancellation | None = None) -> Iterator[PostgresTransaction]:
        """Begin a transaction; it commits at the end of the block, unless it was interrupted."""
        with self._pool.connection() as connection, _cancelled_by(cancellation or Cancellation(), connection):
            yield PostgresTransaction(connection, self._cache, self._limits)

    def writing(self, cancellation: Cancellation | None = None) -> Iterator[AbstractContextManager[PostgresTransaction]]:
        for attempt in range(ATTEMPTS):
            yield _Attempt(self.transaction(cancellation), last=attempt == ATTEMPTS - 1)

    @contextmanager
    def altering(self) -> Iterator[PostgresAlteration]:
        with self._pool.connection() as connection:
            yield PostgresAlteration(connection, self._cache)

    def backfill(self) -> PostgresBackfill:
        return PostgresBackfill(self._pool)

    def hold(self, number: int) -> AbstractContextManager[bool]:
        return lock_held(self._pool, number)

    def validations(self) -> list[Validation]:
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT number, collection_id, position, coalesce(check_name, ''), constraints FROM validation ORDER BY number"
            )
            return [
                Validation(number, collection, position, check, frozenset(names)) for number, collection, position, check, names in rows
            ]

    def unerased(self) -> list[int]:
        with self._pool.connection() as connection:
            return [number for (number,) in connection.execute("SELECT DISTINCT collection_id FROM retired_slot ORDER BY 1")]

    @contextmanager
    def querying(self) -> Iterator[PostgresQuerySession]:
        with self._reading.connection() as connection:
            session = PostgresQuerySession(connection, self._cache, self._limits)
            try:
                yield session
            finally:
                session.end()

    def ensure_root(self, acl: Acl) -> None:
        """Create the root collection if it is missing, under exactly this ACL."""
        with self._pool.connection() as connection:
            ensure_root(connection, acl)


@contextmanager
def _cancelled_by(cancellation: Cancellation, connection: psycopg.Connection) -> Iterator[None]:
    """Let a cancellation stop what the connection does; then close it, so that no late cancel reaches its next user."""
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
    """A transaction that ignores a failure caused by a concurrent one, unless it is the last attempt."""

    def __init__(self, transaction: AbstractContextManager[PostgresTransaction], *, last: bool) -> None:
        self._transaction = transaction
        self._last = last

    def __enter__(self) -> PostgresTransaction:
        return self._transaction.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._transaction.__exit__(kind, error, trace)
        concurrent = isinstance(error, Aborted | psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure)
        return concurrent and not self._last
