"""The ACLs that a site's configuration describes."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from mdm_service.access.acl import Acl, AclEntry

from mdm_dicom_srm.register.rules.names import Names

#: ACLs of the site itself; `private` has no entries, so that only this service has rights under it.
SITE_ACLS = ("directory", "collection", "patients", "private")


class SiteAcls:
    """Makes ACLs from entries by kind: `study` and those of `SITE_ACLS`. An empty owner stands for this service."""

    def __init__(self, names: Names, entries: Mapping[str, Sequence[AclEntry]]) -> None:
        self._names = names
        self._entries = entries

    def site(self) -> list[Acl]:
        """Return the ACLs that exist once per site."""
        return [Acl(self._names.site_acl(name), "", tuple(self._entries.get(name, ()))) for name in SITE_ACLS]

    def study(self, acl_id: UUID) -> Acl:
        """Return the ACL that a new study starts with."""
        return Acl(acl_id, "", tuple(self._entries.get("study", ())))
