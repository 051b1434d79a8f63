"""The registration queue in PostgreSQL; locators, headers and judgements are sealed before they get there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from mdm_deid.outcome import Outcome
from mdm_wire.errors import Aborted, FailedPrecondition, MdmError, NotFound
from psycopg import Connection
from psycopg.errors import DeadlockDetected, UniqueViolation
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.register.rules.model import OPEN, RETRIABLE, Action, Batch, Candidate, Job, Removal, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.policy import SITE_POLICY
from mdm_dicom_srm.register.rules.port import File
from mdm_dicom_srm.register.store.content import begin_removal
from mdm_dicom_srm.register.store.decision import decide
from mdm_dicom_srm.register.store.registration import RowSealer
from mdm_dicom_srm.register.store.shared_entry import freeing_conflicts
from mdm_dicom_srm.site_secret import RecordSealer

_CLAIM_LOCK = 0x4D444D02  # claims take turns, so that no two workers hold one series
_OPEN = [str(state) for state in OPEN]
_ENDED = (State.REMOVING, State.REMOVED)
_ENQUEUE_TRIES, _BACK_OFF_CAP_SECONDS = 10, 300
_ARRIVING_SECONDS = 5.0  # in which the process where an instance arrived takes it on itself
_INSERT = """
INSERT INTO registration (guid, instance, generation, state, reason, due_at, study_token, series_token, locator, header, judgement, digest,
    size, patient_token, listing, facts, calling_ae, policy, rule)
