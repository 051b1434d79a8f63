"""Sharings, and the parts that make new ones, in PostgreSQL; every batch is one statement."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from mdm.keystore.v1 import peer_pb2
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl
from psycopg_pool import ConnectionPool

from mdm_keystore.peer import message
from mdm_keystore.rules.model import KeyRecord, KeyState
from mdm_keystore.rules.resharing.model import Parts, PreparedShare
from mdm_keystore.rules.seal import SealBroken, Sealer
from mdm_keystore.store.key import COLUMNS, WIDTH, PostgresChange, head_held, points_of, previous_of, record, upsert

_SHARE = ("threshold", "total", "commitments", "sealed", "kek_id", "version")
_PREPARED = {
    "guid": "uuid",
    "epoch": "bigint",
    "x": "smallint",
    "threshold": "smallint",
    "total": "smallint",
    "commitments": "bytea",
    "sealed": "bytea",
    "kek_id": "text",
    "version": "bigint",
    "creator": "text",
    "acl_id": "uuid",
    "create_time": "timestamptz",
    "round_id": "uuid",
    "coordinator": "smallint",
    "base": "bytea",
}
_MAX_ROUNDS = 8


class PostgresSharings:
    """The keys of one keystore's database, as far as giving them new shares needs them."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    @contextmanager
    def change(self) -> Iterator["PostgresSharingChange"]:
        with head_held(self._pool) as connection:
            yield PostgresSharingChange(connection)

    def records(self, guids: Sequence[UUID]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        with self._pool.connection() as connection:
            return _records(connection, guids)

    def page(self, after: UUID | None, limit: int) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        with self._pool.connection() as connection:
            condition, parameters = ("k.guid > %s", (after, limit)) if after else ("true", (limit,))
            return _pairs(connection, f"{condition} ORDER BY k.guid LIMIT %s", parameters)


class PostgresSharingChange(PostgresChange):
    """One transaction that holds the audit head."""

    def records(self, guids: Sequence[UUID]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        return _records(self._connection, guids)

    def acls(self, acl_ids: Sequence[UUID]) -> Mapping[UUID, Acl]:
        return acl_store.load(self._connection, acl_ids)

    def add_acls(self, acls: Sequence[Acl]) -> None:
        for acl in acls:
            acl_store.insert(self._connection, acl)

    def prepared(self, guids: Sequence[UUID]) -> Sequence[PreparedShare]:
        rows = self._connection.execute(
            f"SELECT {', '.join(_PREPARED)} FROM share_prepared WHERE guid = ANY (%s)".encode(),  # noqa: S608  # fixed parts only
            (list(guids),),
        )
        return [_prepared(row) for row in rows]

    def prepare(self, shares: Sequence[PreparedShare]) -> None:
        upsert(self._connection, "share_prepared", _PREPARED, [_row(share) for share in shares])

    def commit(self, round_id: UUID, coordinator: int, guids: Sequence[UUID]) -> set[UUID]:
        """Make a round's prepared shares the present ones; each step is one statement for the whole batch."""
        who = {"round": round_id, "coordinator": coordinator, "guids": list(guids)}
        mine = "p.round_id = %(round)s AND p.coordinator = %(coordinator)s AND p.guid = ANY (%(guids)s)"
        columns, changes = ", ".join(_SHARE), ", ".join(f"{column} = excluded.{column}" for column in _SHARE)
        of = {alias: ", ".join(f"{alias}.{column}" for column in _SHARE) for alias in "kp"}
        for statement in (
            # The previous share is the one that the round was made from: others may still need it.
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
        self._connection.execute("DELETE FROM share_previous WHERE guid = ANY (%s)", (list(guids),))

    def discard(self, round_id: UUID, coordinator: int) -> None:
        self._connection.execute("DELETE FROM share_prepared WHERE round_id = %s AND coordinator = %s", (round_id, coordinator))


class PostgresParts:
    """The parts in one keystore's database, sealed as shares are, so that any process can add up what others took.

    They are lost when PostgreSQL crashes, and are not in its log.
    """

    def __init__(self, pool: ConnectionPool, sealer: Sealer) -> None:
        self._pool = pool
        self._sealer = sealer

    def put(self, parts: Parts) -> None:
        sealed, kek_id = self._sealer.seal_parts(message.parts_to_proto(parts).SerializeToString(), parts.round_id, parts.helper)
        with self._pool.connection() as connection:
            connection.execute(
                """INSERT INTO share_part (round_id, helper, sealed, kek_id) VALUES (%s, %s, %s, %s)
                   ON CONFLICT (round_id, helper) DO UPDATE SET sealed = excluded.sealed, kek_id = excluded.kek_id""",
                (parts.round_id, parts.helper, sealed, kek_id),
            )
            connection.execute(
                """DELETE FROM share_part WHERE round_id IN
                       (SELECT round_id FROM share_part GROUP BY round_id ORDER BY min(number) DESC OFFSET %s)""",
                (_MAX_ROUNDS,),
            )

    def of(self, round_id: UUID) -> Mapping[int, Parts]:
        """Return a round's parts by helper; those that no longer open count as lost."""
        with self._pool.connection() as connection:
            rows = connection.execute("SELECT helper, sealed, kek_id FROM share_part WHERE round_id = %s", (round_id,)).fetchall()
        found = {}
        for helper, sealed, kek_id in rows:
            try:
                opened = self._sealer.open_parts(sealed, kek_id, round_id, helper)
            except SealBroken:
                continue
            found[helper] = message.parts_from_proto(peer_pb2.TakeSubsharesRequest.FromString(opened))
        return found

    def forget(self, round_id: UUID) -> None:
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM share_part WHERE round_id = %s", (round_id,))


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
