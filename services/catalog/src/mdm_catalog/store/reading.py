"""Reading the catalog in PostgreSQL."""
# ruff: noqa: S608 - statements are put together from literals of this module only

from collections.abc import Collection, Sequence
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl
from mdm_service.identity.caller import Caller
from mdm_wire.path import Lfn
from mdm_wire.permission import Permission

from mdm_catalog.rules.model import (
    ROOT_ID,
    Chain,
    Entry,
    EntryKind,
    Node,
    Replica,
    ReplicaSearch,
    ReplicaStatus,
    ReplicaType,
    SubtreeAcl,
    SubtreeDirectory,
)
from mdm_catalog.rules.port import Place
from mdm_catalog.rules.value import Condition

NODE = "e.id, e.parent_id, e.name, e.kind, e.acl_id, e.default_acl_id, e.guid, e.size, e.rev, e.link"
_ENTRY = (
    "e.id, e.parent_id, e.name, e.kind, e.guid, e.size, e.sha256, e.comment, a.owner, e.acl_id, e.default_acl_id,"
    " e.create_time, e.modify_time, e.rev, e.link, e.access_time"
)

_REPLICA = "entry_id, surl, status, host, type, set_name, create_time, access_time, access_count, rev"

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
    SELECT {NODE} FROM entry e WHERE e.parent_id = wanted.parent_id AND e.name = wanted.name LIMIT 1
) e
"""
_BY_GUID = f"""
SELECT e.* FROM unnest(%b::uuid[]) AS wanted (guid)
CROSS JOIN LATERAL (SELECT {NODE} FROM entry e WHERE e.guid = wanted.guid LIMIT 1) e
"""
_BY_SURL = f"""
SELECT wanted.surl, e.* FROM unnest(%b::text[]) AS wanted (surl)
CROSS JOIN LATERAL (SELECT {NODE} FROM replica r JOIN entry e ON e.id = r.entry_id WHERE r.surl = wanted.surl LIMIT 1) e
"""
_PAGE = "FROM entry e JOIN acl a ON a.id = e.acl_id WHERE e.parent_id = %(directory)s AND e.name > %(after)s"
_CONDITION = """
AND (e.kind = 1 OR (
    e.kind = ANY (%(kinds)b::smallint[])
    AND (%(like)s::text IS NULL OR e.name LIKE %(like)s)
    AND (%(least)s::bigint IS NULL OR e.size >= %(least)s)
    AND (%(most)s::bigint IS NULL OR e.size <= %(most)s)
    AND (%(since)s::timestamptz IS NULL OR e.modify_time >= %(since)s)
    AND (%(before)s::timestamptz IS NULL OR e.modify_time < %(before)s)
))
"""
_SUBTREE = """
WITH RECURSIVE directory (id, parent_id, acl_id) AS (
    SELECT id, parent_id, acl_id FROM entry WHERE id = %s
    UNION ALL
    SELECT c.* FROM directory d CROSS JOIN LATERAL (
        SELECT e.id, e.parent_id, e.acl_id FROM entry e WHERE e.parent_id = d.id AND e.kind = 1 OFFSET 0
    ) c
)
SELECT d.id, d.parent_id, d.acl_id, coalesce(f.acl_ids, '{}'), coalesce(f.counts, '{}')
FROM directory d LEFT JOIN LATERAL (
    SELECT array_agg(c.acl_id) AS acl_ids, array_agg(c.files) AS counts FROM directory_content c
    WHERE c.directory_id = d.id AND c.files > 0
) f ON true
"""
_USAGE = """
WITH RECURSIVE directory (id, names, open) AS (
    SELECT %(id)s::bigint, '{}'::text[], true
    UNION ALL
    SELECT c.id, CASE WHEN cardinality(d.names) < %(depth)s THEN d.names || c.name ELSE d.names END, c.open
    FROM directory d CROSS JOIN LATERAL (
        SELECT e.id, e.name COLLATE "default" AS name,
               acl_permissions(e.acl_id, %(caller)s, %(principals)s) & %(wanted)s = %(wanted)s AS open
        FROM entry e WHERE e.parent_id = d.id AND e.kind = 1 OFFSET 0
    ) c
    WHERE d.open
)
SELECT d.names, coalesce(sum(c.files), 0)::bigint, coalesce(sum(c.directories), 0)::bigint, coalesce(sum(c.links), 0)::bigint,
       coalesce(sum(c.bytes), 0), count(*) FILTER (WHERE NOT d.open)
