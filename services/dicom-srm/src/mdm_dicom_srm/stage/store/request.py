"""PostgreSQL: staging requests and their files."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mdm_wire.url import surl
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.stage.rules.model import Request, StagedFile, State
from mdm_dicom_srm.stage.rules.port import FileChange

_ADD_FILES = """
INSERT INTO stage_file (digest, position, guid, state, reason)
SELECT %s, f.ordinality - 1, f.guid, f.state, f.reason
FROM unnest(%s::uuid[], %s::text[], %s::text[]) WITH ORDINALITY AS f (guid, state, reason, ordinality)
"""
_SAVE_FILES = """
UPDATE stage_file SET state = c.state, reason = c.reason, size = c.size, pin_until = to_timestamp(c.pin_until)
FROM unnest(%s::bytea[], %s::integer[], %s::text[], %s::text[], %s::bigint[], %s::double precision[])
     AS c (digest, position, state, reason, size, pin_until)
WHERE stage_file.digest = c.digest AND stage_file.position = c.position
"""
_LOAD = """
SELECT r.digest, r.owner, r.pin_seconds, extract(epoch FROM r.created_at)::double precision, r.aborted,
       f.guid, f.state, f.reason, f.size, extract(epoch FROM f.pin_until)::double precision
FROM stage_request AS r JOIN stage_file AS f USING (digest)
ORDER BY r.created_at, r.digest, f.position
"""


class PostgresRequestStore:
    """Requests in the tables `stage_request` and `stage_file`."""

    def __init__(self, pool: ConnectionPool[Any], authority: str) -> None:
        self._pool = pool
        self._authority = authority

    def add(self, request: Request) -> None:
        """Keep a new request."""
        files = request.files
        with self._pool.connection() as connection:
            connection.execute(
                "INSERT INTO stage_request (digest, owner, pin_seconds, created_at) VALUES (%s, %s, %s, to_timestamp(%s))",
                (request.digest, request.owner, request.pin_seconds, request.created),
            )
            connection.execute(
                _ADD_FILES,
                (request.digest, [f.guid for f in files], [f.state.value for f in files], [f.reason for f in files]),
            )

    def save(self, changes: Sequence[FileChange], aborted: Sequence[bytes]) -> None:
        """Keep new states of files and which requests were aborted; unknown requests are left out."""
        columns = [
            [c.digest for c in changes],
            [c.position for c in changes],
            [c.file.state.value for c in changes],
            [c.file.reason for c in changes],
            [c.file.size for c in changes],
            [c.file.pin_until for c in changes],
        ]
        with self._pool.connection() as connection:
            if changes:
                connection.execute(_SAVE_FILES, columns)
            if aborted:
                connection.execute("UPDATE stage_request SET aborted = true WHERE digest = ANY(%s)", (list(aborted),))

    def remove(self, digests: Sequence[bytes]) -> None:
        """Forget requests."""
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM stage_request WHERE digest = ANY(%s)", (list(digests),))

    def load(self) -> list[Request]:
        """Return every kept request, oldest first. SURLs that were not ours come back empty."""
        with self._pool.connection() as connection:
            rows: list[TupleRow] = connection.execute(_LOAD).fetchall()
        return [self._request(list(group)) for _, group in groupby(rows, key=lambda row: row[0])]

    def _request(self, rows: list[TupleRow]) -> Request:
        digest, owner, pin_seconds, created, aborted = rows[0][:5]
        files = [
            StagedFile(surl(self._authority, guid) if guid else "", guid, State(state), reason, size, pin_until)
            for *_, guid, state, reason, size, pin_until in rows
        ]
        return Request(bytes(digest), owner, pin_seconds, created, files, aborted)
