"""The table `waiting_kind`: of which kind the images are that wait. It is filled when somebody asks, from the sealed headers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any
from uuid import UUID

from mdm_deid.pixels.drawn import ImageKind
from psycopg import Connection
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.oversight.rules.kind import KindNames
from mdm_dicom_srm.oversight.rules.model import GroupKey, KindGroup, Waiting
from mdm_dicom_srm.site_secret import RecordSealer

_AT_ONCE = 200
_UNREAD = """
SELECT r.guid, r.digest, r.header FROM registration AS r LEFT JOIN waiting_kind AS k ON k.guid = r.guid
WHERE r.state = 'QUARANTINED' AND (k.guid IS NULL OR k.digest IS DISTINCT FROM r.digest) ORDER BY r.guid LIMIT %s
"""
_KEEP = """
INSERT INTO waiting_kind (guid, digest, kind, facts) VALUES (%s, %s, %s, %s)
ON CONFLICT (guid) DO UPDATE SET digest = excluded.digest, kind = excluded.kind, facts = excluded.facts
"""


class KindStore:
    """Safe for several threads and processes; `read` returns the kind that a header tells of."""

    def __init__(
        self, pool: ConnectionPool[Any], sealer: RecordSealer, names: KindNames, read: Callable[[bytes | None], ImageKind]
    ) -> None:
        self._pool = pool
        self._sealer = sealer
        self._names = names
        self._read = read

    def groups(self, reason: str, after: GroupKey | None, limit: int) -> list[KindGroup]:
        """Return what waits by kind and reason, in this order: of one reason if given, after a place if given."""
        self._fill()
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT k.kind, r.reason, count(*), min(r.modified_at), max(r.modified_at), min(r.guid::text)::uuid
                FROM registration AS r JOIN waiting_kind AS k ON k.guid = r.guid
                WHERE r.state = 'QUARANTINED' AND (%(reason)s = '' OR r.reason = %(reason)s)
                  AND (%(kind)s::bytea IS NULL OR (k.kind, r.reason) > (%(kind)s, %(last)s))
                GROUP BY k.kind, r.reason ORDER BY k.kind, r.reason LIMIT %(limit)s
                """,
                {"reason": reason, "kind": after and after[0], "last": after and after[1], "limit": limit},
            ).fetchall()
            facts = self._facts(connection, [example for *_, example in rows])
        return [KindGroup(bytes(kind), facts.get(rest[-1], ImageKind()), *rest) for kind, *rest in rows]

    def waiting(self, kind: bytes, reason: str, after: UUID | None, limit: int) -> list[Waiting]:
        """Return instances of a kind in order of GUID, those that wait for one reason if given, those after a GUID if given."""
        self._fill()
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT r.guid, r.reason, r.modified_at FROM registration AS r JOIN waiting_kind AS k ON k.guid = r.guid
                WHERE r.state = 'QUARANTINED' AND k.kind = %(kind)s AND (%(reason)s = '' OR r.reason = %(reason)s)
                  AND (%(after)s::uuid IS NULL OR r.guid > %(after)s)
                ORDER BY r.guid LIMIT %(limit)s
                """,
                {"kind": kind, "reason": reason, "after": after, "limit": limit},
            ).fetchall()
        return [Waiting(*row) for row in rows]

    def ever(self, kind: bytes) -> list[UUID]:
        """Return every instance that is known to be of a kind, those that wait no more included."""
        with self._pool.connection() as connection:
            return [row[0] for row in connection.execute("SELECT guid FROM waiting_kind WHERE kind = %s ORDER BY guid", (kind,)).fetchall()]

    def _fill(self) -> None:
        """Read the headers of what waits and was not read, a few at once."""
        while True:
            with self._pool.connection() as connection:
                rows = connection.execute(_UNREAD, (_AT_ONCE,)).fetchall()
                with connection.cursor() as cursor:
                    cursor.executemany(_KEEP, [self._row(*row) for row in rows])
            if len(rows) < _AT_ONCE:
                return

    def _row(self, guid: UUID, digest: bytes | None, header: bytes | None) -> tuple[UUID, bytes | None, bytes, bytes]:
        kind = self._read(None if header is None else self._sealer.open(guid, "header", header))
        return guid, digest, self._names.name(kind), self._sealer.seal(guid, "kind", json.dumps(astuple(kind)).encode())

    def _facts(self, connection: Connection[Any], guids: Sequence[UUID]) -> dict[UUID, ImageKind]:
        rows = connection.execute("SELECT guid, facts FROM waiting_kind WHERE guid = ANY(%s)", (list(guids),)).fetchall()
        return {guid: ImageKind(*json.loads(self._sealer.open(guid, "kind", facts))) for guid, facts in rows}
