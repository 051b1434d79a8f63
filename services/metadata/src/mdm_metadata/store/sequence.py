"""Sequences in PostgreSQL."""

import psycopg


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

    def drop(self, collection_id: int, name: str) -> bool:
        """Drop a sequence; False when there is none."""
        row = self._connection.execute(
            "DELETE FROM sequence WHERE collection_id = %s AND name = %s RETURNING name", (collection_id, name)
        ).fetchone()
        return row is not None

    def take(self, collection_id: int, name: str, count: int) -> tuple[int, int] | None:
        """Take numbers; return the first and the step, None when there is no such sequence."""
        row = self._connection.execute(
            "UPDATE sequence SET next = next + step * %s WHERE collection_id = %s AND name = %s RETURNING next - step * %s, step",
            (count, collection_id, name, count),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def names(self, collection_id: int) -> list[str]:
        """Return the names of a collection's sequences, in order."""
        rows = self._connection.execute("SELECT name FROM sequence WHERE collection_id = %s ORDER BY name", (collection_id,))
        return [name for (name,) in rows]
