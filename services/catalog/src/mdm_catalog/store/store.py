"""The catalog in PostgreSQL: transactions and their retries, the root, and what access control lists guard."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

import psycopg
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl, AclUse
from mdm_service.access.store import AclScope
from mdm_wire.errors import Aborted
from psycopg.errors import DeadlockDetected, ForeignKeyViolation, LockNotAvailable, SerializationFailure
from psycopg_pool import ConnectionPool

from mdm_catalog.rules.model import ROOT_ID, EntryKind
from mdm_catalog.rules.port import ReadTransaction, WriteTransaction
from mdm_catalog.store.reading import PostgresReadTransaction
from mdm_catalog.store.writing import PostgresWriteTransaction, RaceLost

T = TypeVar("T")
_ATTEMPTS = 5
_LOCK_TIMEOUT = "10s"
_ROOT_LOCK = 0x4D444D01  # processes that start together create the root once

_AGAIN = (DeadlockDetected, SerializationFailure, LockNotAvailable, ForeignKeyViolation, RaceLost)


class PostgresStore:
    """The Store on a connection pool."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def read(self, work: Callable[[ReadTransaction], T]) -> T:
        """Run `work` on one snapshot."""
        with self._pool.connection() as connection, _snapshot(connection):
            return work(PostgresReadTransaction(connection))

    def write(self, work: Callable[[WriteTransaction], T]) -> T:
        """Run `work` in one transaction, again if the database could not serialise it with others."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._pool.connection() as connection:
                    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                    return work(PostgresWriteTransaction(connection))
            except _AGAIN:
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads retries, nothing secret
        raise Aborted("BUSY", "Others keep changing the same entries; nothing was changed, retry.")

    def ensure_root(self, acl: Acl) -> None:
        """Create the root directory if it is missing, under exactly this ACL."""
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ROOT_LOCK,))
            acl_store.ensure(connection, acl)
            connection.execute(
                "INSERT INTO entry (id, name, kind, acl_id, default_acl_id) OVERRIDING SYSTEM VALUE"
                " VALUES (%s, '', %s, %s, %s) ON CONFLICT (id) DO NOTHING",
                (ROOT_ID, EntryKind.DIRECTORY, acl.id, acl.id),
            )


class CatalogAclUses:
    """Counts files, directories and links; see `mdm_service.access.store.AclUses`.

    The scope is ignored: a change for more than one entry names a subtree, see `subtree.modify_acls`.
    """

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return how many entries refer to an ACL; a change is meant for one of them."""
        row = connection.execute(
            "SELECT coalesce(sum(files + directories + links + defaults), 0)::bigint FROM directory_content WHERE acl_id = %s", (acl_id,)
        ).fetchone()
        assert row is not None
        return AclUse.of_one(row[0])


@contextmanager
def _snapshot(connection: psycopg.Connection) -> Iterator[None]:
    """Make the transactions of the block read-only and each of one snapshot."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    try:
        with connection.transaction():
            yield
    finally:
        if not connection.closed:
            connection.isolation_level = None
            connection.read_only = None
