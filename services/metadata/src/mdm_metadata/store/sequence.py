"""Sequences in PostgreSQL."""

import psycopg
from mdm_wire.errors import Exhausted

from mdm_metadata.rules.model import SequenceState


class PostgresSequences:
    """The sequences, within a transaction. See the port for what each method does."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def create(self, collection_id: int, name: str, start: int, step: int) -> bool:
        """Create a sequence; False when there is one of this name."""
        row = self._connection.execute(
            "INSERT INTO sequence VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING name", (collection_id, name, start, step)
        ).fetchone()
        return row is not None

    def resume(self, collection_id: int, name: str, start: int, step: int) -> bool:
        """Create a sequence, or let one go on at `start` where that is further; False when it has another step."""
        row = self._connection.execute(
            "INSERT INTO sequence AS s VALUES (%s, %s, %s, %s) ON CONFLICT (collection_id, name) DO UPDATE SET next ="
            " CASE WHEN s.step > 0 THEN greatest(s.next, excluded.next) ELSE least(s.next, excluded.next) END"
            " WHERE s.step = excluded.step RETURNING name",
            (collection_id, name, start, step),
        ).fetchone()
        return row is not None

    def drop(self, collection_id: int, name: str) -> bool:
        """Drop a sequence; False if it does not exist."""
        row = self._connection.execute(
            "DELETE FROM sequence WHERE collection_id = %s AND name = %s RETURNING name", (collection_id, name)
        ).fetchone()
        return row is not None

    def take(self, collection_id: int, name: str, count: int) -> tuple[int, int] | None:
        """Take numbers; return the first and the step, None when there is no such sequence."""
        update = "UPDATE sequence SET next = next + step * %s WHERE collection_id = %s AND name = %s RETURNING next - step * %s, step"
        try:
            row = self._connection.execute(update, (count, collection_id, name, count)).fetchone()
        except psycopg.errors.NumericValueOutOfRange:
            raise Exhausted("SEQUENCE_EXHAUSTED", "The sequence has not so many numbers left within 64 bits.") from None
        return None if row is None else (row[0], row[1])

    def states(self, collection_id: int) -> list[SequenceState]:
        """Return a collection's sequences by name."""
        rows = self._connection.execute("SELECT name, next, step FROM sequence WHERE collection_id = %s ORDER BY name", (collection_id,))
        return [SequenceState(*row) for row in rows]
