"""Work on all entries of a collection, each batch in its own transaction; and the thread that resumes it after a crash."""

import logging
import threading
from collections.abc import Mapping
from typing import Any

import psycopg
from mdm_wire.errors import MdmError
from psycopg_pool import ConnectionPool, PoolTimeout

from mdm_metadata.rules import value
from mdm_metadata.rules.model import StoredAttribute
from mdm_metadata.rules.port import Store
from mdm_metadata.rules.query.sql.statement import compile_checks
from mdm_metadata.rules.query.syntax.tree import Expression
from mdm_metadata.rules.schema.validation import recover

_log = logging.getLogger(__name__)
#: A killed process's statement may run on for a while; until it ends, its validation seems to have another process.
_RECOVERY_SECONDS = 10.0
BATCH = 2_000
_KEYS = "SELECT key FROM entry WHERE collection_id = %(collection)s AND key > %(after)s ORDER BY key LIMIT %(batch)s FOR NO KEY UPDATE"


class PostgresBackfill:
    """Batches over a collection; the port describes each method."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def copy(self, collection_id: int, source: str, target: str) -> None:
        self._each(
            "UPDATE entry SET attributes = attributes || jsonb_build_object(%(target)s::text, attributes->%(source)s)"
            " WHERE collection_id = %(collection)s AND key = ANY (%(keys)s) AND attributes ? %(source)s"
            " AND attributes->%(target)s IS DISTINCT FROM attributes->%(source)s",
            {"collection": collection_id, "source": source, "target": target},
        )

    def erase(self, collection_id: int) -> None:
        with self._pool.connection() as connection:
            slots = [slot for (slot,) in connection.execute("SELECT slot FROM retired_slot WHERE collection_id = %s", (collection_id,))]
        if not slots:
            return
        self._each(
            "UPDATE entry SET attributes = attributes - %(slots)s::text[]"
            " WHERE collection_id = %(collection)s AND key = ANY (%(keys)s) AND attributes ?| %(slots)s::text[]",
            {"collection": collection_id, "slots": slots},
        )
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM retired_slot WHERE collection_id = %s AND slot = ANY (%s)", (collection_id, slots))

    def lacks_value(self, collection_id: int, slot: str) -> bool:
        return self._exists("SELECT FROM entry WHERE collection_id = %s AND attributes->>%s IS NULL LIMIT 1", (collection_id, slot))

    def longest(self, collection_id: int, slot: str) -> int:
        with self._pool.connection() as connection:
            row = connection.execute(
                "SELECT coalesce(max(length(attributes->>%s)), 0) FROM entry WHERE collection_id = %s", (slot, collection_id)
            ).fetchone()
        return int(row[0]) if row else 0

    def fill_unique(self, collection_id: int, attribute: StoredAttribute) -> bool:
        after = ""
        while True:
            with self._pool.connection() as connection:
                rows = connection.execute(
                    "SELECT key, attributes->%(slot)s FROM entry WHERE collection_id = %(collection)s AND key > %(after)s"
                    " AND attributes->>%(slot)s IS NOT NULL ORDER BY key LIMIT %(batch)s FOR KEY SHARE",
                    {"collection": collection_id, "slot": attribute.slot, "after": after, "batch": BATCH},
                ).fetchall()
                if not rows:
                    return True
                if not _store_unique(connection, collection_id, attribute, rows):
                    return False
            after = rows[-1][0]

    def breaks(self, collection_id: int, check: Expression) -> bool:
        sql, parameters = compile_checks([check])
        return self._exists(
            f"SELECT FROM entry AS e WHERE e.collection_id = %(collection)s AND {sql} IS NOT NULL LIMIT 1",
            {**parameters, "collection": collection_id},
        )

    def dangles(self, collection_id: int, attribute: StoredAttribute) -> bool:
        return self._exists(
            "SELECT FROM entry AS e WHERE e.collection_id = %s AND e.attributes->>%s IS NOT NULL AND NOT EXISTS"
            " (SELECT FROM entry AS t WHERE t.collection_id = %s AND t.key = e.attributes->>%s) LIMIT 1",
            (collection_id, attribute.slot, attribute.reference_id, attribute.slot),
        )

    def _exists(self, sql: str, parameters: Any) -> bool:
        with self._pool.connection() as connection:
            return connection.execute(sql.encode(), parameters).fetchone() is not None

    def _each(self, sql: str, parameters: Mapping[str, object]) -> None:
        after = ""
        while True:
            with self._pool.connection() as connection:
                rows = connection.execute(_KEYS, {**parameters, "after": after, "batch": BATCH}).fetchall()
                if not rows:
                    return
                connection.execute(sql.encode(), {**parameters, "keys": [key for (key,) in rows]})
            after = rows[-1][0]


class Recovery:
    """A thread that finishes schema changes that a crash interrupted, here or in another process of the service.

    It looks for them at the start, and every ten seconds until `stop`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the running change."""
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if ended := recover(self._store):
                    _log.info("changes of schemas were ended after a crash", extra={"count": ended})
            except (MdmError, psycopg.Error, PoolTimeout) as error:
                _log.warning("what a crash left is still undone", extra={"reason": type(error).__name__})
            self._stopping.wait(_RECOVERY_SECONDS)


def _store_unique(connection: psycopg.Connection, collection_id: int, attribute: StoredAttribute, rows: list[Any]) -> bool:
    digests = {value.digest(attribute.attribute, given): key for key, given in rows}
    if len(digests) != len(rows):
        return False
    connection.execute(
        "INSERT INTO unique_value (collection_id, slot, digest, key) SELECT %s, %s, * FROM unnest(%s::bytea[], %s::text[])"
        " ON CONFLICT DO NOTHING",
        (collection_id, attribute.slot, list(digests), list(digests.values())),
    )
    row = connection.execute(
        "SELECT count(*) FROM unnest(%s::bytea[], %s::text[]) AS item (digest, key) JOIN unique_value AS u"
        " ON u.collection_id = %s AND u.slot = %s AND u.digest = item.digest AND u.key = item.key",
        (list(digests), list(digests.values()), collection_id, attribute.slot),
    ).fetchone()
    return row is not None and row[0] == len(rows)
