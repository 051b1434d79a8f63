"""Changing access control lists: the same rules for one list and for all of a subtree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from mdm_wire.errors import Forbidden, Invalid, NotFound
from mdm_wire.permission import Permission

from mdm_service.access.acl import Acl, AclEntry
from mdm_service.identity.caller import Caller


class Action(IntEnum):
    """What a change does, numbered as in the protocol."""

    GRANT = 1
    REVOKE = 2
    SET = 3
    SET_OWNER = 4


@dataclass(frozen=True)
class AclChange:
    """What to do with a principal's entry; for SET_OWNER the principal becomes the owner."""

    action: Action
    entry: AclEntry


def changed(acl: Acl | None, caller: Caller, changes: Sequence[AclChange]) -> Acl:
    """Return the ACL after the changes, the same one if they change nothing.

    Raises:
        NotFound: there is none, or the caller may not see it. Forbidden: it may not change it so. Invalid: an owner is no DN.
    """
    granted = acl.permissions_of(caller) if acl else Permission.NONE
    if acl is None or not granted & (Permission.GET | Permission.CHANGE_ACL):
        raise NotFound("ACL_NOT_FOUND", "No such ACL, or you may not see it.")
    if not granted & Permission.CHANGE_ACL:
        raise Forbidden("ACL_CHANGE_FORBIDDEN", "You may not change this ACL: its owner or a holder of `p` may.")
    owner = _owner_after(acl.owner, changes)
    if owner != acl.owner and caller.dn != acl.owner:
        raise Forbidden("ACL_OWNER_FORBIDDEN", "Only the owner of an ACL may give it to another one.")
    entries = _entries_after(acl.entries, changes)
    if set(entries) == set(acl.entries) and owner == acl.owner:
        return acl
    return replace(acl, owner=owner, entries=tuple(sorted(entries, key=lambda entry: entry.principal)))


def _entries_after(entries: Iterable[AclEntry], changes: Iterable[AclChange]) -> list[AclEntry]:
    """Return the entries after granting, revoking and setting in order."""
    granted = {entry.principal: entry.permissions for entry in entries}
    for change in changes:
        principal, permissions = change.entry.principal, change.entry.permissions
        before = granted.get(principal, Permission.NONE)
        if change.action == Action.GRANT:
            granted[principal] = before | permissions
        elif change.action == Action.REVOKE:
            granted[principal] = before & ~permissions
        elif change.action == Action.SET:
            granted[principal] = permissions
    return [AclEntry(principal, permissions) for principal, permissions in granted.items() if permissions]


def _owner_after(owner: str, changes: Iterable[AclChange]) -> str:
    """Return who owns the ACL after the changes."""
    for change in changes:
        if change.action == Action.SET_OWNER:
            kind, _, owner = change.entry.principal.partition(":")
            if kind != "dn":
                raise Invalid("ACL_OWNER_MALFORMED", "An owner is a DN: write dn:CN=….")
    return owner
