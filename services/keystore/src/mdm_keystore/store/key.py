"""Keys in PostgreSQL: their shares and seals, the ACLs that guard them, the audit chain; every batch is one statement."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from mdm_crypto.audit import AuditEntry, chain
from mdm_service.access.acl import MOST_COUNTED, AclUse, narrowed
from mdm_service.access.store import AclScope
from mdm_service.identity.caller import Caller
from mdm_service.policy import DICOM_SRM
from mdm_wire.permission import Permission
from psycopg_pool import ConnectionPool

from mdm_keystore.rules.model import AclAssignment, KeyRecord, KeyState, LiveKey
from mdm_keystore.rules.port import AuditUnavailable
from mdm_keystore.rules.rewrapping import SealedShare

_log = logging.getLogger(__name__)
# The columns of a record, in the order of KeyRecord, with their types.
_RECORD = {
    "guid": "uuid",
    "epoch": "bigint",
    "x": "smallint",
    "threshold": "smallint",
    "total": "smallint",
    "commitments": "bytea",
    "sealed": "bytea",
    "kek_id": "text",
    "state": "smallint",
    "creator": "text",
    "acl_id": "uuid",
    "create_time": "timestamptz",
    "expire_time": "timestamptz",
    "version": "bigint",
}
COLUMNS, WIDTH = ", ".join(f"k.{column}" for column in _RECORD), len(_RECORD)
_LIVE = "(k.state = 2 OR k.expire_time > now())"
_POINT_SIZE = 32
# The tables with sealed shares, and the columns of a share's place; a key's previous share has the key's own place.
_TABLES = {
    "key_share": "t.guid, t.epoch, t.x, t.version",
    "share_prepared": "t.guid, t.epoch, t.x, t.version",
    "share_previous": "t.guid, (SELECT epoch FROM key_share WHERE guid = t.guid), (SELECT x FROM key_share WHERE guid = t.guid), t.version",
}
# A key that a round has prepared here counts, too.
_COUNT = """
WITH used (guid) AS (
    SELECT guid FROM key_share WHERE acl_id = %(acl)s
    UNION
    SELECT guid FROM share_prepared p WHERE acl_id = %(acl)s AND NOT EXISTS (SELECT FROM key_share k WHERE k.guid = p.guid)
)
SELECT (SELECT count(*) FROM used WHERE guid::text = ANY (%(keys)s)),
       (SELECT count(*) FROM (SELECT FROM used WHERE guid::text <> ALL (%(keys)s) LIMIT %(most)s) other)
"""


class PostgresKeys:
    """The keys of one keystore's database."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    @contextmanager
    def change(self) -> Iterator["PostgresChange"]:
        with head_held(self._pool) as connection:
            yield PostgresChange(connection)

    @contextmanager
    def release(self) -> Iterator["PostgresChange"]:
        """Open a transaction that others may run beside until it audits."""
        with self._pool.connection() as connection:
            yield PostgresChange(connection)

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, LiveKey]:
        with self._pool.connection() as connection:
            return _held(connection, caller, guids)

    def page(self, caller: Caller | None, after: UUID | None, limit: int) -> Sequence[KeyRecord]:
        conditions, parameters = [_LIVE], {"limit": limit, **_who(caller)}
        if caller is not None:
            own = " OR k.creator = %(dn)s" if caller.has_role(DICOM_SRM) else ""
            conditions.append(f"(k.acl_id IN (SELECT acls_granting(%(dn)s, %(principals)s, %(list)s)){own})")
            parameters["list"] = int(Permission.LIST)
        if after is not None:
            conditions.append("k.guid > %(after)s")
            parameters["after"] = after
        query = f"SELECT {COLUMNS} FROM key_share k WHERE {' AND '.join(conditions)} ORDER BY k.guid LIMIT %(limit)s"  # noqa: S608  # fixed parts only
        with self._pool.connection() as connection:
            return [record(row) for row in connection.execute(query.encode(), parameters)]


