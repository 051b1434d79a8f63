"""The syntax of names that people type: LFNs, GUIDs, SURLs, principals, permission letters."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from mdm.catalog.v1.catalog_pb2 import Target
from mdm_wire import permission
from mdm_wire.errors import Invalid
from mdm_wire.path import parse
from mdm_wire.permission import AUTHENTICATED, LETTERS
from mdm_wire.url import SURL_SCHEME, surl_authority

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Words for sets of permissions.
_WORDS = {"read": "rlxg", "write": "wdsrlxg", "all": "prwlxgsd", "none": ""}
_ACL_CHANGE = re.compile(rf"(.+)([+=-])({'|'.join(_WORDS)}|[{''.join(LETTERS)}]*)")


@dataclass(frozen=True)
class Name:
    """The name of an object: exactly one of the fields is set."""

    lfn: str = ""
    guid: UUID | None = None
    surl: str = ""

    def __str__(self) -> str:
        return self.lfn or self.surl or str(self.guid)

    def to_proto(self) -> Target:
        if self.lfn:
            return Target(lfn=self.lfn)
        return Target(surl=self.surl) if self.surl else Target(guid=str(self.guid))


def parse_name(text: str) -> Name:
    """Return the name in a text: an absolute path is an LFN, a UUID a GUID, `srm://…` a SURL.

    Raises:
        Invalid: NAME_MALFORMED or LFN_MALFORMED.
    """
    if text.startswith("/"):
        return Name(lfn=normalise_lfn(text))
    if _GUID.fullmatch(text):
        return Name(guid=UUID(text))
    if text.startswith(f"{SURL_SCHEME}://"):
        surl_authority(text)
        return Name(surl=text)
    raise Invalid("NAME_MALFORMED", f"{_shown(text)}: neither an LFN (/vo/…) nor a GUID nor a SURL (srm://…)")


def normalise_lfn(text: str) -> str:
    """Return an LFN in normal form: UTF-8 NFC, no double or trailing slashes.

    Raises:
        Invalid: LFN_MALFORMED: the text breaks a rule of `mdm_wire.path.parse`.
    """
    path = unicodedata.normalize("NFC", text)
    root = "/" if path.startswith("/") else ""
    try:
        return parse(root + "/".join(name for name in path.split("/") if name))
    except Invalid as error:
        raise Invalid("LFN_MALFORMED", f"{_shown(text)}: {error.message}") from None


def parse_principal(text: str) -> str:
    """Return a principal of an ACL entry: `dn:…`, `group:/…` or `authenticated`.

    The text may also be a DN alone (RFC 4514 or slash form) or a group alone (`/vo/group`).

    Raises:
        Invalid: PRINCIPAL_MALFORMED.
    """
    if text == AUTHENTICATED:
        return text
    kind, colon, value = text.partition(":")
    if not colon or kind not in ("dn", "group"):
        kind, value = ("dn" if "=" in text else "group"), text
    plausible = "=" in value if kind == "dn" else value.startswith("/") and len(value) > 1
    if not plausible or not value.isprintable():
        raise Invalid("PRINCIPAL_MALFORMED", f"{_shown(text)}: not a principal; write dn:CN=…,O=…, group:/vo/group or authenticated")
    return f"{kind}:{value}"


def parse_permissions(letters: str) -> int:
    """Return the bits of permissions in letters, such as `rlxg`.

    Raises:
        Invalid: PERMISSION_UNKNOWN: there is no letter, or one that is not one of `prwlxgsd`.
    """
    if not letters or not set(letters) <= set(LETTERS):
        raise Invalid("PERMISSION_UNKNOWN", f"{_shown(letters)}: permissions are letters of prwlxgsd, such as rlxg")
    return int(permission.parse_permissions(letters))


def parse_acl_change(text: str) -> tuple[str, str, int]:
    """Return principal, operator and permissions of a short form such as `group:/vo/group+rl`, `authenticated=`, `dn:CN=…-write`.

    The operator is the last of `+` (grant), `-` (revoke) and `=` (set) in `text`; permissions are letters, or one of
    the words `read` (rlxg), `write` (wdsrlxg), `all`, `none`.

    Raises:
        Invalid: ACL_CHANGE_MALFORMED, PRINCIPAL_MALFORMED, PERMISSION_UNKNOWN.
    """
    match = _ACL_CHANGE.fullmatch(text)
    if not match:
        form = "PRINCIPAL+PERMISSIONS, PRINCIPAL-PERMISSIONS or PRINCIPAL=PERMISSIONS"
        raise Invalid("ACL_CHANGE_MALFORMED", f"{_shown(text)}: write {form}")
    who, operator, what = match.groups()
    letters = _WORDS.get(what, what)
    if not letters and operator != "=":
        raise Invalid("PERMISSION_UNKNOWN", f"{_shown(text)}: no permissions after {operator}")
    return parse_principal(who), operator, parse_permissions(letters) if letters else 0


def parse_names(texts: Sequence[str]) -> list[Name]:
    """Return the name in each text; errors as `parse_name`."""
    return [parse_name(text) for text in texts]


def _shown(text: str) -> str:
    printable = ascii(text)[1:-1] if not text.isprintable() else text
    return printable if len(printable) <= 100 else printable[:97] + "…"
