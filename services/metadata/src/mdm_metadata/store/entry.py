"""Entries in PostgreSQL: sets in, sets out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import psycopg
from mdm_service.errors import Aborted
from mdm_service.identity import Caller

from mdm_metadata.model import EntryWrite, StoredEntry


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
    """
    if not entries:
        return
    ordered = sorted(entries, key=lambda entry: entry.key)
    # %b: an array of JSON texts costs the driver ten times as much in text form, where every quote is escaped.
    connection.execute(
        "INSERT INTO entry (collection_id, key, acl_id, attributes)"
        " SELECT %s, key, acl_id, attributes::jsonb FROM unnest(%s::text[], %s::uuid[], %b::text[]) AS item (key, acl_id, attributes)"
        " ON CONFLICT (collection_id, key) DO UPDATE SET attributes = jsonb_strip_nulls(entry.attributes || excluded.attributes)"
        " WHERE entry.attributes IS DISTINCT FROM jsonb_strip_nulls(entry.attributes || excluded.attributes)",
        _arrays(collection_id, ordered),
    )
    _write_unique(connection, collection_id, ordered)


def _arrays(collection_id: int, entries: Sequence[EntryWrite]) -> tuple[object, ...]:
    return (
        collection_id,
        [entry.key for entry in entries],
        [entry.acl_id for entry in entries],
        [json.dumps(entry.values, separators=(",", ":"), allow_nan=False) for entry in entries],
    )


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
