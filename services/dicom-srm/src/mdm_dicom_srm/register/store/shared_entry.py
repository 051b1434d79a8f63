"""The patients of studies, what instances state, and the entries that they share. What identifies is sealed."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from typing import Any
from uuid import UUID

from mdm_deid import Patient, PatientIdRule
from mdm_deid.rules.patient import CONFLICT
from psycopg import Connection
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.register.rules.model import LEVELS, PATIENTS, SERIES, STUDIES, Conflict, Key, SharedEntry, Statement, decode
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.site_secret import RecordSealer

#: Registrations that are of a study's patient; others of these states are not decided yet.
_SUPPORTING = "study_token = %s AND patient_token = %s AND state IN ('RECEIVED', 'KEYED', 'DESCRIBED', 'PUBLISHED', 'FAILED')"
# By level: which registrations hold an entry and what they state of it.
_COLUMNS = {
    PATIENTS: ("patient_key", "patient_statement"),
    STUDIES: ("study_key", "study_statement"),
    SERIES: ("series_key", "series_statement"),
}
_LEFT_SECONDS = 5
_REMEMBERED_STUDIES = 1000


class SharedEntryStore:
    """Every method is one transaction; safe for several threads and processes."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names, rule: PatientIdRule) -> None:
        self._pool = pool
        self._sealer = sealer
        self._names = names
        self._rule = rule
        self._remembered: dict[bytes, Patient] = {}

    def patient_at_arrival(self, study_uid: str, instance: UUID, said: Patient) -> tuple[Patient, bool]:
        """Return the patient as whose an arriving instance is judged, and whether it is the one that it names.

        A study's first instance decides. Where no other instance of the study's patient is left, it is judged as the patient that it
        names: `decide_patient` will decide so, as it does where this process remembers a patient that is not the study's any more.
        """
        token = self._names.study_token(study_uid)
        remembered = self._remembered.get(token)
        if remembered is not None and self._rule.same(remembered, said):
            return remembered, True
        with self._pool.connection() as connection:
            decided = self._decided(connection, token)
            if decided is None:
                self._decide(connection, token, said)
                return said, True
            if self._rule.same(decided, said):
                self._remember(token, decided)
                return decided, True
            if self._supported(connection, token, decided, "instance <> %s", instance):
                return decided, False
        return said, False

    def _remember(self, token: bytes, patient: Patient) -> None:
        self._remembered[token] = patient
        while len(self._remembered) > _REMEMBERED_STUDIES:
            with suppress(KeyError):
                del self._remembered[next(iter(self._remembered))]

    def decide_patient(self, study_uid: str, said: Mapping[UUID, Patient]) -> Patient:
        """Return the patient of a study, given the patients that its registrations name; those that agree are noted as this patient's.

        This is decided once, and again by the first that asks after no registration of that patient is left. Then those that were in
        conflict with the former patient are queued again.
        """
        token = self._names.study_token(study_uid)
        with self._pool.connection() as connection:
            decided = self._decided(connection, token)
            agreeing = [guid for guid, patient in said.items() if decided is not None and self._rule.same(decided, patient)]
            if decided is None or not (agreeing or self._supported(connection, token, decided, "guid <> ALL(%s)", list(said))):
                decided = self._rule.majority(said.values())
                agreeing = [guid for guid, patient in said.items() if self._rule.same(decided, patient)]
                self._decide(connection, token, decided)
                self._remembered.pop(token, None)
                _free(connection, token, list(said))
            connection.execute(
                """
                UPDATE registration SET patient_token = CASE WHEN guid = ANY(%(agreeing)s) THEN %(patient)s END,
                    against = CASE WHEN guid <> ALL(%(agreeing)s) THEN %(patient)s END
                WHERE guid = ANY(%(said)s)
                """,
                {"agreeing": agreeing, "patient": self._names.patient_token(decided), "said": list(said)},
            )
        return decided

    def _decided(self, connection: Connection[Any], token: bytes) -> Patient | None:
        # The row that is inserted is what others wait for.
        connection.execute("INSERT INTO study (token, patient_token, patient) VALUES (%s, '', '') ON CONFLICT (token) DO NOTHING", (token,))
        row = connection.execute("SELECT patient FROM study WHERE token = %s FOR UPDATE", (token,)).fetchone()
        return open_patient(self._sealer, token, row[0]) if row is not None and row[0] else None

    def _decide(self, connection: Connection[Any], token: bytes, patient: Patient) -> None:
        sealed = self._sealer.seal(UUID(bytes=token), "patient", json.dumps(astuple(patient)).encode())
        connection.execute(
            "UPDATE study SET patient_token = %s, patient = %s, modified_at = now() WHERE token = %s",
            (self._names.patient_token(patient), sealed, token),
        )

    def _supported(self, connection: Connection[Any], token: bytes, patient: Patient, others: str, of: object) -> bool:
        return _supported(connection, token, self._names.patient_token(patient), others, of)

    def state(self, lease_id: UUID, statements: Mapping[UUID, Sequence[Statement]]) -> set[Key]:
        """Keep what instances state, one statement for each level; return the entries that are to be written again.

        Among them are those of which an instance stated something before.
        """
        known: dict[tuple[str, str, bytes], bytes] = {}
        rows: list[tuple[object, ...]] = []
        for guid, of_one in statements.items():
            stated: list[object] = []
            for statement in sorted(of_one, key=lambda item: LEVELS.index(item.level)):
                content = statement.encode()
                mac = self._names.statement_digest(content)
                known[statement.level, statement.key, mac] = content
                stated += (statement.key, mac)
            rows.append((*stated, guid, lease_id))
        with self._pool.connection() as connection, connection.cursor() as cursor:
            touched = self._held(connection, list(statements)) | {(level, key) for level, key, _ in known}
            # First: it locks out other writers of the entries, who delete statements that no instance makes any more.
            _touch(connection, touched)
            cursor.executemany(
                "INSERT INTO statement (level, key, digest, content) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [(level, key, mac, self._seal(level, key, content)) for (level, key, mac), content in known.items()],
            )
            cursor.executemany(
                """
                UPDATE registration SET patient_key = %s, patient_statement = %s, study_key = %s, study_statement = %s,
                    series_key = %s, series_statement = %s
                WHERE guid = %s AND lease_id = %s AND lease_version = version
                """,
                rows,
            )
        return touched

    def withdraw(self, guids: Sequence[UUID]) -> set[Key]:
        """Take back what instances state; return the entries that are to be written again or removed."""
        with self._pool.connection() as connection:
            touched = self._held(connection, guids)
            connection.execute(
                "UPDATE registration SET patient_statement = NULL, study_statement = NULL, series_statement = NULL WHERE guid = ANY(%s)",
                (list(guids),),
            )
            _touch(connection, touched)
        return touched

    def forget_written(self, keys: Iterable[Key]) -> None:
        """Have entries written even if they are unchanged: the metadata service may have lost them."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            sql = "UPDATE shared_entry SET written = NULL, revision = revision + 1 WHERE level = %s AND key = %s"
            cursor.executemany(sql, sorted(keys))

    def left(self) -> list[Key]:
        """Return entries that are overdue: the process that was to write them has ended."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT level, key FROM shared_entry WHERE written_revision < revision AND modified_at < now() - make_interval(secs => %s)
                ORDER BY modified_at LIMIT 100
                """,
                (_LEFT_SECONDS,),
            ).fetchall()
        return [(level, key) for level, key in rows]

    @contextmanager
    def turn(self, level: str, key: str) -> Iterator[SharedEntry | None]:
        """Yield an entry that is due, locked during the block; None if it has been written already."""
        with self._pool.connection() as connection:
            row = connection.execute(
                "SELECT revision, written FROM shared_entry WHERE level = %s AND key = %s AND written_revision < revision FOR UPDATE",
                (level, key),
            ).fetchone()
            if row is None:
                yield None
                return
            revision, before = row

            def save(written: bytes, conflicts: Sequence[str]) -> None:
                connection.execute(
                    """
                    UPDATE shared_entry SET written_revision = %s, written = %s, conflicts = %s, modified_at = now()
                    WHERE level = %s AND key = %s
                    """,
                    (revision, written, list(conflicts), level, key),
                )

            yield SharedEntry(self._statements(connection, level, key), _earlier(connection, level, key), before, save)

    def _statements(self, connection: Connection[Any], level: str, key: str) -> list[tuple[Statement, int]]:
        key_column, statement_column = _COLUMNS[level]
        condition = f"{key_column} = %s AND {statement_column} IS NOT NULL"
        sql = f"SELECT {statement_column}, count(*) FROM registration WHERE {condition} GROUP BY 1"  # noqa: S608 - fixed names only
        counts = connection.execute(sql.encode(), (key,)).fetchall()
        digests = [bytes(mac) for mac, _ in counts]
        connection.execute("DELETE FROM statement WHERE level = %s AND key = %s AND digest <> ALL(%s)", (level, key, digests))
        rows = connection.execute("SELECT digest, content FROM statement WHERE level = %s AND key = %s", (level, key)).fetchall()
        contents = {bytes(mac): content for mac, content in rows}
        return [(decode(self._open(level, key, contents[bytes(mac)])), count) for mac, count in counts]

    @staticmethod
    def _held(connection: Connection[Any], guids: Sequence[UUID]) -> set[Key]:
        rows = connection.execute(
            "SELECT patient_key, study_key, series_key FROM registration WHERE guid = ANY(%s)", (list(guids),)
        ).fetchall()
        return {(level, key) for keys in rows for level, key in zip(LEVELS, keys, strict=True) if key is not None}

    def conflicts(self, after: Key | None, limit: int) -> list[Conflict]:
        """Return entries for which instances state different values, in order of collection and key."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                """
                SELECT level, key, conflicts FROM shared_entry WHERE conflicts <> '{}' AND (level, key) > (%s, %s)
                ORDER BY level, key LIMIT %s
                """,
                (*(after or ("", "")), limit),
            ).fetchall()
        return [Conflict(level, key, tuple(attributes)) for level, key, attributes in rows]

    def _seal(self, level: str, key: str, content: bytes) -> bytes:
        return self._sealer.seal(self._names.entry_id(level, key), "statement", content)

    def _open(self, level: str, key: str, sealed: bytes) -> bytes:
        return self._sealer.open(self._names.entry_id(level, key), "statement", sealed)


def open_patient(sealer: RecordSealer, token: bytes, sealed: bytes) -> Patient:
    """Return the patient that a row of `study` holds."""
    return Patient(*json.loads(sealer.open(UUID(bytes=bytes(token)), "patient", sealed)))


def _earlier(connection: Connection[Any], level: str, key: str) -> int:
    """Count instances of a series that an earlier version published; of a study or patient, return whether there may be any."""
    if level == SERIES:
        row = connection.execute(
            """
            SELECT count(*) FROM registration WHERE digest IS NULL AND state IN ('DESCRIBED', 'PUBLISHED')
                AND series_token IN (SELECT series_token FROM registration WHERE series_key = %s)
            """,
            (key,),
        ).fetchone()
    else:
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM registration WHERE digest IS NULL AND state IN ('DESCRIBED', 'PUBLISHED'))::integer"
        ).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def freeing_conflicts(connection: Connection[Any], guids: Sequence[UUID]) -> Iterator[None]:
    """After the block has settled registrations, queue again those whose conflict with their study's patient may be over.

    It may be where no registration of that patient is left, or where another patient has been decided on meanwhile. Decisions on these
    studies wait until the transaction ends.
    """
    rows = connection.execute("SELECT DISTINCT study_token FROM registration WHERE guid = ANY(%s)", (list(guids),)).fetchall()
    tokens = [token for (token,) in rows]
    studies = connection.execute(
        "SELECT token, patient_token FROM study WHERE token = ANY(%s) ORDER BY token FOR UPDATE", (tokens,)
    ).fetchall()
    yield
    for token, patient_token in studies:
        _free(connection, token, [], but=patient_token if _supported(connection, token, patient_token) else None)


def _supported(connection: Connection[Any], token: bytes, patient_token: bytes, others: str = "true", *of: object) -> bool:
    """Return whether a registration of a study is of a patient, among those that the condition `others` leaves."""
    sql = f"SELECT EXISTS (SELECT FROM registration WHERE {_SUPPORTING} AND {others})"  # noqa: S608 - fixed parts only
    row = connection.execute(sql.encode(), (token, patient_token, *of)).fetchone()
    return row is not None and bool(row[0])


def _free(connection: Connection[Any], token: bytes, apart_from: Sequence[UUID], but: bytes | None = None) -> None:
    """Queue conflicts of a study again, those with the patient `but` excepted."""
    connection.execute(
        """
        UPDATE registration SET state = 'RECEIVED', reason = '', attempts = 0, due_at = now(), modified_at = now()
        WHERE study_token = %s AND state = 'QUARANTINED' AND reason = %s AND guid <> ALL(%s) AND against IS DISTINCT FROM %s
        """,
        (token, CONFLICT.upper(), list(apart_from), but or b""),
    )


def _touch(connection: Connection[Any], keys: set[Key]) -> None:
    """Note that entries are to be written; always in the same order, so that two callers cannot deadlock."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO shared_entry (level, key) VALUES (%s, %s)
            ON CONFLICT (level, key) DO UPDATE SET revision = shared_entry.revision + 1, modified_at = now()
            """,
            sorted(keys),
        )