VALUES (%s, %s, %s, %s, %s, now() + make_interval(secs => %s), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
# The same for an instance that was never seen: one statement, which is its own transaction.
_INSERT_NEW = (
    _INSERT.replace("VALUES (", "SELECT ").strip().removesuffix(")")  # noqa: S608 - fixed parts only
    + " WHERE NOT EXISTS (SELECT FROM registration WHERE instance = %s) ON CONFLICT DO NOTHING RETURNING guid"
)
# What is published stays so until it is described anew; a lease stays, too, but does not hold this version.
_UPDATE = """
UPDATE registration SET state = %s, reason = %s, attempts = 0, due_at = now() + make_interval(secs => %s), modified_at = now(),
    version = version + 1, study_token = %s, series_token = %s, locator = %s, header = %s, judgement = %s, digest = %s, size = %s,
    patient_token = %s, listing = %s, facts = %s, calling_ae = %s, policy = %s, rule = %s, missing_since = NULL,
    changed = changed OR (keyed AND %s), restoring = restoring OR %s
WHERE guid = %s
"""
# Ends what a lease holds of this version, or, without a lease, what is published.
_END = """
UPDATE registration SET state = 'REMOVING', reason = '', attempts = 0, due_at = now(), modified_at = now(), header = NULL,
    judgement = NULL, lease_id = NULL, lease_until = NULL
WHERE guid = %(guid)s AND CASE WHEN %(lease)s::uuid IS NULL THEN state = 'PUBLISHED'
    ELSE lease_id = %(lease)s AND lease_version = version END
RETURNING instance, generation + 1, study_token, series_token, digest, patient_token, against, listing, calling_ae, policy, facts
"""


@dataclass(frozen=True, slots=True)
class _Latest:
    """The newest registration of an instance."""

    guid: UUID
    generation: int
    state: State
    digest: bytes | None
    left_out: bool

    def due(self, candidate: Candidate, restore: bool) -> bool:
        """Return whether an instance that arrives is to be queued: it is new, changed, failed, or is to be restored."""
        again = self.state is State.FAILED or (restore and self.state not in OPEN)
        return self.state in _ENDED or self.digest != candidate.digest or again


class QueueStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names) -> None:
        self._pool = pool
        self._rows = RowSealer(sealer)
        self._names = names

    def enqueue(self, candidates: Sequence[Candidate], *, restore: bool = False) -> set[UUID]:
        """Queue instances durably; return those that were.

        A new one is registered, a changed one described anew; an equal one is left as it is.
        An equal one that FAILED is tried again. With `restore` every one that is not under way is, so that what the grid has lost of
        it is put back.
        """
        unique = {candidate.instance: candidate for candidate in candidates}
        if len(unique) == 1 and self._insert_new(*unique.values()):
            return set(unique)
        for _ in range(_ENQUEUE_TRIES):
            try:
                return self._enqueue(unique, restore)
            except (UniqueViolation, DeadlockDetected):
                continue  # another caller has just queued one of them, or ended its generation: look again
        raise Aborted("REGISTRATION_CONTENDED", "Others are queueing these instances at the same time; try again.")

    def _insert_new(self, candidate: Candidate) -> bool:
        """Queue an instance if it is new; return whether it was."""
        guid = self._names.guid(candidate.locator.sop_uid, 0)
        row = (guid, candidate.instance, 0, *_begin(candidate), *self._content(guid, candidate), candidate.instance)
        with self._pool.connection() as connection:
            connection.autocommit = True
            try:
                return connection.execute(_INSERT_NEW.encode(), row, prepare=True).fetchone() is not None
            finally:
                connection.autocommit = False

    def _enqueue(self, candidates: Mapping[UUID, Candidate], restore: bool) -> set[UUID]:
        queued: set[UUID] = set()
        inserts: list[tuple[object, ...]] = []
        updates: list[tuple[object, ...]] = []
        with self._pool.connection() as connection, connection.cursor() as cursor:
            known = self._latest(connection, list(candidates), lock=True)
            for instance, candidate in sorted(candidates.items()):
                latest = known.get(instance)
                # What the site policy leaves out from now on ends its generation, so that whatever the grid has of it goes.
                ends = latest is not None and bool(candidate.rule) and not latest.left_out and latest.due(candidate, restore)
                if latest is None or latest.state in _ENDED or ends:
                    if latest is not None and ends:
                        begin_removal(connection, [latest.guid], Removal.SITE_POLICY)
                    generation = latest.generation + 1 if latest else 0
                    guid = self._names.guid(candidate.locator.sop_uid, generation)
                    queued.add(instance)
                    inserts.append((guid, instance, generation, *_begin(candidate), *self._content(guid, candidate)))
                elif latest.due(candidate, restore):
                    row = (*_begin(candidate), *self._content(latest.guid, candidate), latest.digest != candidate.digest, restore)
                    queued.add(instance)
                    updates.append((*row, latest.guid))
            cursor.executemany(_INSERT, inserts)
            cursor.executemany(_UPDATE, updates)
        return queued

    @staticmethod
    def _latest(connection: Connection[Any], instances: Sequence[UUID], *, lock: bool = False) -> dict[UUID, "_Latest"]:
        sql = "SELECT instance, guid, generation, state, digest, rule FROM registration WHERE instance = ANY(%s) ORDER BY 1, 3"
        rows = connection.execute(f"{sql}{' FOR UPDATE' if lock else ''}".encode(), (list(instances),)).fetchall()
        return {
            instance: _Latest(guid, generation, State(state), digest and bytes(digest), bool(rule))
            for instance, guid, generation, state, digest, rule in rows
        }

    def _content(self, guid: UUID, candidate: Candidate) -> tuple[object, ...]:
        header = None if candidate.rule else candidate.header
        # It counts for its study's patient from now on, so that the next instance meets the same one.
        patient = candidate.judged_as if candidate.agrees else None
        return (
            candidate.study_token,
            candidate.series_token,
            *self._rows.seal(guid, candidate.locator, header, candidate.judgement),
            candidate.digest,
            candidate.size,
            None if patient is None else self._names.patient_token(patient),
            candidate.listing,
            self._rows.seal_facts(guid, candidate.facts),
            candidate.calling_ae,
            candidate.policy,
            candidate.rule,
        )

    def claim(self, limit: int, lease_seconds: int, own: Sequence[bytes] = ()) -> Batch | None:
        """Take at most `limit` due registrations of one series that nobody else holds, or None if nothing is due.

        `own` are tokens of series of which this process has instances that have just arrived: they are due for it before they are for
        others.
        """
        lease_id = uuid4()
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CLAIM_LOCK,))
            found = connection.execute(
                """
                SELECT series_token FROM registration AS r
                WHERE state = ANY(%s) AND (due_at <= now() OR (series_token = ANY(%s) AND attempts = 0))
                  AND (lease_until IS NULL OR lease_until < now())
                  AND NOT EXISTS (SELECT FROM registration AS held WHERE held.series_token = r.series_token
                                  AND held.lease_id IS NOT NULL AND held.lease_until >= now())
                ORDER BY due_at LIMIT 1
                """,
                (_OPEN, list(own)),
            ).fetchone()
            if found is None:
                return None
            rows = connection.execute(
                """
                WITH due AS (
                    SELECT guid FROM registration
                    WHERE series_token = %s AND state = ANY(%s) AND (due_at <= now() OR (series_token = ANY(%s) AND attempts = 0))
                        AND (lease_until IS NULL OR lease_until < now())
                    ORDER BY guid LIMIT %s FOR UPDATE SKIP LOCKED)
                UPDATE registration AS r SET lease_id = %s, lease_version = version, lease_until = now() + make_interval(secs => %s)
                FROM due WHERE r.guid = due.guid
                RETURNING r.guid, r.generation, r.state, r.locator, r.header, r.judgement, r.size, r.keyed, r.changed, r.restoring,
                    coalesce(r.lfn, ''), coalesce(r.patient_key, ''), r.digest
                """,
                (found[0], _OPEN, list(own), limit, lease_id, lease_seconds),
            ).fetchall()
        jobs = tuple(self._job(*row) for row in rows)
        return Batch(lease_id, found[0], jobs) if jobs else None

    def _job(self, guid: UUID, generation: int, state: str, locator: bytes, header: bytes, judgement: bytes, *rest: Any) -> Job:
        values: tuple[Any, ...] = (*self._rows.open(guid, locator, header, judgement), *rest[:-1], rest[-1] and bytes(rest[-1]))
        return Job(guid, generation, State(state), *values)

    def renew(self, lease_ids: Sequence[UUID], lease_seconds: int) -> None:
        """Prolong leases that still exist."""
        with self._pool.connection() as connection:
            connection.execute(
                "UPDATE registration SET lease_until = now() + make_interval(secs => %s) WHERE lease_id = ANY(%s)",
                (lease_seconds, list(lease_ids)),
            )

    def advance(self, lease_id: UUID, guids: Sequence[UUID], state: State, files: Mapping[UUID, File] | None = None) -> set[UUID]:
        """Bring registrations to the next state; return those that this lease still held and that did not change meanwhile.

        PUBLISHED and REMOVED end lease, header and judgement. `files` are those that the catalog has since this step.
        """
        published = files or {}
        over = state in (State.PUBLISHED, State.REMOVED)
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                UPDATE registration AS r SET state = %(state)s, reason = '', attempts = 0, modified_at = now(),
                    lfn = coalesce(named.lfn, r.lfn), size = coalesce(named.size, r.size),
                    keyed = keyed OR %(keyed)s, changed = changed AND NOT %(over)s, restoring = restoring AND NOT %(over)s,
                    header = CASE WHEN %(over)s THEN NULL ELSE header END,
                    judgement = CASE WHEN %(over)s THEN NULL ELSE judgement END,
                    lease_id = CASE WHEN %(over)s THEN NULL ELSE lease_id END,
                    lease_until = CASE WHEN %(over)s THEN NULL ELSE lease_until END
                FROM unnest(%(guids)s::uuid[], %(lfns)s::text[], %(sizes)s::bigint[]) AS named (guid, lfn, size)
                WHERE lease_id = %(lease)s AND lease_version = version AND r.guid = named.guid RETURNING r.guid
                """,
                {
                    "state": str(state),
                    "keyed": state is State.KEYED,
                    "over": over,
                    "lease": lease_id,
                    "guids": list(guids),
                    "lfns": [published[guid].lfn if guid in published else None for guid in guids],
                    "sizes": [published[guid].size if guid in published else None for guid in guids],
                },
            ).fetchall()
            if state is State.KEYED:
                # What changed meanwhile has a key, too: it must not be forgotten if the instance may not be released any more.
                sql = "UPDATE registration SET keyed = true, changed = true WHERE lease_id = %s AND lease_version <> version"
                connection.execute(f"{sql} AND guid = ANY(%s)", (lease_id, list(guids)))
        advanced = {row[0] for row in rows}
        self.note_lfns({guid: file.lfn for guid, file in published.items() if guid not in advanced})
        return advanced

    def note_lfns(self, lfns: Mapping[UUID, str]) -> None:
        """Keep under which names the catalog has files."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany("UPDATE registration SET lfn = %s WHERE guid = %s", [(lfn, guid) for guid, lfn in sorted(lfns.items())])

    def settle(self, lease_id: UUID, reasons: Mapping[UUID, str], state: State) -> None:
        """End registrations as FILTERED, QUARANTINED or FAILED, each with its reason. FILTERED ones lose header and judgement."""
        with self._pool.connection() as connection, freeing_conflicts(connection, list(reasons)), connection.cursor() as cursor:
            cursor.executemany(
                """
                UPDATE registration SET state = %s, reason = %s, modified_at = now(), lease_id = NULL, lease_until = NULL,
                    patient_token = NULL,
                    header = CASE WHEN %s THEN NULL ELSE header END, judgement = CASE WHEN %s THEN NULL ELSE judgement END
                WHERE lease_id = %s AND lease_version = version AND guid = %s
                """,
                [(str(state), reason, *[state is State.FILTERED] * 2, lease_id, guid) for guid, reason in reasons.items()],
            )

    def keep(self, lease_id: UUID, jobs: Sequence[Job]) -> None:
        """Keep what was found of jobs that were judged, unless the lease has ended or the instance changed meanwhile.

        That is the header, its size, the judgement, and the PACS that has the instance.
        """
        rows = []
        for job in jobs:
            locator, header, judgement = self._rows.seal(job.guid, job.locator, job.header, job.judgement)
            digest = None if job.header is None else self._names.header_digest(job.header)
            rows.append((locator, header, judgement, job.size, digest, lease_id, job.guid))
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                UPDATE registration SET locator = %s, header = %s, judgement = %s, size = %s, digest = coalesce(%s, digest)
                WHERE lease_id = %s AND lease_version = version AND guid = %s
                """,
                rows,
            )

    def end_generation(self, lease_id: UUID, job: Job, state: State, reason: str = "") -> None:
        """Have a registration removed, and register its instance anew in the next generation: RECEIVED, or settled with a reason.

        Nothing happens if the lease has ended or the instance changed meanwhile.
        """
        with self._pool.connection() as connection, freeing_conflicts(connection, [job.guid]):
            self._end(connection, job, state, reason, lease_id)

    def hold_back(self, guid: UUID, outcome: Outcome, reason: str) -> bool:
        """Take a published instance back by what staging found; return whether it was published. From then on nothing stages it.

        One that is FILTERED or QUARANTINED ends its generation: the grid forgets it, and the next generation has the reason. One that
        FAILED may have been damaged on its way from the PACS: its name, metadata and key stay. What was kept of it is void: at a retry,
        or when the instance arrives again, it is judged anew.
        """
        with self._pool.connection() as connection, freeing_conflicts(connection, [guid]):
            row = connection.execute(
                "SELECT generation, locator, size FROM registration WHERE guid = %s AND state = 'PUBLISHED'", (guid,)
            ).fetchone()
            if row is None:
                return False
            if outcome is not Outcome.FAILED:
                job = Job(guid, row[0], State.PUBLISHED, self._rows.open_locator(guid, row[1]), None, None, row[2])
                return self._end(connection, job, State(outcome.value), reason)
            done = connection.execute(
                """
                UPDATE registration SET state = 'FAILED', reason = %s, attempts = 0, modified_at = now(), header = NULL, judgement = NULL
                WHERE guid = %s AND state = 'PUBLISHED'
                """,
                (reason, guid),
            )
            return bool(done.rowcount > 0)

    def _end(self, connection: Connection[Any], job: Job, state: State, reason: str, lease_id: UUID | None = None) -> bool:
        """End the generation of a job under a lease, or of a published instance; return whether it is still that."""
        ended = connection.execute(_END, {"guid": job.guid, "lease": lease_id}).fetchone()
        if ended is None:
            return False
        instance, generation, study_token, series_token, digest, patient_token, against, listing, calling_ae, policy, facts = ended
        guid = self._names.guid(job.locator.sop_uid, generation)
        kept = state is not State.FILTERED
        connection.execute(
            """
            INSERT INTO registration (guid, state, reason, locator, header, judgement, size, instance, generation, study_token,
                series_token, digest, patient_token, against, listing, calling_ae, policy, facts)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                guid,
                str(state),
                reason,
                *self._rows.seal(guid, job.locator, job.header if kept else None, job.judgement if kept else None),
                job.size,
                instance,
                generation,
                study_token,
                series_token,
                # What the PACS has is not what was registered, even if its header is equal.
                None if lease_id is None else digest,
                None if reason else patient_token,
                against,
                listing,
                calling_ae,
                policy,
                self._rows.move_facts(job.guid, guid, facts),
            ),
        )
        return True

    def postpone(self, lease_id: UUID, reasons: Mapping[UUID, str], max_attempts: int) -> None:
        """Try registrations again later, with pauses that double up to five minutes; the last attempt makes them FAILED.

        A removal is repeated until it succeeds.
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
        """End a lease; what it still holds stays as it is."""
        with self._pool.connection() as connection:
            connection.execute("UPDATE registration SET lease_id = NULL, lease_until = NULL WHERE lease_id = %s", (lease_id,))

    def retry(self, guids: Sequence[UUID], subject: str) -> dict[UUID, MdmError | None]:
        """Queue failed or quarantined registrations again and note that `subject` decided so; others are FailedPrecondition.

        What a judgement ended is judged anew; where a step failed, the step is repeated.
        """
        with self._pool.connection() as connection:
            queued = decide(connection, Action.RETRIED, dict.fromkeys(guids), RETRIABLE, subject)
            known = connection.execute("SELECT guid FROM registration WHERE guid = ANY(%s)", (list(guids),)).fetchall()
        existing = {row[0] for row in known}
        return {guid: None if guid in queued else _not_queued(guid in existing) for guid in guids}


def _begin(candidate: Candidate) -> tuple[str, str, float]:
    """Return state and reason in which a candidate begins, and after how many seconds others than this process take it on."""
    if candidate.rule:
        return str(State.FILTERED), SITE_POLICY, 0
    return str(State.RECEIVED), "", _ARRIVING_SECONDS if candidate.arriving else 0


def _not_queued(exists: bool) -> MdmError:
    if exists:
        return FailedPrecondition("REGISTRATION_NOT_RETRIABLE", "Only failed and quarantined registrations can be queued again.")
    return NotFound("REGISTRATION_NOT_FOUND", "No such registration.")
