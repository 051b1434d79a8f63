"""One transaction on collections, entries and sequences in PostgreSQL."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Exhausted, Invalid

from mdm_metadata.rules.access import VISIBLE
from mdm_metadata.rules.model import MAX_ENTRY, AttributeType, Collection, EntryWrite, SequenceState, StoredCollection, StoredEntry
from mdm_metadata.rules.query.sql.render import STORED
from mdm_metadata.rules.query.sql.statement import Statement, compile_checks
from mdm_metadata.rules.query.syntax.tree import Expression
from mdm_metadata.store import acl, schema
from mdm_metadata.store.session import QueryLimits, read_all


class PostgresTransaction:
    """One transaction on collections, entries and sequences; its port describes each method."""

    def __init__(self, connection: psycopg.Connection, cache: schema.SchemaCache, limits: QueryLimits) -> None:
        self._connection = connection
        self._cache = cache
        self._seconds = limits.statement_seconds

    def collections(self, paths: Iterable[str], caller: Caller) -> dict[str, StoredCollection]:
        return schema.find_collections(self._connection, self._cache, paths, caller)

    def list_collections(self, path: str, after: str, limit: int, caller: Caller) -> list[StoredCollection]:
        return schema.list_collections(self._connection, self._cache, path, after, limit, caller)

    def acl_permissions(self, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
        return acl.permissions(self._connection, ids, caller)

    def insert_collections(self, collections: Sequence[Collection]) -> set[str]:
        return schema.insert_collections(self._connection, collections)

    def drop_collection(self, collection_id: int) -> bool:
        self._connection.execute("SELECT FROM collection WHERE id = %s FOR UPDATE", (collection_id,))
        dropped = self._connection.execute(
            "DELETE FROM collection WHERE id = %(id)s AND NOT EXISTS (SELECT FROM collection WHERE parent_id = %(id)s)"
            " AND NOT EXISTS (SELECT FROM view WHERE target_id = %(id)s)"
            " AND NOT EXISTS (SELECT FROM attribute WHERE reference_id = %(id)s AND collection_id <> %(id)s) RETURNING id",
            {"id": collection_id},
        )
        return dropped.fetchone() is not None

    def entries(self, collection_id: int, keys: Iterable[str], caller: Caller) -> dict[str, StoredEntry]:
        """Return the entries that exist among `keys`, locked in the order of their keys so that batches do not deadlock."""
        rows = self._connection.execute(
            "WITH found AS MATERIALIZED (SELECT key, acl_id FROM entry WHERE collection_id = %(collection)s AND key = ANY (%(keys)s)"
            " ORDER BY key FOR UPDATE),"
            " rights AS MATERIALIZED (SELECT acl_id, acl_permissions(acl_id, %(caller)s, %(principals)s) AS permissions"
            " FROM (SELECT DISTINCT acl_id FROM found) AS acls)"
            " SELECT key, acl_id, permissions FROM found JOIN rights USING (acl_id)",
            {"collection": collection_id, "keys": list(keys), "caller": caller.dn, "principals": sorted(caller.principals)},
        )
        return {key: StoredEntry(acl_id, permissions) for key, acl_id, permissions in rows}

    def entry_keys(self, collection_id: int, after: str, limit: int) -> list[str]:
        query = "SELECT key FROM entry WHERE collection_id = %s AND key > %s ORDER BY key LIMIT %s"
        return [key for (key,) in self._connection.execute(query, (collection_id, after, limit))]

    def holders(self, collection_id: int, digests: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], str]:
        wanted = list(digests)
        rows = self._connection.execute(
            "SELECT slot, digest, key FROM unique_value JOIN unnest(%s::text[], %s::bytea[]) AS wanted (slot, digest) USING (slot, digest)"
            " WHERE collection_id = %s",
            ([slot for slot, _ in wanted], [digest for _, digest in wanted], collection_id),
        )
        return {(slot, bytes(digest)): key for slot, digest, key in rows}

    def write(self, collection_id: int, entries: Sequence[EntryWrite]) -> None:
        if not entries:
            return
        ordered = sorted(entries, key=lambda entry: entry.key)
        try:
            _merge_entries(self._connection, collection_id, ordered)
        except psycopg.errors.CheckViolation:
            raise Invalid(
                "ENTRY_TOO_LARGE", f"An entry would have more than {MAX_ENTRY} bytes after merging with its stored values."
            ) from None
        _write_unique(self._connection, collection_id, ordered)

    def assign(self, collection_id: int, acls: Mapping[str, UUID]) -> None:
        if acls:
            self._connection.execute(
                "UPDATE entry SET acl_id = item.acl_id FROM unnest(%s::text[], %s::uuid[]) AS item (key, acl_id)"
                " WHERE entry.collection_id = %s AND entry.key = item.key",
                (list(acls), list(acls.values()), collection_id),
            )

    def delete(self, collection_id: int, keys: Sequence[str]) -> None:
        if keys:
            self._connection.execute("DELETE FROM entry WHERE collection_id = %s AND key = ANY (%s)", (collection_id, list(keys)))

    def violations(self, collection_id: int, entries: Sequence[EntryWrite], checks: Sequence[Expression]) -> dict[str, int]:
        sql, parameters = compile_checks(checks)
        rows = self._connection.execute(
            f"SELECT key, failed FROM (SELECT e.key, {sql} AS failed FROM ("  # noqa: S608 - compiled
            "SELECT item.key, jsonb_strip_nulls(coalesce(entry.attributes, '{}') || item.attributes::jsonb) AS attributes"
            " FROM unnest(%(keys)s::text[], %(values)b::text[]) AS item (key, attributes)"
            " LEFT JOIN entry ON entry.collection_id = %(collection)s AND entry.key = item.key OFFSET 0) AS e) AS checked"
            " WHERE failed IS NOT NULL".encode(),
            {**parameters, "keys": [e.key for e in entries], "values": [_json(e) for e in entries], "collection": collection_id},
        )
        return dict(rows.fetchall())

    def visible_keys(self, collection_id: int, keys: Iterable[str], caller: Caller) -> set[str]:
        rows = self._connection.execute(
            "SELECT e.key FROM entry AS e WHERE e.collection_id = %s AND e.key = ANY (%s)"
            " AND acl_permissions(e.acl_id, %s, %s) & %s <> 0 ORDER BY e.key FOR KEY SHARE OF e",
            (collection_id, list(keys), caller.dn, sorted(caller.principals), int(VISIBLE)),
        )
        return {key for (key,) in rows}

    def referenced_keys(self, collection_id: int, keys: Sequence[str]) -> set[str]:
        query = "SELECT collection_id, slot FROM attribute WHERE reference_id = %s"
        found: set[str] = set()
        for referring, slot in self._connection.execute(query, (collection_id,)).fetchall():
            wanted: list[Any] = list(keys)
            kind = AttributeType.UUID if slot.startswith("u") else AttributeType.TEXT
            if kind is AttributeType.UUID:
                wanted = [key for key in keys if _is_uuid(key)]
            stored = STORED[kind].format(slot)
            rows = self._connection.execute(
                f"SELECT DISTINCT e.attributes->>'{slot}' FROM entry AS e"  # noqa: S608 - a slot is ours
                f" WHERE e.collection_id = %s AND {stored} = ANY (%s{'::uuid[]' if kind is AttributeType.UUID else ''})"
                " AND NOT (e.collection_id = %s AND e.key = ANY (%s))".encode(),
                (referring, wanted, collection_id, list(keys)),
            )
            found |= {key for (key,) in rows}
        return found

    def select_changed(self, statement: Statement) -> list[tuple[Any, ...]]:
        return read_all(self._connection, statement, self._seconds, 1)

    def read(self, statement: Statement) -> list[tuple[Any, ...]]:
        return read_all(self._connection, statement, self._seconds)

    def sequences(self) -> "PostgresSequences":
        return PostgresSequences(self._connection)


class PostgresSequences:
    """The sequences within a transaction; their port describes each method."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def create(self, collection_id: int, name: str, start: int, step: int) -> bool:
        row = self._connection.execute(
            "INSERT INTO sequence VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING name", (collection_id, name, start, step)
        ).fetchone()
        return row is not None

    def resume(self, collection_id: int, name: str, start: int, step: int) -> bool:
        row = self._connection.execute(
            "INSERT INTO sequence AS s VALUES (%s, %s, %s, %s) ON CONFLICT (collection_id, name) DO UPDATE SET next ="
            " CASE WHEN s.step > 0 THEN greatest(s.next, excluded.next) ELSE least(s.next, excluded.next) END"
            " WHERE s.step = excluded.step RETURNING name",
            (collection_id, name, start, step),
        ).fetchone()
        return row is not None

    def drop(self, collection_id: int, name: str) -> bool:
        row = self._connection.execute(
            "DELETE FROM sequence WHERE collection_id = %s AND name = %s RETURNING name", (collection_id, name)
        ).fetchone()
        return row is not None

    def take(self, collection_id: int, name: str, count: int) -> tuple[int, int] | None:
        update = "UPDATE sequence SET next = next + step * %s WHERE collection_id = %s AND name = %s RETURNING next - step * %s, step"
        try:
            row = self._connection.execute(update, (count, collection_id, name, count)).fetchone()
        except psycopg.errors.NumericValueOutOfRange:
            raise Exhausted("SEQUENCE_EXHAUSTED", "The sequence does not have that many numbers left (64-bit limit).") from None
        return None if row is None else (row[0], row[1])

    def states(self, collection_id: int) -> list[SequenceState]:
        rows = self._connection.execute("SELECT name, next, step FROM sequence WHERE collection_id = %s ORDER BY name", (collection_id,))
        return [SequenceState(*row) for row in rows]


