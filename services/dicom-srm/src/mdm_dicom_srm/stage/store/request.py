"""PostgreSQL: staging requests and their files."""

import hashlib
import hmac
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from mdm_wire.url import surl
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage.rules.model import TIMED_OUT, Kind, Request, RequestSummary, StagedFile, State
from mdm_dicom_srm.stage.rules.port import FileChange, RequestChange
from mdm_dicom_srm.stage.store.transaction import unhurried

_ADD = """
INSERT INTO stage_request (digest, owner, pin_seconds, created_at, kind, start_at, seconds, instance, token, description,
    description_hash)
VALUES (%s, %s, %s, to_timestamp(%s), %s, to_timestamp(%s), %s, %s, %s, %s, %s)
"""
_ADD_FILES = """
INSERT INTO stage_file (digest, position, guid, state, reason, name, instance)
SELECT %s, f.ordinality - 1, f.guid, f.state, f.reason, f.name, f.instance
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bytea[], %s::text[]) WITH ORDINALITY
     AS f (guid, state, reason, name, instance, ordinality)
"""
_SAVE_FILES = """
UPDATE stage_file SET state = c.state, reason = c.reason, size = c.size, pin_until = to_timestamp(c.pin_until)
FROM unnest(%s::bytea[], %s::integer[], %s::text[], %s::text[], %s::bigint[], %s::double precision[])
     AS c (digest, position, state, reason, size, pin_until)
WHERE stage_file.digest = c.digest AND stage_file.position = c.position
  -- What has ended stays so, whoever ended it; what was handed over is another instance's.
  AND stage_file.state IN ('REQUEST_QUEUED', 'REQUEST_INPROGRESS', 'FILE_PINNED') AND stage_file.instance = %s
"""
_LOAD = """
SELECT r.digest, r.owner, r.pin_seconds, extract(epoch FROM r.created_at)::double precision, r.aborted,
       r.kind, extract(epoch FROM r.start_at)::double precision, r.seconds, r.suspended, r.instance,
       f.guid, f.state, f.reason, f.size, extract(epoch FROM f.pin_until)::double precision, f.name, f.instance
FROM stage_request AS r JOIN stage_file AS f USING (digest)
WHERE digest IN (
    SELECT digest FROM stage_request WHERE instance = %(instance)s
    UNION SELECT digest FROM stage_file
    WHERE instance = %(instance)s AND state IN ('REQUEST_QUEUED', 'REQUEST_INPROGRESS', 'FILE_PINNED')
)
ORDER BY r.created_at, r.digest, f.position
"""
_ONE = _LOAD.partition("WHERE")[0] + "WHERE digest = %s ORDER BY f.position"
_REQUEST_COLUMNS = 10
_SUMMARIES = """
WITH chosen AS (
    SELECT * FROM stage_request
    WHERE owner = %(owner)s AND token IS NOT NULL
      AND (%(digests)s::bytea[] IS NULL OR digest = ANY(%(digests)s)) AND (%(hash)s::bytea IS NULL OR description_hash = %(hash)s)
    ORDER BY created_at DESC, digest LIMIT %(limit)s
)
SELECT r.digest, r.token, r.description, r.kind, extract(epoch FROM r.created_at)::double precision, r.aborted, r.suspended,
       f.state, count(*), bool_or(f.reason = %(timed_out)s)
FROM chosen AS r JOIN stage_file AS f USING (digest)
GROUP BY r.digest, r.token, r.description, r.kind, r.created_at, r.aborted, r.suspended, f.state
ORDER BY r.created_at DESC, r.digest
"""


