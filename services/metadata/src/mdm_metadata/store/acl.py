"""Access control lists in the metadata database: callers' permissions, and the objects that each list guards."""

from collections.abc import Iterable
from uuid import UUID

import psycopg
from mdm_service.access import store as acl_store
from mdm_service.access.acl import MOST_COUNTED, Acl, AclUse
from mdm_service.access.store import AclScope
from mdm_service.identity.caller import Caller

from mdm_metadata.rules.model import fold_path

# A collection counts once, whether the ACL guards it or is its default ACL. Entries are counted collection by collection, so that the
# millions of entries of the collection in the scope are not read to find others.
_COUNT = """
WITH place AS (
    SELECT id, acl_id, default_acl_id, folded_path = %(path)s AS is_top,
           folded_path = %(path)s OR starts_with(folded_path, %(below)s) AS is_inside
    FROM collection
), used AS (
    (SELECT is_inside AND NOT %(by_key)s AS is_meant FROM place WHERE acl_id = %(acl)s OR default_acl_id = %(acl)s LIMIT %(most)s)
    UNION ALL
    (SELECT false FROM place p CROSS JOIN LATERAL (
        SELECT FROM entry e
        WHERE e.acl_id = %(acl)s AND e.collection_id = p.id AND NOT (%(by_key)s AND p.is_top AND e.key = ANY (%(keys)s))
        LIMIT %(most)s
    ) other WHERE %(by_key)s OR NOT is_inside LIMIT %(most)s)
    UNION ALL
    (SELECT true FROM place p CROSS JOIN LATERAL (
        SELECT FROM entry e
        WHERE e.acl_id = %(acl)s AND e.collection_id = p.id AND (NOT %(by_key)s OR e.key = ANY (%(keys)s))
        LIMIT 1
    ) meant WHERE CASE WHEN %(by_key)s THEN is_top ELSE is_inside END LIMIT 1)
)
SELECT count(*) FILTER (WHERE is_meant), least(count(*) FILTER (WHERE NOT is_meant), %(most)s) FROM used
"""


class MetadataAclUses:
    """Counts collections, views and entries; see `mdm_service.access.store.AclUses`."""

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return how many objects an ACL guards within the scope and outside it; without a scope, one and the others.

        A collection includes what is in it and below it, unless the scope names keys: then it is these entries alone.
        """
        path = fold_path(scope.path)
        values = {
            "acl": acl_id,
            "path": path,
            "below": path.rstrip("/") + "/",
            "by_key": bool(scope.keys) or not path,
            "keys": list(scope.keys),
            "most": MOST_COUNTED,
        }
        row = connection.execute(_COUNT, values).fetchone()
        assert row is not None
        return AclUse(*row) if path else AclUse.of_one(row[1])


def permissions(connection: psycopg.Connection, ids: Iterable[UUID], caller: Caller) -> dict[UUID, int]:
    """Return the caller's permissions under each ACL that exists."""
    wanted = list(ids)
    if not wanted:
        return {}
    rows = connection.execute(
        "SELECT id, acl_permissions(id, %s, %s) FROM acl WHERE id = ANY (%s) FOR KEY SHARE",
        (caller.dn, sorted(caller.principals), wanted),
    )
    return dict(rows.fetchall())


def ensure_root(connection: psycopg.Connection, acl: Acl) -> None:
    """Create the root collection if it is missing, under exactly this ACL."""
    acl_store.ensure(connection, acl)
    connection.execute(
        "INSERT INTO collection (path, folded_path, acl_id, default_acl_id) VALUES ('/', '/', %(acl)s, %(acl)s)"
        " ON CONFLICT (folded_path) DO UPDATE SET acl_id = excluded.acl_id, default_acl_id = excluded.default_acl_id",
        {"acl": acl.id},
    )
