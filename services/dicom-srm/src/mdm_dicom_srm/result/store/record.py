"""Results in PostgreSQL."""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from mdm_wire.errors import Conflict, Exhausted, MdmError
from psycopg import Connection
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.result.rules.model import About, Access, Record, State
from mdm_dicom_srm.site_secret import RecordSealer

_COLUMNS = "guid, digest, position, owner, charged, state, about, size, place, extract(epoch FROM expires_at)::double precision"
_ADD = """
INSERT INTO result (guid, digest, position, owner, charged, state, name_hash, about, size, place, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s))
"""
_CHANGE = """
UPDATE result SET state = %s, about = %s, missing_since = NULL, name_hash = CASE WHEN %s IN ('UPLOADING', 'STORED') THEN name_hash END
WHERE guid = %s AND state = ANY(%s)
"""
_PENDING = f"""
SELECT {_COLUMNS} FROM result
WHERE state IN ('STORED', 'REMOVING') OR (state = 'UPLOADING' AND expires_at < to_timestamp(%s)) ORDER BY random() LIMIT %s
"""  # noqa: S608 - no value is in the text
_MISSING = """
UPDATE result SET missing_since = coalesce(missing_since, to_timestamp(%s)) WHERE guid = ANY(%s) AND state = 'PUBLISHED'
RETURNING guid, extract(epoch FROM missing_since)::double precision
"""
_LOCK = 0x6D646D7265736C74  # of the quota: sums and insertions must not mix


class PostgresResults:
    """Results in the table `result`; names and descriptions are sealed, a name is known by its keyed hash."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, key: bytes) -> None:
        self._pool = pool
        self._sealer = sealer
        self._key = key

    def add(self, records: Sequence[Record], quotas: Mapping[str, int]) -> list[MdmError | None]:
        """Keep new results; return for each why not: QUOTA_EXCEEDED, NAME_IN_USE, GUID_TAKEN. `quotas` are bytes by who is charged."""
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            used = {charged: _used(connection, charged) for charged in quotas}
            return [self._add(connection, record, used, quotas[record.charged]) for record in records]

    def of_request(self, digest: bytes) -> list[Record]:
        """Return the results of a request in the order asked, but for those that are going."""
        where = "digest = %s AND state <> 'REMOVING' ORDER BY position"
        return self._select(where, (digest,))

    def get(self, guids: Sequence[UUID]) -> dict[UUID, Record]:
        """Return results by GUID."""
        return {record.guid: record for record in self._select("guid = ANY(%s)", (list(guids),))}

    def note_place(self, guid: UUID, place: str) -> None:
        """Keep what the result space calls an upload."""
        self._execute("UPDATE result SET place = %s WHERE guid = %s", (place, guid))

    def note_progress(self, guid: UUID, expires: float) -> None:
        """Let an upload end later."""
        self._execute("UPDATE result SET expires_at = to_timestamp(%s) WHERE guid = %s", (expires, guid))

    def change(self, record: Record, before: Sequence[str]) -> bool:
        """Keep the state and description of a result that is in one of the states `before`; return whether it was."""
        values = (record.state, self._sealed(record), record.state, record.guid, [str(state) for state in before])
        with self._pool.connection() as connection:
            changed: int = connection.execute(_CHANGE, values).rowcount
            return changed > 0

    def remove(self, guid: UUID) -> None:
        """Forget a result."""
        self._execute("DELETE FROM result WHERE guid = %s", (guid,))

    def among(self, guids: Sequence[UUID]) -> set[UUID]:
        """Return which files are results."""
        with self._pool.connection() as connection:
            rows = connection.execute("SELECT guid FROM result WHERE guid = ANY(%s)", (list(guids),)).fetchall()
        return {row[0] for row in rows}

    def published(self, after: UUID | None, limit: int) -> list[Record]:
        """Return published results in order of GUID."""
        where = "state = 'PUBLISHED' AND (%s::uuid IS NULL OR guid > %s) ORDER BY guid LIMIT %s"
        return self._select(where, (after, after, limit))

    def pending(self, now: float, limit: int) -> list[Record]:
        """Return results of which something is to be done: stored, going, or without progress for too long.

        In no order, so that those for which it fails again and again do not keep it from the others.
        """
        with self._pool.connection() as connection:
            return [self._record(row) for row in connection.execute(_PENDING, (now, limit)).fetchall()]

    def missing(self, guids: Sequence[UUID], now: float) -> dict[UUID, float]:
        """Note that the catalog does not name these results; return since when, by GUID."""
        if not guids:
            return {}
        with self._pool.connection() as connection:
            return dict(connection.execute(_MISSING, (now, list(guids))).fetchall())

    def note_named(self, guids: Sequence[UUID]) -> None:
        """Forget that the catalog did not name these results."""
        self._execute("UPDATE result SET missing_since = NULL WHERE guid = ANY(%s) AND missing_since IS NOT NULL", (list(guids),))

    def _add(self, connection: Connection[TupleRow], record: Record, used: dict[str, int], quota: int) -> MdmError | None:
        if used[record.charged] + record.size > quota:
            left = max(0, quota - used[record.charged])
            message = f"{record.charged} may have {quota:,} bytes of results here and has {left:,} left: remove some, or ask the site."
            return Exhausted("QUOTA_EXCEEDED", message)
        values = (record.guid, record.digest, record.position, record.owner, record.charged, record.state, self._hash(record.about.lfn))
        try:
            with connection.transaction():
                connection.execute(_ADD, (*values, self._sealed(record), record.size, record.place, record.expires))
        except UniqueViolation as error:
            if error.diag.constraint_name == "result_pkey":
                return Conflict("GUID_TAKEN", "A result of this GUID exists.")
            return Conflict("NAME_IN_USE", "Somebody is putting a result of this name now.")
        used[record.charged] += record.size
        return None

    def _select(self, where: str, values: Sequence[Any]) -> list[Record]:
        query = f"SELECT {_COLUMNS} FROM result WHERE {where}"  # noqa: S608 - no value is in the text
        with self._pool.connection() as connection:
            return [self._record(row) for row in connection.execute(query.encode(), values).fetchall()]

    def _execute(self, query: str, values: Sequence[Any]) -> None:
        with self._pool.connection() as connection:
            connection.execute(query.encode(), values)

    def _sealed(self, record: Record) -> bytes:
        about = record.about
        document = {
            "lfn": about.lfn,
            "size": about.plain_size,
            "acl": str(about.access.id),
            "entries": dict(about.access.entries),
            "attributes": dict(about.attributes),
            "sha256": about.sha256.hex(),
            "plain_sha256": about.plain_sha256.hex(),
        }
        return self._sealer.seal(record.guid, "result", json.dumps(document).encode())

    def _record(self, row: TupleRow) -> Record:
        guid, digest, position, owner, charged, state, sealed, size, place, expires = row
        found = json.loads(self._sealer.open(guid, "result", sealed))
        about = About(
            found["lfn"],
            found["size"],
            Access(UUID(found["acl"]), found["entries"]),
            found["attributes"],
            bytes.fromhex(found["sha256"]),
            bytes.fromhex(found["plain_sha256"]),
        )
        return Record(guid, bytes(digest), position, owner, charged, State(state), about, size, place, expires)

    def _hash(self, lfn: str) -> bytes:
        return hmac.digest(self._key, lfn.encode(), hashlib.sha256)


def _used(connection: Connection[TupleRow], charged: str) -> int:
    row = connection.execute("SELECT coalesce(sum(size), 0)::bigint FROM result WHERE charged = %s", (charged,)).fetchone()
    return int(row[0]) if row else 0
