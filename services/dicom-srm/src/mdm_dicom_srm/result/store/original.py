"""What the registry has of a study, by its pseudonym; and who translated a result back."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

_GUIDS = "SELECT guid FROM registration WHERE study_key = %s AND state IN ('DESCRIBED', 'PUBLISHED') ORDER BY guid"


class OriginalStore:
    """Registrations by study, and the table `reidentification`, to which rows are only added."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def images_of(self, study: str) -> list[UUID]:
        """Return the images of a study by its pseudonymous Study Instance UID."""
        with self._pool.connection() as connection:
            return [row[0] for row in connection.execute(_GUIDS, (study,)).fetchall()]

    def record(self, curator: str, result: str, images: Sequence[UUID]) -> None:
        """Keep that a curator translated a result, named by its SOP Instance UID, which refers to images."""
        values = (curator, result, list(images))
        with self._pool.connection() as connection:
            connection.execute("INSERT INTO reidentification (curator, result, images) VALUES (%s, %s, %s)", values)
