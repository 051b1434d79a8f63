"""The catalog in PostgreSQL: the only SQL of the service."""
# ruff: noqa: S608 - statements are put together from literals of this module only

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import psycopg
from mdm_service import acl_store
from mdm_service.acl import Acl, Permission
from mdm_service.errors import Aborted
from mdm_service.identity import Caller
from psycopg.errors import DeadlockDetected, ForeignKeyViolation, LockNotAvailable, SerializationFailure
from psycopg_pool import ConnectionPool

from mdm_catalog.model import ROOT_ID, Chain, Entry, EntryKind, FileChange, Node, Replica, ReplicaStatus, SubtreeAcl
from mdm_catalog.path import Lfn
from mdm_catalog.port import Place, Reading, Writing

T = TypeVar("T")
_ATTEMPTS = 5
_LOCK_TIMEOUT = "10s"
_ROOT_LOCK = 0x4D444D01  # processes that start together create the root once

_NODE = "e.id, e.parent_id, e.name, e.kind, e.acl_id, e.default_acl_id, e.guid, e.size, e.rev"
_ENTRY = (
    "e.id, e.parent_id, e.name, e.kind, e.guid, e.size, e.sha256, e.comment, a.owner, e.acl_id, e.default_acl_id,"
    " e.create_time, e.modify_time, e.rev"
)

