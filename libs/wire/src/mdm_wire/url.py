"""URLs of files: the storage URL (SURL) that the catalog keeps, the transfer URL (TURL) of a pinned file."""

import re
from uuid import UUID

from mdm_wire.errors import Invalid

SURL_SCHEME = "srm"
#: The one transfer protocol: a stream of TransferService over gRPC.
TURL_SCHEME = "mdm+grpc"
MAX_SURL_BYTES = 1023

_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_SURL = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9A-Fa-f:.]+\]|[^/\s:\[\]]+)(:[0-9]{1,5})?/[^\s\x00-\x1f\x7f-\x9f]*")


def surl(authority: str, guid: UUID) -> str:
    """Return the storage URL of a file of the site `authority`."""
    return f"{SURL_SCHEME}://{authority}/{guid}"


def check_surl(text: str) -> str:
    """Return a storage URL of any scheme.

    Raises:
        Invalid: SURL_INVALID: it is not `scheme://authority/path` of at most 1,023 bytes without spaces.
    """
    if len(text.encode()) > MAX_SURL_BYTES or not _SURL.fullmatch(text):
        raise Invalid("SURL_INVALID", f"surl must be scheme://authority/path of at most {MAX_SURL_BYTES:,} bytes without spaces.")
    return text


def guid_of_surl(authority: str, text: str) -> UUID | None:
    """Return the GUID in a SURL of `authority`; None if it is not one, in canonical form."""
    prefix = f"{SURL_SCHEME}://{authority}/"
    name = text[len(prefix) :]
    return UUID(name) if text.startswith(prefix) and _GUID.fullmatch(name) else None


def surl_authority(text: str) -> str:
    """Return the site that a SURL `srm://site/guid` names.

    Raises:
        Invalid: SURL_MALFORMED.
    """
    return _authority(text, SURL_SCHEME, "SURL")


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
    if not text.startswith(prefix) or not _TOKEN.fullmatch(token) or not _GUID.fullmatch(name):
        raise Invalid("BAD_TURL", f"Not a transfer URL of this site; they look like {prefix}TOKEN/GUID.", fields={"turl": "malformed"})
    return token, UUID(name)


def turl_authority(text: str) -> str:
    """Return the site that a TURL `mdm+grpc://site/token/guid` names.

    Raises:
        Invalid: TURL_MALFORMED, also for a protocol that is not spoken.
    """
    return _authority(text, TURL_SCHEME, "TURL")


def _authority(url: str, scheme: str, kind: str) -> str:
    authority, slash, rest = url.removeprefix(f"{scheme}://").partition("/")
    if not url.startswith(f"{scheme}://") or not authority or not slash or not rest:
        shown = url if url.isprintable() else ascii(url)[1:-1]
        raise Invalid(f"{kind}_MALFORMED", f"{shown[:100]}: not a {kind} of the form {scheme}://site/…")
    return authority
