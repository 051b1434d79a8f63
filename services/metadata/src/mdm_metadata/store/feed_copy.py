"""The copy's end of a feed: each step is applied to PostgreSQL completely, and only once."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from uuid import UUID, uuid5

import psycopg
from mdm.metadata.v1 import feed_pb2 as pb
from mdm_service.access import store as acl_store
from mdm_service.access.acl import Acl, AclEntry
from mdm_service.database import lock_held
from mdm_wire.errors import FailedPrecondition, Invalid
from mdm_wire.permission import canonical_principal, valid_permissions
from psycopg_pool import ConnectionPool

from mdm_metadata.rules.model import LETTERS, Attribute, AttributeType, StoredAttribute, check_path, fold_path, parent_of
from mdm_metadata.store.schema import insert_attributes

_SLOT = re.compile(r"[tifndzub][0-9]{1,9}", re.ASCII)
#: Origins' ACL ids become ours below this one: an origin cannot touch ACLs that are not of its copies.
_NAMESPACE = UUID("6f1d2f0e-5a37-4d0c-9e3e-0d6d0f5b8a11")


class ReplicaCopy:
    """The copy of one subtree of one origin."""

    def __init__(self, pool: ConnectionPool, origin: str, subtree: str) -> None:
        self._pool = pool
        self._origin = origin
        self._subtree = fold_path(subtree)
        self._key = (origin, self._subtree)

    def following(self) -> AbstractContextManager[bool]:
        """Make this process the only one of the service that follows the origin during the block; yield False if another one does."""
        digest = hashlib.sha256("\0".join(self._key).encode()).digest()
        return lock_held(self._pool, int.from_bytes(digest[:8], "big", signed=True))

    def position(self) -> pb.FeedPosition:
        """Return the copy's position in the feed; the beginning for a new one."""
        with self._pool.connection() as connection:
            connection.execute("INSERT INTO replica (origin, subtree) VALUES (%s, %s) ON CONFLICT DO NOTHING", self._key)
            return _position(connection, self._key)

    def apply(self, step: pb.SubscribeResponse) -> bool:
        """Apply a step in one transaction; False, changing nothing, when the step does not begin at the copy's position.

        Raises:
            FailedPrecondition: a path of the subtree is taken by a collection that is not a copy.
        """
        with self._pool.connection() as connection:
            if _position(connection, self._key) != getattr(step, "from"):
                return False
            self._apply_acls(connection, step.acls)
            self._drop(connection, step.dropped)
            for collection in step.collections:
                self._apply_collection(connection, collection)
            self._apply_entries(connection, step.entries)
            done = not step.to.copying and step.to.sequence >= step.head
            connection.execute(
                "UPDATE replica SET sequence = %s, copying = %s, copied_path = %s, copied_key = %s, head = %s, problem = '',"
                " current_at = CASE WHEN %s THEN now() ELSE current_at END WHERE (origin, subtree) = (%s, %s)",
                (step.to.sequence, step.to.copying, step.to.path, step.to.key, step.head, done, *self._key),
            )
        return True

    def begin_again(self) -> None:
        """Discard the copy; it is made again from the beginning."""
        with self._pool.connection() as connection:
            connection.execute(
                "UPDATE replica SET sequence = 0, copying = true, copied_path = '', copied_key = '' WHERE (origin, subtree) = (%s, %s)",
                self._key,
            )
            self._drop_all(connection)

    def remove(self) -> None:
        """Remove the copy."""
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM replica WHERE (origin, subtree) = (%s, %s)", self._key)
            self._drop_all(connection)

    def note_problem(self, problem: str) -> None:
        """Record why the copy makes no progress."""
        with self._pool.connection() as connection:
            connection.execute("UPDATE replica SET problem = %s WHERE (origin, subtree) = (%s, %s)", (problem, *self._key))

    def _acl_id(self, origin_id: str) -> UUID:
        return uuid5(_NAMESPACE, f"{self._origin} {origin_id}")

    def _apply_acls(self, connection: psycopg.Connection, acls: Sequence[pb.FeedAcl]) -> None:
        for item in acls:
            given = zip(item.principals, item.permissions, strict=True)
            entries = tuple(AclEntry(canonical_principal(principal), valid_permissions(bits)) for principal, bits in given)
            acl_store.ensure(connection, Acl(self._acl_id(item.id), item.owner, entries))

    def _drop_all(self, connection: psycopg.Connection) -> None:
        rows = connection.execute(
            "SELECT r.origin_id FROM replica_collection AS r JOIN collection AS c ON c.id = r.collection_id WHERE r.origin = %s"
            " AND (c.folded_path = %s OR starts_with(c.folded_path, %s)) ORDER BY c.folded_path DESC",
            (self._origin, self._subtree, self._subtree.rstrip("/") + "/"),
        ).fetchall()
        self._drop(connection, [number for (number,) in rows])

    def _drop(self, connection: psycopg.Connection, ids: Sequence[int]) -> None:
        for number in ids:
            connection.execute(  # views of it that were made here go with it
                "DELETE FROM collection WHERE id IN (SELECT v.collection_id FROM view AS v JOIN replica_collection AS r"
                " ON r.collection_id = v.target_id WHERE r.origin = %s AND r.origin_id = %s)",
                (self._origin, number),
            )
            connection.execute(
                "DELETE FROM collection WHERE id = (SELECT collection_id FROM replica_collection WHERE origin = %s AND origin_id = %s)",
                (self._origin, number),
            )

    def _apply_collection(self, connection: psycopg.Connection, item: pb.FeedCollection) -> None:
        folded = fold_path(item.path)
        if folded != self._subtree and not folded.startswith(self._subtree.rstrip("/") + "/"):
            raise FailedPrecondition("REPLICA_OUTSIDE", "The origin sends a collection outside the subtree.")
        check_path(item.path)
        attributes = [_checked(attribute) for attribute in item.attributes]
        acls = (self._acl_id(item.acl_id), self._acl_id(item.default_acl_id))
        row = connection.execute(
            "SELECT collection_id FROM replica_collection WHERE origin = %s AND origin_id = %s", (self._origin, item.id)
        ).fetchone()
        if row is None:
            number = self._insert_collection(connection, item, folded, acls)
        else:
            number = row[0]
            connection.execute(
                "UPDATE collection SET acl_id = %s, default_acl_id = %s, min_cell = %s, rev = rev + 1 WHERE id = %s",
                (*acls, item.min_cell, number),
            )
            connection.execute("DELETE FROM attribute WHERE collection_id = %s", (number,))
        insert_attributes(connection, [(number, attribute) for attribute in attributes])

    def _insert_collection(self, connection: psycopg.Connection, item: pb.FeedCollection, folded: str, acls: tuple[UUID, UUID]) -> int:
        self._make_ancestors(connection, folded, item.path)
        row = connection.execute(
            "INSERT INTO collection (parent_id, path, folded_path, acl_id, default_acl_id, min_cell, replica)"
            " SELECT id, %s, %s, %s, %s, %s, true FROM collection WHERE folded_path = %s ON CONFLICT (folded_path) DO NOTHING RETURNING id",
            (item.path, folded, *acls, item.min_cell, parent_of(folded)),
        ).fetchone()
        if row is None:
            raise FailedPrecondition("REPLICA_PATH_TAKEN", "A path of the copy is taken by a collection of this service.")
        connection.execute("INSERT INTO replica_collection VALUES (%s, %s, %s)", (self._origin, item.id, row[0]))
        return int(row[0])

    def _make_ancestors(self, connection: psycopg.Connection, folded: str, path: str) -> None:
        """Make the collections missing above the subtree, under the root's default ACL."""
        names = path.split("/")[1:-1]
        for depth in range(1, len(names) + 1):
            above = "/" + "/".join(names[:depth])
            if fold_path(above) == self._subtree or fold_path(above).startswith(self._subtree.rstrip("/") + "/"):
                break
            connection.execute(
                "INSERT INTO collection (parent_id, path, folded_path, acl_id, default_acl_id)"
                " SELECT p.id, %s, %s, r.default_acl_id, r.default_acl_id FROM collection AS p, collection AS r"
                " WHERE p.folded_path = %s AND r.folded_path = '/' ON CONFLICT (folded_path) DO NOTHING",
                (above, fold_path(above), parent_of(fold_path(above))),
            )

    def _apply_entries(self, connection: psycopg.Connection, entries: Sequence[pb.FeedEntry]) -> None:
        numbers: dict[int, int] = dict(
            connection.execute("SELECT origin_id, collection_id FROM replica_collection WHERE origin = %s", (self._origin,)).fetchall()
        )
        known = [entry for entry in entries if entry.collection in numbers]
        removed = [entry for entry in known if not entry.acl_id]
        kept = [entry for entry in known if entry.acl_id]
        if removed:
            connection.execute(
                "DELETE FROM entry USING unnest(%s::bigint[], %s::text[]) AS item (number, key)"
                " WHERE entry.collection_id = item.number AND entry.key = item.key",
                ([numbers[entry.collection] for entry in removed], [entry.key for entry in removed]),
            )
        if kept:
            connection.execute(
                "INSERT INTO entry (collection_id, key, acl_id, attributes) SELECT number, key, acl, attributes::jsonb"
                " FROM unnest(%s::bigint[], %s::text[], %s::uuid[], %b::text[]) AS item (number, key, acl, attributes)"
                " ON CONFLICT (collection_id, key) DO UPDATE SET acl_id = excluded.acl_id, attributes = excluded.attributes",
                (
                    [numbers[entry.collection] for entry in kept],
                    [entry.key for entry in kept],
                    [self._acl_id(entry.acl_id) for entry in kept],
                    [entry.attributes for entry in kept],
                ),
            )