FROM directory d LEFT JOIN LATERAL (
    SELECT sum(o.files) AS files, sum(o.directories) AS directories, sum(o.links) AS links, sum(o.bytes) AS bytes
    FROM directory_content o WHERE o.directory_id = d.id AND d.open
) c ON true
GROUP BY 1
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
    SELECT c.acl_id, c.files, c.directories, c.links, c.defaults FROM entry e
    CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c WHERE e.id = %(id)s
    UNION ALL
    SELECT c.acl_id, c.files, c.directories, c.links, c.defaults FROM directory d
    CROSS JOIN LATERAL (SELECT * FROM directory_content o WHERE o.directory_id = d.id OFFSET 0) c
), inside AS (
    SELECT acl_id, sum(files) AS files, sum(directories) AS directories, sum(links) AS links, sum(defaults) AS defaults
    FROM below GROUP BY acl_id
)
SELECT i.acl_id, i.files::bigint, (i.directories + i.defaults)::bigint, i.links::bigint,
       greatest(0, (SELECT sum(o.files + o.directories + o.links + o.defaults) FROM directory_content o WHERE o.acl_id = i.acl_id)
                   - i.files - i.directories - i.links - i.defaults)::bigint,
       ((SELECT coalesce(sum(directories), 0) FROM below) - (SELECT count(*) FROM directory))::bigint
