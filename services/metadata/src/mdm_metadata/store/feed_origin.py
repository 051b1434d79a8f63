"""The origin's end of a feed: steps read from PostgreSQL."""

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from mdm.metadata.v1 import feed_pb2 as pb
from mdm_service.access import store as acl_store
from mdm_wire.errors import FailedPrecondition
from psycopg import IsolationLevel
from psycopg_pool import ConnectionPool

from mdm_metadata.rules.model import fold_path

ENTRIES = 1_000
SETS = 200
#: Values of one step, in characters: messages stay below gRPC's 4 MiB.
MAX_SIZE = 1_500_000
_ENTRIES, _COLLECTION, _ACL = 1, 2, 3
#: Published collections of a subtree that are neither sensitive nor views.
_PUBLISHED = (
    "FROM collection AS c WHERE c.published AND NOT c.sensitive AND NOT EXISTS (SELECT FROM view WHERE view.collection_id = c.id)"
    " AND (c.folded_path = %(path)s OR starts_with(c.folded_path, %(below)s))"
)


class FeedOrigin:
    """Reads steps of the feed, each in a snapshot of its own. They contain the present state, so a later step may repeat an earlier one."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def configure(self, subtrees: Iterable[str], keep_days: int) -> None:
        """Publish exactly these subtrees, and discard changes older than `keep_days`."""
        folded = sorted({fold_path(path) for path in subtrees})
        with self._pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (0x4D4446,))
            connection.execute("DELETE FROM feed_subtree WHERE NOT folded_path = ANY (%s)", (folded,))
            connection.execute("INSERT INTO feed_subtree SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", (folded,))
            connection.execute(
                "UPDATE collection AS c SET published = wanted.published FROM (SELECT id, NOT sensitive AND NOT replica AND EXISTS ("
                "SELECT FROM feed_subtree AS s WHERE folded_path = s.folded_path"
                " OR starts_with(collection.folded_path, rtrim(s.folded_path, '/') || '/')) AS published FROM collection) AS wanted"
                " WHERE wanted.id = c.id AND wanted.published <> c.published"
            )
            connection.execute(
                "UPDATE feed_head SET trimmed = greatest(trimmed, coalesce((SELECT max(seq) FROM change_set"
                " WHERE made_at < now() - make_interval(days => %s)), 0))",
                (keep_days,),
            )
            connection.execute("DELETE FROM change_set WHERE seq <= (SELECT trimmed FROM feed_head)")

    def is_sensitive(self, subtree: str) -> bool:
        """Return whether the subtree is a sensitive collection, which is never sent."""
        with self._pool.connection() as connection:
            found = connection.execute("SELECT sensitive FROM collection WHERE folded_path = %s", (fold_path(subtree),)).fetchone()
        return bool(found and found[0])

    def step(self, subtree: str, position: pb.FeedPosition) -> pb.SubscribeResponse:
        """Return the step that follows a position; an empty one at the end.

        Raises:
            FailedPrecondition: FEED_TRIMMED: the changes that follow were discarded; copy everything again.
        """
        with self._pool.connection() as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            try:
                return _Step(connection, fold_path(subtree), position).read()
            finally:
                connection.rollback()
                connection.isolation_level = None


class _Step:
    """One step."""

    def __init__(self, connection: psycopg.Connection, subtree: str, position: pb.FeedPosition) -> None:
        self._connection = connection
        self._place = {"path": subtree, "below": subtree.rstrip("/") + "/"}
        self._from = position
        self._acls: set[str] = set()
        self._step = pb.SubscribeResponse(to=position)
        getattr(self._step, "from").CopyFrom(position)

    def read(self) -> pb.SubscribeResponse:
        row = self._connection.execute("SELECT value, trimmed FROM feed_head").fetchone()
        assert row is not None
        self._step.head, trimmed = row
        beginning = self._from.copying and not self._from.path
        if beginning:
            self._step.to.sequence = self._step.head
        elif self._from.sequence < trimmed or self._from.sequence > self._step.head:
            raise FailedPrecondition(
                "FEED_TRIMMED", "The changes that follow were discarded, or this is another database: copy everything again."
            )
        if self._from.copying:
            self._copy()
        else:
            self._changes()
        self._add_acls()
        return self._step

    def _copy(self) -> None:
        """Add the next collection, or the next entries of the present one."""
        if self._from.path and self._add_entries_after(self._from.path, self._from.key):
            return
        row = self._connection.execute(
            f"SELECT c.id, c.folded_path {_PUBLISHED} AND c.folded_path > %(after)s ORDER BY c.folded_path LIMIT 1".encode(),
            {**self._place, "after": self._from.path},
        ).fetchone()
        if row is None:
            self._step.to.CopyFrom(pb.FeedPosition(sequence=self._step.to.sequence))
            return
        self._add_collections([row[0]])
        self._step.to.path, self._step.to.key = row[1], ""

    def _add_entries_after(self, path: str, key: str) -> bool:
        # The position comes from the subscriber: a collection that it names must be in its subtree.
        rows = self._connection.execute(
            "SELECT e.collection_id, e.key, e.acl_id, e.attributes::text FROM entry AS e WHERE e.key > %(key)s AND e.collection_id ="  # noqa: S608
            f" (SELECT c.id {_PUBLISHED} AND c.folded_path = %(named)s) ORDER BY e.key LIMIT %(limit)s".encode(),
            {**self._place, "named": path, "key": key, "limit": ENTRIES},
        ).fetchall()
        added = self._add_entries(rows)
        if added:
            self._step.to.key = rows[added - 1][1]
        return bool(added)

    def _changes(self) -> None:
        """Add the present state of the entries that the next change sets changed; a large set is sent in several steps."""
        sets = self._connection.execute(
            "SELECT s.id, s.seq, s.kind, s.collection_id, s.acl_id, (SELECT count(*) FROM change WHERE change.set_id = s.id)"
            " FROM change_set AS s WHERE s.seq > %(after)s"
            " AND (s.folded_path IS NULL OR s.folded_path = %(path)s OR starts_with(s.folded_path, %(below)s))"
            " ORDER BY s.seq LIMIT %(limit)s",
            {**self._place, "after": self._from.sequence, "limit": SETS},
        ).fetchall()
        chosen = sets[:1] if self._from.key else _within(sets, ENTRIES)
        rows = self._changed([item[0] for item in chosen])
        if len(chosen) > 1 and sum(len(row[3]) for row in rows) > MAX_SIZE:
            chosen = chosen[:1]
            rows = self._changed([chosen[0][0]])
        added = self._add_entries(rows)
        if added < len(rows):
            self._step.to.key = rows[added - 1][1]
            return
        whole = len(chosen) == len(sets) < SETS
        self._step.to.CopyFrom(pb.FeedPosition(sequence=self._step.head if whole else chosen[-1][1]))
        self._add_collections(sorted({item[3] for item in chosen if item[2] == _COLLECTION}))
        self._acls |= self._used_acls([item[4] for item in chosen if item[2] == _ACL])

    def _changed(self, sets: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the entries that change sets concern, after the key of the position, as they are now."""
        return self._connection.execute(
            "SELECT changed.collection_id, changed.key, e.acl_id, coalesce(e.attributes::text, '') FROM ("
            "SELECT DISTINCT s.collection_id, change.key FROM change JOIN change_set AS s ON s.id = change.set_id"
            " JOIN collection AS c ON c.id = s.collection_id AND c.published WHERE s.id = ANY (%s) AND change.key > %s) AS changed"
            " LEFT JOIN entry AS e ON e.collection_id = changed.collection_id AND e.key = changed.key ORDER BY changed.key",
            (list(sets), self._from.key),
        ).fetchall()

    def _add_entries(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Add entries until the step is large; return how many."""
        size = added = 0
        for number, key, acl_id, attributes in rows:
            size += len(attributes)
            if added and size > MAX_SIZE:
                break
            self._step.entries.add(collection=number, key=key, acl_id=str(acl_id or ""), attributes=attributes)
            if acl_id is not None:
                self._acls.add(str(acl_id))
            added += 1
        return added

    def _add_collections(self, ids: Sequence[int]) -> None:
        """Add the collections that exist and are published; the subscriber removes the others."""
        rows = self._connection.execute(
            f"SELECT c.id, c.path, c.acl_id, c.default_acl_id, c.min_cell {_PUBLISHED} AND c.id = ANY (%(ids)s)"
            " ORDER BY c.folded_path".encode(),
            {**self._place, "ids": list(ids)},
        ).fetchall()
        for number, path, acl_id, default_acl_id, min_cell in rows:
            item = self._step.collections.add(
                id=number, path=path, acl_id=str(acl_id), default_acl_id=str(default_acl_id), min_cell=min_cell
            )
            self._acls |= {item.acl_id, item.default_acl_id}
            attributes = self._connection.execute(
                "SELECT name, type, length, unit, description, not_null, indexed, is_unique, slot, position FROM attribute"
                " WHERE collection_id = %s ORDER BY position",
                (number,),
            )
            for name, kind, length, unit, description, not_null, indexed, unique, slot, position in attributes:
                described = pb.FeedAttribute(name=name, type=kind, length=length, unit=unit, description=description, slot=slot)
                described.not_null, described.indexed, described.unique, described.position = not_null, indexed, unique, position
                item.attributes.append(described)
        self._step.dropped.extend(sorted(set(ids) - {row[0] for row in rows}, reverse=True))  # children were made after their parents

    def _used_acls(self, ids: Sequence[Any]) -> set[str]:
        """Return the changed ACLs that the subtree refers to."""
        where = (
            f"{_PUBLISHED} AND (a.id IN (c.acl_id, c.default_acl_id)"
            " OR EXISTS (SELECT FROM entry AS e WHERE e.acl_id = a.id AND e.collection_id = c.id))"
        )
        used = f"SELECT DISTINCT a.id FROM unnest(%(ids)s::uuid[]) AS a (id) WHERE EXISTS (SELECT {where})"  # noqa: S608 - constants
        rows = self._connection.execute(used.encode(), {**self._place, "ids": list(ids)})
        return {str(acl_id) for (acl_id,) in rows}

    def _add_acls(self) -> None:
        if not self._acls:
            return
        for acl_id, acl in acl_store.load(self._connection, sorted(self._acls)).items():  # type: ignore[arg-type]
            self._step.acls.add(
                id=str(acl_id),
                owner=acl.owner,
                principals=[entry.principal for entry in acl.entries],
                permissions=[int(entry.permissions) for entry in acl.entries],
            )


def _within(sets: Sequence[tuple[Any, ...]], limit: int) -> list[tuple[Any, ...]]:
    """Return the first sets, at least one, that concern at most `limit` entries."""
    chosen: list[tuple[Any, ...]] = []
    keys = 0
    for item in sets:
        keys += item[5]
        if chosen and keys > limit:
            break
        chosen.append(item)
    return chosen
