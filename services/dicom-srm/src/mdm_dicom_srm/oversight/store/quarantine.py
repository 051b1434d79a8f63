"""What waits in quarantine, in the table `registration`."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.oversight.rules.model import Group, GroupKey, Held, Waiting
from mdm_dicom_srm.register.store.registration import RowSealer
from mdm_dicom_srm.site_secret import RecordSealer


class QuarantineStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer) -> None:
        self._pool = pool
        self._rows = RowSealer(sealer)

    def groups(self, reason: str, after: GroupKey | None, limit: int) -> list[Group]:
        """Return groups in order of series and reason, those of one reason if given, those after a place if given."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT series_token, reason, count(*), min(modified_at), max(modified_at), min(guid::text)::uuid
                FROM registration
                WHERE state = 'QUARANTINED' AND (%(reason)s = '' OR reason = %(reason)s)
                  AND (%(series)s::bytea IS NULL OR (series_token, reason) > (%(series)s, %(last)s))
                GROUP BY series_token, reason ORDER BY series_token, reason LIMIT %(limit)s
                """,
                {"reason": reason, "series": after and after[0], "last": after and after[1], "limit": limit},
            ).fetchall()
        return [Group(bytes(token), *rest) for token, *rest in rows]

    def waiting(self, series_token: bytes, reason: str, after: UUID | None, limit: int) -> list[Waiting]:
        """Return instances of a series in order of GUID, those that wait for one reason if given, those after a GUID if given."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT guid, reason, modified_at FROM registration
                WHERE state = 'QUARANTINED' AND series_token = %(series)s AND (%(reason)s = '' OR reason = %(reason)s)
                  AND (%(after)s::uuid IS NULL OR guid > %(after)s)
                ORDER BY guid LIMIT %(limit)s
                """,
                {"series": series_token, "reason": reason, "after": after, "limit": limit},
            ).fetchall()
        return [Waiting(*row) for row in rows]

    def held(self, guids: Sequence[UUID]) -> dict[UUID, Held]:
        """Return those of the instances that wait, with what is kept of them.

        Raises:
            FailedPrecondition: SEAL_BROKEN, see `RecordSealer`.
        """
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT guid, reason, modified_at, series_token, digest, locator, header, judgement FROM registration
                WHERE guid = ANY(%s) AND state = 'QUARANTINED'
                """,
                (list(guids),),
            ).fetchall()
        return {row[0]: self._held(*row) for row in rows}

    def _held(self, guid: UUID, reason: str, since: Any, series_token: bytes, digest: bytes | None, *sealed: Any) -> Held:
        locator, header, judgement = self._rows.open(guid, *sealed)
        return Held(Waiting(guid, reason, since), bytes(series_token), locator, header, judgement, digest and bytes(digest))
