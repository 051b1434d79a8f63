"""PostgreSQL: checksums of ciphertext, so that they are known without reading a file again, and while it is not staged."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.door.rules.copy import Known

_FIND = "SELECT guid, etag, size, sha256, md5, adler32 FROM door_copy WHERE guid = ANY(%s) AND generation = %s"
_ADD = """
INSERT INTO door_copy (guid, generation, etag, size, sha256, md5, adler32) VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (guid) DO UPDATE SET generation = EXCLUDED.generation, etag = EXCLUDED.etag, size = EXCLUDED.size,
    sha256 = EXCLUDED.sha256, md5 = EXCLUDED.md5, adler32 = EXCLUDED.adler32
"""


class PostgresKnownCopies:
    """The table `door_copy`; rows of another `generation` (rules of de-identification) do not count."""

    def __init__(self, pool: ConnectionPool[Any], generation: str) -> None:
        self._pool = pool
        self._generation = generation

    def find(self, guids: Sequence[UUID]) -> dict[UUID, Known]:
        """See `KnownCopies`."""
        if not guids:
            return {}
        with self._pool.connection() as connection:
            rows = connection.execute(_FIND, (list(guids), self._generation)).fetchall()
        return {row[0]: Known(row[0], row[1], row[2], bytes(row[3]), bytes(row[4]), row[5]) for row in rows}

    def add(self, known: Known) -> None:
        """See `KnownCopies`."""
        values = (known.guid, self._generation, known.etag, known.size, known.sha256, known.md5, known.adler32)
        with self._pool.connection() as connection:
            connection.execute(_ADD, values)

    def forget(self, guids: Sequence[UUID]) -> None:
        """Remove what is known of files that are changed or removed."""
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM door_copy WHERE guid = ANY(%s)", (list(guids),))
