"""The one access control model of catalog, keystore and metadata."""

from dataclasses import dataclass
from uuid import UUID

from mdm_wire.permission import Permission

from mdm_service.identity.caller import Caller

MAX_ENTRIES = 300


@dataclass(frozen=True)
class AclEntry:
    """What one principal (`dn:…`, `group:/…` or `authenticated`) may do."""

    principal: str
    permissions: Permission


@dataclass(frozen=True)
class Acl:
    """An access control list; its owner holds every permission."""

    id: UUID
    owner: str
    entries: tuple[AclEntry, ...] = ()
    rev: int = 1

    def permissions_of(self, caller: Caller) -> Permission:
        """Return the union of every entry that names the caller, everything for the owner."""
        if caller.dn == self.owner:
            return Permission.ALL
        granted = Permission.NONE
        for entry in self.entries:
            if entry.principal in caller.principals:
                granted |= entry.permissions
        return granted
