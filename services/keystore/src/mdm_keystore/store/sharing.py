"""Sharings in PostgreSQL; every batch is one statement."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl
from psycopg_pool import ConnectionPool

from mdm_keystore.rules.model import KeyRecord, KeyState
from mdm_keystore.rules.resharing.model import PreparedShare
from mdm_keystore.store.store import COLUMNS, WIDTH, PostgresChange, points_of, previous_of, record

_SHARE = ("threshold", "total", "commitments", "sealed", "kek_id", "version")
_PREPARED = (
    *("guid", "epoch", "x", "threshold", "total", "commitments", "sealed", "kek_id", "version"),
    *("creator", "acl_id", "create_time", "round_id", "coordinator", "base"),
)
_TYPES = (
    *("uuid", "bigint", "smallint", "smallint", "smallint", "bytea", "bytea", "text", "bigint"),
    *("text", "uuid", "timestamptz", "uuid", "smallint", "bytea"),
)


class PostgresSharings:
    """The keys of one keystore's database, as far as giving them new shares needs them."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    @contextmanager
    def change(self) -> Iterator["PostgresSharingChange"]:
        """Open a transaction that holds the audit head, so that changes run one after the other."""
        with self._pool.connection() as connection:
            connection.execute("SELECT FROM audit_head FOR UPDATE")
            yield PostgresSharingChange(connection)

    def records(self, guids: Sequence[UUID]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        """Return each key's present record and the one before, pending keys included."""
        with self._pool.connection() as connection:
            return _records(connection, guids)

    def page(self, after: UUID | None, limit: int) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        """Return the next keys behind `after` in order of GUID."""
        with self._pool.connection() as connection:
            condition, parameters = ("k.guid > %s", (after, limit)) if after else ("true", (limit,))
            return _pairs(connection, f"{condition} ORDER BY k.guid LIMIT %s", parameters)


class PostgresSharingChange(PostgresChange):
    """One transaction that holds the audit head."""

    def records(self, guids: Sequence[UUID]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        """Return each key's present record and the one before, pending keys included."""
        return _records(self._connection, guids)

    def acls(self, acl_ids: Sequence[UUID]) -> Mapping[UUID, Acl]:
        """Return those of the ACLs that exist."""
        return acl_store.load(self._connection, acl_ids)

    def add_acls(self, acls: Sequence[Acl]) -> None:
        """Store ACLs that do not exist."""
        for acl in acls:
            acl_store.insert(self._connection, acl)

    def prepared(self, guids: Sequence[UUID]) -> Sequence[PreparedShare]:
        """Return what is prepared for these keys."""
        rows = self._connection.execute(
            f"SELECT {', '.join(_PREPARED)} FROM share_prepared WHERE guid = ANY (%s)".encode(),  # noqa: S608  # fixed parts only
            (list(guids),),
        )
        return [_prepared(row) for row in rows]

    def prepare(self, shares: Sequence[PreparedShare]) -> None:
        """Store prepared shares, replacing any of the same GUIDs."""
        changes = ", ".join(f"{column} = excluded.{column}" for column in _PREPARED[1:])
        arrays = ", ".join(f"%s::{kind}[]" for kind in _TYPES)
        query = (
            f"INSERT INTO share_prepared ({', '.join(_PREPARED)}) SELECT * FROM unnest({arrays}) ON CONFLICT (guid) DO UPDATE SET {changes}"  # noqa: S608
        )
        self._connection.execute(query.encode(), _columns([_row(share) for share in shares], len(_PREPARED)))

    def commit(self, round_id: UUID, coordinator: int, guids: Sequence[UUID]) -> set[UUID]:
        """Make a round's prepared shares the present ones; the database sees each step for the whole batch."""
        who = {"round": round_id, "coordinator": coordinator, "guids": list(guids)}
        mine = "p.round_id = %(round)s AND p.coordinator = %(coordinator)s AND p.guid = ANY (%(guids)s)"
        columns, changes = ", ".join(_SHARE), ", ".join(f"{column} = excluded.{column}" for column in _SHARE)
        of = {alias: ", ".join(f"{alias}.{column}" for column in _SHARE) for alias in "kp"}
        for statement in (
            # What is kept as the share before is the one that the round was made from, which is the one that others may still need.
            f"DELETE FROM share_previous v USING share_prepared p WHERE {mine} AND v.guid = p.guid AND v.commitments <> p.base",  # noqa: S608
            f"""INSERT INTO share_previous (guid, {columns}) SELECT k.guid, {of["k"]} FROM key_share k JOIN share_prepared p USING (guid)
                WHERE {mine} AND k.commitments = p.base AND k.state = 2 ON CONFLICT (guid) DO UPDATE SET {changes}""",  # noqa: S608
            f"""INSERT INTO key_share (guid, epoch, x, {columns}, state, creator, acl_id, create_time, round_id)
                SELECT p.guid, p.epoch, p.x, {of["p"]}, 2, p.creator, p.acl_id, p.create_time, p.round_id FROM share_prepared p WHERE {mine}
                ON CONFLICT (guid) DO UPDATE SET {changes}, epoch = excluded.epoch, x = excluded.x, state = 2, expire_time = NULL,
                    round_id = excluded.round_id""",  # noqa: S608
            "DELETE FROM share_prepared WHERE round_id = %(round)s AND coordinator = %(coordinator)s",
        ):
            self._connection.execute(statement.encode(), who)
        rows = self._connection.execute("SELECT guid FROM key_share WHERE guid = ANY (%(guids)s) AND round_id = %(round)s", who)
        return {row[0] for row in rows}

    def retire(self, guids: Sequence[UUID]) -> None:
        """Destroy the shares before the present ones."""
        self._connection.execute("DELETE FROM share_previous WHERE guid = ANY (%s)", (list(guids),))

    def discard(self, round_id: UUID, coordinator: int) -> None:
        """Forget what a round prepared."""
        self._connection.execute("DELETE FROM share_prepared WHERE round_id = %s AND coordinator = %s", (round_id, coordinator))


def _records(connection: psycopg.Connection, guids: Sequence[UUID]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
    return _pairs(connection, "k.guid = ANY (%s)", (list(guids),))


def _pairs(connection: psycopg.Connection, rest: str, parameters: Sequence[Any]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
    before = ", ".join(f"v.{column}" for column in _SHARE)
    query = f"SELECT {COLUMNS}, {before} FROM key_share k LEFT JOIN share_previous v USING (guid) WHERE {rest}"  # noqa: S608
    found = {}
    for row in connection.execute(query.encode(), parameters):
        key = record(row[:WIDTH])
        found[key.guid] = (key, previous_of(key, row[WIDTH:]))
    return found


def _row(share: PreparedShare) -> tuple[Any, ...]:
    key = share.record
    return (
        *(key.guid, key.epoch, key.x, key.threshold, key.total, b"".join(key.commitments), key.sealed, key.kek_id, key.version),
        *(key.creator, key.acl_id, key.create_time, share.round_id, share.coordinator, share.base),
    )


def _prepared(row: tuple[Any, ...]) -> PreparedShare:
    guid, epoch, x, threshold, total, points, sealed, kek_id, version, creator, acl_id, create_time, *round_of = row
    state = KeyState.CONFIRMED
    key = KeyRecord(guid, epoch, x, threshold, total, points_of(points), sealed, kek_id, state, creator, acl_id, create_time, None, version)
    return PreparedShare(key, *round_of)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(width)]
