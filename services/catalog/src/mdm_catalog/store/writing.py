"""Changing the catalog in PostgreSQL."""
# ruff: noqa: S608 - statements are put together from literals of this module only

from collections.abc import Collection, Sequence
from typing import Any, LiteralString
from uuid import UUID

from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl

from mdm_catalog.rules.model import FileChange, Node, Replica, ReplicaChange
from mdm_catalog.rules.port import Place
from mdm_catalog.store.reading import NODE, PostgresReadTransaction

_MOVE_LOCK = 0x4D444D02  # two directories that move below each other at once would leave the tree

_FITS = """
WITH RECURSIVE directory (id, bytes) AS (
    SELECT %(id)s::bigint, 0
    UNION ALL
    SELECT c.id, d.bytes + 1 + c.bytes FROM directory d CROSS JOIN LATERAL (
        SELECT e.id, octet_length(e.name) AS bytes FROM entry e WHERE e.parent_id = d.id AND e.kind = 1 OFFSET 0
    ) c
)
SELECT NOT EXISTS (
    SELECT FROM directory d
    -- Names are read only where a long one would not fit.
    WHERE d.bytes + 256 > %(room)s
      AND EXISTS (SELECT FROM entry e WHERE e.parent_id = d.id AND d.bytes + 1 + octet_length(e.name) > %(room)s)
)
"""
_ABOVE = """
WITH RECURSIVE above (id, parent_id) AS (
    SELECT id, parent_id FROM entry WHERE id = %s
    UNION ALL
    SELECT e.id, e.parent_id FROM above a JOIN entry e ON e.id = a.parent_id
)
SELECT id FROM above
"""
_REMOVAL_ACLS = """
SELECT DISTINCT p.acl_id, c.acl_id FROM entry p
CROSS JOIN LATERAL (SELECT DISTINCT e.acl_id FROM entry e WHERE e.parent_id = p.id) c
WHERE p.id = ANY (%b)
"""


class RaceLost(Exception):
    """Another transaction has taken a name, GUID or SURL meanwhile; a new attempt finds who has it."""


