"""What access control lists guard in the metadata."""

from uuid import UUID

import psycopg
from mdm_service.access.use import MOST_COUNTED, AclScope, AclUse, of_one

from mdm_metadata.rules.model import fold_path

# A collection counts once, whether the list guards it or what is made in it. Entries are counted collection by collection, so that the
# millions of one that is meant are not read to find the others.
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
    """Counts collections, views and entries; see `mdm_service.access.use.AclUses`."""

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return what an ACL guards: what is meant by the scope and others, without a scope one and others.

        A collection stands for what is in it and below it, unless the scope names keys: then for these entries alone.
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
        return AclUse(*row) if path else of_one(row[1])
