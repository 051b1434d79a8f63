"""GUIDs and URLs of files: the storage URL (SURL) that the catalog keeps, the transfer URL (TURL) of a pinned file."""

import re
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

from mdm_wire import path
from mdm_wire.errors import Invalid
from mdm_wire.path import Lfn

SURL_SCHEME = "srm"
#: The one transfer protocol: a stream of TransferService over gRPC.
TURL_SCHEME = "mdm+grpc"
MAX_SURL_BYTES = 1023
#: Of a SURL by name: an LFN's bytes are three characters each where they are percent-encoded.
MAX_NAMED_SURL_BYTES = 4096

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The name of an instance, and of its worker, then 256 random bits.
_TOKEN = re.compile(r"([a-z0-9][a-z0-9-]{0,62}(?:\.[0-9]{1,3})?-)?([A-Za-z0-9_-]{43})")
_SURL = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9A-Fa-f:.]+\]|[^/\s:\[\]]+)(:[0-9]{1,5})?/[^\s\x00-\x1f\x7f-\x9f]*")


def canonical_uuid(text: str) -> UUID | None:
    """Return the UUID that `text` is in canonical form (36 characters, lower case), None if it is not one."""
    return UUID(text) if _UUID.fullmatch(text) else None


def surl(authority: str, guid: UUID) -> str:
    """Return the storage URL of a file of the site `authority`."""
    return f"{SURL_SCHEME}://{authority}/{guid}"


def check_surl(text: str) -> str:
    """Return `text`, a storage URL of any scheme.

    Raises:
        Invalid: SURL_INVALID: it is not `scheme://authority/path` of at most 1,023 bytes without spaces.
    """
    if len(text.encode()) > MAX_SURL_BYTES or not _SURL.fullmatch(text):
        raise Invalid("SURL_INVALID", f"surl must be scheme://authority/path of at most {MAX_SURL_BYTES:,} bytes without spaces.")
    return text


def guid_of_surl(authority: str, text: str) -> UUID | None:
    """Return the GUID in a SURL of `authority`; None if `text` is not such a SURL in canonical form."""
    prefix = f"{SURL_SCHEME}://{authority}/"
    return canonical_uuid(text[len(prefix) :]) if text.startswith(prefix) else None


def surl_of_lfn(authority: str, lfn: str) -> str:
    """Return the SURL by name of what the catalog has at a path; names are percent-encoded (RFC 3986)."""
    return f"{SURL_SCHEME}://{authority}{quote(lfn)}"


def lfn_of_surl(authority: str, text: str) -> Lfn | None:
    """Return the path that a SURL of `authority` names; None if it is none."""
    prefix = f"{SURL_SCHEME}://{authority}/"
    if not text.startswith(prefix) or len(text) > MAX_NAMED_SURL_BYTES or not text.isascii():
        return None
    try:
        return path.parse(unquote_to_bytes(text[len(prefix) - 1 :]).decode().rstrip("/") or "/")
    except (UnicodeDecodeError, Invalid):
        return None


def surl_authority(text: str) -> str:
    """Return the site that a SURL `srm://site/guid` names.

    Raises:
        Invalid: SURL_MALFORMED.
    """
    return _authority(text, SURL_SCHEME, "SURL")


def is_token(text: str) -> bool:
    """Return whether a text can be a request token."""
    return _TOKEN.fullmatch(text) is not None


def token_instance(token: str) -> str:
    """Return the instance that a request token names, without the number of its worker; empty if it names none."""
    match = _TOKEN.fullmatch(token)
    return (match[1] or "")[:-1].partition(".")[0] if match else ""


def turl_token(text: str) -> str:
    """Return what stands for the token in a TURL; empty if there is nothing."""
    return text.removeprefix(f"{TURL_SCHEME}://").partition("/")[2].partition("/")[0]


def turl(authority: str, token: str, guid: UUID) -> str:
    """Return the transfer URL of a pinned file."""
    return f"{TURL_SCHEME}://{authority}/{token}/{guid}"


def parse_turl(authority: str, text: str) -> tuple[str, UUID]:
    """Return token and GUID of a transfer URL.

    Raises:
        Invalid: BAD_TURL: it is not a transfer URL of this site.
    """
    prefix = f"{TURL_SCHEME}://{authority}/"
    token, _, name = text[len(prefix) :].partition("/")
    guid = canonical_uuid(name)
    if not text.startswith(prefix) or not _TOKEN.fullmatch(token) or guid is None:
        raise Invalid("BAD_TURL", f"Not a transfer URL of this site; they look like {prefix}TOKEN/GUID.", fields={"turl": "malformed"})
    return token, guid


def turl_authority(text: str) -> str:
    """Return the site that a TURL `mdm+grpc://site/token/guid` names.

    Raises:
        Invalid: TURL_MALFORMED, also for another protocol.
    """
    return _authority(text, TURL_SCHEME, "TURL")


def _authority(url: str, scheme: str, kind: str) -> str:
    authority, slash, rest = url.removeprefix(f"{scheme}://").partition("/")
    if not url.startswith(f"{scheme}://") or not authority or not slash or not rest:
        shown = url if url.isprintable() else ascii(url)[1:-1]
        raise Invalid(f"{kind}_MALFORMED", f"{shown[:100]}: not a {kind} of the form {scheme}://site/…")
    return authority
