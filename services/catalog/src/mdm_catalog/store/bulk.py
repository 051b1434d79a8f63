"""What operators do with the whole catalog, in SQL: putting entries in as they were, counting anew, looking for what is wrong."""
# ruff: noqa: S608 - statements are put together from literals of this module only

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl

from mdm_catalog.rules.model import Entry, EntryKind, Replica

_COUNTED: LiteralString = """
SELECT c.directory_id, c.acl_id, sum(c.files) AS files, sum(c.directories) AS directories, sum(c.links) AS links,
       sum(c.defaults) AS defaults, sum(c.bytes) AS bytes
FROM entry e CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c GROUP BY 1, 2
"""
_DIFFERENT: LiteralString = f"""
SELECT DISTINCT directory_id FROM directory_content d FULL JOIN ({_COUNTED}) n USING (directory_id, acl_id)
WHERE (d.files, d.directories, d.links, d.defaults, d.bytes) IS DISTINCT FROM (n.files, n.directories, n.links, n.defaults, n.bytes)
ORDER BY 1
"""
_UNREACHABLE: LiteralString = """
WITH RECURSIVE reached (id) AS (
    SELECT 0::bigint UNION ALL SELECT e.id FROM reached r JOIN entry e ON e.parent_id = r.id AND e.kind = 1
)
SELECT e.id FROM entry e LEFT JOIN reached r ON r.id = CASE e.kind WHEN 1 THEN e.id ELSE e.parent_id END WHERE r.id IS NULL ORDER BY 1
"""
_GIVEN: LiteralString = "CREATE TEMP TABLE given (guid uuid, since timestamptz, whole bool, own bool) ON COMMIT DROP"
_UNDER_WAY: LiteralString = "CREATE TEMP TABLE under_way (guid uuid) ON COMMIT DROP"
_FILES_WITHOUT: LiteralString = """
SELECT e.guid FROM entry e WHERE e.kind = 2 AND NOT EXISTS (SELECT FROM given g WHERE g.guid = e.guid)
AND e.create_time < now() - make_interval(secs => %(age)s)
"""
_FILES_SHORT: LiteralString = """
SELECT DISTINCT e.guid FROM entry e JOIN given g USING (guid) WHERE NOT g.whole AND e.create_time < now() - make_interval(secs => %(age)s)
"""
_WITHOUT_FILE: LiteralString = """
SELECT DISTINCT g.guid FROM given g WHERE g.own AND NOT EXISTS (SELECT FROM entry e WHERE e.guid = g.guid)
AND NOT EXISTS (SELECT FROM under_way u WHERE u.guid = g.guid) AND (g.since IS NULL OR g.since < now() - make_interval(secs => %(age)s))
"""
_UNFINISHED: LiteralString = """
SELECT r.surl FROM replica r WHERE r.status <> 1 AND r.create_time < now() - make_interval(secs => %s) ORDER BY 1
"""
_WITHOUT_REPLICA: LiteralString = """
SELECT e.guid FROM entry e WHERE e.kind = 2 AND NOT EXISTS (SELECT FROM replica r WHERE r.entry_id = e.id) ORDER BY 1
"""


def put_acls(connection: psycopg.Connection, acls: Iterable[Acl]) -> list[UUID]:
    """Create ACLs; return those that exist with another owner or other entries, which stay as they are."""
    different = []
    for acl in acls:
        if not acl_store.insert(connection, acl):
            present = acl_store.load(connection, [acl.id])[acl.id]
            if (present.owner, set(present.entries)) != (acl.owner, set(acl.entries)):
                different.append(acl.id)
    return different


def put_entries(connection: psycopg.Connection, entries: Sequence[Entry]) -> dict[tuple[int, str], tuple[int, UUID | None]]:
    """Put entries into their directories where place and GUID are free; return id and GUID of what then stands at each place."""
    columns = "parent_id, name, kind, guid, size, sha256, comment, acl_id, default_acl_id, create_time, modify_time, rev, link, access_time"
    types = "bigint, text, smallint, uuid, bigint, bytea, text, uuid, uuid, timestamptz, timestamptz, bigint, text, timestamptz"
    arrays = ", ".join(f"%b::{name}[]" for name in types.split(", "))
    rows = [
        (
            *(e.parent_id, e.name, int(e.kind), e.guid, e.size, e.sha256, e.comment, e.acl_id, e.default_acl_id),
            *(e.create_time, e.modify_time, e.rev, e.link, e.access_time),
        )
        for e in entries
    ]
    query = f"INSERT INTO entry ({columns}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
    connection.execute(query, [list(column) for column in zip(*rows, strict=True)])
    found = connection.execute(
        "SELECT e.parent_id, e.name, e.id, e.guid FROM unnest(%b::bigint[], %b::text[]) AS w (parent_id, name)"
        " JOIN entry e ON e.parent_id = w.parent_id AND e.name = w.name",
        ([row[0] for row in rows], [row[1] for row in rows]),
    )
    return {(parent, name): (entry_id, guid) for parent, name, entry_id, guid in found}


