"""Scans in PostgreSQL: what was asked for, sealed, and how far it is."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from psycopg import Connection
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.scan import Action, Counts, Listing, Order, Scan, ScanState, decode_scope, encode_scope
from mdm_dicom_srm.site_secret import RecordSealer

_LEADER_LOCK = 0x4D444D03  # one instance at a time looks at the schedule
_BACK_OFF_CAP_SECONDS = 300
_SELECT = """
SELECT s.id, s.action, s.dry_run, s.requested_by, s.note, s.state, s.reason, s.created_at, s.modified_at,
    count(i.id), count(i.id) FILTER (WHERE i.outcome <> ''), count(i.id) FILTER (WHERE i.outcome = 'FAILED'),
    (SELECT coalesce(jsonb_object_agg(name, total), '{}') FROM (
        SELECT name, sum(value::bigint) AS total FROM inspection, jsonb_each_text(counts) AS each(name, value)
        WHERE scan_id = s.id GROUP BY name) AS sums)
FROM scan AS s LEFT JOIN inspection AS i ON i.scan_id = s.id
"""


class ScanStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names) -> None:
        self._pool = pool
        self._sealer = sealer
        self._names = names

    def start(self, order: Order) -> UUID:
        """Begin a scan; it is durable when this returns."""
        with self._pool.connection() as connection:
            return self._start(connection, order)

    def start_due(self, kind: str, order: Order, every_seconds: float) -> UUID | None:
        """Begin the scheduled scan of a kind if it is due and its last one has ended. One instance at a time gets to look."""
        with self._pool.connection() as connection:
            leading = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LEADER_LOCK,)).fetchone()
            if leading is None or not leading[0]:
                return None
            waiting = connection.execute(
                """
                SELECT FROM scan_schedule AS c LEFT JOIN scan AS s ON s.id = c.scan_id
                WHERE c.kind = %s AND (c.started_at > now() - make_interval(secs => %s) OR s.state IN ('LISTING', 'INSPECTING'))
                """,
                (kind, every_seconds),
            ).fetchone()
            if waiting is not None:
                return None
            scan_id = self._start(connection, order)
            connection.execute(
                """
                INSERT INTO scan_schedule (kind, scan_id, started_at) VALUES (%s, %s, now())
                ON CONFLICT (kind) DO UPDATE SET scan_id = excluded.scan_id, started_at = excluded.started_at
                """,
                (kind, scan_id),
            )
            return scan_id

    def _start(self, connection: Connection[Any], order: Order) -> UUID:
        scan_id = uuid4()
        scope = self._sealer.seal(scan_id, "scope", json.dumps(encode_scope(order.scope)).encode())
        connection.execute(
            "INSERT INTO scan (id, action, scope, dry_run, requested_by, note) VALUES (%s, %s, %s, %s, %s, %s)",
            (scan_id, str(order.action), scope, order.dry_run, order.by, order.note),
        )
        return scan_id

    def claim(self, lease_seconds: int) -> Listing | None:
        """Take a scan whose studies are to be gathered; None if there is none."""
        lease_id = uuid4()
        with self._pool.connection() as connection:
            row = connection.execute(
                """
                WITH due AS (
                    SELECT id FROM scan WHERE state = 'LISTING' AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
                    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                UPDATE scan AS s SET lease_id = %s, lease_until = now() + make_interval(secs => %s)
                FROM due WHERE s.id = due.id RETURNING s.id, s.action, s.scope, s.dry_run, s.requested_by, s.note
                """,
                (lease_id, lease_seconds),
            ).fetchone()
        return None if row is None else Listing(row[0], lease_id, open_order(self._sealer, *row))

    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None:
        """Prolong leases that still exist."""
        with self._pool.connection() as connection:
            connection.execute(
                "UPDATE scan SET lease_until = now() + make_interval(secs => %s) WHERE lease_id = ANY(%s)", (lease_seconds, list(lease_ids))
            )

    def add_studies(self, listing: Listing, study_uids: Sequence[str]) -> bool:
        """Have studies looked at, each once however often it is added; return whether the scan still wants them."""
        rows = []
        for study_uid in dict.fromkeys(study_uids):
            row_id = uuid4()
            token = self._names.study_token(study_uid)
            rows.append((row_id, listing.scan_id, token, self._sealer.seal(row_id, "study", study_uid.encode())))
        with self._pool.connection() as connection, connection.cursor() as cursor:
            sql = "SELECT FROM scan WHERE id = %s AND lease_id = %s AND state = 'LISTING' FOR SHARE"
            if connection.execute(sql, (listing.scan_id, listing.lease_id)).fetchone() is None:
                return False
            cursor.executemany(
                """
                INSERT INTO inspection (id, scan_id, study_token, study) VALUES (%s, %s, %s, %s)
                ON CONFLICT (scan_id, study_token) WHERE scan_id IS NOT NULL DO NOTHING
                """,
                rows,
            )
        return True

    def listed(self, listing: Listing) -> None:
        """Note that all studies of a scan are known."""
        with self._pool.connection() as connection:
            connection.execute(
                """
                UPDATE scan SET lease_id = NULL, lease_until = NULL, modified_at = now(),
                    state = CASE WHEN EXISTS (SELECT FROM inspection WHERE scan_id = scan.id AND outcome = '')
                        THEN 'INSPECTING' ELSE 'DONE' END
                WHERE id = %s AND lease_id = %s AND state = 'LISTING'
                """,
                (listing.scan_id, listing.lease_id),
            )

    def postpone(self, listing: Listing, reason: str, max_attempts: int) -> None:
        """Gather the studies later, after pauses that double up to five minutes; at the last attempt the scan fails."""
        with self._pool.connection() as connection:
            connection.execute(
                """
                UPDATE scan SET attempts = attempts + 1, reason = %s, modified_at = now(), lease_id = NULL, lease_until = NULL,
                    due_at = now() + make_interval(secs => least(%s, 2 ^ least(attempts, 20)) * (0.75 + random() / 2)),
                    state = CASE WHEN attempts + 1 >= %s THEN 'FAILED' ELSE state END
                WHERE id = %s AND lease_id = %s AND state = 'LISTING'
                """,
                (reason, _BACK_OFF_CAP_SECONDS, max_attempts, listing.scan_id, listing.lease_id),
            )

    def get(self, scan_id: UUID) -> Scan | None:
        """Return a scan and how far it is."""
        with self._pool.connection() as connection:
            row = connection.execute(f"{_SELECT} WHERE s.id = %s GROUP BY s.id".encode(), (scan_id,)).fetchone()
        return None if row is None else _scan(*row)

    def page(self, limit: int) -> list[Scan]:
        """Return the scans that were started last, the newest first."""
        with self._pool.connection() as connection:
            newest = "SELECT id FROM scan ORDER BY created_at DESC LIMIT %s"
            sql = f"{_SELECT} WHERE s.id IN ({newest}) GROUP BY s.id ORDER BY s.created_at DESC"
            return [_scan(*row) for row in connection.execute(sql.encode(), (limit,)).fetchall()]

    def cancel(self, scan_id: UUID) -> bool:
        """End a scan: what it has not looked at is left; return whether it was under way."""
        with self._pool.connection() as connection:
            done = connection.execute(
                """
                UPDATE scan SET state = 'CANCELLED', lease_id = NULL, lease_until = NULL, modified_at = now()
                WHERE id = %s AND state IN ('LISTING', 'INSPECTING')
                """,
                (scan_id,),
            )
            if done.rowcount:
                connection.execute("DELETE FROM inspection WHERE scan_id = %s AND outcome = '' AND lease_id IS NULL", (scan_id,))
        return bool(done.rowcount > 0)

    def forget(self, days: int) -> None:
        """Remove scans that ended so many days ago."""
        with self._pool.connection() as connection:
            over = "state IN ('DONE', 'CANCELLED', 'FAILED')"
            sql = f"DELETE FROM scan WHERE {over} AND modified_at < now() - make_interval(days => %s)"  # noqa: S608 - fixed parts only
            connection.execute(sql.encode(), (days,))


def open_order(sealer: RecordSealer, scan_id: UUID, action: str, scope: bytes, dry_run: bool, by: str, note: str) -> Order:
    """Return what the row of a scan asks for."""
    opened = decode_scope(json.loads(sealer.open(scan_id, "scope", scope)))
    return Order(Action(action), opened, dry_run, by, note)


def _scan(*row: Any) -> Scan:
    scan_id, action, dry_run, by, note, state, reason, created_at, modified_at, studies, inspected, failed, counts = row
    return Scan(
        scan_id,
        Action(action),
        dry_run,
        by,
        note,
        ScanState(state),
        reason,
        created_at,
        modified_at,
        studies,
        inspected,
        failed,
        Counts.from_dict(counts),
    )
