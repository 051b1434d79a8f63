"""The table `commitment`: reports of Storage Commitment until their callers have taken them."""

import json
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.register.rules.commitment import Commitment
from mdm_dicom_srm.site_secret import RecordSealer

#: So many reports wait at most; a caller that asks for more is busy.
MAX_WAITING = 1000
#: A report that nobody takes is dropped after so many days.
MAX_DAYS = 7
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10, 3600


class CommitmentStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer) -> None:
        self._pool = pool
        self._sealer = sealer

    def add(self, commitment: Commitment, seconds: float) -> bool:
        """Keep a report durably, which `claim` returns after some seconds unless it was taken until then; False if too many wait."""
        content = json.dumps([commitment.transaction, commitment.committed, commitment.failed]).encode()
        sealed = self._sealer.seal(commitment.id, "commitment", content)
        with self._pool.connection() as connection:
            row = connection.execute(
                """
                INSERT INTO commitment (id, calling_ae, content, due_at)
                SELECT %s, %s, %s, now() + make_interval(secs => %s) WHERE (SELECT count(*) FROM commitment) < %s RETURNING id
                """,
                (commitment.id, commitment.calling_ae, sealed, seconds, MAX_WAITING),
            ).fetchone()
        return row is not None

    def claim(self, seconds: float) -> Commitment | None:
        """Return the report that is due longest, if any; it is due again after some seconds."""
        with self._pool.connection() as connection:
            row = connection.execute(
                """
                WITH due AS (SELECT id FROM commitment WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                UPDATE commitment AS c SET due_at = now() + make_interval(secs => %s) FROM due WHERE c.id = due.id
                RETURNING c.id, c.calling_ae, c.content
                """,
                (seconds,),
            ).fetchone()
        if row is None:
            return None
        commitment_id, calling_ae, sealed = row
        transaction, committed, failed = json.loads(self._sealer.open(commitment_id, "commitment", sealed))
        return Commitment(commitment_id, calling_ae, transaction, tuple(map(tuple, committed)), tuple(map(tuple, failed)))

    def reported(self, commitment_id: UUID) -> None:
        """Forget a report: its caller has taken it."""
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM commitment WHERE id = %s", (commitment_id,))

    def postpone(self, commitment_id: UUID) -> None:
        """Report later, after pauses that double up to an hour."""
        with self._pool.connection() as connection:
            connection.execute(
                """
                UPDATE commitment SET attempts = attempts + 1,
                    due_at = now() + make_interval(secs => least(%s, %s * 2 ^ least(attempts, 20)) * (0.75 + random() / 2))
                WHERE id = %s
                """,
                (_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS, commitment_id),
            )

    def expire(self) -> int:
        """Drop the reports that nobody has taken for too long; return how many."""
        with self._pool.connection() as connection:
            sql = "DELETE FROM commitment WHERE created_at < now() - make_interval(days => %s)"
            return int(connection.execute(sql, (MAX_DAYS,)).rowcount)
