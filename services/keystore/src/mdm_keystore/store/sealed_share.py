"""Sealed shares in PostgreSQL, wherever they stand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_keystore.rules.rewrapping import SealedShare
from mdm_keystore.store.store import PostgresChange

#: The tables with sealed shares, and the columns that tell a share's place. A key's share before the present one has its place.
_TABLES = {
    "key_share": "t.guid, t.epoch, t.x, t.version",
    "share_prepared": "t.guid, t.epoch, t.x, t.version",
    "share_previous": "t.guid, (SELECT epoch FROM key_share WHERE guid = t.guid), (SELECT x FROM key_share WHERE guid = t.guid), t.version",
}


class PostgresSeals:
    """The sealed shares of one keystore's database."""

    tables: Sequence[str] = tuple(_TABLES)

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    @contextmanager
    def seal_change(self) -> Iterator["PostgresSealChange"]:
        """Open a transaction that holds the audit head."""
        with self._pool.connection() as connection:
            connection.execute("SELECT FROM audit_head FOR UPDATE")
            yield PostgresSealChange(connection)


class PostgresSealChange(PostgresChange):
    """One transaction that holds the audit head."""

    def sealed_otherwise(self, table: str, kek_id: str, after: UUID | None, limit: int) -> Sequence[SealedShare]:
        """Return the next shares of a table that are sealed under another key."""
        rows = self._connection.execute(
            f"""SELECT {_TABLES[table]}, t.sealed, t.kek_id FROM {table} t WHERE t.kek_id <> %s AND (%s::uuid IS NULL OR t.guid > %s)
                ORDER BY t.guid LIMIT %s""".encode(),  # noqa: S608  # fixed parts only
            (kek_id, after, after, limit),
        )
        return [SealedShare(*row) for row in rows]

    def reseal(self, table: str, shares: Sequence[SealedShare]) -> None:
        """Store the sealed values of these shares anew."""
        self._connection.execute(
            f"""UPDATE {table} t SET sealed = n.sealed, kek_id = n.kek_id
                FROM unnest(%s::uuid[], %s::bytea[], %s::text[]) AS n (guid, sealed, kek_id) WHERE t.guid = n.guid""".encode(),  # noqa: S608
            ([share.guid for share in shares], [share.sealed for share in shares], [share.kek_id for share in shares]),
        )

    def count_sealed_otherwise(self, kek_id: str) -> int:
        """Count the shares of all tables that are sealed under another key."""
        union = " UNION ALL ".join(f"SELECT kek_id FROM {table}" for table in _TABLES)  # noqa: S608  # fixed parts only
        row = self._connection.execute(f"SELECT count(*) FROM ({union}) AS u WHERE kek_id <> %s".encode(), (kek_id,)).fetchone()  # noqa: S608
        assert row is not None
        return int(row[0])
