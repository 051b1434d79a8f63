"""What access control lists guard in the catalog."""

from uuid import UUID

import psycopg
from mdm_service.access.use import AclScope, AclUse, of_one


class CatalogAclUses:
    """Counts files, directories and links; see `mdm_service.access.use.AclUses`.

    The scope is not read: who means more than one entry names a subtree, see `subtree.modify_acls`.
    """

    def count(self, connection: psycopg.Connection, acl_id: UUID, scope: AclScope) -> AclUse:
        """Return how many entries refer to an ACL, one of which is meant."""
        row = connection.execute(
            "SELECT coalesce(sum(files + directories + links + defaults), 0)::bigint FROM directory_content WHERE acl_id = %s", (acl_id,)
        ).fetchone()
        assert row is not None
        return of_one(row[0])