FROM inside i ORDER BY i.acl_id
"""


class PostgresReadTransaction:
    """The port `ReadTransaction` on one connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        # Binary results, and binary (%b) arrays as parameters: quoting the elements of text arrays is slow in large batches.
        self.connection = connection
        self.cursor = connection.cursor(binary=True)
        self._paging = False

    def root(self) -> Node:
        return self.nodes(f"SELECT {NODE} FROM entry e WHERE e.id = 0")[0]

    def walk(self, directories: Collection[Lfn]) -> dict[Lfn, Chain]:
        asked = list(directories)
        return {
            asked[number - 1]: Chain(asked[number - 1], entry_id, default_acl_id, tuple(acl_ids), complete)
            for number, entry_id, default_acl_id, acl_ids, complete in self.rows(_WALK, (asked,), when=asked)
        }

    def climb(self, directory_ids: Collection[int]) -> dict[int, Chain]:
        rows = self.rows(_CLIMB, (list(directory_ids),), when=directory_ids)
        return {start: Chain(_path(names), start, default_acl_id, tuple(acl_ids), True) for start, names, default_acl_id, acl_ids in rows}

    def children(self, places: Collection[Place]) -> dict[Place, Node]:
        parents, names = [parent for parent, _ in places], [name for _, name in places]
        return {(node.parent_id or ROOT_ID, node.name): node for node in self.nodes(_CHILDREN, (parents, names), when=places)}

    def by_guid(self, guids: Collection[UUID]) -> dict[UUID, Node]:
        nodes = self.nodes(_BY_GUID, (list(guids),), when=guids)
        return {node.guid: node for node in nodes if node.guid is not None}

    def by_surl(self, surls: Collection[str]) -> dict[str, Node]:
        return {row[0]: _node(row[1:]) for row in self.rows(_BY_SURL, (list(surls),), when=surls)}

    def rights(self, caller: Caller, acl_ids: Collection[UUID]) -> dict[UUID, Permission]:
        query: LiteralString = "SELECT id, acl_permissions(id, %s, %b::text[]) FROM unnest(%b::uuid[]) AS wanted (id)"
        rows = self.rows(query, (caller.dn, sorted(caller.principals), list(acl_ids)), when=acl_ids)
        return {acl_id: Permission(bits) for acl_id, bits in rows}

    def entries(self, ids: Collection[int]) -> dict[int, Entry]:
        query: LiteralString = f"SELECT {_ENTRY} FROM entry e JOIN acl a ON a.id = e.acl_id WHERE e.id = ANY (%b)"
        return {row[0]: _entry(row) for row in self.rows(query, (list(ids),), when=ids)}

    def replicas(self, entry_ids: Collection[int]) -> dict[int, tuple[Replica, ...]]:
        query: LiteralString = f"SELECT {_REPLICA} FROM replica WHERE entry_id = ANY (%b) ORDER BY id"
        found: dict[int, tuple[Replica, ...]] = {}
        for row in self.rows(query, (list(entry_ids),), when=entry_ids):
            found[row[0]] = (*found.get(row[0], ()), _replica(row))
        return found

    def replicas_at(self, surls: Collection[str]) -> dict[str, tuple[int, Replica]]:
        query: LiteralString = f"SELECT {_REPLICA} FROM replica WHERE surl = ANY (%b)"
        return {row[1]: (row[0], _replica(row)) for row in self.rows(query, (list(surls),), when=surls)}

    def replica_page(self, search: ReplicaSearch, after: str, limit: int) -> list[tuple[int, Replica]]:
        conditions: LiteralString = "surl > %(after)s AND status = ANY (%(statuses)b::smallint[])"
        if search.set_name:
            conditions += " AND set_name = %(set)s AND set_name <> ''"
        if search.host:
            conditions += " AND host = %(host)s"
        query: LiteralString = f"SELECT {_REPLICA} FROM replica WHERE {conditions} ORDER BY surl LIMIT %(limit)s"
        statuses = [int(status) for status in search.statuses or ReplicaStatus]
        values = {"after": after, "statuses": statuses, "set": search.set_name, "host": search.host, "limit": limit}
        return [(row[0], _replica(row)) for row in self.cursor.execute(query, values).fetchall()]

    def nodes_at(self, ids: Collection[int]) -> dict[int, Node]:
        found = self.nodes(f"SELECT {NODE} FROM entry e WHERE e.id = ANY (%b)", (list(ids),), when=ids)
        return {node.id: node for node in found}

    def available(self, entry_ids: Collection[int]) -> dict[int, tuple[str, ...]]:
        query: LiteralString = "SELECT entry_id, surl FROM replica WHERE entry_id = ANY (%b) AND status = %s ORDER BY id"
        found: dict[int, tuple[str, ...]] = {}
        for entry_id, surl in self.rows(query, (list(entry_ids), ReplicaStatus.AVAILABLE), when=entry_ids):
            found[entry_id] = (*found.get(entry_id, ()), surl)
        return found

    def page(self, directory_id: int, after: str, limit: int, condition: Condition | None = None) -> list[Entry]:
        if not self._paging:
            # A page must come off the index in order: otherwise every page would read and sort a directory of a million names.
            self.cursor.execute("SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)")
            self._paging = True
        values: dict[str, Any] = {"directory": directory_id, "after": after, "limit": limit}
        condition_sql: LiteralString = ""
        if condition is not None:
            condition_sql = _CONDITION
            values |= {
                "like": condition.like,
                "least": condition.min_size,
                "most": condition.max_size,
                "since": condition.modified_since,
                "before": condition.modified_before,
                "kinds": [int(kind) for kind in condition.kinds or EntryKind],
            }
        query: LiteralString = f"SELECT {_ENTRY} {_PAGE} {condition_sql} ORDER BY e.name LIMIT %(limit)s"
        return [_entry(row) for row in self.cursor.execute(query, values).fetchall()]

    def usage(self, caller: Caller, directory_id: int, depth: int) -> list[tuple[tuple[str, ...], int, int, int, int, int]]:
        wanted = int(Permission.LIST | Permission.TRAVERSE)
        values = {"id": directory_id, "depth": depth, "caller": caller.dn, "principals": sorted(caller.principals), "wanted": wanted}
        rows = self.cursor.execute(_USAGE, values).fetchall()
        return [(tuple(names), files, directories, links, int(size), closed) for names, files, directories, links, size, closed in rows]

    def acls(self, acl_ids: Collection[UUID]) -> dict[UUID, Acl]:
        return acl_store.load(self.connection, list(acl_ids))

    def subtree(self, directory_id: int) -> list[SubtreeDirectory]:
        rows = self.rows(_SUBTREE, (directory_id,))
        return [
            SubtreeDirectory(entry_id, parent_id, acl_id, dict(zip(acl_ids, counts, strict=True)))
            for entry_id, parent_id, acl_id, acl_ids, counts in rows
        ]

    def subtree_acls(self, caller: Caller, entry_id: int) -> tuple[list[SubtreeAcl], int]:
        wanted = int(Permission.LIST | Permission.TRAVERSE)
        self.cursor.execute(_SUBTREE_ACLS, {"id": entry_id, "caller": caller.dn, "principals": sorted(caller.principals), "wanted": wanted})
        rows = self.cursor.fetchall()
        return [SubtreeAcl(*row[:-1]) for row in rows], rows[0][-1] if rows else 0

    def nodes(self, query: LiteralString, values: Sequence[Any] = (), *, when: Collection[object] = (None,)) -> list[Node]:
        """Return the nodes that a query for `NODE` gives; none, without a query, if the collection `when` is empty."""
        return [_node(row) for row in self.rows(query, values, when=when)]

    def rows(self, query: LiteralString, values: Sequence[Any], *, when: Collection[object] = (None,)) -> list[Any]:
        """Return the rows of a query; none, without a query, if the collection `when` is empty."""
        return self.cursor.execute(query, values).fetchall() if when else []


def _node(row: Sequence[Any]) -> Node:
    return Node._make((*row[:3], _KINDS[row[3]], *row[4:]))


def _entry(row: Sequence[Any]) -> Entry:
    return Entry._make((*row[:3], _KINDS[row[3]], *row[4:]))


def _replica(row: Sequence[Any]) -> Replica:
    return Replica(row[1], ReplicaStatus(row[2]), row[3], ReplicaType(row[4]), *row[5:])


def _path(names: Sequence[str]) -> Lfn:
    """Return the path of a directory from its names, the root's empty one first."""
    return Lfn("/".join(names) or "/")


_KINDS = {int(kind): kind for kind in EntryKind}
