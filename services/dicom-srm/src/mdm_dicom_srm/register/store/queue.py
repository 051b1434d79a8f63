"""The registration queue in PostgreSQL; locators and headers are sealed before they get there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any
from uuid import UUID, uuid4

from mdm_deid import Patient
from mdm_wire.errors import Aborted, FailedPrecondition, MdmError, NotFound
from psycopg import Connection
from psycopg.errors import DeadlockDetected, UniqueViolation
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.pacs.port import InstanceLocator, Located
from mdm_dicom_srm.record_seal import RecordSealer
from mdm_dicom_srm.register.rules.model import OPEN, RETRIABLE, Batch, Candidate, Job, Page, Queued, Registration, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.store.shared import freeing_conflicts, open_patient

_CLAIM_LOCK = 0x4D444D02  # claims take turns, so that no two workers hold one series
_OPEN = [str(state) for state in OPEN]
_BACK_OFF_CAP_SECONDS = 300


_ENDED = (State.REMOVING, State.REMOVED)
_ENQUEUE_TRIES = 10
_INSERT = """
INSERT INTO registration (guid, instance, generation, state, study_token, series_token, locator, header, digest, size)
VALUES (%s, %s, %s, 'RECEIVED', %s, %s, %s, %s, %s, %s)
"""
# What is published stays so until it is described anew; a lease stays too, but is not for this version.
_UPDATE = """
UPDATE registration SET state = 'RECEIVED', reason = '', attempts = 0, due_at = now(), modified_at = now(), version = version + 1,
    study_token = %s, series_token = %s, locator = %s, header = %s, digest = %s, size = %s,
    patient_token = CASE WHEN %s THEN NULL ELSE patient_token END,
    changed = changed OR (keyed AND %s), restoring = restoring OR %s
