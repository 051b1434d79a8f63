"""The table `registration`: what its rows keep sealed, and what staging, operators and metrics read of them.

Nothing here changes the course of a registration.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.port import InstanceLocator, Located
from mdm_dicom_srm.register.rules.facts import Facts
from mdm_dicom_srm.register.rules.model import Page, Registration, State
from mdm_dicom_srm.register.store.shared_entry import open_patient
from mdm_dicom_srm.site_secret import RecordSealer


class RegistrationStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer) -> None:
        self._pool = pool
        self._sealer = sealer
        self._rows = RowSealer(sealer)

    def locators_of(self, guids: Sequence[UUID]) -> dict[UUID, Located | None]:
        """Return where the PACS keeps published instances, None for one that is being described anew; others are left out.

        Described ones are included: after a crash the catalog may have the name already, and the catalog says who may read it.
        Failed ones are included where a step failed, but not where staging could not read what the PACS has.
        """
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT r.guid, r.changed, r.locator, r.study_token, s.patient,
                    EXISTS (SELECT FROM decision AS d WHERE d.instance = r.instance AND d.action = 'RELEASED')
                FROM registration AS r
                LEFT JOIN study AS s ON s.token = r.study_token AND s.patient_token = r.patient_token
                WHERE r.guid = ANY(%s)
                  AND (r.state IN ('DESCRIBED', 'PUBLISHED') OR (r.lfn IS NOT NULL AND r.state IN ('RECEIVED', 'KEYED'))
                    OR (r.lfn IS NOT NULL AND r.state = 'FAILED' AND r.judgement IS NOT NULL))
                """,
                (list(guids),),
            ).fetchall()
        return {guid: None if changed else self._located(guid, *rest) for guid, changed, *rest in rows}

    def _located(self, guid: UUID, locator: bytes, study_token: bytes, patient: bytes | None, released: bool) -> Located:
        decided = None if patient is None else open_patient(self._sealer, study_token, patient)
        return Located(self._rows.open_locator(guid, locator), decided, released)

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
        """Return where the PACS keeps instances that are published and are not being described anew."""
        with self._pool.connection() as connection:
            sql = "SELECT guid, locator FROM registration WHERE guid = ANY(%s) AND state = 'PUBLISHED'"
            rows = connection.execute(sql, (list(guids),)).fetchall()
        return {guid: self._rows.open_locator(guid, locator) for guid, locator in rows}

    def summary(self, study_tokens: Sequence[bytes]) -> dict[State, int]:
        """Count registrations by state, those of some studies or, without any, all; states without any are left out."""
        condition = "WHERE study_token = ANY(%(tokens)s)" if study_tokens else ""
        query = f"SELECT state, count(*) FROM registration {condition} GROUP BY state ORDER BY state"  # noqa: S608  # fixed parts only
        with self._pool.connection() as connection:
            rows = connection.execute(query.encode(), {"tokens": list(study_tokens)}).fetchall()
        return {State(state): count for state, count in rows}

    def rules(self) -> dict[str, int]:
        """Count what the site policy leaves out, by rule."""
        with self._pool.connection() as connection:
            sql = "SELECT rule, count(*) FROM registration WHERE rule <> '' AND state = 'FILTERED' GROUP BY rule ORDER BY rule"
            return dict(connection.execute(sql).fetchall())

    def page(self, state: State | None, after: UUID | None, limit: int, study_tokens: Sequence[bytes] = (), reason: str = "") -> Page:
        """Return registrations in order of GUID, those after `after`, of one state, of some studies and for one reason if given."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT guid, state, CASE WHEN state = 'REMOVED' THEN removal ELSE reason END, attempts, created_at, modified_at, rule
                FROM registration
                WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(after)s::uuid IS NULL OR guid > %(after)s)
                    AND (%(tokens)s::bytea[] IS NULL OR study_token = ANY(%(tokens)s))
                    AND (%(reason)s = '' OR reason = %(reason)s)
                ORDER BY guid LIMIT %(limit)s
                """,
                {
                    "state": None if state is None else str(state),
                    "after": after,
                    "limit": limit + 1,
                    "tokens": list(study_tokens) or None,
                    "reason": reason,
                },
            ).fetchall()
        found = [Registration(guid, State(text), *rest) for guid, text, *rest in rows[:limit]]
        return Page(found, found[-1].guid if len(rows) > limit else None)


class RowSealer:
    """Seals what a row of `registration` keeps of locator, header and judgement, each bound to its GUID; None stays None."""

    def __init__(self, sealer: RecordSealer) -> None:
        self._sealer = sealer

    def seal(self, guid: UUID, locator: InstanceLocator, header: bytes | None, judgement: Judgement | None) -> tuple[bytes | None, ...]:
        """Return the three columns."""
        return (
            self.seal_locator(guid, locator),
            None if header is None else self._sealer.seal(guid, "header", header),
            None if judgement is None else self._sealer.seal(guid, "judgement", judgement.to_bytes()),
        )

    def open_locator(self, guid: UUID, sealed: bytes) -> InstanceLocator:
        """Return the locator of a row."""
        return InstanceLocator(*json.loads(self._sealer.open(guid, "locator", sealed)))

    def seal_facts(self, guid: UUID, facts: Facts) -> bytes:
        """Return the column `facts`."""
        return self._sealer.seal(guid, "facts", facts.to_bytes())

    def open_facts(self, guid: UUID, sealed: bytes | None) -> Facts | None:
        """Return the facts of a row; None for one of an earlier version."""
        return None if sealed is None else Facts.from_bytes(self._sealer.open(guid, "facts", sealed))

    def move_facts(self, guid: UUID, to: UUID, sealed: bytes | None) -> bytes | None:
        """Return the facts of a row sealed for another one."""
        facts = self.open_facts(guid, sealed)
        return None if facts is None else self.seal_facts(to, facts)

    def seal_locator(self, guid: UUID, locator: InstanceLocator) -> bytes:
        """Return the column `locator`."""
        return self._sealer.seal(guid, "locator", json.dumps(astuple(locator)).encode())

    def open(
        self, guid: UUID, locator: bytes, header: bytes | None, judgement: bytes | None
    ) -> tuple[InstanceLocator, bytes | None, Judgement | None]:
        """Return what `seal` sealed."""
        return (
            self.open_locator(guid, locator),
            None if header is None else self._sealer.open(guid, "header", header),
            None if judgement is None else Judgement.from_bytes(self._sealer.open(guid, "judgement", judgement)),
        )
