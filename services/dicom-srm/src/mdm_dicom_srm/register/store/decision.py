"""The table `decision`: what persons decided about instances, each in one transaction with what follows from it."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from mdm_wire.errors import Invalid
from psycopg import Connection
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.register.rules.model import Action, Decision, State
from mdm_dicom_srm.register.rules.names import Names

#: Why an instance is FILTERED that a curator left out.
CURATOR_DROPPED = "CURATOR_DROPPED"
# What a judgement ended is judged anew; where a step failed, the step is repeated.
_AGAIN = """state = 'RECEIVED', reason = '', attempts = 0, due_at = now(), modified_at = now(),
    judgement = CASE WHEN r.attempts = 0 OR r.state = 'QUARANTINED' THEN NULL ELSE r.judgement END"""
_EFFECTS = {
    Action.RELEASED: _AGAIN,
    Action.RETRIED: _AGAIN,
    Action.DROPPED: f"state = 'FILTERED', reason = '{CURATOR_DROPPED}', modified_at = now(), header = NULL, judgement = NULL",
}
# The rows are locked in one order, so that two callers do not wait for each other.
_DECIDE = """
WITH due AS (
    SELECT r.guid, r.instance, r.reason, r.digest FROM registration AS r
    JOIN unnest(%(guids)s::uuid[], %(digests)s::bytea[]) AS wanted (guid, digest) ON r.guid = wanted.guid
    WHERE r.state = ANY(%(states)s) AND (wanted.digest IS NULL OR r.digest = wanted.digest)
    ORDER BY r.guid FOR UPDATE OF r),
noted AS (
    INSERT INTO decision (subject, action, guid, instance, reason, digest, note)
    SELECT %(subject)s, %(action)s, guid, instance, reason, digest, %(note)s FROM due ORDER BY guid)
UPDATE registration AS r SET {effect} FROM due WHERE r.guid = due.guid RETURNING r.guid
"""


def decide(
    connection: Connection[Any],
    action: Action,
    guids: Mapping[UUID, bytes | None],
    states: Sequence[State],
    subject: str,
    note: str = "",
) -> set[UUID]:
    """Carry out a decision about registrations that are in one of `states`, and note it; return those that it concerned.

    With a digest by a GUID, only the header that has it is meant: if it changed meanwhile, nothing happens.
    """
    rows = connection.execute(
        _DECIDE.format(effect=_EFFECTS[action]).encode(),
        {
            "guids": list(guids),
            "digests": list(guids.values()),
            "states": [str(state) for state in states],
            "subject": subject,
            "action": str(action),
            "note": note,
        },
    ).fetchall()
    return {row[0] for row in rows}


class DecisionStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], names: Names) -> None:
        self._pool = pool
        self._names = names

    def decide(self, action: Action, digests: Mapping[UUID, bytes | None], subject: str, note: str) -> set[UUID]:
        """Carry out a decision about instances that wait in quarantine; see `decide`."""
        with self._pool.connection() as connection:
            return decide(connection, action, digests, (State.QUARANTINED,), subject, note)

    def released(self, part10: bytes | memoryview) -> frozenset[str]:
        """Return the reasons for which a curator has released an instance with this header; none for what cannot be read."""
        try:
            header = header_of(part10)
        except Invalid:
            return frozenset()
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT DISTINCT reason FROM decision WHERE instance = %s AND action = 'RELEASED' AND digest = %s",
                (self._names.guid(header.sop_uid, 0), self._names.header_digest(header.part10)),
            ).fetchall()
        return frozenset(row[0] for row in rows)

    def page(self, guid: UUID | None, before: int | None, limit: int) -> list[tuple[int, Decision]]:
        """Return decisions with their numbers, the newest first: those of one GUID if given, those before a number if given."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT number, at, subject, action, guid, reason, note FROM decision
                WHERE (%(guid)s::uuid IS NULL OR guid = %(guid)s) AND (%(before)s::bigint IS NULL OR number < %(before)s)
                ORDER BY number DESC LIMIT %(limit)s
                """,
                {"guid": guid, "before": before, "limit": limit},
            ).fetchall()
        return [(number, Decision(at, subject, Action(action), *rest)) for number, at, subject, action, *rest in rows]