class PostgresRequestStore:
    """Requests in the tables `stage_request` and `stage_file`.

    Tokens, descriptions and names are sealed under keys of the site secret; a description is found by its keyed hash.
    """

    def __init__(self, pool: ConnectionPool[Any], authority: str, instance: str, sealer: RecordSealer, key: bytes) -> None:
        self._pool = pool
        self._instance = instance
        self._authority = authority
        self._sealer = sealer
        self._key = key

    def add(self, request: Request, token: str, description: str) -> None:
        """Keep a new request."""
        files, identity = request.files, _identity(request.digest)
        about = (
            self._sealer.seal(identity, "token", token.encode()),
            self._sealer.seal(identity, "description", description.encode()),
            self._hash(description),
        )
        with unhurried(self._pool) as connection:
            values = (request.digest, request.owner, request.pin_seconds, request.created, request.kind.value)
            connection.execute(_ADD, (*values, request.start, request.seconds, request.home, *about))
            columns = [(f.guid, f.state.value, f.reason, self._name(f), f.holder) for f in files]
            connection.execute(_ADD_FILES, (request.digest, *map(list, zip(*columns, strict=True))))

    def save(self, files: Sequence[FileChange], requests: Sequence[RequestChange]) -> None:
        """Keep new states of files and requests; unknown requests are left out."""
        columns = [
            [c.digest for c in files],
            [c.position for c in files],
            [c.file.state.value for c in files],
            [c.file.reason for c in files],
            [c.file.size for c in files],
            [c.file.pin_until for c in files],
        ]
        with unhurried(self._pool) as connection:
            if files:
                connection.execute(_SAVE_FILES, [*columns, self._instance])
            for request in requests:
                values = (request.aborted, request.suspended, request.digest)
                connection.execute("UPDATE stage_request SET aborted = %s, suspended = %s WHERE digest = %s", values)

    def remove(self, digests: Sequence[bytes]) -> None:
        """Forget requests."""
        with unhurried(self._pool) as connection:
            connection.execute("DELETE FROM stage_request WHERE digest = ANY(%s)", (list(digests),))

    def load(self) -> list[Request]:
        """Return the requests that this instance answers for, or holds files of, oldest first.

        SURLs that were not ours come back empty.
        """
        with self._pool.connection() as connection:
            rows: list[TupleRow] = connection.execute(_LOAD, {"instance": self._instance}).fetchall()
        return [self._request(list(group)) for _, group in groupby(rows, key=lambda row: row[0])]

    def find(self, digest: bytes) -> Request | None:
        """Return a request of any instance."""
        with self._pool.connection() as connection:
            rows: list[TupleRow] = connection.execute(_ONE.encode(), (digest,)).fetchall()
        return self._request(rows) if rows else None

    def summaries(self, owner: str, digests: Sequence[bytes] | None, description: str, limit: int) -> list[RequestSummary]:
        """Return requests without their files; see the port. Those of versions before 0030, whose tokens nobody knows, are left out."""
        values = {
            "owner": owner,
            "digests": None if digests is None else list(digests),
            "hash": self._hash(description) if description else None,
            "limit": limit,
            "timed_out": TIMED_OUT,
        }
        with self._pool.connection() as connection:
            rows: list[TupleRow] = connection.execute(_SUMMARIES, values).fetchall()
        return [self._summary(list(group)) for _, group in groupby(rows, key=lambda row: row[0])]

    def _summary(self, rows: list[TupleRow]) -> RequestSummary:
        digest, token, description, kind, created, aborted, suspended = rows[0][:7]
        identity = _identity(digest)
        return RequestSummary(
            bytes(digest),
            self._sealer.open(identity, "token", token).decode(),
            self._sealer.open(identity, "description", description).decode(),
            Kind(kind),
            created,
            {State(state): count for *_, state, count, _ in rows},
            aborted,
            suspended,
            any(timed_out for *_, timed_out in rows),
        )

    def _request(self, rows: list[TupleRow]) -> Request:
        digest, owner, pin_seconds, created, aborted, kind, start, seconds, suspended, home = rows[0][:_REQUEST_COLUMNS]
        files = [
            StagedFile(self._surl(guid, name), guid, State(state), reason, size, pin_until, holder)
            for guid, state, reason, size, pin_until, name, holder in (row[_REQUEST_COLUMNS:] for row in rows)
        ]
        return Request(bytes(digest), owner, pin_seconds, created, files, aborted, Kind(kind), start, seconds, suspended, home)

    def _name(self, file: StagedFile) -> bytes | None:
        """Return the sealed SURL of a file that was asked for by name."""
        if file.guid is None or file.surl == surl(self._authority, file.guid):
            return None
        return self._sealer.seal(file.guid, "surl", file.surl.encode())

    def _surl(self, guid: UUID | None, name: bytes | None) -> str:
        if guid is None:
            return ""
        return surl(self._authority, guid) if name is None else self._sealer.open(guid, "surl", name).decode()

    def _hash(self, description: str) -> bytes:
        return hmac.digest(self._key, description.encode(), hashlib.sha256)


def _identity(digest: bytes) -> UUID:
    """Return what the sealed columns of a request are bound to."""
    return UUID(bytes=bytes(digest[:16]))
