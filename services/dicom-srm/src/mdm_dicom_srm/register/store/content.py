"""What the registry holds, as inspections compare it with the PACS, and what they bring about in it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg_pool import ConnectionPool

from mdm_dicom_srm.pacs.port import InstanceLocator, Scope
from mdm_dicom_srm.register.rules.facts import in_scope
from mdm_dicom_srm.register.rules.model import Removal, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.policy import SITE_POLICY
from mdm_dicom_srm.register.rules.scan import Known, Listed
from mdm_dicom_srm.register.store.registration import RowSealer
from mdm_dicom_srm.register.store.shared_entry import freeing_conflicts
from mdm_dicom_srm.site_secret import RecordSealer

_CHUNK = 500
_LIVE = "state NOT IN ('REMOVING', 'REMOVED')"
_COLUMNS = """guid, instance, state, study_token, locator, listing, facts, calling_ae, policy, rule, removed_by IS NOT NULL"""

_BEGIN = """
UPDATE registration SET state = 'REMOVING', reason = '', attempts = 0, due_at = now(), modified_at = now(), version = version + 1,
    header = NULL, judgement = NULL, missing_since = NULL, removal = %(why)s, removed_by = %(by)s, removal_note = %(note)s
WHERE guid = ANY(%(guids)s) AND state NOT IN ('REMOVING', 'REMOVED')
RETURNING guid
"""


class ContentStore:
    """Safe for several threads and processes; what changes many rows does it in several transactions and may be repeated."""

    def __init__(self, pool: ConnectionPool[Any], sealer: RecordSealer, names: Names) -> None:
        self._pool = pool
        self._rows = RowSealer(sealer)
        self._names = names

    def of_instances(self, instances: Sequence[UUID]) -> dict[UUID, Known]:
        """Return the newest registration of each instance that has one."""
        with self._pool.connection() as connection:
            sql = f"SELECT DISTINCT ON (instance) {_COLUMNS} FROM registration WHERE instance = ANY(%s) ORDER BY instance, generation DESC"  # noqa: S608
            rows = connection.execute(sql.encode(), (list(instances),)).fetchall()
        return {known.instance: known for known in (self._known(*row) for row in rows)}

    def of_study(self, study_token: bytes) -> Iterator[Known]:
        """Yield the live registrations of a study in order of GUID."""
        for rows in self._chunks(f"SELECT {_COLUMNS} FROM registration WHERE study_token = %(value)s AND {_LIVE}", study_token):  # noqa: S608
            yield from (self._known(*row) for row in rows)

    def locators(self, guids: Sequence[UUID]) -> list[InstanceLocator]:
        """Return where the PACS keeps live registrations."""
        with self._pool.connection() as connection:
            sql = f"SELECT guid, locator FROM registration WHERE guid = ANY(%s) AND {_LIVE}"  # noqa: S608 - fixed parts only
            rows = connection.execute(sql.encode(), (list(guids),)).fetchall()
        locators = [self._rows.open_locator(guid, locator) for guid, locator in rows]
        return [locator for locator in locators if locator.study_uid]

    def series_in(self, scope: Scope) -> Iterator[InstanceLocator]:
        """Yield an instance of each series that the registry has and that is of a scope."""
        after = b""
        while True:
            with self._pool.connection() as connection:
                rows = connection.execute(
                    f"""
                    SELECT DISTINCT ON (series_token) series_token, guid, locator, facts FROM registration
                    WHERE series_token > %s AND {_LIVE} ORDER BY series_token, guid LIMIT %s
                    """.encode(),  # noqa: S608 - fixed parts only
                    (after, _CHUNK),
                ).fetchall()
            for _, guid, locator, facts in rows:
                opened = self._rows.open_locator(guid, locator)
                if opened.study_uid and in_scope(scope, opened, self._rows.open_facts(guid, facts)):
                    yield opened
            if len(rows) < _CHUNK:
                return
            after = rows[-1][0]

    def note_listed(self, listed: Mapping[UUID, Listed], policy: bytes) -> None:
        """Keep by instance which listing is the one of what is registered, and the PACS to ask for it."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            sql = f"SELECT instance, guid FROM registration WHERE instance = ANY(%s) AND {_LIVE} ORDER BY instance FOR UPDATE"  # noqa: S608
            rows = cursor.execute(sql.encode(), (list(listed),)).fetchall()
            cursor.executemany(
                """
                UPDATE registration SET listing = %s, locator = %s, facts = coalesce(facts, %s), policy = coalesce(policy, %s),
                    missing_since = NULL
                WHERE guid = %s
                """,
                [(*self._listed(guid, listed[instance]), policy, guid) for instance, guid in rows],
            )

    def _listed(self, guid: UUID, item: Listed) -> tuple[bytes, bytes, bytes | None]:
        facts = None if item.facts is None else self._rows.seal_facts(guid, item.facts)
        return item.digest, self._rows.seal_locator(guid, item.locator), facts

    def found(self, guids: Sequence[UUID]) -> None:
        """Note that the PACS has instances."""
        with self._pool.connection() as connection:
            sql = "UPDATE registration SET missing_since = NULL WHERE guid = ANY(%s) AND missing_since IS NOT NULL"
            connection.execute(sql, (list(guids),))

    def miss(self, guids: Sequence[UUID], gone_after_seconds: float) -> int:
        """Note that the PACS lacks instances; have those removed that it lacked so long ago, too, and return how many."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                f"""
                SELECT guid FROM registration WHERE guid = ANY(%s) AND {_LIVE}
                    AND missing_since <= now() - make_interval(secs => %s) ORDER BY guid FOR UPDATE
                """.encode(),  # noqa: S608 - fixed parts only
                (list(guids), gone_after_seconds),
            ).fetchall()
            gone = begin_removal(connection, [guid for (guid,) in rows], Removal.GONE)
            connection.execute(
                "UPDATE registration SET missing_since = now() WHERE guid = ANY(%s) AND missing_since IS NULL AND state <> ALL(%s)",
                (list(guids), [str(State.REMOVING), str(State.REMOVED)]),
            )
        return len(gone)

    def leave_out(self, rules: Mapping[UUID, str], policy: bytes) -> None:
        """Settle registrations as left out by the site policy, each with its rule; what the grid has of them is removed."""
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE registration SET rule = %s, policy = %s WHERE guid = %s AND rule <> ''",
                [(rule, policy, guid) for guid, rule in sorted(rules.items())],
            )
            for guid in begin_removal(connection, self._not_left_out(connection, list(rules)), Removal.SITE_POLICY):
                self._insert_left_out(connection, guid, rules[guid], policy)

    @staticmethod
    def _not_left_out(connection: Connection[Any], guids: Sequence[UUID]) -> list[UUID]:
        sql = f"SELECT guid FROM registration WHERE guid = ANY(%s) AND rule = '' AND {_LIVE} ORDER BY guid FOR UPDATE"  # noqa: S608
        return [guid for (guid,) in connection.execute(sql.encode(), (guids,)).fetchall()]

    def _insert_left_out(self, connection: Connection[Any], guid: UUID, rule: str, policy: bytes) -> None:
        """Begin the next generation of an instance whose generation ends; it is left out."""
        sql = "SELECT locator, facts, generation + 1 FROM registration WHERE guid = %s"
        [(sealed, facts, generation)] = connection.execute(sql, (guid,)).fetchall()
        locator = self._rows.open_locator(guid, sealed)
        new = self._names.guid(locator.sop_uid, generation)
        columns = (self._rows.seal_locator(new, locator), self._rows.move_facts(guid, new, facts))
        connection.execute(
            """
            INSERT INTO registration (guid, instance, generation, state, reason, study_token, series_token, digest, size, listing,
                calling_ae, locator, facts, policy, rule)
            SELECT %s, instance, %s, 'FILTERED', %s, study_token, series_token, digest, size, listing, calling_ae, %s, %s, %s, %s
            FROM registration WHERE guid = %s
            """,
            (new, generation, SITE_POLICY, *columns, policy, rule, guid),
        )

    def let_in(self, guids: Sequence[UUID], policy: bytes) -> None:
        """Note under which site policy registrations stand that it registers; those that were left out are judged."""
        with self._pool.connection() as connection:
            connection.execute(
                """
                UPDATE registration SET policy = %(policy)s, rule = '', reason = CASE WHEN rule = '' THEN reason ELSE '' END,
                    state = CASE WHEN rule = '' THEN state ELSE 'RECEIVED' END, due_at = CASE WHEN rule = '' THEN due_at ELSE now() END,
                    attempts = CASE WHEN rule = '' THEN attempts ELSE 0 END,
                    modified_at = CASE WHEN rule = '' THEN modified_at ELSE now() END
                WHERE guid = ANY(%(guids)s) AND state NOT IN ('REMOVING', 'REMOVED')
                """,
                {"policy": policy, "guids": list(guids)},
            )

    def unregister(self, guids: Sequence[UUID], by: str, note: str, *, dry_run: bool) -> int:
        """Have registrations removed for `by`, if it is no dry run; return how many that are, or would be."""
        with self._pool.connection() as connection:
            if not dry_run:
                return len(begin_removal(connection, guids, Removal.UNREGISTERED, by=by, note=note))
            sql = f"SELECT count(*) FROM registration WHERE guid = ANY(%s) AND {_LIVE}"  # noqa: S608 - fixed parts only
            row = connection.execute(sql.encode(), (list(guids),)).fetchone()
        return int(row[0]) if row else 0

    def unregister_study(self, study_token: bytes, by: str, note: str, *, dry_run: bool) -> int:
        """Do the same to what there is of a study."""
        sql = f"SELECT guid FROM registration WHERE study_token = %(value)s AND {_LIVE}"  # noqa: S608 - fixed parts only
        return sum(self.unregister([row[0] for row in rows], by, note, dry_run=dry_run) for rows in self._chunks(sql, study_token))

    def unregister_below(self, lfn: str, by: str, note: str, *, dry_run: bool) -> int:
        """Do the same to the file of a name, and to those below the directory of this name."""
        # The character after the slash ends the range of names below.
        sql = f"SELECT guid FROM registration WHERE (lfn = %(value)s OR (lfn >= %(value)s || '/' AND lfn < %(value)s || '0')) AND {_LIVE}"  # noqa: S608
        return sum(self.unregister([row[0] for row in rows], by, note, dry_run=dry_run) for rows in self._chunks(sql, lfn))

    def _chunks(self, sql: str, value: object) -> Iterator[list[Any]]:
        """Yield the rows of a query in order of GUID, which is the first column, some at a time."""
        after: UUID | None = None
        while True:
            with self._pool.connection() as connection:
                rows = connection.execute(
                    f"{sql} AND (%(after)s::uuid IS NULL OR guid > %(after)s) ORDER BY guid LIMIT {_CHUNK}".encode(),
                    {"value": value, "after": after},
                ).fetchall()
            if rows:
                yield rows
            if len(rows) < _CHUNK:
                return
            after = rows[-1][0]

    def _known(self, guid: UUID, instance: UUID, state: str, token: bytes, locator: bytes, *rest: Any) -> Known:
        listing, facts, calling_ae, policy, rule, unregistered = rest
        return Known(
            guid,
            instance,
            State(state),
            bytes(token),
            self._rows.open_locator(guid, locator),
            listing and bytes(listing),
            self._rows.open_facts(guid, facts),
            calling_ae,
            policy and bytes(policy),
            rule,
            unregistered,
        )


def begin_removal(connection: Connection[Any], guids: Sequence[UUID], why: Removal, *, by: str | None = None, note: str = "") -> list[UUID]:
    """Have registrations removed, whoever works on them: a lease does not hold the new version. Return those that this call began with.

    What a worker has put into the grid meanwhile goes, too: the removal begins when it has let go of the registration.
    `by` is who unregisters them: scans leave their instances out from then on.
    """
    with freeing_conflicts(connection, guids):
        rows = connection.execute(_BEGIN, {"guids": list(guids), "why": str(why), "by": by, "note": note}).fetchall()
    return [guid for (guid,) in rows]