# LATERAL with LIMIT 1 or OFFSET 0 keeps the planner at one index probe per step, whatever it believes about the sizes.
_WALK = """
WITH RECURSIVE walk (number, names, depth, id, default_acl_id, acl_ids) AS (
    SELECT p.number, CASE WHEN p.lfn = '/' THEN '{}'::text[] ELSE string_to_array(substr(p.lfn, 2), '/') END,
           0, r.id, r.default_acl_id, ARRAY[r.acl_id]
    FROM unnest(%b::text[]) WITH ORDINALITY AS p (lfn, number) CROSS JOIN entry r
    WHERE r.id = 0
    UNION ALL
    SELECT w.number, w.names, w.depth + 1, c.id, c.default_acl_id, w.acl_ids || c.acl_id
    FROM walk w CROSS JOIN LATERAL (
        SELECT e.id, e.acl_id, e.default_acl_id FROM entry e
        WHERE e.parent_id = w.id AND e.name = w.names[w.depth + 1] AND e.kind = 1
        LIMIT 1
    ) c
)
SELECT DISTINCT ON (number) number, id, default_acl_id, acl_ids, depth = cardinality(names)
FROM walk ORDER BY number, depth DESC
"""
_CLIMB = """
WITH RECURSIVE climb (start, parent_id, names, default_acl_id, acl_ids) AS (
    SELECT e.id, e.parent_id, ARRAY[e.name], e.default_acl_id, ARRAY[e.acl_id]
    FROM unnest(%b::bigint[]) AS wanted (id) CROSS JOIN LATERAL (SELECT * FROM entry WHERE entry.id = wanted.id LIMIT 1) e
    UNION ALL
    SELECT c.start, p.parent_id, p.name || c.names, c.default_acl_id, p.acl_id || c.acl_ids
    FROM climb c CROSS JOIN LATERAL (SELECT e.* FROM entry e WHERE e.id = c.parent_id LIMIT 1) p
)
SELECT start, names, default_acl_id, acl_ids FROM climb WHERE parent_id IS NULL
"""
_CHILDREN = f"""
SELECT e.* FROM unnest(%b::bigint[], %b::text[]) AS wanted (parent_id, name)
CROSS JOIN LATERAL (
    SELECT {_NODE} FROM entry e WHERE e.parent_id = wanted.parent_id AND e.name = wanted.name LIMIT 1
) e
"""
_BY_GUID = f"""
SELECT e.* FROM unnest(%b::uuid[]) AS wanted (guid)
CROSS JOIN LATERAL (SELECT {_NODE} FROM entry e WHERE e.guid = wanted.guid LIMIT 1) e
"""
_BY_SURL = f"""
SELECT wanted.surl, e.* FROM unnest(%b::text[]) AS wanted (surl)
CROSS JOIN LATERAL (SELECT {_NODE} FROM replica r JOIN entry e ON e.id = r.entry_id WHERE r.surl = wanted.surl LIMIT 1) e
"""
_REMOVAL_ACLS = """
SELECT DISTINCT p.acl_id, c.acl_id FROM entry p
CROSS JOIN LATERAL (SELECT DISTINCT e.acl_id FROM entry e WHERE e.parent_id = p.id) c
WHERE p.id = ANY (%b)
"""
_SUBTREE_ACLS = """
WITH RECURSIVE directory (id) AS (
    SELECT id FROM entry WHERE id = %(id)s AND kind = 1 AND acl_permissions(acl_id, %(caller)s, %(principals)s) & %(wanted)s = %(wanted)s
    UNION ALL
    SELECT c.id FROM directory d CROSS JOIN LATERAL (
        SELECT e.id FROM entry e
        WHERE e.parent_id = d.id AND e.kind = 1 AND acl_permissions(e.acl_id, %(caller)s, %(principals)s) & %(wanted)s = %(wanted)s
        OFFSET 0
    ) c
), below AS (
    SELECT acl_id, default_acl_id, kind, 1 AS entries FROM entry WHERE id = %(id)s
    UNION ALL
    SELECT c.* FROM directory d CROSS JOIN LATERAL (
        SELECT e.acl_id, e.default_acl_id, e.kind, count(*) FROM entry e WHERE e.parent_id = d.id GROUP BY 1, 2, 3
    ) c
), reference AS (
    SELECT acl_id, kind, entries FROM below
    UNION ALL
    SELECT default_acl_id, kind, CASE WHEN default_acl_id = acl_id THEN 0 ELSE entries END FROM below WHERE default_acl_id IS NOT NULL
), inside AS (
    SELECT acl_id, sum(entries) FILTER (WHERE kind = 2) AS files, sum(entries) FILTER (WHERE kind = 1) AS directories
    FROM reference GROUP BY acl_id
)
SELECT i.acl_id, coalesce(i.files, 0)::bigint, coalesce(i.directories, 0)::bigint,
       -- Counting stops at one more than there are inside.
       (SELECT count(*) FROM (
            SELECT FROM entry WHERE acl_id = i.acl_id
            UNION ALL SELECT FROM entry WHERE default_acl_id = i.acl_id AND acl_id <> i.acl_id
            LIMIT coalesce(i.files, 0) + coalesce(i.directories, 0) + 1
        ) referring) > coalesce(i.files, 0) + coalesce(i.directories, 0),
       ((SELECT coalesce(sum(entries), 0) FROM below WHERE kind = 1) - (SELECT count(*) FROM directory))::bigint
FROM inside i ORDER BY i.acl_id
"""


class _RaceLost(Exception):
    """Another transaction took what this one was about to take; starting again shows who has it."""


_AGAIN = (DeadlockDetected, SerializationFailure, LockNotAvailable, ForeignKeyViolation, _RaceLost)


class PostgresStore:
    """The Store on a connection pool."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def read(self, work: Callable[[Reading], T]) -> T:
        """Run `work` on one snapshot."""
        with self._pool.connection() as connection, _snapshot(connection):
            return work(_Transaction(connection))

    def write(self, work: Callable[[Writing], T]) -> T:
        """Run `work` in one transaction, again when the database could not serialise it with others."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._pool.connection() as connection:
                    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                    return work(_Transaction(connection))
            except _AGAIN:
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads retries, nothing secret
        raise Aborted("BUSY", "Others keep changing the same entries; nothing was changed, retry.")

    def ensure_root(self, acl: Acl) -> None:
        """Create the root directory if it is missing, under exactly this ACL."""
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ROOT_LOCK,))
            acl_store.ensure(connection, acl)
            connection.execute(
                "INSERT INTO entry (id, name, kind, acl_id, default_acl_id) OVERRIDING SYSTEM VALUE"
                " VALUES (%s, '', %s, %s, %s) ON CONFLICT (id) DO NOTHING",
                (ROOT_ID, EntryKind.DIRECTORY, acl.id, acl.id),
            )


