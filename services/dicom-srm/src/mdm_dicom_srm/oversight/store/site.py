"""The registry as operators see it: counts by state and reason. Nothing identifying."""

from collections.abc import Sequence
from typing import Any

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.oversight.rules.site import InstanceStatus, StateReason, StateStatus
from mdm_dicom_srm.register.rules.model import OPEN, State

_ORDER = list(State)


class SiteStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def states(self) -> list[StateStatus]:
        """Return the states that occur, in the order of registration."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT state, count(*), min(modified_at), max(modified_at) FROM registration GROUP BY state"
            ).fetchall()
        return sorted((StateStatus(State(state), *rest) for state, *rest in rows), key=lambda item: _ORDER.index(item.state))

    def reasons(self, states: Sequence[State], limit: int) -> list[StateReason]:
        """Return what is in some states by reason, in the order of states, the most frequent reason first; the rarest are cut."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT state, reason, count(*), min(modified_at), max(modified_at),
                    min(due_at) FILTER (WHERE state = ANY(%(open)s)), min(guid::text)::uuid
                FROM registration WHERE state = ANY(%(states)s)
                GROUP BY state, reason ORDER BY count(*) DESC, state, reason LIMIT %(limit)s
                """,
                {"open": [str(state) for state in OPEN], "states": [str(state) for state in states], "limit": limit},
            ).fetchall()
        return sorted((StateReason(State(state), *rest) for state, *rest in rows), key=lambda item: _ORDER.index(item.state))

    def filtered(self, limit: int) -> list[tuple[str, int]]:
        """Count what is left out by reason, by the site policy also by rule, the most first; the rarest are cut."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT trim(reason || ' ' || rule), count(*) FROM registration WHERE state = 'FILTERED'
                GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %s
                """,
                (limit,),
            ).fetchall()
        return [(reason, count) for reason, count in rows]

    def instances(self) -> list[InstanceStatus]:
        """Return the instances of dicom-srm in order of name."""
        with self._pool.connection() as connection:
            rows = connection.execute("SELECT name, host, started_at, beat_at, lost FROM srm_instance ORDER BY name").fetchall()
        return [InstanceStatus(*row) for row in rows]

    def conflicts(self) -> int:
        """Count shared entries of which instances state different values."""
        with self._pool.connection() as connection:
            row = connection.execute("SELECT count(*) FROM shared_entry WHERE conflicts <> '{}'").fetchone()
        return int(row[0]) if row else 0
