"""Permissions and principals of access control lists, as they are stored, sent and typed."""

from enum import IntFlag

from mdm_wire.errors import Invalid

AUTHENTICATED = "authenticated"


class Permission(IntFlag):
    """The eight permissions of Fireman and Hydra, with their bit values."""

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


#: The letter of each permission, in the order they are printed.
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


def parse_permissions(text: str) -> Permission:
    """Return the permissions that letters such as `rlxg` name.

    Raises:
        Invalid: PERMISSION_UNKNOWN: a letter is not one of `pdrwlxgs`.
    """
    granted = Permission.NONE
    for letter in text:
        if letter not in LETTERS:
            raise Invalid("PERMISSION_UNKNOWN", f"{letter!a}: permissions are letters of {''.join(LETTERS)}, such as rlxg")
        granted |= LETTERS[letter]
    return granted


def format_permissions(permissions: int) -> str:
    """Return the letters of a bit set, in the order `pdrwlxgs`."""
    return "".join(letter for letter, bit in LETTERS.items() if permissions & bit)


def valid_permissions(bits: int) -> Permission:
    """Return a bit set as permissions.

    Raises:
        Invalid: PERMISSION_UNKNOWN: a bit beyond the eight is set.
    """
    if not 0 <= bits <= Permission.ALL:
        raise Invalid("PERMISSION_UNKNOWN", "Unknown permission bit: the bits are 1 to 128.")
    return Permission(bits)


def canonical_principal(text: str) -> str:
    """Return a principal in canonical form; a DN is canonicalised, a group must be absolute.

    Raises:
        Invalid: PRINCIPAL_MALFORMED: it is none of `dn:…`, `group:/…`, `authenticated`; or the DN is malformed.
    """
    kind, _, value = text.partition(":")
    if text == AUTHENTICATED:
        return text
    if kind == "dn" and value:
        from mdm_wire import dn  # whoever only lists files needs no X.509

        return f"dn:{dn.canonical(value)}"
    if kind == "group" and value.startswith("/") and value.isprintable():
        return f"group:{value}"
    raise Invalid("PRINCIPAL_MALFORMED", "Not a principal: write dn:CN=…, group:/vo/group or authenticated.")
