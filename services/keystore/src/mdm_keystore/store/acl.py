"""What access control lists guard in a keystore."""

from uuid import UUID

import psycopg
from mdm_service.access.use import MOST_COUNTED, AclScope, AclUse, of_one

# A key that a round is moving here counts, though it is only prepared.
_COUNT = """
WITH used (guid) AS (
    SELECT guid FROM key_share WHERE acl_id = %(acl)s
    UNION
    SELECT guid FROM share_prepared p WHERE acl_id = %(acl)s AND NOT EXISTS (SELECT FROM key_share k WHERE k.guid = p.guid)
)
SELECT (SELECT count(*) FROM used WHERE guid::text = ANY (%(keys)s)),
       (SELECT count(*) FROM (SELECT FROM used WHERE guid::text <> ALL (%(keys)s) LIMIT %(most)s) other)
"""


class KeyAclUses:
    """Counts keys; see `mdm_service.access.use.AclUses`."""

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return how many keys an ACL guards: those of the scope and others, without a scope one and others."""
        row = connection.execute(_COUNT, {"acl": acl_id, "keys": list(scope.keys), "most": MOST_COUNTED}).fetchone()
        assert row is not None
        return AclUse(*row) if scope.keys else of_one(row[1])