class PostgresChange:
    """One transaction that holds the audit head."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, LiveKey]:
        return _held(self._connection, caller, guids)

    def acl_rights(self, caller: Caller, acl_ids: Sequence[UUID]) -> Mapping[UUID, Permission]:
        rows = self._connection.execute(
            "SELECT id, acl_permissions(id, %(dn)s, %(principals)s) FROM acl WHERE id = ANY (%(ids)s)",
            {"ids": list(acl_ids), **_who(caller)},
        )
        return {acl_id: Permission(granted) for acl_id, granted in rows}

    def put(self, records: Sequence[KeyRecord]) -> None:
        rows = [
            (
                *(key.guid, key.epoch, key.x, key.threshold, key.total, b"".join(key.commitments), key.sealed, key.kek_id),
                *(int(key.state), key.creator, key.acl_id, key.create_time, key.expire_time, key.version),
            )
            for key in records
        ]
        upsert(self._connection, "key_share", _RECORD, rows, ", round_id = NULL")

    def confirm(self, guids: Sequence[UUID]) -> None:
        self._connection.execute("UPDATE key_share SET state = 2, expire_time = NULL WHERE guid = ANY (%s) AND state = 1", (list(guids),))

    def remove(self, guids: Sequence[UUID]) -> None:
        """Destroy keys, with all that is prepared for them."""
        self._connection.execute("DELETE FROM share_prepared WHERE guid = ANY (%s)", (list(guids),))
        self._connection.execute("DELETE FROM key_share WHERE guid = ANY (%s)", (list(guids),))

    def remove_prepared(self, caller: Caller | None, guids: Sequence[UUID]) -> Sequence[UUID]:
        allowed = "true" if caller is None else "acl_permissions(acl_id, %(dn)s, %(principals)s) & %(delete)s <> 0"
        rows = self._connection.execute(
            f"DELETE FROM share_prepared WHERE guid = ANY (%(guids)s) AND {allowed} RETURNING guid".encode(),  # noqa: S608  # fixed parts
            {"guids": list(guids), "delete": int(Permission.DELETE), **_who(caller)},
        )
        return [row[0] for row in rows]

    def assign(self, assignments: Sequence[AclAssignment]) -> None:
        self._connection.execute(
            "UPDATE key_share k SET acl_id = a.acl_id FROM unnest(%s::uuid[], %s::uuid[]) AS a (guid, acl_id) WHERE k.guid = a.guid",
            ([assignment.guid for assignment in assignments], [assignment.acl_id for assignment in assignments]),
        )

    def remove_expired(self) -> Sequence[UUID]:
        rows = self._connection.execute("DELETE FROM key_share WHERE state = 1 AND expire_time <= now() RETURNING guid")
        return [row[0] for row in rows]

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        with _explained():
            _append(self._connection, entries)


class KeyAclUses:
    """Counts keys; see `mdm_service.access.store.AclUses`."""

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return how many keys an ACL guards: those of the scope and others, without a scope one and others."""
        row = connection.execute(_COUNT, {"acl": acl_id, "keys": list(scope.keys), "most": MOST_COUNTED}).fetchone()
        assert row is not None
        return AclUse(*row) if scope.keys else AclUse.of_one(row[1])


class PostgresSeals:
    """The sealed shares of one keystore's database."""

    tables: Sequence[str] = tuple(_TABLES)

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    @contextmanager
    def seal_change(self) -> Iterator["PostgresSealChange"]:
        with head_held(self._pool) as connection:
            yield PostgresSealChange(connection)


class PostgresSealChange(PostgresChange):
    """One transaction that holds the audit head."""

    def sealed_otherwise(self, table: str, kek_id: str, after: UUID | None, limit: int) -> Sequence[SealedShare]:
        rows = self._connection.execute(
            f"""SELECT {_TABLES[table]}, t.sealed, t.kek_id FROM {table} t WHERE t.kek_id <> %s AND (%s::uuid IS NULL OR t.guid > %s)
                ORDER BY t.guid LIMIT %s""".encode(),  # noqa: S608  # fixed parts only
            (kek_id, after, after, limit),
        )
        return [SealedShare(*row) for row in rows]

    def reseal(self, table: str, shares: Sequence[SealedShare]) -> None:
        self._connection.execute(
            f"""UPDATE {table} t SET sealed = n.sealed, kek_id = n.kek_id
                FROM unnest(%s::uuid[], %s::bytea[], %s::text[]) AS n (guid, sealed, kek_id) WHERE t.guid = n.guid""".encode(),  # noqa: S608
            ([share.guid for share in shares], [share.sealed for share in shares], [share.kek_id for share in shares]),
        )

    def count_sealed_otherwise(self, kek_id: str) -> int:
        union = " UNION ALL ".join(f"SELECT kek_id FROM {table}" for table in _TABLES)  # noqa: S608  # fixed parts only
        row = self._connection.execute(f"SELECT count(*) FROM ({union}) AS u WHERE kek_id <> %s".encode(), (kek_id,)).fetchone()  # noqa: S608
        assert row is not None
        return int(row[0])


