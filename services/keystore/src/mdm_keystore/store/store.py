"""Keys, ACL rights and the audit chain in PostgreSQL; every batch is one statement."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from mdm_crypto.audit import AuditEntry, chain
from mdm_service.identity.caller import Caller
from mdm_wire.permission import Permission
from psycopg_pool import ConnectionPool

from mdm_keystore.rules.model import AclAssignment, Held, KeyRecord, KeyState
from mdm_keystore.rules.port import AuditUnavailable

_log = logging.getLogger(__name__)
COLUMNS = """k.guid, k.epoch, k.x, k.threshold, k.total, k.commitments, k.sealed, k.kek_id, k.state, k.creator, k.acl_id,
    k.create_time, k.expire_time, k.version"""
_LIVE = "(k.state = 2 OR k.expire_time > now())"
_POINT_SIZE = 32
WIDTH = 14  # of COLUMNS


class PostgresKeys:
    """The keys of one keystore's database."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    @contextmanager
    def change(self) -> Iterator["PostgresChange"]:
        """Open a transaction that holds the audit head, so that changes run one after the other."""
        with self._pool.connection() as connection:
            connection.execute("SELECT FROM audit_head FOR UPDATE")
            yield PostgresChange(connection)

    @contextmanager
    def release(self) -> Iterator["PostgresChange"]:
        """Open a transaction that others may run beside until it audits."""
        with self._pool.connection() as connection:
            yield PostgresChange(connection)

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, Held]:
        """Return the live keys among `guids`."""
        with self._pool.connection() as connection:
            return _held(connection, caller, guids)

    def page(self, caller: Caller | None, after: UUID | None, limit: int) -> Sequence[KeyRecord]:
        """Return the next live keys in order of GUID."""
        conditions, parameters = [_LIVE], {"limit": limit, **_who(caller)}
        if caller is not None:
            conditions.append("k.acl_id IN (SELECT acls_granting(%(dn)s, %(principals)s, %(list)s))")
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

    def held(self, caller: Caller, guids: Sequence[UUID]) -> Mapping[UUID, Held]:
        """Return the live keys among `guids`."""
        return _held(self._connection, caller, guids)

    def acl_rights(self, caller: Caller, acl_ids: Sequence[UUID]) -> Mapping[UUID, Permission]:
        """Return what the caller may do under those of the ACLs that exist."""
        rows = self._connection.execute(
            "SELECT id, acl_permissions(id, %(dn)s, %(principals)s) FROM acl WHERE id = ANY (%(ids)s)",
            {"ids": list(acl_ids), **_who(caller)},
        )
        return {acl_id: Permission(granted) for acl_id, granted in rows}

    def put(self, records: Sequence[KeyRecord]) -> None:
        """Store records, replacing any of the same GUIDs."""
        self._connection.execute(
            """
            INSERT INTO key_share AS k (guid, epoch, x, threshold, total, commitments, sealed, kek_id, state, creator, acl_id,
                                        create_time, expire_time, version)
            SELECT * FROM unnest(%s::uuid[], %s::bigint[], %s::smallint[], %s::smallint[], %s::smallint[], %s::bytea[], %s::bytea[],
                                 %s::text[], %s::smallint[], %s::text[], %s::uuid[], %s::timestamptz[], %s::timestamptz[],
                                 %s::bigint[])
            ON CONFLICT (guid) DO UPDATE SET (epoch, x, threshold, total, commitments, sealed, kek_id, state, creator, acl_id,
                                              create_time, expire_time, version, round_id)
                = (excluded.epoch, excluded.x, excluded.threshold, excluded.total, excluded.commitments, excluded.sealed,
                   excluded.kek_id, excluded.state, excluded.creator, excluded.acl_id, excluded.create_time, excluded.expire_time,
                   excluded.version, NULL)
            """,
            [
                [record.guid for record in records],
                [record.epoch for record in records],
                [record.x for record in records],
                [record.threshold for record in records],
                [record.total for record in records],
                [b"".join(record.commitments) for record in records],
                [record.sealed for record in records],
                [record.kek_id for record in records],
                [int(record.state) for record in records],
                [record.creator for record in records],
                [record.acl_id for record in records],
                [record.create_time for record in records],
                [record.expire_time for record in records],
                [record.version for record in records],
            ],
        )

    def confirm(self, guids: Sequence[UUID]) -> None:
        """Make pending keys confirmed."""
        self._connection.execute("UPDATE key_share SET state = 2, expire_time = NULL WHERE guid = ANY (%s) AND state = 1", (list(guids),))

    def remove(self, guids: Sequence[UUID]) -> None:
        """Destroy keys, with all that is prepared for them."""
        self._connection.execute("DELETE FROM share_prepared WHERE guid = ANY (%s)", (list(guids),))
        self._connection.execute("DELETE FROM key_share WHERE guid = ANY (%s)", (list(guids),))

    def remove_prepared(self, caller: Caller | None, guids: Sequence[UUID]) -> Sequence[UUID]:
        """Destroy what is prepared for keys that `caller` may delete (None: all); return their GUIDs."""
        allowed = "true" if caller is None else "acl_permissions(acl_id, %(dn)s, %(principals)s) & %(delete)s <> 0"
        rows = self._connection.execute(
            f"DELETE FROM share_prepared WHERE guid = ANY (%(guids)s) AND {allowed} RETURNING guid".encode(),  # noqa: S608  # fixed parts
            {"guids": list(guids), "delete": int(Permission.DELETE), **_who(caller)},
        )
        return [row[0] for row in rows]

    def assign(self, assignments: Sequence[AclAssignment]) -> None:
        """Point keys at other ACLs."""
        self._connection.execute(
            "UPDATE key_share k SET acl_id = a.acl_id FROM unnest(%s::uuid[], %s::uuid[]) AS a (guid, acl_id) WHERE k.guid = a.guid",
            ([assignment.guid for assignment in assignments], [assignment.acl_id for assignment in assignments]),
        )

    def remove_expired(self) -> Sequence[UUID]:
        """Destroy pending keys whose time is over; return their GUIDs."""
        rows = self._connection.execute("DELETE FROM key_share WHERE state = 1 AND expire_time <= now() RETURNING guid")
        return [row[0] for row in rows]

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append to the audit chain as part of the transaction."""
        with _explained():
            _append(self._connection, entries)


def _held(connection: psycopg.Connection, caller: Caller, guids: Sequence[UUID]) -> dict[UUID, Held]:
    """Find keys with the caller's rights, which are worked out once for each ACL, not for each key."""
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
        found[key.guid] = Held(key, Permission(row[-1]), previous_of(key, row[WIDTH:-1]))
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


def record(row: tuple[Any, ...]) -> KeyRecord:
    """Return the record in a row of COLUMNS."""
    guid, epoch, x, threshold, total, points, sealed, kek_id, state, creator, acl_id, create_time, expire_time, version = row
    return KeyRecord(
        guid,
        epoch,
        x,
        threshold,
        total,
        points_of(points),
        sealed,
        kek_id,
        KeyState(state),
        creator,
        acl_id,
        create_time,
        expire_time,
        version,
    )


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
