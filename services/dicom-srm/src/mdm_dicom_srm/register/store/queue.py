"""The registration queue in PostgreSQL; locators and headers are sealed before they get there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any
from uuid import UUID, uuid4

from mdm_wire.errors import FailedPrecondition, MdmError, NotFound
from psycopg import Connection
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.record_seal import RecordSealer
from mdm_dicom_srm.register.rules.model import OPEN, RETRIABLE, Batch, Candidate, Job, Page, Queued, Registration, State

_CLAIM_LOCK = 0x4D444D02  # claims take turns, so that no two workers hold one series
_OPEN = [str(state) for state in OPEN]
_BACK_OFF_CAP_SECONDS = 300


class RegistrationStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer) -> None:
        self._pool = pool
        self._sealer = sealer

    def enqueue(self, candidates: Sequence[Candidate]) -> Queued:
        """Queue instances durably. A known one is left as it is, but a failed one is queued again with the new header."""
        unique = {candidate.guid: candidate for candidate in candidates}
        rows = [
            (c.guid, c.study_token, c.series_token, self._seal_locator(c), self._sealer.seal(c.guid, "header", c.header))
            for c in sorted(unique.values(), key=lambda candidate: candidate.guid)
        ]
        sql = """
            INSERT INTO registration AS r (guid, study_token, series_token, state, locator, header)
            VALUES (%s, %s, %s, 'RECEIVED', %s, %s)
            ON CONFLICT (guid) DO UPDATE SET state = 'RECEIVED', reason = '', attempts = 0, due_at = now(), modified_at = now(),
                study_token = excluded.study_token, series_token = excluded.series_token,
                locator = excluded.locator, header = excluded.header
            WHERE r.state = 'FAILED'
        """
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(sql, rows)
            queued = max(cursor.rowcount, 0)
        return Queued(queued, len(candidates) - queued)

    def claim(self, limit: int, lease_seconds: int) -> Batch | None:
        """Take at most `limit` due registrations of one series that nobody else holds, or None if nothing is due."""
        lease_id = uuid4()
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CLAIM_LOCK,))
            found = connection.execute(
                """
                SELECT series_token FROM registration AS r
                WHERE state = ANY(%s) AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
                  AND NOT EXISTS (SELECT FROM registration AS held WHERE held.series_token = r.series_token
                                  AND held.lease_id IS NOT NULL AND held.lease_until >= now())
                ORDER BY due_at LIMIT 1
                """,
                (_OPEN,),
            ).fetchone()
            if found is None:
                return None
            rows = connection.execute(
                """
                WITH due AS (
                    SELECT guid FROM registration
                    WHERE series_token = %s AND state = ANY(%s) AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
                    ORDER BY guid LIMIT %s FOR UPDATE SKIP LOCKED)
                UPDATE registration AS r SET lease_id = %s, lease_until = now() + make_interval(secs => %s)
                FROM due WHERE r.guid = due.guid RETURNING r.guid, r.state, r.locator, r.header
                """,
                (found[0], _OPEN, limit, lease_id, lease_seconds),
            ).fetchall()
        jobs = tuple(
            Job(guid, State(state), self._open_locator(guid, locator), self._open_header(guid, header))
            for guid, state, locator, header in rows
        )
        return Batch(lease_id, found[0], jobs) if jobs else None

    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None:
        """Prolong leases that still exist."""
        with self._pool.connection() as connection:
            connection.execute(
                "UPDATE registration SET lease_until = now() + make_interval(secs => %s) WHERE lease_id = ANY(%s)",
                (lease_seconds, list(lease_ids)),
            )

    def advance(self, lease_id: UUID, guids: Sequence[UUID], state: State) -> set[UUID]:
        """Bring registrations to the next state; return those that this lease still held. PUBLISHED ends lease and header."""
        published = state is State.PUBLISHED
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                UPDATE registration SET state = %(state)s, reason = '', attempts = 0, modified_at = now(),
                    header = CASE WHEN %(published)s THEN NULL ELSE header END,
                    lease_id = CASE WHEN %(published)s THEN NULL ELSE lease_id END,
                    lease_until = CASE WHEN %(published)s THEN NULL ELSE lease_until END
                WHERE lease_id = %(lease)s AND guid = ANY(%(guids)s) RETURNING guid
                """,
                {"state": str(state), "published": published, "lease": lease_id, "guids": list(guids)},
            ).fetchall()
        return {row[0] for row in rows}

    def settle(self, lease_id: UUID, reasons: Mapping[UUID, str], state: State) -> None:
        """End registrations as FILTERED, QUARANTINED or FAILED, each with its reason. FILTERED ones lose their header."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                UPDATE registration SET state = %s, reason = %s, modified_at = now(), lease_id = NULL, lease_until = NULL,
                    header = CASE WHEN %s THEN NULL ELSE header END
                WHERE lease_id = %s AND guid = %s
                """,
                [(str(state), reason, state is State.FILTERED, lease_id, guid) for guid, reason in reasons.items()],
            )

    def postpone(self, lease_id: UUID, reasons: Mapping[UUID, str], max_attempts: int) -> None:
        """Try registrations again later, with pauses that double up to five minutes; the last attempt makes them FAILED."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                UPDATE registration SET attempts = attempts + 1, reason = %s, modified_at = now(), lease_id = NULL, lease_until = NULL,
                    due_at = now() + make_interval(secs => least(%s, 2 ^ least(attempts, 20)) * (0.75 + random() / 2)),
                    state = CASE WHEN attempts + 1 >= %s THEN 'FAILED' ELSE state END
                WHERE lease_id = %s AND guid = %s
                """,
                [(reason, _BACK_OFF_CAP_SECONDS, max_attempts, lease_id, guid) for guid, reason in reasons.items()],
            )

    def release(self, lease_id: UUID) -> None:
        """Give back what a lease still holds, as it is."""
        with self._pool.connection() as connection:
            connection.execute("UPDATE registration SET lease_id = NULL, lease_until = NULL WHERE lease_id = %s", (lease_id,))

    def count_described(self, series_token: bytes) -> int:
        """Return how many instances of a series have their metadata stored."""
        with self._pool.connection() as connection:
            sql = "SELECT count(*) FROM registration WHERE series_token = %s AND state IN ('DESCRIBED', 'PUBLISHED')"
            return _scalar(connection, sql, (series_token,))

    def series_sizes(self, series_tokens: Sequence[bytes]) -> dict[bytes, int]:
        """Return how many published instances each series has."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT series_token, count(*) FROM registration WHERE series_token = ANY(%s) AND state = 'PUBLISHED' GROUP BY 1",
                (list(series_tokens),),
            ).fetchall()
        return {bytes(token): count for token, count in rows}

    def locators_of(self, guids: Sequence[UUID]) -> dict[UUID, InstanceLocator]:
        """Return where the PACS keeps published instances; others are left out.

        Described ones are given too: after a crash the catalog may have the name already, and it is the catalog that says who reads it.
        """
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT guid, locator FROM registration WHERE guid = ANY(%s) AND state IN ('DESCRIBED', 'PUBLISHED')", (list(guids),)
            ).fetchall()
        return {guid: self._open_locator(guid, locator) for guid, locator in rows}

    def summary(self, study_tokens: Sequence[bytes]) -> dict[State, int]:
        """Count registrations by state, those of some studies or, without any, all; states without any are left out."""
        condition = "WHERE study_token = ANY(%(tokens)s)" if study_tokens else ""
        query = f"SELECT state, count(*) FROM registration {condition} GROUP BY state ORDER BY state"  # noqa: S608  # fixed parts only
        with self._pool.connection() as connection:
            rows = connection.execute(query.encode(), {"tokens": list(study_tokens)}).fetchall()
        return {State(state): count for state, count in rows}

    def page(self, state: State | None, after: UUID | None, limit: int) -> Page:
        """Return registrations in order of GUID, those behind `after`, of one state if given."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT guid, state, reason, attempts, created_at, modified_at FROM registration
                WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(after)s::uuid IS NULL OR guid > %(after)s)
                ORDER BY guid LIMIT %(limit)s
                """,
                {"state": None if state is None else str(state), "after": after, "limit": limit + 1},
            ).fetchall()
        found = [Registration(guid, State(text), *rest) for guid, text, *rest in rows[:limit]]
        return Page(found, found[-1].guid if len(rows) > limit else None)

    def retry(self, guids: Sequence[UUID]) -> dict[UUID, MdmError | None]:
        """Queue failed or quarantined registrations again; one that is under way or published is FailedPrecondition."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                UPDATE registration SET state = 'RECEIVED', reason = '', attempts = 0, due_at = now(), modified_at = now()
                WHERE guid = ANY(%s) AND state = ANY(%s) RETURNING guid
                """,
                (list(guids), [str(state) for state in RETRIABLE]),
            ).fetchall()
            known = connection.execute("SELECT guid FROM registration WHERE guid = ANY(%s)", (list(guids),)).fetchall()
        queued, existing = {row[0] for row in rows}, {row[0] for row in known}
        return {guid: None if guid in queued else _not_queued(guid in existing) for guid in guids}

    def _seal_locator(self, candidate: Candidate) -> bytes:
        return self._sealer.seal(candidate.guid, "locator", json.dumps(astuple(candidate.locator)).encode())

    def _open_locator(self, guid: UUID, sealed: bytes) -> InstanceLocator:
        return InstanceLocator(*json.loads(self._sealer.open(guid, "locator", sealed)))

    def _open_header(self, guid: UUID, sealed: bytes) -> bytes:
        return self._sealer.open(guid, "header", sealed)


def _scalar(connection: Connection[Any], sql: str, parameters: tuple[object, ...]) -> int:
    row = connection.execute(sql.encode(), parameters).fetchone()
    return int(row[0]) if row else 0


def _not_queued(exists: bool) -> MdmError:
    if exists:
        return FailedPrecondition("REGISTRATION_NOT_RETRIABLE", "Only failed and quarantined registrations can be queued again.")
    return NotFound("REGISTRATION_NOT_FOUND", "No such registration.")
