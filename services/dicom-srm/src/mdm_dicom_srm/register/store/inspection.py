"""Inspections in PostgreSQL: the studies to be looked at. Their UIDs are sealed until they are done, and then gone."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.scan import Counts, Inspection
from mdm_dicom_srm.register.store.scan import open_order
from mdm_dicom_srm.site_secret import RecordSealer

_BACK_OFF_CAP_SECONDS = 300


class InspectionStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names) -> None:
        self._pool = pool
        self._sealer = sealer
        self._names = names

    def queue(self, study_uid: str, after_seconds: float = 0) -> None:
        """Have a study looked at, at the latest after some seconds. One that is waiting is looked at once."""
        row_id = uuid4()
        sealed = self._sealer.seal(row_id, "study", study_uid.encode())
        with self._pool.connection() as connection:
            connection.execute(
                """
                INSERT INTO inspection AS i (id, study_token, study, due_at) VALUES (%s, %s, %s, now() + make_interval(secs => %s))
                ON CONFLICT (study_token) WHERE scan_id IS NULL DO UPDATE SET version = i.version + 1,
                    -- While one is under way, the next look waits until it has ended.
                    due_at = CASE WHEN i.lease_id IS NULL THEN least(i.due_at, excluded.due_at) ELSE excluded.due_at END
                """,
                (row_id, self._names.study_token(study_uid), sealed, after_seconds),
            )

    def claim(self, lease_seconds: int) -> Inspection | None:
        """Take an inspection that is due, those of no scan first; None if there is none."""
        lease_id = uuid4()
        with self._pool.connection() as connection:
            row = connection.execute(
                """
                WITH due AS (
                    SELECT id FROM inspection
                    WHERE outcome = '' AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
                    ORDER BY (scan_id IS NOT NULL), due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                UPDATE inspection AS i SET lease_id = %s, lease_until = now() + make_interval(secs => %s)
                FROM due WHERE i.id = due.id RETURNING i.id, i.version, i.study, i.scan_id
                """,
                (lease_id, lease_seconds),
            ).fetchone()
            if row is None:
                return None
            row_id, version, study, scan_id = row
            order = None
            if scan_id is not None:
                sql = "SELECT id, action, scope, dry_run, requested_by, note FROM scan WHERE id = %s"
                order = open_order(self._sealer, *(connection.execute(sql, (scan_id,)).fetchone() or ()))
        return Inspection(row_id, lease_id, version, self._sealer.open(row_id, "study", study).decode(), order)

    def waiting(self) -> tuple[int, float]:
        """Return how many inspections wait or are under way, and for how many seconds the first that waits has been due."""
        with self._pool.connection() as connection:
            row = connection.execute(
                """
                SELECT count(*), coalesce(extract(epoch FROM now() - min(due_at)
                    FILTER (WHERE due_at <= now() AND (lease_until IS NULL OR lease_until < now()))), 0)::float8
                FROM inspection WHERE outcome = ''
                """
            ).fetchone()
        return row or (0, 0.0)

    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None:
        """Prolong leases that still exist."""
        with self._pool.connection() as connection:
            connection.execute(
                "UPDATE inspection SET lease_until = now() + make_interval(secs => %s) WHERE lease_id = ANY(%s)",
                (lease_seconds, list(lease_ids)),
            )

    def finish(self, inspection: Inspection, counts: Counts, reason: str = "") -> None:
        """End an inspection; with a reason it failed. One that was asked for again meanwhile is done again."""
        key = (inspection.id, inspection.lease_id)
        with self._pool.connection() as connection:
            if inspection.order is None:
                connection.execute("DELETE FROM inspection WHERE id = %s AND lease_id = %s AND version = %s", (*key, inspection.version))
                connection.execute(
                    "UPDATE inspection SET lease_id = NULL, lease_until = NULL, attempts = 0 WHERE id = %s AND lease_id = %s", key
                )
            else:
                self._end(connection, key, counts, reason)

    @staticmethod
    def _end(connection: Any, key: tuple[UUID, UUID], counts: Counts, reason: str) -> None:
        row = connection.execute(
            """
            UPDATE inspection SET outcome = %s, reason = %s, counts = %s, study = NULL, lease_id = NULL, lease_until = NULL
            WHERE id = %s AND lease_id = %s RETURNING scan_id
            """,
            ("FAILED" if reason else "DONE", reason, json.dumps(counts.to_dict()), *key),
        ).fetchone()
        if row is not None:
            end_scan(connection, row[0])

    def postpone(self, inspection: Inspection, reason: str, max_attempts: int) -> None:
        """Look later, after pauses that double up to five minutes; one of a scan fails at the last attempt, others are repeated."""
        key = (inspection.id, inspection.lease_id)
        with self._pool.connection() as connection:
            row = connection.execute(
                """
                UPDATE inspection SET attempts = attempts + 1, reason = %s, lease_id = NULL, lease_until = NULL,
                    due_at = now() + make_interval(secs => least(%s, 2 ^ least(attempts, 20)) * (0.75 + random() / 2)),
                    outcome = CASE WHEN scan_id IS NOT NULL AND attempts + 1 >= %s THEN 'FAILED' ELSE '' END
                WHERE id = %s AND lease_id = %s RETURNING scan_id, outcome
                """,
                (reason, _BACK_OFF_CAP_SECONDS, max_attempts, *key),
            ).fetchone()
            if row is not None and row[1]:
                connection.execute("UPDATE inspection SET study = NULL WHERE id = %s", (inspection.id,))
                end_scan(connection, row[0])


def end_scan(connection: Any, scan_id: UUID) -> None:
    """End a scan if nothing of it is left to be looked at; the last two inspections wait for each other, so that one of them does."""
    connection.execute("SELECT FROM scan WHERE id = %s FOR UPDATE", (scan_id,))
    connection.execute(
        """
        UPDATE scan SET state = 'DONE', modified_at = now() WHERE id = %(id)s AND state = 'INSPECTING'
            AND NOT EXISTS (SELECT FROM inspection WHERE scan_id = %(id)s AND outcome = '')
        """,
        {"id": scan_id},
    )
