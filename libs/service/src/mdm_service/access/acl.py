"""The one access control model of catalog, keystore and metadata: lists, how they change, and how a configuration writes them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Annotated, NamedTuple
from uuid import UUID

from mdm_wire.dn import canonical
from mdm_wire.errors import FailedPrecondition, Forbidden, Invalid, MdmError, NotFound
from mdm_wire.permission import Permission, canonical_principal, parse_permissions
from pydantic import AfterValidator, Field

from mdm_service.identity.caller import Caller
from mdm_service.settings import Section

MAX_ENTRIES = 300
#: Counting stops here: a refusal need not know more, and a list may guard millions.
MOST_COUNTED = 10_000
#: The ACL of the root of a service's tree always has this id; the configuration decides what is in it.
ROOT_ACL_ID = UUID("00000000-0000-4000-8000-000000000001")


#: What a job may do at most.
READING = Permission.READ | Permission.TRAVERSE | Permission.LIST | Permission.GET


@dataclass(frozen=True)
class AclEntry:
    """What one principal (`dn:…`, `group:/…` or `authenticated`) may do."""

    principal: str
    permissions: Permission


@dataclass(frozen=True)
class Acl:
    """An access control list; its owner has every permission."""

    id: UUID
    owner: str
    entries: tuple[AclEntry, ...] = ()
    rev: int = 1

    def permissions_of(self, caller: Caller) -> Permission:
        """Return every permission for the owner, else the union of all entries that name the caller.

        This is the definition. The SQL function `acl_permissions` (acl_migrations) states the same rule for questions about many rows.
        """
        if caller.dn == self.owner:
            return narrowed(Permission.ALL, caller, self.id)
        granted = Permission.NONE
        for entry in self.entries:
            if entry.principal in caller.principals:
                granted |= entry.permissions
        return narrowed(granted, caller, self.id)


def narrowed(granted: Permission, caller: Caller, acl_id: UUID, otherwise: Permission = Permission.NONE) -> Permission:
    """Return what counts of the permissions that a list grants the user `caller.dn`.

    For the user itself that is everything. A job only reads, and where its delegation leaves the list out, only what is in `otherwise`.
    """
    if caller.delegation is None:
        return granted
    return granted & (READING if caller.guards(acl_id) else otherwise)


class AclUse(NamedTuple):
    """How many objects a list guards: those that a change is meant for, and others. Both are counted up to `MOST_COUNTED`."""

    meant: int = 0
    others: int = 0

    @classmethod
    def of_one(cls, total: int) -> "AclUse":
        """Return the use of a list by `total` objects where a change is meant for one of them."""
        return cls(min(total, 1), max(total - 1, 0))


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
    """Changes to lists, in order, and whether they may affect objects that they are not meant for.

    `check_owner` raises Invalid for a DN that no authority may sign; see `Authenticator.check_owner`.
    """

    changes: Sequence[AclChange]
    check_owner: Callable[[str], None]
    shared: bool = False

    def apply(self, acl: Acl | None, caller: Caller, use: AclUse) -> Acl:
        """Return the ACL after the changes; the same object if nothing changes.

        A list that guards more than the changes are meant for stays as it is unless they are `shared`. After a change
        of a list that guards anything, the caller must still control it, as owner or by `p`: a new owner may not exist.

        Raises:
            NotFound: the ACL does not exist, or the caller may not see it. Forbidden: the caller may not make this change.
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
                "You would no longer control this list, and perhaps nobody would: keep `p`; its new owner can revoke it.",
            )
        return after


def acl_shared(others: int) -> MdmError:
    """Return the refusal to change a list that guards `others` more objects than the change is meant for.

    The number reveals nothing new: who holds `p` on a list may grant itself access to all objects that it guards.
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


def _checked(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator that keeps what `parse` accepts, in its canonical form where it has one."""

    def check(value: str) -> str:
        try:
            parsed = parse(value)
        except MdmError as error:
            raise ValueError(error.message) from None
        return parsed if isinstance(parsed, str) else value

    return AfterValidator(check)


class AclEntrySettings(Section):
    """What one principal may do: a principal as in an ACL and letters of `pdrwlxgs`."""

    principal: Annotated[str, _checked(canonical_principal)]
    permissions: Annotated[str, Field(min_length=1), _checked(parse_permissions)]


def _once(entries: tuple[AclEntrySettings, ...]) -> tuple[AclEntrySettings, ...]:
    if len({entry.principal for entry in entries}) != len(entries):
        raise ValueError("a principal has at most one entry")
    return entries


#: The entries of one ACL, at most one per principal.
AclEntries = Annotated[tuple[AclEntrySettings, ...], Field(max_length=300), AfterValidator(_once)]


class RootSettings(Section):
    """The ACL of the root of a service's tree, inherited below unless another one is given."""

    owner: Annotated[str, _checked(canonical)]
    entries: AclEntries = ()

    def acl(self) -> Acl:
        """Return the ACL these settings describe."""
        return Acl(ROOT_ACL_ID, self.owner, acl_entries(self.entries))


def acl_entries(settings: Iterable[AclEntrySettings]) -> tuple[AclEntry, ...]:
    """Return configured entries as those of an ACL, in order of principal."""
    entries = (AclEntry(entry.principal, parse_permissions(entry.permissions)) for entry in settings)
    return tuple(sorted(entries, key=lambda entry: entry.principal))
