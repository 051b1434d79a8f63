"""Jobs and rounds in PostgreSQL."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import psycopg
from mdm_crypto.audit import AuditEntry
from mdm_service.database import lock_held
from mdm_wire.errors import Conflict
from psycopg_pool import ConnectionPool

from mdm_keystore.rules.resharing.model import Job, JobState, Kind, Round, RoundState
from mdm_keystore.store.key import PostgresChange, head_held

_JOB = "id, kind, state, threshold, total, lost, begun_by, begin_time, end_time, cursor, keys_done, keys_failed, message"
_DRIVING_LOCK = 0x4D444B44  # "MDKD": one driver at a time per database
_ROUND = "id, resharing_id, state, attempt, guids, total, gone"


class PostgresJobs:
    """The jobs in one keystore's database."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def driving(self) -> AbstractContextManager[bool]:
        return lock_held(self._pool, _DRIVING_LOCK)

    def begin(self, job: Job, entry: AuditEntry) -> Job | None:
        with head_held(self._pool) as connection:
            known = connection.execute(f"SELECT {_JOB} FROM resharing WHERE id = %s OR state IN (1, 2)".encode(), (job.id,)).fetchall()  # noqa: S608
            if known:
                return next((found for found in map(_job, known) if found.id == job.id), None)
            connection.execute(
                """INSERT INTO resharing (id, kind, state, threshold, total, lost, begun_by, begin_time)
                   VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
                (job.id, int(job.kind), int(job.state), job.threshold, job.total, list(job.lost), job.begun_by, job.begin_time),
            )
            PostgresChange(connection).audit([entry])
            return job

    def get(self, job_id: UUID | None) -> Job | None:
        if job_id is not None:
            return self._one("id = %s", (job_id,))
        return self._one("true ORDER BY number DESC LIMIT 1", ())

    def running(self) -> Job | None:
        return self._one("state IN (1, 2)", ())

    def failures(self, job_id: UUID, limit: int) -> Sequence[tuple[UUID, str]]:
        with self._pool.connection() as connection:
            query = "SELECT guid, reason FROM resharing_failure WHERE resharing_id = %s ORDER BY guid LIMIT %s"
            return connection.execute(query, (job_id, limit)).fetchall()

    def set_state(self, job_id: UUID, state: JobState, entry: AuditEntry) -> None:
        with head_held(self._pool) as connection:
            done = connection.execute(
                """UPDATE resharing SET state = %s, message = '', end_time = CASE WHEN %s IN (3, 4) THEN now() END
                   WHERE id = %s AND state IN (1, 2)""",
                (int(state), int(state), job_id),
            )
            if done.rowcount:
                PostgresChange(connection).audit([entry])

    def set_message(self, job_id: UUID, message: str) -> None:
        with self._pool.connection() as connection:
            connection.execute("UPDATE resharing SET message = %s WHERE id = %s AND state IN (1, 2)", (message, job_id))

    def audit(self, entry: AuditEntry) -> None:
        with head_held(self._pool) as connection:
            PostgresChange(connection).audit([entry])

    def rounds(self, job_id: UUID) -> Sequence[Round]:
        with self._pool.connection() as connection:
            query = f"SELECT {_ROUND} FROM resharing_round WHERE resharing_id = %s ORDER BY number"  # noqa: S608  # fixed parts only
            return [_round(row) for row in connection.execute(query.encode(), (job_id,))]

    def round(self, round_id: UUID) -> Round | None:
        with self._pool.connection() as connection:
            row = connection.execute(f"SELECT {_ROUND} FROM resharing_round WHERE id = %s".encode(), (round_id,)).fetchone()  # noqa: S608
            return None if row is None else _round(row)

    def open_page(self, new: Round, cursor: UUID) -> None:
        with self._pool.connection() as connection:
            _insert(connection, new)
            connection.execute("UPDATE resharing SET cursor = %s WHERE id = %s", (cursor, new.job_id))

    def replace(self, old: Round, new: Sequence[Round], failures: Mapping[UUID, str], keys_done: int = 0) -> None:
        with self._pool.connection() as connection:
            if not connection.execute("DELETE FROM resharing_round WHERE id = %s AND state = %s", (old.id, int(old.state))).rowcount:
                raise Conflict("ROUND_CHANGED", "Another process of this keystore has advanced the round.")
            for opened in new:
                _insert(connection, opened)
            connection.execute(
                """INSERT INTO resharing_failure (resharing_id, guid, reason) SELECT %s, * FROM unnest(%s::uuid[], %s::text[])
                   ON CONFLICT DO NOTHING""",
                (old.job_id, list(failures), list(failures.values())),
            )
            connection.execute(
                "UPDATE resharing SET keys_done = keys_done + %s, keys_failed = keys_failed + %s WHERE id = %s",
                (keys_done, len(failures), old.job_id),
            )

    def _one(self, condition: str, parameters: tuple[Any, ...]) -> Job | None:
        with self._pool.connection() as connection:
            row = connection.execute(f"SELECT {_JOB} FROM resharing WHERE {condition}".encode(), parameters).fetchone()  # noqa: S608
            return None if row is None else _job(row)


def _insert(connection: psycopg.Connection, new: Round) -> None:
    connection.execute(
        f"INSERT INTO resharing_round ({_ROUND}) VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),  # noqa: S608  # fixed parts only
        (new.id, new.job_id, int(new.state), new.attempt, list(new.guids), new.total, list(new.deleted)),
    )


def _job(row: tuple[Any, ...]) -> Job:
    job_id, kind, state, threshold, total, lost, *rest = row
    return Job(job_id, Kind(kind), JobState(state), threshold, total, tuple(lost), *rest)


def _round(row: tuple[Any, ...]) -> Round:
    round_id, job_id, state, attempt, guids, total, deleted = row
    return Round(round_id, job_id, RoundState(state), attempt, tuple(guids), total, tuple(deleted))