class PostgresWriteTransaction(PostgresReadTransaction):
    """The port `WriteTransaction` on one connection."""

    def lock_directories(self, ids: Collection[int]) -> dict[int, Node]:
        return self._lock("AND e.kind = 1 ORDER BY e.id FOR NO KEY UPDATE", ids)

    def lock_entries(self, ids: Collection[int]) -> dict[int, Node]:
        return self._lock("ORDER BY e.id FOR NO KEY UPDATE", ids)

    def lock_acls(self, acl_ids: Collection[UUID]) -> dict[UUID, Acl]:
        return acl_store.load(self.connection, list(acl_ids), lock=True)

    def replace_acls(self, acls: Sequence[Acl]) -> None:
        if acls:
            acl_store.replace_all(self.connection, acls)

    def lock_moves(self) -> None:
        self.cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MOVE_LOCK,))

    def above(self, directory_id: int) -> list[int]:
        return [row[0] for row in self.rows(_ABOVE, (directory_id,))]

    def fits(self, directory_id: int, room: int) -> bool:
        return bool(self.cursor.execute(_FITS, {"id": directory_id, "room": room}).fetchall()[0][0])

    def lock_for_removal(self, ids: Collection[int]) -> dict[int, Node]:
        return self._lock("ORDER BY e.id FOR UPDATE", ids)

    def lock_subtree(self, directory_id: int) -> list[int]:
        # From the top down: below a locked directory nothing can appear, so every level is complete when it is read.
        found = [directory_id]
        level = [directory_id]
        query: LiteralString = "SELECT e.id FROM entry e WHERE e.parent_id = ANY (%b) AND e.kind = 1 ORDER BY e.id FOR UPDATE"
        while level:
            level = [row[0] for row in self.rows(query, (level,))]
            found.extend(level)
        return found

    def removal_acls(self, directory_ids: Collection[int]) -> set[tuple[UUID, UUID]]:
        return {(parent, child) for parent, child in self.rows(_REMOVAL_ACLS, (list(directory_ids),))}

    def remove(self, ids: Collection[int]) -> None:
        if ids:
            self.cursor.execute("DELETE FROM entry WHERE id = ANY (%b)", (list(ids),))

    def remove_empty(self, ids: Collection[int]) -> set[int]:
        query: LiteralString = (
            "DELETE FROM entry d WHERE d.id = ANY (%b) AND NOT EXISTS (SELECT FROM entry e WHERE e.parent_id = d.id) RETURNING d.id"
        )
        return {row[0] for row in self.rows(query, (list(ids),), when=ids)}

    def remove_children(self, directory_ids: Collection[int]) -> None:
        self.cursor.execute("DELETE FROM entry WHERE parent_id = ANY (%b)", (list(directory_ids),))

    def insert_directories(self, rows: Sequence[tuple[int, str, UUID, UUID]]) -> dict[Place, int]:
        query: LiteralString = (
            "INSERT INTO entry (parent_id, name, acl_id, default_acl_id, kind)"
            " SELECT *, 1 FROM unnest(%b::bigint[], %b::text[], %b::uuid[], %b::uuid[]) RETURNING parent_id, name, id"
        )
        return {(parent, name): entry_id for parent, name, entry_id in self.rows(query, _columns(rows, 4), when=rows)}

    def insert_files(self, rows: Sequence[tuple[int, str, UUID, int | None, bytes | None, str, UUID]]) -> dict[Place, tuple[int, UUID]]:
        # In order of place, so that two batches with common names wait for each other in one direction.
        query: LiteralString = (
            "INSERT INTO entry (parent_id, name, guid, size, sha256, comment, acl_id, kind)"
            " SELECT *, 2 FROM unnest(%b::bigint[], %b::text[], %b::uuid[], %b::bigint[], %b::bytea[], %b::text[], %b::uuid[])"
            " ON CONFLICT DO NOTHING RETURNING parent_id, name, id, guid"
        )
        ordered = sorted(rows, key=lambda row: row[:2])
        return {(parent, name): (entry_id, guid) for parent, name, entry_id, guid in self.rows(query, _columns(ordered, 7), when=rows)}

    def insert_links(self, rows: Sequence[tuple[int, str, str, UUID]]) -> None:
        query: LiteralString = (
            "INSERT INTO entry (parent_id, name, link, acl_id, kind)"
            " SELECT *, 3 FROM unnest(%b::bigint[], %b::text[], %b::text[], %b::uuid[])"
        )
        if rows:
            self.cursor.execute(query, _columns(rows, 4))

    def move(self, entry_id: int, parent_id: int, name: str) -> None:
        self.cursor.execute(
            "UPDATE entry SET parent_id = %s, name = %s, modify_time = now(), rev = rev + 1 WHERE id = %s", (parent_id, name, entry_id)
        )

    def insert_replicas(self, rows: Sequence[tuple[int, Replica]]) -> None:
        query: LiteralString = (
            "INSERT INTO replica (entry_id, surl, status, host, type, set_name)"
            " SELECT * FROM unnest(%b::bigint[], %b::text[], %b::smallint[], %b::text[], %b::smallint[], %b::text[])"
            " ON CONFLICT (surl) DO NOTHING"
        )
        if rows:
            columns = [(entry_id, r.surl, int(r.status), r.host, int(r.type), r.set_name) for entry_id, r in rows]
            self.cursor.execute(query, _columns(columns, 6))
            if self.cursor.rowcount != len(rows):
                raise RaceLost

    def lock_replicas(self, surls: Collection[str]) -> None:
        self.rows("SELECT FROM replica WHERE surl = ANY (%b) ORDER BY surl FOR UPDATE", (list(surls),), when=surls)

    def update_replicas(self, changes: Collection[ReplicaChange]) -> None:
        query: LiteralString = (
            "UPDATE replica r SET status = coalesce(n.status, r.status), type = coalesce(n.type, r.type), host = coalesce(n.host, r.host),"
            " set_name = coalesce(n.set_name, r.set_name), access_count = r.access_count + n.accesses,"
            " access_time = CASE WHEN n.accesses > 0 THEN now() ELSE r.access_time END, rev = r.rev + n.counted"
            " FROM unnest(%b::text[], %b::smallint[], %b::smallint[], %b::text[], %b::text[], %b::bigint[], %b::smallint[])"
            " AS n (surl, status, type, set_name, host, accesses, counted) WHERE r.surl = n.surl"
        )
        if changes:
            rows = [(c.surl, _number(c.status), _number(c.type), c.set_name, c.host, c.accesses, int(c.of_attributes)) for c in changes]
            self.cursor.execute(query, _columns(rows, 7))

    def touch(self, ids: Collection[int]) -> None:
        if ids:
            self.rows("SELECT FROM entry WHERE id = ANY (%b) ORDER BY id FOR NO KEY UPDATE", (list(ids),))
            self.cursor.execute("UPDATE entry SET access_time = now() WHERE id = ANY (%b)", (list(ids),))

    def remove_replicas(self, surls: Collection[str]) -> None:
        if surls:
            self.cursor.execute("DELETE FROM replica WHERE surl = ANY (%b)", (list(surls),))

    def update_files(self, changes: Collection[tuple[int, FileChange]]) -> None:
        query: LiteralString = (
            "UPDATE entry e SET size = coalesce(n.size, e.size), comment = coalesce(n.comment, e.comment),"
            " sha256 = CASE WHEN n.sha256 IS NULL THEN e.sha256 ELSE nullif(n.sha256, ''::bytea) END,"
            " modify_time = coalesce(n.modify_time, now()), access_time = coalesce(n.access_time, e.access_time), rev = e.rev + 1"
            " FROM unnest(%b::bigint[], %b::bigint[], %b::bytea[], %b::text[], %b::timestamptz[], %b::timestamptz[])"
            " AS n (id, size, sha256, comment, modify_time, access_time) WHERE e.id = n.id"
        )
        if changes:
            rows = [(entry_id, c.size, c.sha256, c.comment, c.modify_time, c.access_time) for entry_id, c in changes]
            self.cursor.execute(query, _columns(rows, 6))

    def update_acls(self, changes: Collection[tuple[int, UUID, UUID | None]]) -> None:
        query: LiteralString = (
            "UPDATE entry e SET acl_id = n.acl_id, default_acl_id = coalesce(n.default_acl_id, e.default_acl_id),"
            " modify_time = now(), rev = e.rev + 1"
            " FROM unnest(%b::bigint[], %b::uuid[], %b::uuid[]) AS n (id, acl_id, default_acl_id) WHERE e.id = n.id"
        )
        if changes:
            self.cursor.execute(query, _columns(list(changes), 3))

    def _lock(self, clause: LiteralString, ids: Collection[int]) -> dict[int, Node]:
        nodes = self.nodes(f"SELECT {NODE} FROM entry e WHERE e.id = ANY (%b) {clause}", (list(ids),), when=ids)
        return {node.id: node for node in nodes}


def _number(value: int | None) -> int | None:
    return None if value is None else int(value)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
