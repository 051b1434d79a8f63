"""The audit chain's pages, its identity and witnessed heads in PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from mdm_crypto.audit import AuditEntry, ChainedEntry, SignedHead, WitnessedHead
from mdm_service.database import lock_held
from mdm_service.identity.caller import Caller
from psycopg_pool import ConnectionPool

from mdm_keystore.rules.audit import End, Identity
from mdm_keystore.store.key import PostgresChange, head_held, hold_head

_SHOWING_LOCK = 0x4D444B53  # "MDKS": one process at a time per database
_HEAD = "share_index, chain_id, seq, hash, time, signature, signing_key"
_WITNESSED = f"{_HEAD}, witness_signature, witness_key"


class PostgresTrail:
    """The audit trail in one keystore's database, whose share index is `index`."""

    def __init__(self, pool: ConnectionPool, index: int) -> None:
        self._pool = pool
        self._index = index

    @contextmanager
    def trail_change(self) -> Iterator["PostgresTrailChange"]:
        with head_held(self._pool) as connection:
            yield PostgresTrailChange(connection, self._index)

    def entries(self, after: int, limit: int) -> tuple[Sequence[ChainedEntry], End]:
        with self._pool.connection() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            rows = connection.execute(
                "SELECT seq, time, who, action, guid, outcome, hash FROM audit_entry WHERE seq > %s ORDER BY seq LIMIT %s", (after, limit)
            ).fetchall()
            return [ChainedEntry(row[0], AuditEntry(*row[1:6]), row[6]) for row in rows], _end(connection)

    def end(self) -> End:
        with self._pool.connection() as connection:
            return _end(connection)

    def showing(self) -> AbstractContextManager[bool]:
        return lock_held(self._pool, _SHOWING_LOCK)

    def witnessed(self, share_index: int, after: int, limit: int) -> Sequence[tuple[int, WitnessedHead]]:
        with self._pool.connection() as connection:
            rows = connection.execute(
                f"""SELECT number, {_WITNESSED} FROM witnessed_head
                    WHERE number > %s AND (%s = 0 OR share_index = %s) ORDER BY number LIMIT %s""".encode(),  # noqa: S608  # fixed parts only
                (after, share_index, share_index, limit),
            )
            return [(row[0], _witnessed(row[1:], self._index)) for row in rows]


class PostgresTrailChange(PostgresChange):
    """One transaction that holds the audit head."""

    def __init__(self, connection: psycopg.Connection, index: int) -> None:
        super().__init__(connection)
        self._index = index

    def identity(self) -> Identity:
        row = self._connection.execute("SELECT chain_id, sealed, kek_id FROM audit_identity").fetchone()
        assert row is not None
        return Identity(*row)

    def put_identity(self, identity: Identity) -> None:
        self._connection.execute("UPDATE audit_identity SET (sealed, kek_id) = (%s, %s)", (identity.sealed, identity.kek_id))

    def last_witnessed(self, share_index: int, chain_id: UUID) -> WitnessedHead | None:
        row = self._connection.execute(
            f"""SELECT {_WITNESSED} FROM witnessed_head WHERE share_index = %s AND chain_id = %s
                ORDER BY number DESC LIMIT 1""".encode(),  # noqa: S608  # fixed parts only
            (share_index, chain_id),
        ).fetchone()
        return None if row is None else _witnessed(row, self._index)

    def add_witnessed(self, head: WitnessedHead) -> None:
        seen = head.head
        self._connection.execute(
            f"INSERT INTO witnessed_head ({_WITNESSED}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)".encode(),  # noqa: S608
            (seen.index, seen.chain_id, seen.seq, seen.hash, seen.time, seen.signature, seen.signing_key, head.signature, head.signing_key),
        )


class ChainedAclAudit:
    """Records what is done to ACLs in the audit chain."""

    def begin(self, connection: psycopg.Connection) -> None:
        """Lock the audit head, as every change does before it locks anything else."""
        hold_head(connection)

    def record(self, connection: psycopg.Connection, caller: Caller, action: str, acl_id: UUID, outcome: str) -> None:
        """Append to the chain.

        Raises:
            AuditUnavailable: the log refused; the change must not happen.
        """
        PostgresChange(connection).audit([AuditEntry(datetime.now(UTC), caller.dn, action, acl_id, outcome)])


def _end(connection: psycopg.Connection) -> End:
    row = connection.execute("SELECT seq, hash FROM audit_head").fetchone()
    assert row is not None
    return End(*row)


def _witnessed(row: Sequence[Any], index: int) -> WitnessedHead:
    *head, signature, key = row
    return WitnessedHead(SignedHead(*head), index, signature, key)
