"""Collections and their attributes in PostgreSQL."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from mdm_service.acl import Permission
from mdm_service.identity import Caller

from mdm_metadata.model import Attribute, AttributeType, Collection, StoredAttribute, StoredCollection, assign_slots, parent_of

_COLUMNS = "c.id, c.path, c.acl_id, c.default_acl_id, c.sensitive, acl_permissions(c.acl_id, %(caller)s, %(principals)s)"
Row = tuple[int, str, UUID, UUID, bool, int]


class SchemaCache:
    """Schemas by collection id. A schema never changes and an id is never used again, so nothing here becomes stale."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._schemas: OrderedDict[int, tuple[StoredAttribute, ...]] = OrderedDict()

    def fill(self, connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, tuple[StoredAttribute, ...]]:
        """Return the schemas of collections, read from the database where they are not known."""
        with self._lock:
            found = {number: self._schemas[number] for number in ids if number in self._schemas}
        missing = [number for number in ids if number not in found]
        if missing:
            read = read_attributes(connection, missing)
            found.update(read)
            with self._lock:
                self._schemas.update(read)
                while len(self._schemas) > self._size:
                    self._schemas.popitem(last=False)
        return found


def read_attributes(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, tuple[StoredAttribute, ...]]:
    """Return the attributes of collections, in order of definition."""
    found: dict[int, list[StoredAttribute]] = {number: [] for number in ids}
    rows = connection.execute(
        "SELECT collection_id, slot, name, type, length, unit, description, not_null, indexed, is_unique"
        " FROM attribute WHERE collection_id = ANY (%s) ORDER BY collection_id, position",
        (list(ids),),
    )
    for number, slot, name, kind, *rest in rows:
        found[number].append(StoredAttribute(Attribute(name, AttributeType(kind), *rest), slot))
    return {number: tuple(attributes) for number, attributes in found.items()}


def find_collections(
    connection: psycopg.Connection, cache: SchemaCache, paths: Iterable[str], caller: Caller
) -> dict[str, StoredCollection]:
    """Return the collections that exist among folded paths; they cannot be dropped until the transaction ends."""
    return with_schemas(connection, cache, select_collections(connection, paths, caller, " FOR KEY SHARE"))


def select_collections(
    connection: psycopg.Connection, paths: Iterable[str], caller: Caller, lock: LiteralString = ""
) -> psycopg.Cursor[Any]:
    """Ask for the collections that exist among folded paths; `with_schemas` reads the answer."""
    query = f"SELECT {_COLUMNS} FROM collection AS c WHERE c.folded_path = ANY (%(paths)s) ORDER BY c.id{lock}"  # noqa: S608 - constants
    return connection.execute(query, {"paths": list(paths), "caller": caller.dn, "principals": sorted(caller.principals)})


def with_schemas(connection: psycopg.Connection, cache: SchemaCache, rows: psycopg.Cursor[Any]) -> dict[str, StoredCollection]:
    """Return what `select_collections` asked for, by folded path."""
    return {collection.collection.folded: collection for collection in _stored(connection, cache, rows.fetchall())}


def list_collections(
    connection: psycopg.Connection, cache: SchemaCache, path: str, after: str, limit: int, caller: Caller
) -> list[StoredCollection]:
    """Return collections at and below a folded path that the caller may list or get, after `after`, by folded path."""
    wanted = int(Permission.LIST | Permission.GET)
    below = path.rstrip("/")
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM collection AS c"  # noqa: S608 - constants only
        " WHERE (c.folded_path = %(path)s OR (c.folded_path > %(below)s || '/' AND c.folded_path < %(below)s || '0'))"
        " AND c.folded_path > %(after)s"
        " AND c.acl_id IN (SELECT id FROM acl WHERE owner = %(caller)s UNION ALL"
        " SELECT acl_id FROM acl_entry WHERE principal = ANY (%(principals)s) AND permissions & %(wanted)s <> 0)"
        " ORDER BY c.folded_path LIMIT %(limit)s".encode(),
        {
            "path": path,
            "below": below,
            "after": after,
            "caller": caller.dn,
            "principals": sorted(caller.principals),
            "wanted": wanted,
            "limit": limit,
        },
    ).fetchall()
    return _stored(connection, cache, rows)


def insert_collections(connection: psycopg.Connection, collections: Sequence[Collection]) -> set[str]:
    """Insert collections, parents before children; return the folded paths of those that did not exist."""
    inserted: dict[str, int] = {}
    if not collections:
        return set()
    for level in _levels(collections):
        rows = connection.execute(
            "INSERT INTO collection (parent_id, path, folded_path, acl_id, default_acl_id, sensitive)"
            " SELECT parent.id, item.path, item.folded, item.acl_id, item.default_acl_id, item.sensitive"
            " FROM unnest(%s::text[], %s::text[], %s::text[], %s::uuid[], %s::uuid[], %s::boolean[])"
            " AS item (path, folded, parent, acl_id, default_acl_id, sensitive)"
            " JOIN collection AS parent ON parent.folded_path = item.parent"
            " ON CONFLICT (folded_path) DO NOTHING RETURNING folded_path, id",
            (
                [item.path for item in level],
                [item.folded for item in level],
                [parent_of(item.folded) for item in level],
                [item.acl_id for item in level],
                [item.default_acl_id for item in level],
                [item.sensitive for item in level],
            ),
        )
        inserted.update(dict(rows.fetchall()))
    _insert_attributes(connection, {inserted[item.folded]: item for item in collections if item.folded in inserted})
    return set(inserted)


def _levels(collections: Sequence[Collection]) -> list[list[Collection]]:
    """Return the collections by depth, the shallow ones first."""
    levels: dict[int, list[Collection]] = {}
    for item in collections:
        levels.setdefault(item.folded.count("/"), []).append(item)
    return [levels[depth] for depth in sorted(levels)]


def _insert_attributes(connection: psycopg.Connection, collections: dict[int, Collection]) -> None:
    rows = [
        (number, position, stored.slot, a.name, int(a.type), a.length, a.unit, a.description, a.not_null, a.indexed, a.unique)
        for number, item in collections.items()
        for position, stored in enumerate(assign_slots(item.attributes))
        for a in (stored.attribute,)
    ]
    if rows:
        connection.execute(
            "INSERT INTO attribute (collection_id, position, slot, name, type, length, unit, description, not_null, indexed, is_unique)"
            " SELECT * FROM unnest(%s::bigint[], %s::integer[], %s::text[], %s::text[],"
            " %s::smallint[], %s::integer[], %s::text[], %s::text[], %s::boolean[], %s::boolean[], %s::boolean[])",
            [list(column) for column in zip(*rows, strict=True)],
        )


def _stored(connection: psycopg.Connection, cache: SchemaCache, rows: Sequence[Row]) -> list[StoredCollection]:
    schemas = cache.fill(connection, [row[0] for row in rows])
    return [_collection(row, schemas[row[0]]) for row in rows]


def _collection(row: Row, attributes: tuple[StoredAttribute, ...]) -> StoredCollection:
    number, path, acl_id, default_acl_id, sensitive, permissions = row
    schema = tuple(stored.attribute for stored in attributes)
    return StoredCollection(number, Collection(path, schema, acl_id, default_acl_id, sensitive), attributes, permissions)
