"""Entries in PostgreSQL: sets in, sets out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted, Invalid

from mdm_metadata.rules.model import MAX_ENTRY, AttributeType, EntryWrite, StoredEntry
from mdm_metadata.rules.query.sql.compile import compile_checks
from mdm_metadata.rules.query.sql.render import STORED
from mdm_metadata.rules.query.syntax.tree import Expression


def find_entries(connection: psycopg.Connection, collection_id: int, keys: Iterable[str], caller: Caller) -> dict[str, StoredEntry]:
    """Return the entries that exist among `keys`, locked in the order of their keys so that batches do not deadlock."""
    rows = connection.execute(
        "WITH found AS MATERIALIZED (SELECT key, acl_id FROM entry WHERE collection_id = %(collection)s AND key = ANY (%(keys)s)"
        " ORDER BY key FOR UPDATE),"
        " rights AS MATERIALIZED (SELECT acl_id, acl_permissions(acl_id, %(caller)s, %(principals)s) AS permissions"
        " FROM (SELECT DISTINCT acl_id FROM found) AS acls)"
        " SELECT key, acl_id, permissions FROM found JOIN rights USING (acl_id)",
        {"collection": collection_id, "keys": list(keys), "caller": caller.dn, "principals": sorted(caller.principals)},
    )
    return {key: StoredEntry(acl_id, permissions) for key, acl_id, permissions in rows}


def keys_after(connection: psycopg.Connection, collection_id: int, after: str, limit: int) -> list[str]:
    """Return at most `limit` keys that follow `after`, in order of their bytes."""
    query = "SELECT key FROM entry WHERE collection_id = %s AND key > %s ORDER BY key LIMIT %s"
    return [key for (key,) in connection.execute(query, (collection_id, after, limit))]


def find_holders(connection: psycopg.Connection, collection_id: int, digests: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], str]:
    """Return which entry holds each unique value."""
    wanted = list(digests)
    rows = connection.execute(
        "SELECT slot, digest, key FROM unique_value JOIN unnest(%s::text[], %s::bytea[]) AS wanted (slot, digest) USING (slot, digest)"
        " WHERE collection_id = %s",
        ([slot for slot, _ in wanted], [digest for _, digest in wanted], collection_id),
    )
    return {(slot, bytes(digest)): key for slot, digest, key in rows}


def write_entries(connection: psycopg.Connection, collection_id: int, entries: Sequence[EntryWrite]) -> None:
    """Insert entries or merge their values into those that exist.

    Raises:
        Aborted: another transaction took a unique value meanwhile.
        Invalid: an entry would become too large.
    """
    if not entries:
        return
    ordered = sorted(entries, key=lambda entry: entry.key)
    try:
        _merge_entries(connection, collection_id, ordered)
    except psycopg.errors.CheckViolation:
        raise Invalid("ENTRY_TOO_LARGE", f"An entry would have more than {MAX_ENTRY} bytes with the values it has.") from None
    _write_unique(connection, collection_id, ordered)


def _merge_entries(connection: psycopg.Connection, collection_id: int, ordered: Sequence[EntryWrite]) -> None:
    # %b: an array of JSON texts costs the driver ten times as much in text form, where every quote is escaped.
    connection.execute(
        "INSERT INTO entry (collection_id, key, acl_id, attributes)"
        " SELECT %s, key, acl_id, attributes::jsonb FROM unnest(%s::text[], %s::uuid[], %b::text[]) AS item (key, acl_id, attributes)"
        " ON CONFLICT (collection_id, key) DO UPDATE SET attributes = jsonb_strip_nulls(entry.attributes || excluded.attributes)"
        " WHERE entry.attributes IS DISTINCT FROM jsonb_strip_nulls(entry.attributes || excluded.attributes)",
        _arrays(collection_id, ordered),
    )


def _arrays(collection_id: int, entries: Sequence[EntryWrite]) -> tuple[object, ...]:
    return (
        collection_id,
        [entry.key for entry in entries],
        [entry.acl_id for entry in entries],
        [_json(entry) for entry in entries],
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
        raise Aborted("VALUE_NOT_UNIQUE", "Another call took a unique value meanwhile: repeat.") from None


def assign_acls(connection: psycopg.Connection, collection_id: int, acls: Mapping[str, UUID]) -> None:
    """Point entries at ACLs."""
    if acls:
        connection.execute(
            "UPDATE entry SET acl_id = item.acl_id FROM unnest(%s::text[], %s::uuid[]) AS item (key, acl_id)"
            " WHERE entry.collection_id = %s AND entry.key = item.key",
            (list(acls), list(acls.values()), collection_id),
        )


def delete_entries(connection: psycopg.Connection, collection_id: int, keys: Sequence[str]) -> None:
    """Delete entries."""
    if keys:
        connection.execute("DELETE FROM entry WHERE collection_id = %s AND key = ANY (%s)", (collection_id, list(keys)))


def find_violations(
    connection: psycopg.Connection, collection_id: int, entries: Sequence[EntryWrite], checks: Sequence[Expression]
) -> dict[str, int]:
    """Return the number of the first check that an entry, as it would be after being written, does not fulfil, by key."""
    sql, parameters = compile_checks(checks)
    rows = connection.execute(
        f"SELECT key, failed FROM (SELECT e.key, {sql} AS failed FROM ("  # noqa: S608 - compiled
        "SELECT item.key, jsonb_strip_nulls(coalesce(entry.attributes, '{}') || item.attributes::jsonb) AS attributes"
        " FROM unnest(%(keys)s::text[], %(values)b::text[]) AS item (key, attributes)"
        " LEFT JOIN entry ON entry.collection_id = %(collection)s AND entry.key = item.key OFFSET 0) AS e) AS checked"
        " WHERE failed IS NOT NULL".encode(),
        {**parameters, "keys": [e.key for e in entries], "values": [_json(e) for e in entries], "collection": collection_id},
    )
    return dict(rows.fetchall())


def visible_keys(connection: psycopg.Connection, collection_id: int, keys: Iterable[str], caller: Caller, permissions: int) -> set[str]:
    """Return which entries exist under whose ACL the caller holds one of `permissions`, kept from being deleted."""
    rows = connection.execute(
        "SELECT e.key FROM entry AS e WHERE e.collection_id = %s AND e.key = ANY (%s)"
        " AND acl_permissions(e.acl_id, %s, %s) & %s <> 0 ORDER BY e.key FOR KEY SHARE OF e",
        (collection_id, list(keys), caller.dn, sorted(caller.principals), permissions),
    )
    return {key for (key,) in rows}


def referenced_keys(connection: psycopg.Connection, collection_id: int, keys: Sequence[str]) -> set[str]:
    """Return which entries others refer to by a reference attribute."""
    references = connection.execute("SELECT collection_id, slot FROM attribute WHERE reference_id = %s", (collection_id,)).fetchall()
    found: set[str] = set()
    for referring, slot in references:
        wanted: list[Any] = list(keys)
        kind = AttributeType.UUID if slot.startswith("u") else AttributeType.TEXT
        if kind is AttributeType.UUID:
            wanted = [key for key in keys if _is_uuid(key)]
        stored = STORED[kind].format(slot)
        rows = connection.execute(
            f"SELECT DISTINCT e.attributes->>'{slot}' FROM entry AS e"  # noqa: S608 - a slot is ours
            f" WHERE e.collection_id = %s AND {stored} = ANY (%s{'::uuid[]' if kind is AttributeType.UUID else ''})"
            " AND NOT (e.collection_id = %s AND e.key = ANY (%s))".encode(),
            (referring, wanted, collection_id, list(keys)),
        )
        found |= {key for (key,) in rows}
    return found


def _is_uuid(key: str) -> bool:
    try:
        return str(UUID(key)) == key
    except ValueError:
        return False
