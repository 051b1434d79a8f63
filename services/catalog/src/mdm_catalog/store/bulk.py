"""Operators' work on the whole catalog, in SQL: restoring entries, recounting directories, finding faults."""
# ruff: noqa: S608 - statements are put together from literals of this module only

from collections.abc import Iterator, Sequence
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
_UNFINISHED: LiteralString = """
SELECT r.surl FROM replica r WHERE r.status <> 1 AND r.create_time < now() - make_interval(secs => %s) ORDER BY 1
"""
_WITHOUT_REPLICA: LiteralString = """
SELECT e.guid FROM entry e WHERE e.kind = 2 AND NOT EXISTS (SELECT FROM replica r WHERE r.entry_id = e.id) ORDER BY 1
"""


def put_acl(connection: psycopg.Connection, acl: Acl) -> bool:
    """Create an ACL; return False, changing nothing, if it exists with another owner or other entries."""
    if acl_store.insert(connection, acl):
        return True
    present = acl_store.load(connection, [acl.id])[acl.id]
    return (present.owner, set(present.entries)) == (acl.owner, set(acl.entries))


def put_entries(connection: psycopg.Connection, entries: Sequence[Entry]) -> dict[tuple[int, str], tuple[int, UUID | None]]:
    """Put entries into their directories where place and GUID are free; return id and GUID of the entry then at each place."""
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
    """Add replicas whose SURLs are free; return the SURLs that belong to another file."""
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
    """Return the ids of directories whose counts are wrong; -1 stands for the parent of the root."""
    return [row[0] for row in connection.execute(_DIFFERENT)]


def recount(connection: psycopg.Connection) -> None:
    """Recount what is in each directory, with entries locked against changes."""
    connection.execute("LOCK TABLE entry IN SHARE ROW EXCLUSIVE MODE")
    connection.execute("DELETE FROM directory_content")
    connection.execute(f"INSERT INTO directory_content {_COUNTED}")


def unreachable(connection: psycopg.Connection) -> list[int]:
    """Return the ids of entries that cannot be reached from the root."""
    return [row[0] for row in connection.execute(_UNREACHABLE)]


def without_replica(connection: psycopg.Connection) -> Iterator[UUID]:
    """Yield the GUIDs of files without a replica."""
    return _streamed(connection, _WITHOUT_REPLICA)


def unfinished_replicas(connection: psycopg.Connection, min_age: float) -> Iterator[str]:
    """Yield the SURLs of replicas, at least `min_age` seconds old, that are being populated or deleted."""
    return _streamed(connection, _UNFINISHED, (min_age,))


def _streamed(connection: psycopg.Connection, query: LiteralString, values: Any = ()) -> Iterator[Any]:
    """Yield the only column of a query's rows from a server-side cursor, within a transaction."""
    with connection.cursor(name=f"found_{uuid4().hex}") as cursor:
        cursor.itersize = 1_000
        cursor.execute(query, values)
        for row in cursor:
            yield row[0]