@contextmanager
def _snapshot(connection: psycopg.Connection) -> Iterator[None]:
    """Make the transactions of the block read-only and each of one snapshot."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    try:
        with connection.transaction():
            yield
    finally:
        if not connection.closed:
            connection.isolation_level = None
            connection.read_only = None


class _Transaction:
    """Reading and Writing on one connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        # Binary results, and binary (%b) arrays as parameters: quoting the elements of text arrays is slow in large batches.
        self._cursor = connection.cursor(binary=True)
        self._paging = False

    def root(self) -> Node:
        return self._nodes(f"SELECT {_NODE} FROM entry e WHERE e.id = 0")[0]

    def walk(self, directories: Collection[Lfn]) -> dict[Lfn, Chain]:
        asked = list(directories)
        return {
            asked[number - 1]: Chain(asked[number - 1], entry_id, default_acl_id, tuple(acl_ids), complete)
            for number, entry_id, default_acl_id, acl_ids, complete in self._rows(_WALK, (asked,), when=asked)
        }

    def climb(self, directory_ids: Collection[int]) -> dict[int, Chain]:
        rows = self._rows(_CLIMB, (list(directory_ids),), when=directory_ids)
        return {start: Chain(_path(names), start, default_acl_id, tuple(acl_ids), True) for start, names, default_acl_id, acl_ids in rows}

    def children(self, places: Collection[Place]) -> dict[Place, Node]:
        parents, names = [parent for parent, _ in places], [name for _, name in places]
        return {(node.parent_id or ROOT_ID, node.name): node for node in self._nodes(_CHILDREN, (parents, names), when=places)}

    def by_guid(self, guids: Collection[UUID]) -> dict[UUID, Node]:
        nodes = self._nodes(_BY_GUID, (list(guids),), when=guids)
        return {node.guid: node for node in nodes if node.guid is not None}

    def by_surl(self, surls: Collection[str]) -> dict[str, Node]:
        return {row[0]: _node(row[1:]) for row in self._rows(_BY_SURL, (list(surls),), when=surls)}

    def rights(self, caller: Caller, acl_ids: Collection[UUID]) -> dict[UUID, Permission]:
        query: LiteralString = "SELECT id, acl_permissions(id, %s, %b::text[]) FROM unnest(%b::uuid[]) AS wanted (id)"
        rows = self._rows(query, (caller.dn, sorted(caller.principals), list(acl_ids)), when=acl_ids)
        return {acl_id: Permission(bits) for acl_id, bits in rows}

    def entries(self, ids: Collection[int]) -> dict[int, Entry]:
        query: LiteralString = f"SELECT {_ENTRY} FROM entry e JOIN acl a ON a.id = e.acl_id WHERE e.id = ANY (%b)"
        return {row[0]: _entry(row) for row in self._rows(query, (list(ids),), when=ids)}

    def replicas(self, entry_ids: Collection[int]) -> dict[int, tuple[Replica, ...]]:
        query: LiteralString = "SELECT entry_id, surl, status, host FROM replica WHERE entry_id = ANY (%b) ORDER BY id"
        found: dict[int, tuple[Replica, ...]] = {}
        for entry_id, surl, status, host in self._rows(query, (list(entry_ids),), when=entry_ids):
            found[entry_id] = (*found.get(entry_id, ()), Replica(surl, ReplicaStatus(status), host))
        return found

    def available(self, entry_ids: Collection[int]) -> dict[int, tuple[str, ...]]:
        query: LiteralString = "SELECT entry_id, surl FROM replica WHERE entry_id = ANY (%b) AND status = %s ORDER BY id"
        found: dict[int, tuple[str, ...]] = {}
        for entry_id, surl in self._rows(query, (list(entry_ids), ReplicaStatus.AVAILABLE), when=entry_ids):
            found[entry_id] = (*found.get(entry_id, ()), surl)
        return found

    def page(self, directory_id: int, after: str, limit: int) -> list[Entry]:
        if not self._paging:
            # A page must come off the index in order: reading a directory of a million names to sort them would be paid per page.
            self._cursor.execute("SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)")
            self._paging = True
        query: LiteralString = (
            f"SELECT {_ENTRY} FROM entry e JOIN acl a ON a.id = e.acl_id WHERE e.parent_id = %s AND e.name > %s ORDER BY e.name LIMIT %s"
        )
        return [_entry(row) for row in self._rows(query, (directory_id, after, limit))]

    def subtree_acls(self, caller: Caller, entry_id: int) -> tuple[list[SubtreeAcl], int]:
        wanted = int(Permission.LIST | Permission.TRAVERSE)
        self._cursor.execute(
            _SUBTREE_ACLS, {"id": entry_id, "caller": caller.dn, "principals": sorted(caller.principals), "wanted": wanted}
        )
        rows = self._cursor.fetchall()
        return [SubtreeAcl(*row[:-1]) for row in rows], rows[0][-1] if rows else 0

    def lock_directories(self, ids: Collection[int]) -> dict[int, Node]:
        return self._lock("AND e.kind = 1 ORDER BY e.id FOR NO KEY UPDATE", ids)

    def lock_entries(self, ids: Collection[int]) -> dict[int, Node]:
        return self._lock("ORDER BY e.id FOR NO KEY UPDATE", ids)

    def lock_for_removal(self, ids: Collection[int]) -> dict[int, Node]:
        return self._lock("ORDER BY e.id FOR UPDATE", ids)

    def lock_subtree(self, directory_id: int) -> list[int]:
        # From the top down: below a locked directory nothing can appear, so every level is complete when it is read.
        found = [directory_id]
        level = [directory_id]
        query: LiteralString = "SELECT e.id FROM entry e WHERE e.parent_id = ANY (%b) AND e.kind = 1 ORDER BY e.id FOR UPDATE"
        while level:
            level = [row[0] for row in self._rows(query, (level,))]
            found.extend(level)
        return found

    def removal_acls(self, directory_ids: Collection[int]) -> set[tuple[UUID, UUID]]:
        return {(parent, child) for parent, child in self._rows(_REMOVAL_ACLS, (list(directory_ids),))}

    def remove(self, ids: Collection[int]) -> None:
        if ids:
            self._cursor.execute("DELETE FROM entry WHERE id = ANY (%b)", (list(ids),))

    def remove_empty(self, ids: Collection[int]) -> set[int]:
        query: LiteralString = (
            "DELETE FROM entry d WHERE d.id = ANY (%b) AND NOT EXISTS (SELECT FROM entry e WHERE e.parent_id = d.id) RETURNING d.id"
        )
        return {row[0] for row in self._rows(query, (list(ids),), when=ids)}

    def remove_children(self, directory_ids: Collection[int]) -> None:
        self._cursor.execute("DELETE FROM entry WHERE parent_id = ANY (%b)", (list(directory_ids),))

    def insert_directories(self, rows: Sequence[tuple[int, str, UUID, UUID]]) -> dict[Place, int]:
        query: LiteralString = (
            "INSERT INTO entry (parent_id, name, acl_id, default_acl_id, kind)"
            " SELECT *, 1 FROM unnest(%b::bigint[], %b::text[], %b::uuid[], %b::uuid[]) RETURNING parent_id, name, id"
        )
        return {(parent, name): entry_id for parent, name, entry_id in self._rows(query, _columns(rows, 4), when=rows)}

    def insert_files(self, rows: Sequence[tuple[int, str, UUID, int | None, bytes | None, str, UUID]]) -> dict[Place, tuple[int, UUID]]:
        # In order of place, so that two batches with common names wait for each other in one direction.
        query: LiteralString = (
            "INSERT INTO entry (parent_id, name, guid, size, sha256, comment, acl_id, kind)"
            " SELECT *, 2 FROM unnest(%b::bigint[], %b::text[], %b::uuid[], %b::bigint[], %b::bytea[], %b::text[], %b::uuid[])"
            " ON CONFLICT DO NOTHING RETURNING parent_id, name, id, guid"
        )
        ordered = sorted(rows, key=lambda row: row[:2])
        return {(parent, name): (entry_id, guid) for parent, name, entry_id, guid in self._rows(query, _columns(ordered, 7), when=rows)}

    def insert_replicas(self, rows: Sequence[tuple[int, Replica]]) -> None:
        query: LiteralString = (
            "INSERT INTO replica (entry_id, surl, status, host)"
            " SELECT * FROM unnest(%b::bigint[], %b::text[], %b::smallint[], %b::text[]) ON CONFLICT (surl) DO NOTHING"
        )
        if rows:
            columns = [(entry_id, replica.surl, int(replica.status), replica.host) for entry_id, replica in rows]
            self._cursor.execute(query, _columns(columns, 4))
            if self._cursor.rowcount != len(rows):
                raise _RaceLost

    def update_files(self, changes: Collection[tuple[int, FileChange]]) -> None:
        query: LiteralString = (
            "UPDATE entry e SET size = coalesce(n.size, e.size), comment = coalesce(n.comment, e.comment),"
            " sha256 = CASE WHEN n.sha256 IS NULL THEN e.sha256 ELSE nullif(n.sha256, ''::bytea) END,"
            " modify_time = now(), rev = e.rev + 1"
            " FROM unnest(%b::bigint[], %b::bigint[], %b::bytea[], %b::text[]) AS n (id, size, sha256, comment) WHERE e.id = n.id"
        )
        if changes:
            self._cursor.execute(query, _columns([(entry_id, c.size, c.sha256, c.comment) for entry_id, c in changes], 4))

    def update_acls(self, changes: Collection[tuple[int, UUID, UUID | None]]) -> None:
        query: LiteralString = (
            "UPDATE entry e SET acl_id = n.acl_id, default_acl_id = coalesce(n.default_acl_id, e.default_acl_id),"
            " modify_time = now(), rev = e.rev + 1"
            " FROM unnest(%b::bigint[], %b::uuid[], %b::uuid[]) AS n (id, acl_id, default_acl_id) WHERE e.id = n.id"
        )
        if changes:
            self._cursor.execute(query, _columns(list(changes), 3))

    def _lock(self, clause: LiteralString, ids: Collection[int]) -> dict[int, Node]:
        nodes = self._nodes(f"SELECT {_NODE} FROM entry e WHERE e.id = ANY (%b) {clause}", (list(ids),), when=ids)
        return {node.id: node for node in nodes}

    def _nodes(self, query: LiteralString, values: Sequence[Any] = (), *, when: Collection[object] = (None,)) -> list[Node]:
        return [_node(row) for row in self._rows(query, values, when=when)]

    def _rows(self, query: LiteralString, values: Sequence[Any], *, when: Collection[object] = (None,)) -> list[Any]:
        """Return the rows of a query, none without asking when the collection it is about is empty."""
        return self._cursor.execute(query, values).fetchall() if when else []


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _node(row: Sequence[Any]) -> Node:
    return Node._make((*row[:3], _KINDS[row[3]], *row[4:]))


def _entry(row: Sequence[Any]) -> Entry:
    return Entry._make((*row[:3], _KINDS[row[3]], *row[4:]))


def _path(names: Sequence[str]) -> Lfn:
    """Return the path of a directory from its names, the root's empty one first."""
    return Lfn("/".join(names) or "/")


_KINDS = {int(kind): kind for kind in EntryKind}
