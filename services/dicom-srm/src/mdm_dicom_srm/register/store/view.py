"""What staging, operators and metrics ask of registrations; nothing here changes the course of one."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.pacs.port import InstanceLocator, Located
from mdm_dicom_srm.record_seal import RecordSealer
from mdm_dicom_srm.register.rules.model import Page, Registration, State
from mdm_dicom_srm.register.store.record import open_locator
from mdm_dicom_srm.register.store.shared import open_patient


class RegistrationView:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer) -> None:
        self._pool = pool
        self._sealer = sealer

    def series_sizes(self, series_tokens: Sequence[bytes]) -> dict[bytes, int]:
        """Return how many published instances each series has."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT series_token, count(*) FROM registration WHERE series_token = ANY(%s) AND state = 'PUBLISHED' GROUP BY 1",
                (list(series_tokens),),
            ).fetchall()
        return {bytes(token): count for token, count in rows}

    def locators_of(self, guids: Sequence[UUID]) -> dict[UUID, Located | None]:
        """Return where the PACS keeps published instances, None for one that is being described anew; others are left out.

        Described ones are given too: after a crash the catalog may have the name already, and it is the catalog that says who reads it.
        Those that failed are given where it was a step that failed, and not where staging found that it cannot read what the PACS has.
        """
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT r.guid, r.changed, r.locator, r.study_token, s.patient FROM registration AS r
                LEFT JOIN study AS s ON s.token = r.study_token AND s.patient_token = r.patient_token
                WHERE r.guid = ANY(%s)
                  AND (r.state IN ('DESCRIBED', 'PUBLISHED') OR (r.lfn IS NOT NULL AND r.state IN ('RECEIVED', 'KEYED'))
                    OR (r.lfn IS NOT NULL AND r.state = 'FAILED' AND r.judgement IS NOT NULL))
                """,
                (list(guids),),
            ).fetchall()
        return {guid: None if changed else self._located(guid, *rest) for guid, changed, *rest in rows}

    def _located(self, guid: UUID, locator: bytes, study_token: bytes, patient: bytes | None) -> Located:
        decided = None if patient is None else open_patient(self._sealer, study_token, patient)
        return Located(open_locator(self._sealer, guid, locator), decided)

    def sizes_of(self, guids: Sequence[UUID]) -> dict[UUID, int | None]:
        """Return the sizes of files that registration knows."""
        with self._pool.connection() as connection:
            rows = connection.execute("SELECT guid, size FROM registration WHERE guid = ANY(%s)", (list(guids),)).fetchall()
        return dict(rows)

    def note_sizes(self, sizes: Mapping[UUID, int]) -> None:
        """Keep the sizes that users get."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany("UPDATE registration SET size = %s WHERE guid = %s", [(size, guid) for guid, size in sorted(sizes.items())])

    def published(self, guids: Sequence[UUID]) -> dict[UUID, InstanceLocator]:
        """Return where the PACS keeps instances that are published, not counting those that are being described anew."""
        with self._pool.connection() as connection:
            sql = "SELECT guid, locator FROM registration WHERE guid = ANY(%s) AND state = 'PUBLISHED'"
            rows = connection.execute(sql, (list(guids),)).fetchall()
        return {guid: open_locator(self._sealer, guid, locator) for guid, locator in rows}

    def summary(self, study_tokens: Sequence[bytes]) -> dict[State, int]:
        """Count registrations by state, those of some studies or, without any, all; states without any are left out."""
        condition = "WHERE study_token = ANY(%(tokens)s)" if study_tokens else ""
        query = f"SELECT state, count(*) FROM registration {condition} GROUP BY state ORDER BY state"  # noqa: S608  # fixed parts only
        with self._pool.connection() as connection:
            rows = connection.execute(query.encode(), {"tokens": list(study_tokens)}).fetchall()
        return {State(state): count for state, count in rows}

    def page(self, state: State | None, after: UUID | None, limit: int) -> Page:
        """Return registrations in order of GUID, those behind `after`, of one state if given."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT guid, state, reason, attempts, created_at, modified_at FROM registration
                WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(after)s::uuid IS NULL OR guid > %(after)s)
                ORDER BY guid LIMIT %(limit)s
                """,
                {"state": None if state is None else str(state), "after": after, "limit": limit + 1},
            ).fetchall()
        found = [Registration(guid, State(text), *rest) for guid, text, *rest in rows[:limit]]
        return Page(found, found[-1].guid if len(rows) > limit else None)
