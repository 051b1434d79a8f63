"""Parts of messages for curators and operators: moments, GUIDs, page tokens, elements and instances that wait."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from mdm.srm.v1 import curator_pb2 as pb
from mdm_wire.errors import Invalid

from mdm_dicom_srm.oversight.rules.curation import MAX_PAGE
from mdm_dicom_srm.oversight.rules.model import Element, GroupKey, Waiting


def timestamp(moment: datetime) -> Timestamp:
    """Return a moment as messages have it."""
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def waiting(item: Waiting) -> pb.QuarantinedInstance:
    """Return an instance that waits as a message."""
    return pb.QuarantinedInstance(guid=str(item.guid), reason=item.reason, since_time=timestamp(item.since))


def element(item: Element) -> pb.DicomElement:
    """Return a data element as a message."""
    return pb.DicomElement(tag=f"({item.tag >> 16:04X},{item.tag & 0xFFFF:04X})", keyword=item.keyword, value=item.value)


def is_full(page: Sequence[object], size: int) -> bool:
    """Return whether there may be another page."""
    return len(page) == (size or MAX_PAGE)


def group_key(token: str) -> GroupKey | None:
    """Return the place that a page token names, None for the first page.

    Raises:
        Invalid: it is none of ours.
    """
    name, _, reason = token.partition(":")
    return (digits(name, "page_token"), reason) if token else None


def digits(text: str, field: str) -> bytes:
    """Return the name of a series or kind.

    Raises:
        Invalid: it is none.
    """
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Invalid("SERIES_MALFORMED", "Not the name of a series or kind.", fields={field: "must be hexadecimal digits"}) from None


def number(token: str) -> int | None:
    """Return the number that a page token names, None for the first page.

    Raises:
        Invalid: it is none of ours.
    """
    if token and not (token.isascii() and token.isdecimal() and len(token) < 19):
        raise Invalid("PAGE_TOKEN_MALFORMED", "Not a page token.", fields={"page_token": "must come from a previous page"})
    return int(token) if token else None


def uuid(text: str, field: str) -> UUID:
    """Return a GUID.

    Raises:
        Invalid: it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("GUID_MALFORMED", "Not a GUID.", fields={field: "must be UUID text"}) from None
