"""The one access control model of catalog, keystore and metadata."""

from dataclasses import dataclass
from enum import IntFlag
from uuid import UUID

from mdm_wire import dn
from mdm_wire.errors import Invalid

from mdm_service.identity.caller import Caller

MAX_ENTRIES = 300
AUTHENTICATED = "authenticated"


class Permission(IntFlag):
    """The eight permissions of Fireman and Hydra, with their bit values and letters."""

    NONE = 0
    CHANGE_ACL = 1
    DELETE = 2
    READ = 4
    WRITE = 8
    TRAVERSE = 16
    LIST = 32
    GET = 64
    SET = 128
    ALL = 255


LETTERS = {
    "p": Permission.CHANGE_ACL,
    "d": Permission.DELETE,
    "r": Permission.READ,
    "w": Permission.WRITE,
    "l": Permission.LIST,
    "x": Permission.TRAVERSE,
    "g": Permission.GET,
    "s": Permission.SET,
}


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


def parse_permissions(text: str) -> Permission:
    """Return the permissions that letters such as `rlxg` name.

    Raises:
        Invalid: a letter is none of `prwdlxgs`.
    """
    granted = Permission.NONE
    for letter in text:
        if letter not in LETTERS:
            raise Invalid("PERMISSION_UNKNOWN", "Unknown permission letter: use p d r w l x g s.")
        granted |= LETTERS[letter]
    return granted


def format_permissions(permissions: Permission) -> str:
    """Return the letters of `permissions`, in the order `pdrwlxgs`."""
    return "".join(letter for letter, bit in LETTERS.items() if permissions & bit)


def canonical_principal(text: str) -> str:
    """Return a principal in canonical form; a DN is canonicalised, a group must be absolute.

    Raises:
        Invalid: it is none of `dn:…`, `group:/…`, `authenticated`.
    """
    kind, _, value = text.partition(":")
    if text == AUTHENTICATED:
        return text
    if kind == "dn" and value:
        return f"dn:{dn.canonical(value)}"
    if kind == "group" and value.startswith("/") and value.isprintable():
        return f"group:{value}"
    raise Invalid("PRINCIPAL_MALFORMED", "Not a principal: write dn:CN=…, group:/vo/group or authenticated.")


def valid_permissions(bits: int) -> Permission:
    """Return a bit set as permissions.

    Raises:
        Invalid: a bit beyond the eight is set.
    """
    if not 0 <= bits <= Permission.ALL:
        raise Invalid("PERMISSION_UNKNOWN", "Unknown permission bit: the bits are 1 to 128.")
    return Permission(bits)
