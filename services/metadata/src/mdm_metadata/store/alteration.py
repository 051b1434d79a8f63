"""Changes of schemas in PostgreSQL."""

from collections.abc import Iterable, Sequence
from uuid import UUID

import psycopg
from mdm_service.identity.caller import Caller

from mdm_metadata.rules.model import Check, StoredAttribute, StoredCollection, StoredView, Validation, View, fold_path
from mdm_metadata.store import acl, schema


class PostgresAlteration:
    """One transaction that locks a schema; its port describes each method."""

    def __init__(self, connection: psycopg.Connection, cache: schema.SchemaCache) -> None:
        self._connection = connection
        self._cache = cache

    def collection(self, path: str, caller: Caller) -> StoredCollection | None:
        self._connection.execute("SELECT FROM collection WHERE folded_path = %s FOR UPDATE", (path,))
        return self.visible(path, caller)

    def held(self, collection_id: int) -> StoredCollection | None:
        row = self._connection.execute("SELECT folded_path FROM collection WHERE id = %s FOR UPDATE", (collection_id,)).fetchone()
        return None if row is None else self.visible(row[0], Caller(""))

    def begin(self, validation: Validation) -> None:
        self._connection.execute(
            "INSERT INTO validation VALUES (%s, %s, %s, nullif(%s, ''), %s)",
            (validation.number, validation.collection_id, validation.position, validation.check, sorted(validation.constraints)),
        )

    def end(self, number: int) -> None:
        self._connection.execute("DELETE FROM validation WHERE number = %s", (number,))

    def visible(self, path: str, caller: Caller) -> StoredCollection | None:
        return schema.find_collections(self._connection, self._cache, [path], caller).get(path)

    def acl_permissions(self, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
        return acl.permissions(self._connection, ids, caller)

    def is_empty(self, collection_id: int) -> bool:
        return self._connection.execute("SELECT FROM entry WHERE collection_id = %s LIMIT 1", (collection_id,)).fetchone() is None

    def dependent_conditions(self, collection_id: int) -> list[str]:
        rows = self._connection.execute("SELECT condition FROM view WHERE target_id = %s AND condition IS NOT NULL", (collection_id,))
        return [condition for (condition,) in rows]

    def used_slots(self, collection_id: int) -> set[str]:
        rows = self._connection.execute(
            "SELECT unnest(ARRAY[slot, moving_to]) FROM attribute WHERE collection_id = %(id)s"
            " UNION SELECT slot FROM retired_slot WHERE collection_id = %(id)s",
            {"id": collection_id},
        )
        return {slot for (slot,) in rows if slot}

    def new_number(self, collection_id: int) -> int:
        row = self._connection.execute(
            "UPDATE collection SET next_number = next_number + 1 WHERE id = %s RETURNING next_number - 1", (collection_id,)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def add_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        schema.insert_attributes(self._connection, [(collection_id, attribute)])
        self._changed(collection_id)

    def update_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        described = attribute.attribute
        self._connection.execute(
            "UPDATE attribute SET slot = %s, moving_to = nullif(%s, ''), reference_id = %s, name = %s, unit = %s, description = %s,"
            " not_null = %s, indexed = %s, is_unique = %s WHERE collection_id = %s AND position = %s",
            (
                attribute.slot,
                attribute.moving_to,
                attribute.reference_id,
                described.name,
                described.unit,
                described.description,
                described.not_null,
                described.indexed,
                described.unique,
                collection_id,
                attribute.position,
            ),
        )
        self._changed(collection_id)

    def remove_attribute(self, collection_id: int, attribute: StoredAttribute) -> None:
        self._connection.execute("DELETE FROM attribute WHERE collection_id = %s AND position = %s", (collection_id, attribute.position))
        for slot in (attribute.slot, attribute.moving_to):
            if slot:
                self.retire_slot(collection_id, slot)
        self.forget_unique(collection_id, attribute.slot)
        self._changed(collection_id)

    def retire_slot(self, collection_id: int, slot: str) -> None:
        self._connection.execute("INSERT INTO retired_slot VALUES (%s, %s) ON CONFLICT DO NOTHING", (collection_id, slot))

    def forget_unique(self, collection_id: int, slot: str) -> None:
        self._connection.execute("DELETE FROM unique_value WHERE collection_id = %s AND slot = %s", (collection_id, slot))

    def move_unique(self, collection_id: int, slot: str, target: str) -> None:
        self._connection.execute("UPDATE unique_value SET slot = %s WHERE collection_id = %s AND slot = %s", (target, collection_id, slot))

    def set_checks(self, collection_id: int, checks: Sequence[Check]) -> None:
        self._connection.execute("DELETE FROM check_constraint WHERE collection_id = %s", (collection_id,))
        self._connection.execute(
            "INSERT INTO check_constraint SELECT %s, * FROM unnest(%s::text[], %s::text[])",
            (collection_id, [check.name for check in checks], [check.condition for check in checks]),
        )
        self._changed(collection_id)

    def set_min_cell(self, collection_id: int, min_cell: int) -> None:
        self._connection.execute("UPDATE collection SET min_cell = %s WHERE id = %s", (min_cell, collection_id))

    def set_acls(self, collection_id: int, acl_id: UUID, default_acl_id: UUID) -> None:
        self._connection.execute(
            "UPDATE collection SET acl_id = %s, default_acl_id = %s WHERE id = %s", (acl_id, default_acl_id, collection_id)
        )

    def insert_view(self, parent_id: int, view: View, stored: StoredView, acls: tuple[UUID, UUID], sensitive: bool) -> bool:
        row = self._connection.execute(
            "INSERT INTO collection (parent_id, path, folded_path, acl_id, default_acl_id, sensitive) VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (folded_path) DO NOTHING RETURNING id",
            (parent_id, view.path, fold_path(view.path), *acls, sensitive),
        ).fetchone()
        if row is None:
            return False
        self._connection.execute(
            "INSERT INTO view VALUES (%s, %s, %s, %s, %s)", (row[0], stored.target_id, stored.definer, stored.condition, stored.with_key)
        )
        self._connection.execute(
            "INSERT INTO view_attribute SELECT %s, name, target, number FROM unnest(%s::text[], %s::integer[])"
            " WITH ORDINALITY AS item (name, target, number)",
            (row[0], [name for name, _ in stored.names], [position for _, position in stored.names]),
        )
        return True

    def _changed(self, collection_id: int) -> None:
        self._connection.execute("UPDATE collection SET rev = rev + 1 WHERE id = %s", (collection_id,))