def _checked(item: pb.FeedAttribute) -> StoredAttribute:
    """Return an attribute as it is stored. An origin is trusted no more than a caller: the slot that it sends becomes part of SQL.

    Raises:
        Invalid: it is malformed.
    """
    if item.type not in AttributeType._value2member_map_ or not _SLOT.fullmatch(item.slot):
        raise Invalid("REPLICA_ATTRIBUTE", "The origin sends an attribute that this version does not know.")
    kind = AttributeType(item.type)
    attribute = Attribute(item.name, kind, item.length, item.unit, item.description, item.not_null, item.indexed, item.unique)
    attribute.check()
    if item.slot[0] != LETTERS[kind]:
        raise Invalid("REPLICA_ATTRIBUTE", "The origin sends an attribute whose stored name is of another type.")
    return StoredAttribute(attribute, item.slot, item.position)


def remove_others(pool: ConnectionPool, kept: Mapping[str, Sequence[str]]) -> None:
    """Remove the copies of subtrees that are not `kept`, which has them by origin, and the views made of them here."""
    wanted = {(origin, fold_path(subtree)) for origin, subtrees in kept.items() for subtree in subtrees}
    for found in list_replicas(pool):
        if (found.origin, found.subtree) in wanted:
            continue
        ReplicaCopy(pool, found.origin, found.subtree).remove()
        for origin, subtree in wanted:
            if origin == found.origin and (subtree + "/").startswith(found.subtree.rstrip("/") + "/"):
                ReplicaCopy(pool, origin, subtree).begin_again()  # it was a part of what was removed


def list_replicas(pool: ConnectionPool) -> list[pb.Replica]:
    """Return the copies on this service, and the position of each."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT origin, subtree, sequence, copying, copied_path, copied_key, head,"
            " coalesce(extract(epoch FROM now() - current_at), -1)::float8, problem FROM replica ORDER BY origin, subtree"
        )
        return [
            pb.Replica(
                origin=origin,
                subtree=subtree,
                position=pb.FeedPosition(sequence=sequence, copying=copying, path=path, key=key),
                head=head,
                lag_seconds=lag,
                problem=problem,
            )
            for origin, subtree, sequence, copying, path, key, head, lag, problem in rows
        ]


def _position(connection: psycopg.Connection, key: tuple[str, str]) -> pb.FeedPosition:
    row = connection.execute(
        "SELECT sequence, copying, copied_path, copied_key FROM replica WHERE (origin, subtree) = (%s, %s) FOR UPDATE", key
    ).fetchone()
    assert row is not None
    sequence, copying, path, after = row
    return pb.FeedPosition(sequence=sequence, copying=copying, path=path, key=after)
