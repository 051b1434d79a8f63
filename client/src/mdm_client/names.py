"""What people type: LFNs, GUIDs, SURLs, principals, permission letters."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from mdm.catalog.v1.catalog_pb2 import Target
from mdm_wire import permission
from mdm_wire.errors import Invalid
from mdm_wire.path import MAX_NAME_BYTES, MAX_PATH_BYTES
from mdm_wire.permission import AUTHENTICATED, LETTERS
from mdm_wire.url import SURL_SCHEME, surl_authority

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# What people mean more often than single letters.
_WORDS = {"read": "rlxg", "write": "wdsrlxg", "all": "prwlxgsd", "none": ""}
_ACL_CHANGE = re.compile(rf"(.+)([+=-])({'|'.join(_WORDS)}|[{''.join(LETTERS)}]*)")


@dataclass(frozen=True)
class Name:
    """One object as it was named: exactly one of the fields is set."""

    lfn: str = ""
    guid: UUID | None = None
    surl: str = ""

    def __str__(self) -> str:
        return self.lfn or self.surl or str(self.guid)

    def to_proto(self) -> Target:
        """Return the catalog's message for it."""
        if self.lfn:
            return Target(lfn=self.lfn)
        return Target(surl=self.surl) if self.surl else Target(guid=str(self.guid))


def parse_name(text: str) -> Name:
    """Return what `text` names: an absolute path is an LFN, a UUID a GUID, `srm://…` a SURL.

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
        Invalid: LFN_MALFORMED: not absolute, `.` or `..`, control characters, or too long (1,023 bytes, 255 a name).
    """
    path = unicodedata.normalize("NFC", text)
    if not path.startswith("/"):
        raise _bad_lfn(text, "must begin with /")
    names = [name for name in path.split("/") if name]
    if any(name in (".", "..") for name in names):
        raise _bad_lfn(text, "may not contain . or ..")
    try:
        sizes = [len(name.encode()) for name in names]
    except UnicodeEncodeError:
        raise _bad_lfn(text, "is not valid UTF-8") from None
    if any(unicodedata.category(character) == "Cc" for character in path):
        raise _bad_lfn(text, "may not contain control characters")
    if sum(sizes) + len(sizes) > MAX_PATH_BYTES or max(sizes, default=0) > MAX_NAME_BYTES:
        raise _bad_lfn(text, f"is too long: at most {MAX_PATH_BYTES:,} bytes, {MAX_NAME_BYTES} in each name")
    return "/" + "/".join(names)


def parse_principal(text: str) -> str:
    """Return a principal of an ACL entry: `dn:…`, `group:/…` or `authenticated`.

    A bare DN (RFC 4514 or slash form) and a bare group (`/vo/group`) are understood.

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
    """Return the bit set that letters such as `rlxg` name.

    Raises:
        Invalid: PERMISSION_UNKNOWN: no letter, or one that is not among `prwlxgsd`.
    """
    if not letters or not set(letters) <= set(LETTERS):
        raise Invalid("PERMISSION_UNKNOWN", f"{_shown(letters)}: permissions are letters of prwlxgsd, such as rlxg")
    return int(permission.parse_permissions(letters))


def parse_acl_change(text: str) -> tuple[str, str, int]:
    """Return principal, operator and permissions of a short form such as `group:/vo/group+rl`, `authenticated=`, `dn:CN=…-write`.

    The operator is the last of `+` (allow too), `-` (take away), `=` (make it all) in `text`; permissions are letters, or one of
    the words `read` (rlxg), `write` (wdsrlxg), `all`, `none`.

    Raises:
        Invalid: ACL_CHANGE_MALFORMED, PRINCIPAL_MALFORMED, PERMISSION_UNKNOWN.
    """
    match = _ACL_CHANGE.fullmatch(text)
    if not match:
        raise Invalid(
            "ACL_CHANGE_MALFORMED", f"{_shown(text)}: write PRINCIPAL+PERMISSIONS, PRINCIPAL-PERMISSIONS or PRINCIPAL=PERMISSIONS"
        )
    who, operator, what = match.groups()
    letters = _WORDS.get(what, what)
    if not letters and operator != "=":
        raise Invalid("PERMISSION_UNKNOWN", f"{_shown(text)}: no permissions after {operator}")
    return parse_principal(who), operator, parse_permissions(letters) if letters else 0


def parse_names(texts: Sequence[str]) -> list[Name]:
    """Return what each text names; errors as `parse_name`."""
    return [parse_name(text) for text in texts]


def _bad_lfn(text: str, why: str) -> Invalid:
    return Invalid("LFN_MALFORMED", f"{_shown(text)}: an LFN {why}")


def _shown(text: str) -> str:
    printable = ascii(text)[1:-1] if not text.isprintable() else text
    return printable if len(printable) <= 100 else printable[:97] + "…"