def _merge_entries(connection: psycopg.Connection, collection_id: int, ordered: Sequence[EntryWrite]) -> None:
    # %b: an array of JSON texts costs the driver ten times as much in text form, where every quote is escaped.
    connection.execute(
        "INSERT INTO entry (collection_id, key, acl_id, attributes)"
        " SELECT %s, key, acl_id, attributes::jsonb FROM unnest(%s::text[], %s::uuid[], %b::text[]) AS item (key, acl_id, attributes)"
        " ON CONFLICT (collection_id, key) DO UPDATE SET attributes = jsonb_strip_nulls(entry.attributes || excluded.attributes)"
        " WHERE entry.attributes IS DISTINCT FROM jsonb_strip_nulls(entry.attributes || excluded.attributes)",
        (
            collection_id,
            [entry.key for entry in ordered],
            [entry.acl_id for entry in ordered],
            [_json(entry) for entry in ordered],
        ),
    )


def _json(entry: EntryWrite) -> str:
    return json.dumps(entry.values, separators=(",", ":"), allow_nan=False)


def _write_unique(connection: psycopg.Connection, collection_id: int, entries: Sequence[EntryWrite]) -> None:
    rows = [(entry.key, slot, digest) for entry in entries for slot, digest in sorted(entry.unique.items())]
    if not rows:
        return
    keys, slots, digests = (list(column) for column in zip(*rows, strict=True))
    try:
        connection.execute(
            "DELETE FROM unique_value USING unnest(%s::text[], %s::text[]) AS item (key, slot)"
            " WHERE unique_value.collection_id = %s AND unique_value.key = item.key AND unique_value.slot = item.slot",
            (keys, slots, collection_id),
        )
        connection.execute(
            "INSERT INTO unique_value (collection_id, key, slot, digest) SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::bytea[])"
            " AS item (key, slot, digest) WHERE digest IS NOT NULL",
            (collection_id, keys, slots, digests),
        )
    except psycopg.errors.UniqueViolation:
        raise Aborted("VALUE_NOT_UNIQUE", "Another call has just stored the same unique value; try again.") from None


def _is_uuid(key: str) -> bool:
    try:
        return str(UUID(key)) == key
    except ValueError:
        return False
