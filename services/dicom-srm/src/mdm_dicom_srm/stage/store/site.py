"""PostgreSQL: what the instances of a site tell each other about requests and staged files."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.stage.rules.model import Request, StagedFile, State
from mdm_dicom_srm.stage.rules.port import Handover
from mdm_dicom_srm.stage.store.transaction import unhurried

_NOTIFY = """
INSERT INTO stage_notice (instance, digest)
SELECT i, d FROM (SELECT DISTINCT i, d FROM unnest(%s::text[], %s::bytea[]) AS n (i, d)) AS wanted
WHERE EXISTS (SELECT FROM stage_request WHERE digest = d) ORDER BY i, d
ON CONFLICT DO NOTHING
"""
_END = """
UPDATE stage_file SET state = %s, reason = '' WHERE digest = %s AND position = ANY(%s)
  AND state IN ('REQUEST_QUEUED', 'REQUEST_INPROGRESS', 'FILE_PINNED') AND instance <> %s
RETURNING instance
"""
_EXTEND = """
UPDATE stage_file SET pin_until = to_timestamp(%s)
WHERE digest = %s AND position = ANY(%s) AND state = 'FILE_PINNED' AND instance <> %s
RETURNING instance
"""
_RELEASE = """
UPDATE stage_file AS f SET state = 'RELEASED' FROM stage_request AS r
WHERE r.digest = f.digest AND r.owner = %s AND f.guid = ANY(%s) AND f.state = 'FILE_PINNED' AND f.instance <> %s
RETURNING f.instance, f.digest, f.guid
"""
_CLAIM = """
INSERT INTO stage_claim (guid, instance) SELECT guid, %s FROM unnest(%s::uuid[]) AS guid ORDER BY guid ON CONFLICT DO NOTHING
"""
_TAKE_OVER = """
UPDATE stage_claim SET instance = %s
WHERE guid = ANY(%s) AND instance <> %s AND instance NOT IN (SELECT name FROM srm_instance WHERE NOT lost)
"""
_HAND_OVER = """
UPDATE stage_file AS f SET instance = h.instance, state = 'REQUEST_QUEUED'
FROM unnest(%s::bytea[], %s::integer[], %s::text[]) AS h (digest, position, instance)
WHERE f.digest = h.digest AND f.position = h.position AND f.state IN ('REQUEST_QUEUED', 'REQUEST_INPROGRESS', 'FILE_PINNED')
"""
_PINS = """
SELECT f.guid, max(CASE WHEN r.owner = %s THEN extract(epoch FROM f.pin_until) ELSE 0 END)::double precision
FROM stage_file AS f JOIN stage_request AS r USING (digest)
WHERE f.guid = ANY(%s) AND f.state = 'FILE_PINNED' GROUP BY f.guid
"""


class PostgresSiteStore:
    """The tables `stage_claim` and `stage_notice`, and the rows of `stage_file` that other instances hold; see the port."""

    def __init__(self, pool: ConnectionPool[Any], instance: str, find: Callable[[bytes], Request | None]) -> None:
        self.instance = instance
        self.find = find
        self._pool = pool

    def files_of_others(self, digest: bytes) -> dict[int, StagedFile]:
        """Return the files of a request that other instances hold, without their SURLs."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT position, guid, state, reason, size, extract(epoch FROM pin_until)::double precision, instance"
                " FROM stage_file WHERE digest = %s AND instance <> %s AND guid IS NOT NULL",
                (digest, self.instance),
            ).fetchall()
        return {position: StagedFile("", guid, State(state), *rest) for position, guid, state, *rest in rows}

    def end(self, digest: bytes, positions: Sequence[int], state: State) -> None:
        """End files that other instances hold, and let these know."""
        with self._pool.connection() as connection:
            rows = connection.execute(_END, (state.value, digest, list(positions), self.instance)).fetchall()
            _notify(connection, [(name, digest) for (name,) in rows])

    def extend(self, digest: bytes, positions: Sequence[int], pin_until: float) -> None:
        """Give pins that other instances hold another end, and let these know."""
        with self._pool.connection() as connection:
            rows = connection.execute(_EXTEND, (pin_until, digest, list(positions), self.instance)).fetchall()
            _notify(connection, [(name, digest) for (name,) in rows])

    def release(self, owner: str, guids: Sequence[UUID]) -> set[UUID]:
        """Release the pins that requests of an owner have at other instances; return the files that had one."""
        with self._pool.connection() as connection:
            rows = connection.execute(_RELEASE, (owner, list(guids), self.instance)).fetchall()
            _notify(connection, [(name, digest) for name, digest, _ in rows])
        return {guid for *_, guid in rows}

    def notify(self, digest: bytes, instances: Iterable[str]) -> None:
        """Have instances look at a request again."""
        with self._pool.connection() as connection:
            _notify(connection, [(name, digest) for name in instances])

    def notices(self) -> list[bytes]:
        """Take the requests that this instance is to look at again."""
        with self._pool.connection() as connection:
            rows = connection.execute("DELETE FROM stage_notice WHERE instance = %s RETURNING digest", (self.instance,)).fetchall()
        return [bytes(digest) for (digest,) in rows]

    def claim(self, guids: Sequence[UUID]) -> dict[UUID, str]:
        """Claim files; return the instances that are serving and have claimed files before, by file."""
        wanted = list(guids)
        with unhurried(self._pool) as connection:
            connection.execute(_CLAIM, (self.instance, wanted))
            connection.execute(_TAKE_OVER, (self.instance, wanted, self.instance))
            sql = "SELECT guid, instance FROM stage_claim WHERE guid = ANY(%s) AND instance <> %s"
            return dict(connection.execute(sql, (wanted, self.instance)).fetchall())

    def hand_over(self, files: Sequence[Handover]) -> None:
        """Have other instances hold files, and let these know."""
        with self._pool.connection() as connection:
            connection.execute(_HAND_OVER, tuple(map(list, zip(*files, strict=True))))
            _notify(connection, [(name, digest) for digest, _, name in files])

    def update_claims(self, held: Sequence[UUID], given_up: Sequence[UUID]) -> None:
        """Claim files that nobody has claimed; give claims up."""
        with unhurried(self._pool) as connection:
            if held:
                connection.execute(_CLAIM, (self.instance, list(held)))
            if given_up:
                sql = "DELETE FROM stage_claim WHERE instance = %s AND guid = ANY(%s)"
                connection.execute(sql, (self.instance, list(given_up)))

    def pins(self, owner: str, guids: Sequence[UUID]) -> dict[UUID, float]:
        """Return until when requests of an owner keep files pinned, wherever; 0 for a file that only others have pinned."""
        with self._pool.connection() as connection:
            return dict(connection.execute(_PINS, (owner, list(guids))).fetchall())


def _notify(connection: Connection[Any], notices: Sequence[tuple[str, bytes]]) -> None:
    if notices:
        connection.execute(_NOTIFY, ([name for name, _ in notices], [digest for _, digest in notices]))
