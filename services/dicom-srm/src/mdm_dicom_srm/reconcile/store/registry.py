"""The registry as reconciliation reads it, and what it changes there; which process reconciles, and when it did."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from mdm_dicom_srm.reconcile.rules.model import Difference, Row
from mdm_dicom_srm.register.rules.model import PATIENTS, SERIES, STUDIES, Key, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.store.registration import RowSealer
from mdm_dicom_srm.register.store.shared_entry import SharedEntryStore
from mdm_dicom_srm.site_secret import RecordSealer

_LEADER_LOCK = 0x4D444D03
_COLUMN = {PATIENTS: "patient_key", STUDIES: "study_key", SERIES: "series_key"}
_STATEMENT = {PATIENTS: "patient_statement", STUDIES: "study_statement", SERIES: "series_statement"}
_FETCH = 1000
_ROWS = """
SELECT guid, state, version, coalesce(lfn, ''), size, locator,
    lease_id IS NULL AND modified_at < now() - make_interval(secs => %(age)s) AS settled
FROM registration
"""


class RegistryStore:
    """Safe for several threads and processes; what is younger than `min_age` seconds may still be under way."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names, shared: SharedEntryStore, min_age: float) -> None:
        self._pool = pool
        self._rows = RowSealer(sealer)
        self._names = names
        self._shared = shared
        self._min_age = min_age

    def page(self, after: UUID | None, limit: int) -> list[Row]:
        """Return registrations in order of GUID, those behind `after` if it is given."""
        condition = "WHERE %(after)s::uuid IS NULL OR guid > %(after)s ORDER BY guid LIMIT %(limit)s"
        return self._read(condition, {"after": after, "limit": limit})

    def rows(self, guids: Sequence[UUID]) -> dict[UUID, Row]:
        """Return registrations by GUID; those that do not exist are left out."""
        return {row.guid: row for row in self._read("WHERE guid = ANY(%(guids)s)", {"guids": list(guids)})}

    def count(self) -> int:
        """Count what is published."""
        with self._pool.connection() as connection:
            row = connection.execute("SELECT count(*) FROM registration WHERE state = 'PUBLISHED'").fetchone()
        return int(row[0]) if row else 0

    def restore(self, guids: Sequence[UUID]) -> set[UUID]:
        """Have published instances judged and described again, so that what the grid lost of them is put back; return which."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                UPDATE registration SET state = 'RECEIVED', reason = '', attempts = 0, due_at = now(), modified_at = now(),
                    version = version + 1, restoring = true, header = NULL, judgement = NULL
                WHERE guid = ANY(%s) AND state = 'PUBLISHED' RETURNING guid
                """,
                (list(guids),),
            ).fetchall()
        return {row[0] for row in rows}

    @contextmanager
    def shared_keys(self, level: str) -> Iterator[Iterator[str]]:
        """Yield the keys of entries that instances support, in the order of their bytes, from one snapshot."""
        column = _COLUMN[level]
        sql = f"SELECT DISTINCT {column} FROM registration WHERE {_STATEMENT[level]} IS NOT NULL ORDER BY {column}"  # noqa: S608 - fixed names only
        with self._pool.connection() as connection, connection.cursor(f"shared_{level}") as cursor:
            cursor.itersize = _FETCH
            cursor.execute(sql.encode())
            yield (row[0] for row in cursor)

    def supported(self, level: str, keys: Sequence[str]) -> set[str]:
        """Return the keys that instances support, or that are about to be written."""
        column = _COLUMN[level]
        sql = (
            f"SELECT {column} FROM registration WHERE {column} = ANY(%(keys)s) AND {_STATEMENT[level]} IS NOT NULL "  # noqa: S608 - fixed names
            "UNION SELECT key FROM shared_entry WHERE level = %(level)s AND key = ANY(%(keys)s) AND written_revision < revision"
        )
        with self._pool.connection() as connection:
            return {row[0] for row in connection.execute(sql.encode(), {"keys": list(keys), "level": level}).fetchall()}

    def write_again(self, keys: Iterable[Key]) -> None:
        """Have shared entries written again, whatever they were."""
        self._shared.forget_written(keys)

    def has_earlier(self) -> bool:
        """Return whether instances of an earlier version are published, which state nothing of the entries that they share."""
        sql = "SELECT EXISTS (SELECT FROM registration WHERE digest IS NULL AND state IN ('DESCRIBED', 'PUBLISHED'))"
        with self._pool.connection() as connection:
            row = connection.execute(sql).fetchone()
        return bool(row and row[0])

    def _read(self, condition: str, parameters: Mapping[str, Any]) -> list[Row]:
        with self._pool.connection() as connection:
            rows = connection.execute(f"{_ROWS}{condition}".encode(), {"age": self._min_age, **parameters}).fetchall()
        return [self._row(*row) for row in rows]

    def _row(self, guid: UUID, state: str, version: int, lfn: str, size: int | None, locator: bytes, settled: bool) -> Row:
        acl_id = self._names.study_acl(self._rows.open_locator(guid, locator).study_uid)
        return Row(guid, State(state), version, lfn, size, acl_id, settled)


class ReconciliationStore:
    """Which process reconciles, and what came of it."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    @contextmanager
    def leading(self) -> Iterator[bool]:
        """Yield whether this process may reconcile: no other does during the block. A process that dies leaves the lead."""
        with self._pool.connection() as connection:
            connection.autocommit = True
            try:
                row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LEADER_LOCK,)).fetchone()
                leads = bool(row and row[0])
                try:
                    yield leads
                finally:
                    if leads:
                        connection.execute("SELECT pg_advisory_unlock(%s)", (_LEADER_LOCK,))
            finally:
                connection.autocommit = False

    def is_due(self, seconds: float) -> bool:
        """Return whether none was completed for so long, and none has been tried in the last ten minutes."""
        sql = """
            SELECT NOT EXISTS (SELECT FROM reconciliation WHERE started_at > now() - make_interval(secs => %s)
                AND (differences IS NOT NULL OR started_at > now() - interval '10 minutes'))
            """
        with self._pool.connection() as connection:
            row = connection.execute(sql, (seconds,)).fetchone()
        return bool(row and row[0])

    def begin(self) -> int:
        """Note that one begins; return its number."""
        with self._pool.connection() as connection:
            row = connection.execute("INSERT INTO reconciliation DEFAULT VALUES RETURNING number").fetchone()
        assert row is not None
        return int(row[0])

    def end(self, number: int, differences: Sequence[Difference]) -> None:
        """Keep what it found."""
        found = json.dumps([asdict(difference) for difference in differences])
        with self._pool.connection() as connection:
            connection.execute("UPDATE reconciliation SET differences = %s WHERE number = %s", (found, number))