WHERE guid = %s
"""


@dataclass(frozen=True, slots=True)
class _Latest:
    """The newest registration of an instance."""

    guid: UUID
    generation: int
    state: State
    digest: bytes | None


class RegistrationStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names) -> None:
        self._pool = pool
        self._sealer = sealer
        self._names = names

    def enqueue(self, candidates: Sequence[Candidate], *, restore: bool = False) -> Queued:
        """Queue instances durably. A new one is registered, a changed one described anew; an equal one is left as it is.

        An equal one that FAILED is tried again; with `restore` so is every one that is not under way, and what the grid has lost of it
        is put back.
        """
        unique = {candidate.instance: candidate for candidate in candidates}
        for _ in range(_ENQUEUE_TRIES):
            try:
                queued = self._enqueue(unique, restore)
                return Queued(queued, len(candidates) - queued)
            except (UniqueViolation, DeadlockDetected):
                continue  # somebody else has just queued one of them, or ended its generation: look again
        raise Aborted("REGISTRATION_CONTENDED", "Others are queueing these instances at the same time; try again.")

    def _enqueue(self, candidates: Mapping[UUID, Candidate], restore: bool) -> int:
        inserts: list[tuple[object, ...]] = []
        updates: list[tuple[object, ...]] = []
        with self._pool.connection() as connection, connection.cursor() as cursor:
            known = self._latest(connection, list(candidates))
            for instance, candidate in sorted(candidates.items()):
                latest = known.get(instance)
                if latest is None or latest.state in _ENDED:
                    generation = latest.generation + 1 if latest else 0
                    guid = self._names.guid(candidate.locator.sop_uid, generation)
                    inserts.append((guid, instance, generation, *self._content(guid, candidate)))
                    continue
                changed = latest.digest != candidate.digest
                again = latest.state is State.FAILED or (restore and latest.state not in OPEN)
                if changed or again:
                    updates.append((*self._content(latest.guid, candidate), changed, changed, restore, latest.guid))
            cursor.executemany(_INSERT, inserts)
            cursor.executemany(_UPDATE, updates)
        return len(inserts) + len(updates)

    @staticmethod
    def _latest(connection: Connection[Any], instances: Sequence[UUID]) -> dict[UUID, "_Latest"]:
        rows = connection.execute(
            """
            SELECT instance, guid, generation, state, digest FROM registration WHERE instance = ANY(%s)
            ORDER BY instance, generation FOR UPDATE
            """,
            (list(instances),),
        ).fetchall()
        return {
            instance: _Latest(guid, generation, State(state), digest and bytes(digest))
            for instance, guid, generation, state, digest in rows
        }

    def _content(self, guid: UUID, candidate: Candidate) -> tuple[object, ...]:
        return (
            candidate.study_token,
            candidate.series_token,
            self._seal_locator(guid, candidate.locator),
            self._sealer.seal(guid, "header", candidate.header),
            candidate.digest,
            candidate.size,
        )

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
                UPDATE registration AS r SET lease_id = %s, lease_version = version, lease_until = now() + make_interval(secs => %s)
                FROM due WHERE r.guid = due.guid
                RETURNING r.guid, r.generation, r.state, r.locator, r.header, r.size, r.keyed, r.changed, r.restoring,
                    coalesce(r.lfn, ''), coalesce(r.patient_key, '')
                """,
                (found[0], _OPEN, limit, lease_id, lease_seconds),
            ).fetchall()
        jobs = tuple(
            Job(guid, generation, State(state), self._open_locator(guid, locator), self._open_header(guid, header), *rest)
            for guid, generation, state, locator, header, *rest in rows
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
        """Bring registrations to the next state; return those that this lease still held and that did not change meanwhile.

        PUBLISHED and REMOVED end lease and header.
        """
        over = state in (State.PUBLISHED, State.REMOVED)
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                UPDATE registration SET state = %(state)s, reason = '', attempts = 0, modified_at = now(),
                    keyed = keyed OR %(keyed)s, changed = changed AND NOT %(over)s, restoring = restoring AND NOT %(over)s,
                    header = CASE WHEN %(over)s THEN NULL ELSE header END,
                    lease_id = CASE WHEN %(over)s THEN NULL ELSE lease_id END,
                    lease_until = CASE WHEN %(over)s THEN NULL ELSE lease_until END
                WHERE lease_id = %(lease)s AND lease_version = version AND guid = ANY(%(guids)s) RETURNING guid
                """,
                {"state": str(state), "keyed": state is State.KEYED, "over": over, "lease": lease_id, "guids": list(guids)},
            ).fetchall()
            if state is State.KEYED:
                # What changed meanwhile has a key, too: it must not be forgotten if the instance may not be released any more.
                condition = "lease_id = %s AND lease_version <> version AND guid = ANY(%s)"
                sql = f"UPDATE registration SET keyed = true, changed = true WHERE {condition}"  # noqa: S608 - fixed parts only
                connection.execute(sql.encode(), (lease_id, list(guids)))
        return {row[0] for row in rows}

    def note_lfns(self, lfns: Mapping[UUID, str]) -> None:
        """Keep under which names the catalog has files."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany("UPDATE registration SET lfn = %s WHERE guid = %s", [(lfn, guid) for guid, lfn in sorted(lfns.items())])

    def settle(self, lease_id: UUID, reasons: Mapping[UUID, str], state: State) -> None:
        """End registrations as FILTERED, QUARANTINED or FAILED, each with its reason. FILTERED ones lose their header."""
        with self._pool.connection() as connection, freeing_conflicts(connection, list(reasons)), connection.cursor() as cursor:
            cursor.executemany(
                """
                UPDATE registration SET state = %s, reason = %s, modified_at = now(), lease_id = NULL, lease_until = NULL,
                    patient_token = NULL, header = CASE WHEN %s THEN NULL ELSE header END
                WHERE lease_id = %s AND lease_version = version AND guid = %s
                """,
                [(str(state), reason, state is State.FILTERED, lease_id, guid) for guid, reason in reasons.items()],
            )

    def end_generation(self, lease_id: UUID, job: Job, state: State, reason: str = "") -> None:
        """Have a registration removed, and register its instance anew in the next generation: RECEIVED, or settled with a reason.

        Nothing happens if the lease has ended or the instance changed meanwhile.
        """
        guid = self._names.guid(job.locator.sop_uid, job.generation + 1)
        locator, header = self._seal_locator(guid, job.locator), self._sealer.seal(guid, "header", job.header)
        with self._pool.connection() as connection, freeing_conflicts(connection, [job.guid]):
            ended = connection.execute(
                """
                UPDATE registration SET state = 'REMOVING', reason = '', attempts = 0, due_at = now(), modified_at = now(), header = NULL,
                    lease_id = NULL, lease_until = NULL
                WHERE lease_id = %s AND lease_version = version AND guid = %s
                RETURNING instance, generation + 1, study_token, series_token, digest, size, patient_token, against
                """,
                (lease_id, job.guid),
            ).fetchone()
            if ended is None:
                return
            connection.execute(
                """
                INSERT INTO registration (guid, state, reason, locator, header, instance, generation, study_token, series_token,
                    digest, size, patient_token, against)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                """,
                (
                    guid,
                    str(state),
                    reason,
                    locator,
                    None if state is State.FILTERED else header,
                    *ended[:6],
                    None if reason else ended[6],
                    ended[7],
                ),
            )

    def postpone(self, lease_id: UUID, reasons: Mapping[UUID, str], max_attempts: int) -> None:
        """Try registrations again later, with pauses that double up to five minutes; the last attempt makes them FAILED.

        A removal is tried for ever.
        """
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                UPDATE registration SET attempts = attempts + 1, reason = %s, modified_at = now(), lease_id = NULL, lease_until = NULL,
                    due_at = now() + make_interval(secs => least(%s, 2 ^ least(attempts, 20)) * (0.75 + random() / 2)),
                    state = CASE WHEN attempts + 1 >= %s AND state <> 'REMOVING' THEN 'FAILED' ELSE state END
                WHERE lease_id = %s AND lease_version = version AND guid = %s
                """,
                [(reason, _BACK_OFF_CAP_SECONDS, max_attempts, lease_id, guid) for guid, reason in reasons.items()],
            )

    def release(self, lease_id: UUID) -> None:
        """Give back what a lease still holds, as it is."""
        with self._pool.connection() as connection:
            connection.execute("UPDATE registration SET lease_id = NULL, lease_until = NULL WHERE lease_id = %s", (lease_id,))

    def series_sizes(self, series_tokens: Sequence[bytes]) -> dict[bytes, int]:
        """Return how many published instances each series has."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT series_token, count(*) FROM registration WHERE series_token = ANY(%s) AND state = 'PUBLISHED' GROUP BY 1",
                (list(series_tokens),),
            ).fetchall()
        return {bytes(token): count for token, count in rows}

    def locators_of(self, guids: Sequence[UUID]) -> dict[UUID, Located | None]:
        """Return where the PACS keeps published instances, None for one that is being described anew; others are left out.

        Described ones are given too: after a crash the catalog may have the name already, and it is the catalog that says who reads it.
        """
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT r.guid, r.locator, r.study_token, s.patient, r.changed FROM registration AS r
                LEFT JOIN study AS s ON s.token = r.study_token AND s.patient_token = r.patient_token
                WHERE r.guid = ANY(%s)
                  AND (r.state IN ('DESCRIBED', 'PUBLISHED') OR (r.lfn IS NOT NULL AND r.state IN ('RECEIVED', 'KEYED', 'FAILED')))
                """,
                (list(guids),),
            ).fetchall()
        return {
            guid: None if changed else Located(self._open_locator(guid, locator), self._open_patient(token, patient))
            for guid, locator, token, patient, changed in rows
        }

    def sizes_of(self, guids: Sequence[UUID]) -> dict[UUID, int | None]:
        """Return the sizes of files that registration knows."""
        with self._pool.connection() as connection:
            rows = connection.execute("SELECT guid, size FROM registration WHERE guid = ANY(%s)", (list(guids),)).fetchall()
        return dict(rows)

    def note_sizes(self, sizes: Mapping[UUID, int]) -> None:
        """Keep the sizes that users get."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany("UPDATE registration SET size = %s WHERE guid = %s", [(size, guid) for guid, size in sorted(sizes.items())])

    def published(self, guids: Sequence[UUID]) -> dict[UUID, InstanceLocator]:
        """Return where the PACS keeps instances that are published, not counting those that are being described anew."""
        with self._pool.connection() as connection:
            sql = "SELECT guid, locator FROM registration WHERE guid = ANY(%s) AND state = 'PUBLISHED'"
            rows = connection.execute(sql, (list(guids),)).fetchall()
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

    def _seal_locator(self, guid: UUID, locator: InstanceLocator) -> bytes:
        return self._sealer.seal(guid, "locator", json.dumps(astuple(locator)).encode())

    def _open_locator(self, guid: UUID, sealed: bytes) -> InstanceLocator:
        return InstanceLocator(*json.loads(self._sealer.open(guid, "locator", sealed)))

    def _open_header(self, guid: UUID, sealed: bytes | None) -> bytes:
        return b"" if sealed is None else self._sealer.open(guid, "header", sealed)

    def _open_patient(self, token: bytes, sealed: bytes | None) -> Patient | None:
        return None if sealed is None else open_patient(self._sealer, token, sealed)


def _not_queued(exists: bool) -> MdmError:
    if exists:
        return FailedPrecondition("REGISTRATION_NOT_RETRIABLE", "Only failed and quarantined registrations can be queued again.")
    return NotFound("REGISTRATION_NOT_FOUND", "No such registration.")
