"""The tables `face_series` and `face_mask`: what the PACS has of a series, and the masks that were made from it."""

import hashlib
import json
from typing import Any
from uuid import uuid4

from mdm_deid.faces.rule import FaceRule, from_json, to_json
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.oversight.rules.face import SeriesState
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.site_secret import RecordSealer

_FIELD = "face mask"


class FaceStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names) -> None:
        self._pool = pool
        self._sealer = sealer
        self._names = names

    def masks(self, study_uid: str, series_uid: str) -> tuple[FaceRule, ...]:
        """Return the masks of a series that this version made, the oldest first."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT id, content FROM face_mask WHERE series = %s ORDER BY number", (self._names.series_token(study_uid, series_uid),)
            ).fetchall()
        masks = (from_json(json.loads(self._sealer.open(key, _FIELD, content))) for key, content in rows)
        return tuple(mask for mask in masks if mask is not None)

    def keep(self, study_uid: str, series_uid: str, mask: FaceRule) -> None:
        """Keep one more mask, unless another process has just kept the same."""
        token, content = self._names.series_token(study_uid, series_uid), json.dumps(to_json(mask)).encode()
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (token.hex(),))
            rows = connection.execute("SELECT id, content FROM face_mask WHERE series = %s", (token,)).fetchall()
            if any(self._sealer.open(key, _FIELD, known) == content for key, known in rows):
                return
            key = uuid4()
            connection.execute(
                "INSERT INTO face_mask (id, series, content) VALUES (%s, %s, %s)", (key, token, self._sealer.seal(key, _FIELD, content))
            )

    def note(self, study_uid: str, series_uid: str, sop_uids: list[str]) -> SeriesState:
        """Note which instances the PACS has of a series; return for how long it has had just these, and whether they were refused."""
        listing = self._listing(sop_uids)
        with self._pool.connection() as connection:
            row = connection.execute(
                """
                INSERT INTO face_series (series, listing) VALUES (%s, %s)
                ON CONFLICT (series) DO UPDATE SET
                    since = CASE WHEN face_series.listing = excluded.listing THEN face_series.since ELSE now() END,
                    refused = CASE WHEN face_series.listing = excluded.listing THEN face_series.refused ELSE '' END,
                    listing = excluded.listing
                RETURNING extract(epoch FROM clock_timestamp() - since)::float8, refused
                """,
                (self._names.series_token(study_uid, series_uid), listing),
            ).fetchone()
        assert row is not None
        return SeriesState(float(row[0]), str(row[1]))

    def refuse(self, study_uid: str, series_uid: str, sop_uids: list[str], detail: str) -> None:
        """Note that no mask can be made from these instances, unless there are others by now."""
        with self._pool.connection() as connection:
            connection.execute(
                "UPDATE face_series SET refused = %s WHERE series = %s AND listing = %s",
                (detail, self._names.series_token(study_uid, series_uid), self._listing(sop_uids)),
            )

    def _listing(self, sop_uids: list[str]) -> bytes:
        return self._names.statement_digest(hashlib.sha256("\0".join(sorted(sop_uids)).encode()).digest())