def _held(connection: psycopg.Connection, caller: Caller, guids: Sequence[UUID]) -> dict[UUID, LiveKey]:
    """Return keys with the caller's rights, which are computed once for each ACL, not for each key."""
    rows = connection.execute(
        f"""
        WITH k AS MATERIALIZED (SELECT * FROM key_share k WHERE guid = ANY (%(guids)s) AND {_LIVE}),
             a AS MATERIALIZED (SELECT acl_id, acl_permissions(acl_id, %(dn)s, %(principals)s) AS granted
                                FROM (SELECT DISTINCT acl_id FROM k) AS distinct_acl)
        SELECT {COLUMNS}, p.threshold, p.total, p.commitments, p.sealed, p.kek_id, p.version, a.granted
        FROM k JOIN a USING (acl_id) LEFT JOIN share_previous p USING (guid)
        """.encode(),  # noqa: S608  # fixed parts only
        {"guids": list(guids), **_who(caller)},
    )
    found = {}
    for row in rows:
        key = record(row[:WIDTH])
        found[key.guid] = LiveKey(key, narrowed(Permission(row[-1]), caller, key.acl_id), previous_of(key, row[WIDTH:-1]))
    return found


@contextmanager
def _explained() -> Iterator[None]:
    """Turn a failure to write the audit log into the one error that stops everything, and log why."""
    try:
        yield
    except psycopg.Error as error:
        _log.error("the audit log cannot be written", extra={"error": type(error).__name__, "sqlstate": error.sqlstate})
        raise AuditUnavailable from None


def _append(connection: psycopg.Connection, entries: Sequence[AuditEntry]) -> None:
    head = connection.execute("SELECT seq, hash FROM audit_head FOR UPDATE").fetchone()
    if head is None:
        raise AuditUnavailable
    chained = list(chain(entries, *head))
    if not chained:
        return
    with connection.cursor().copy("COPY audit_entry (seq, time, who, action, guid, outcome, hash) FROM STDIN") as copy:
        for item in chained:
            entry = item.entry
            copy.write_row((item.seq, entry.time, entry.who, entry.action, entry.guid, entry.outcome, item.hash))
    connection.execute("UPDATE audit_head SET seq = %s, hash = %s", (chained[-1].seq, chained[-1].hash))


@contextmanager
def head_held(pool: ConnectionPool) -> Iterator[psycopg.Connection]:
    """Open a transaction that holds the audit head, so that changes run one after the other."""
    with pool.connection() as connection:
        hold_head(connection)
        yield connection


def hold_head(connection: psycopg.Connection) -> None:
    """Lock the audit head until the transaction ends."""
    connection.execute("SELECT FROM audit_head FOR UPDATE")


def upsert(connection: psycopg.Connection, table: str, columns: Mapping[str, str], rows: Sequence[Sequence[Any]], more: str = "") -> None:
    """Store rows of these columns (with their types), replacing those of the same GUIDs; `more` changes further columns of these."""
    arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column != "guid")
    query = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) ON CONFLICT (guid) DO UPDATE SET {changes}{more}"  # noqa: S608
    connection.execute(query.encode(), [[row[place] for row in rows] for place in range(len(columns))])


def record(row: tuple[Any, ...]) -> KeyRecord:
    """Return the record in a row of COLUMNS."""
    fields = list(row)
    fields[5], fields[8] = points_of(row[5]), KeyState(row[8])
    return KeyRecord(*fields)


def previous_of(key: KeyRecord, row: tuple[Any, ...]) -> KeyRecord | None:
    """Return the record of a key's share before the present one, from columns that are all NULL where it has no such share."""
    threshold, total, points, sealed, kek_id, version = row
    if points is None:
        return None
    parts = {"threshold": threshold, "total": total, "commitments": points_of(points), "sealed": sealed, "kek_id": kek_id}
    return replace(key, **parts, version=version)


def points_of(joined: bytes) -> tuple[bytes, ...]:
    """Return the compressed points that a column holds one after the other."""
    return tuple(joined[start : start + _POINT_SIZE] for start in range(0, len(joined), _POINT_SIZE))


def _who(caller: Caller | None) -> dict[str, Any]:
    return {} if caller is None else {"dn": caller.dn, "principals": list(caller.principals)}
