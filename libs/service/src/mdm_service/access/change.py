"""Changing access control lists: the same rules for one list and for all of a subtree."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from mdm_wire.errors import FailedPrecondition, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission

from mdm_service.access.acl import Acl, AclEntry
from mdm_service.access.use import MOST_COUNTED, AclUse
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


@dataclass(frozen=True)
class AclEdit:
    """Changes to lists, in order, and whether they may reach what they are not meant for.

    `check_owner` raises Invalid for a DN that no authority may sign; see `Authenticator.check_owner`.
    """

    changes: Sequence[AclChange]
    check_owner: Callable[[str], None]
    shared: bool = False

    def apply(self, acl: Acl | None, caller: Caller, use: AclUse) -> Acl:
        """Return the ACL after the changes, the same one if they change nothing.

        A list that guards more than the changes are meant for stays as it is unless they are `shared`. Who changes a list that guards
        anything still controls it afterwards, as owner or by `p`: the changer is known to exist, a new owner is not.

        Raises:
            NotFound: it does not exist, or the caller may not see it. Forbidden: it may not change it so.
            FailedPrecondition: ACL_SHARED, or ACL_CONTROL_LOST. Invalid: an owner is no DN, or no authority may sign it.
        """
        granted = acl.permissions_of(caller) if acl else Permission.NONE
        if acl is None or not granted & (Permission.GET | Permission.CHANGE_ACL):
            raise NotFound("ACL_NOT_FOUND", "No such ACL, or you may not see it.")
        if not granted & Permission.CHANGE_ACL:
            raise Forbidden("ACL_CHANGE_FORBIDDEN", "You may not change this ACL: its owner or a holder of `p` may.")
        if use.others and not self.shared:
            raise acl_shared(use.others)
        owner = _owner_after(acl.owner, self.changes)
        if owner != acl.owner:
            if caller.dn != acl.owner:
                raise Forbidden("ACL_OWNER_FORBIDDEN", "Only the owner of an ACL may give it to another one.")
            self.check_owner(owner)
        entries = _entries_after(acl.entries, self.changes)
        if set(entries) == set(acl.entries) and owner == acl.owner:
            return acl
        after = replace(acl, owner=owner, entries=tuple(sorted(entries, key=lambda entry: entry.principal)))
        if use != AclUse() and not after.permissions_of(caller) & Permission.CHANGE_ACL:
            raise FailedPrecondition(
                "ACL_CONTROL_LOST",
                "You would no longer control this list, and nobody is sure to: keep `p`; who gets the list can take it from you.",
            )
        return after


def acl_shared(others: int) -> MdmError:
    """Return the refusal to change a list that guards `others` more objects than the change is meant for.

    The number reveals nothing new: who holds `p` on a list may grant itself the sight of all that it guards.
    """
    number = f"{others}" if others < MOST_COUNTED else f"at least {MOST_COUNTED}"
    objects = "other object" if others == 1 else "other objects"
    remedy = "--own gives this one a list of its own, --shared changes it for all"
    return FailedPrecondition("ACL_SHARED", f"This list guards {number} {objects} too and was left as it is: {remedy}.")


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
