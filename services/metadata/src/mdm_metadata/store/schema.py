"""Collections and their attributes in PostgreSQL."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from cachetools import LRUCache
from mdm_service.identity.caller import Caller
from mdm_wire.permission import Permission

from mdm_metadata.rules.model import (
    Attribute,
    AttributeType,
    Check,
    Collection,
    StoredAttribute,
    StoredCollection,
    StoredView,
    ViewAttribute,
    assign_slots,
    fold_path,
    parent_of,
)
from mdm_metadata.rules.query.sql.render import PERMISSIONS

_COLUMNS = (
    "c.id, c.path, c.acl_id, c.default_acl_id, c.sensitive, c.min_cell,"
    f" {PERMISSIONS.format(acl='c.acl_id', caller='caller', principals='principals')}, c.rev, v.target_id, t.rev, c.replica"
)
# OFFSET 0: a probe for each of few views, and never a hash of all collections.
_VIEWS = (
    "LEFT JOIN view AS v ON v.collection_id = c.id"
    " LEFT JOIN LATERAL (SELECT rev FROM collection WHERE id = v.target_id OFFSET 0) AS t ON true"
)
_FROM = f"collection AS c {_VIEWS}"
#: One page, read along the index: paths below a path sort between the path with `/` and the path with `0`, the next character.
#: The condition on ACLs is that of the SQL function `acl_permissions`, the definition, written as the set of granting ACLs so that it is
#: evaluated once and not for each collection.
_PAGE = (
    "SELECT * FROM collection WHERE folded_path >= %(path)s AND folded_path < %(below)s || '0' AND folded_path > %(after)s"
    " AND (folded_path = %(path)s OR folded_path > %(below)s || '/')"
    " AND acl_id IN (SELECT id FROM acl WHERE owner = %(caller)s UNION ALL"
    " SELECT acl_id FROM acl_entry WHERE principal = ANY (%(principals)s) AND permissions & %(wanted)s <> 0)"
    " ORDER BY folded_path LIMIT %(limit)s"
)
Row = tuple[int, str, UUID, UUID, bool, int, int, int, int | None, int | None, bool]


@dataclass(frozen=True)
class Schema:
    """Attributes and checks of a collection, or the attributes of its target that a view shows."""

    attributes: tuple[StoredAttribute, ...] = ()
    checks: tuple[Check, ...] = ()
    view: StoredView | None = None


class SchemaCache:
    """Schemas by collection id and the number of changes so far. The schema of one such pair never changes, so nothing becomes stale.

    At most `size` attributes are cached; a collection without any counts as one.
    """

    def __init__(self, size: int = 100_000) -> None:
        self._lock = threading.Lock()
        self._schemas: LRUCache[tuple[int, int], Schema] = LRUCache(size, getsizeof=lambda schema: 1 + len(schema.attributes))

    def fill(self, connection: psycopg.Connection, keys: Sequence[tuple[int, int]]) -> dict[int, Schema]:
        """Return the schemas of collections by id, read from the database where they are not known."""
        with self._lock:
            found = {key[0]: self._schemas[key] for key in keys if key in self._schemas}
        missing = {key[0]: key for key in keys if key[0] not in found}
        if missing:
            read = read_schemas(connection, list(missing))
            found.update(read)
            with self._lock:
                self._schemas.update({missing[number]: schema for number, schema in read.items()})
        return found


def read_schemas(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, Schema]:
    """Return the schemas of collections, attributes in order of definition."""
    attributes: dict[int, list[StoredAttribute]] = {number: [] for number in ids}
    rows = connection.execute(
        "SELECT a.collection_id, a.slot, a.position, coalesce(a.moving_to, ''), a.reference_id, a.name, a.type, a.length, a.unit,"
        " a.description, a.not_null, a.indexed, a.is_unique, coalesce(r.path, '')"
        " FROM attribute AS a LEFT JOIN collection AS r ON r.id = a.reference_id"
        " WHERE a.collection_id = ANY (%s) ORDER BY a.collection_id, a.position",
        (list(ids),),
    )
    for number, slot, position, moving_to, reference_id, name, kind, *rest in rows:
        attribute = Attribute(name, AttributeType(kind), *rest)
        attributes[number].append(StoredAttribute(attribute, slot, position, moving_to, reference_id))
    checks = _read_checks(connection, ids)
    views = _read_views(connection, ids)
    return {number: Schema(tuple(attributes[number]), tuple(checks.get(number, ())), views.get(number)) for number in ids}


def _read_checks(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, list[Check]]:
    found: dict[int, list[Check]] = {}
    rows = connection.execute(
        "SELECT collection_id, name, condition FROM check_constraint WHERE collection_id = ANY (%s) ORDER BY name", (list(ids),)
    )
    for number, name, condition in rows:
        found.setdefault(number, []).append(Check(name, condition))
    return found


def _read_views(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, StoredView]:
    rows = connection.execute(
        "SELECT v.collection_id, v.target_id, t.path, v.definer, v.condition, v.with_key,"
        " (SELECT array_agg(a.name ORDER BY a.position) FROM view_attribute AS a WHERE a.collection_id = v.collection_id),"
        " (SELECT array_agg(a.target_position ORDER BY a.position) FROM view_attribute AS a WHERE a.collection_id = v.collection_id)"
        " FROM view AS v JOIN collection AS t ON t.id = v.target_id WHERE v.collection_id = ANY (%s)",
        (list(ids),),
    )
    return {
        number: StoredView(target, path, definer, condition, with_key, tuple(zip(names or (), positions or (), strict=True)))
        for number, target, path, definer, condition, with_key, names, positions in rows
    }


def find_collections(
    connection: psycopg.Connection, cache: SchemaCache, paths: Iterable[str], caller: Caller
) -> dict[str, StoredCollection]:
    """Return the collections that exist among folded paths; they cannot be dropped until the transaction ends."""
    return with_schemas(connection, cache, select_collections(connection, paths, caller, " FOR KEY SHARE OF c"))


def select_collections(
    connection: psycopg.Connection, paths: Iterable[str], caller: Caller, lock: LiteralString = ""
) -> psycopg.Cursor[Any]:
    """Ask for the collections that exist among folded paths; `with_schemas` reads the answer."""
    query = f"SELECT {_COLUMNS} FROM {_FROM} WHERE c.folded_path = ANY (%(paths)s) ORDER BY c.id{lock}"  # noqa: S608 - constants
    return connection.execute(query, {"paths": list(paths), "caller": caller.dn, "principals": sorted(caller.principals)})


def with_schemas(connection: psycopg.Connection, cache: SchemaCache, rows: psycopg.Cursor[Any]) -> dict[str, StoredCollection]:
    """Return the collections of an answer to `select_collections`, by folded path."""
    return {collection.collection.folded: collection for collection in _stored(connection, cache, rows.fetchall())}


def list_collections(
    connection: psycopg.Connection, cache: SchemaCache, path: str, after: str, limit: int, caller: Caller
) -> list[StoredCollection]:
    """Return collections at and below a folded path that the caller may list or get, after `after`, by folded path."""
    wanted = int(Permission.LIST | Permission.GET)
    below = path.rstrip("/")
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM ({_PAGE}) AS c {_VIEWS} ORDER BY c.folded_path".encode(),  # noqa: S608 - constants only
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
            "INSERT INTO collection (parent_id, path, folded_path, acl_id, default_acl_id, sensitive, min_cell)"
            " SELECT parent.id, item.path, item.folded, item.acl_id, item.default_acl_id, item.sensitive, item.min_cell"
            " FROM unnest(%s::text[], %s::text[], %s::text[], %s::uuid[], %s::uuid[], %s::boolean[], %s::integer[])"
            " AS item (path, folded, parent, acl_id, default_acl_id, sensitive, min_cell)"
            " JOIN collection AS parent ON parent.folded_path = item.parent"
            " ON CONFLICT (folded_path) DO NOTHING RETURNING folded_path, id",
            (
                [item.path for item in level],
                [item.folded for item in level],
                [parent_of(item.folded) for item in level],
                [item.acl_id for item in level],
                [item.default_acl_id for item in level],
                [item.sensitive for item in level],
                [item.min_cell for item in level],
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
    rows = [(number, stored) for number, item in collections.items() for stored in assign_slots(item.attributes)]
    insert_attributes(connection, rows)


def insert_attributes(connection: psycopg.Connection, attributes: Sequence[tuple[int, StoredAttribute]]) -> None:
    """Insert attributes of collections (by id)."""
    rows = [
        (
            number,
            s.position,
            s.slot,
            a.name,
            int(a.type),
            a.length,
            a.unit,
            a.description,
            a.not_null,
            a.indexed,
            a.unique,
            fold_path(a.references),
        )
        for number, s in attributes
        for a in (s.attribute,)
    ]
    if rows:
        connection.execute(
            "INSERT INTO attribute (collection_id, position, slot, name, type, length, unit, description, not_null, indexed, is_unique,"
            " reference_id) SELECT item.number, item.position, item.slot, item.name, item.type, item.length, item.unit, item.description,"
            " item.not_null, item.indexed, item.is_unique, r.id FROM unnest(%s::bigint[], %s::integer[], %s::text[], %s::text[],"
            " %s::smallint[], %s::integer[], %s::text[], %s::text[], %s::boolean[], %s::boolean[], %s::boolean[], %s::text[])"
            " AS item (number, position, slot, name, type, length, unit, description, not_null, indexed, is_unique, path)"
            " LEFT JOIN collection AS r ON r.folded_path = item.path",
            [list(column) for column in zip(*rows, strict=True)],
        )


def _stored(connection: psycopg.Connection, cache: SchemaCache, rows: Sequence[Row]) -> list[StoredCollection]:
    wanted = {(row[0], row[7]) for row in rows} | {(row[8], row[9]) for row in rows if row[8] is not None and row[9] is not None}
    schemas = cache.fill(connection, sorted(wanted))
    return [_collection(row, schemas) for row in rows]


def _collection(row: Row, schemas: Mapping[int, Schema]) -> StoredCollection:
    number, path, acl_id, default_acl_id, sensitive, min_cell, permissions, rev, _, target_rev, is_replica = row
    schema = schemas[number]
    attributes = schema.attributes
    shown: tuple[ViewAttribute, ...] = ()
    if schema.view is not None:
        attributes, shown = _shown(schema.view, schemas[schema.view.target_id])
    described = tuple(stored.attribute for stored in attributes)
    collection = Collection(path, described, acl_id, default_acl_id, sensitive, min_cell)
    has_key = schema.view is None or schema.view.with_key
    return StoredCollection(
        number,
        collection,
        attributes,
        permissions,
        schema.checks,
        schema.view,
        has_key,
        is_replica,
        rev=rev,
        target_rev=target_rev or 0,
        shown=shown,
    )


def _shown(view: StoredView, target: Schema) -> tuple[tuple[StoredAttribute, ...], tuple[ViewAttribute, ...]]:
    """Return the target's attributes under the names a view gives them, and these names with the target's; a link shows all."""
    if view.definer is None:
        return target.attributes, ()
    by_position = {stored.position: stored for stored in target.attributes}
    found = [(name, by_position[position]) for name, position in view.names if position in by_position]
    attributes = tuple(replace(stored, attribute=replace(stored.attribute, name=name)) for name, stored in found)
    return attributes, tuple(ViewAttribute(name, stored.attribute.name) for name, stored in found)