def put_replicas(connection: psycopg.Connection, rows: Sequence[tuple[int, Replica]]) -> set[str]:
    """Add replicas where their SURLs are free; return the SURLs that are another file's."""
    if not rows:
        return set()
    values: list[tuple[Any, ...]] = [
        (entry_id, r.surl, int(r.status), r.host, int(r.type), r.set_name, r.create_time, r.access_time, r.access_count, r.rev)
        for entry_id, r in rows
    ]
    connection.execute(
        "INSERT INTO replica (entry_id, surl, status, host, type, set_name, create_time, access_time, access_count, rev)"
        " SELECT * FROM unnest(%b::bigint[], %b::text[], %b::smallint[], %b::text[], %b::smallint[], %b::text[],"
        " %b::timestamptz[], %b::timestamptz[], %b::bigint[], %b::bigint[]) ON CONFLICT (surl) DO NOTHING",
        [list(column) for column in zip(*values, strict=True)],
    )
    owners = connection.execute("SELECT surl, entry_id FROM replica WHERE surl = ANY (%b)", ([r.surl for _, r in rows],))
    owner_of: dict[str, int] = dict(owners.fetchall())
    return {replica.surl for entry_id, replica in rows if owner_of.get(replica.surl) != entry_id}


def directory_at(connection: psycopg.Connection, parent_id: int, name: str) -> int | None:
    """Return the id of a directory, None if no directory has that name."""
    row = connection.execute(
        "SELECT id FROM entry WHERE parent_id = %s AND name = %s AND kind = %s", (parent_id, name, int(EntryKind.DIRECTORY))
    ).fetchone()
    return row[0] if row else None


def miscounted(connection: psycopg.Connection) -> list[int]:
    """Return the directories of which something else is counted than is there; -1 stands for what holds the root."""
    return [row[0] for row in connection.execute(_DIFFERENT)]


def recount(connection: psycopg.Connection) -> None:
    """Count anew what is in each directory; nobody else changes entries meanwhile."""
    connection.execute("LOCK TABLE entry IN SHARE ROW EXCLUSIVE MODE")
    connection.execute("DELETE FROM directory_content")
    connection.execute(f"INSERT INTO directory_content {_COUNTED}")


def unreachable(connection: psycopg.Connection) -> list[int]:
    """Return the ids of entries to which no path from the root leads."""
    return [row[0] for row in connection.execute(_UNREACHABLE)]


def without_replica(connection: psycopg.Connection) -> Iterator[UUID]:
    """Give the GUIDs of files of which no copy is known."""
    return _streamed(connection, _WITHOUT_REPLICA)


def unfinished_replicas(connection: psycopg.Connection, min_age: float) -> Iterator[str]:
    """Give the SURLs of replicas, at least `min_age` seconds old, that are being populated or deleted."""
    return _streamed(connection, _UNFINISHED, (min_age,))


@dataclass(frozen=True, slots=True)
class Held:
    """Something that another service holds of a file: since when, whether all of it, and whether the site's own registration made it."""

    guid: UUID
    since: datetime | None = None
    whole: bool = True
    own: bool = True


class Difference:
    """GUIDs that are on one side only; streamed whenever iterated, in order."""

    def __init__(self, connection: psycopg.Connection, query: LiteralString, min_age: float) -> None:
        self._connection = connection
        self._query = query
        self._values = {"age": min_age}

    def __iter__(self) -> Iterator[UUID]:
        return _streamed(self._connection, f"{self._query} ORDER BY 1", self._values)

    def count(self) -> int:
        """Return how many there are."""
        row = self._connection.execute(f"SELECT count(*) FROM ({self._query}) AS found", self._values).fetchone()
        return int(row[0]) if row else 0


class Given:
    """What another service holds, for the rest of a transaction, beside the files of the catalog."""

    def __init__(self, connection: psycopg.Connection, min_age: float) -> None:
        self.files_without = Difference(connection, _FILES_WITHOUT, min_age)
        self.files_short = Difference(connection, _FILES_SHORT, min_age)
        self.without_file = Difference(connection, _WITHOUT_FILE, min_age)


def gather(connection: psycopg.Connection, held: Iterable[Held], under_way: Iterable[UUID], min_age: float) -> Given:
    """Take in what another service holds, and the GUIDs of files that are being registered, without ever holding it in memory.

    What is found different is at least `min_age` seconds old, as far as its age is known.
    """
    connection.execute(_GIVEN)
    with connection.cursor() as cursor, cursor.copy("COPY given FROM STDIN") as copy:
        for item in held:
            copy.write_row((item.guid, item.since, item.whole, item.own))
    # Afterwards: what is made meanwhile is among these, or in the catalog by now.
    connection.execute(_UNDER_WAY)
    with connection.cursor() as cursor, cursor.copy("COPY under_way FROM STDIN") as copy:
        for guid in under_way:
            copy.write_row((guid,))
    connection.execute("ANALYZE given, under_way")
    return Given(connection, min_age)


def files_among(connection: psycopg.Connection, guids: Sequence[UUID]) -> set[UUID]:
    """Return the GUIDs that are of files of the catalog now."""
    return {row[0] for row in connection.execute("SELECT guid FROM entry WHERE guid = ANY (%b)", (list(guids),))}


def remove_files(connection: psycopg.Connection, guids: Sequence[UUID]) -> int:
    """Remove files from the catalog; return how many."""
    return connection.execute("DELETE FROM entry WHERE guid = ANY (%b)", (list(guids),)).rowcount


def _streamed(connection: psycopg.Connection, query: LiteralString, values: Any = ()) -> Iterator[Any]:
    """Give the only column of a query's rows from a cursor of the server's, within a transaction."""
    with connection.cursor(name=f"found_{uuid4().hex}") as cursor:
        cursor.itersize = 1_000
        cursor.execute(query, values)
        for row in cursor:
            yield row[0]
