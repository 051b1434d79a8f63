"""Headers of the instances that a PACS sends: `mdm_deid` reads them, and what it cannot read is `Invalid`."""

from collections.abc import Iterable, Iterator, Set
from typing import Final

from mdm_deid.encoding.element import skip
from mdm_deid.encoding.header import Header, meta_sop_instance, read_header
from mdm_deid.encoding.part10 import open_part10, uid_text
from mdm_deid.outcome import Malformed
from mdm_wire.errors import Invalid

_SOP_INSTANCE: Final = 0x00080018
_NOT_DICOM: Final = frozenset({"not_part10", "empty", "uncertain_encoding", "unknown_transfer_syntax"})
_TRUNCATED: Final = frozenset({"truncated", "too_large"})


def header_of(part10: bytes | memoryview) -> Header:
    """Return the header of a complete Part 10 file, see `read_header`.

    Raises:
        Invalid: NOT_DICOM, DICOM_TRUNCATED, DICOM_MALFORMED; the message holds nothing of the content.
    """
    try:
        return read_header(part10)
    except Malformed as error:
        raise _invalid(error) from None


def headers_of(files: Iterable[bytes | memoryview]) -> Iterator[Header]:
    """Yield the header of each file; those that are not DICOM are reported at the end, so that they do not hide the others.

    Raises:
        Invalid: as for `header_of`, the first such error.
    """
    trouble: Invalid | None = None
    for part10 in files:
        try:
            header = header_of(part10)
        except Invalid as error:
            trouble = trouble or error
        else:
            yield header
    if trouble is not None:
        raise trouble


def sop_instance_uid(part10: bytes | memoryview, wanted: Set[str]) -> str:
    """Return the SOP Instance UID of a file by its meta information, or by its data set if that one is not `wanted`.

    Returns "" for what is not DICOM.
    """
    try:
        uid = meta_sop_instance(part10)
        return uid if uid in wanted else read_header(part10).sop_uid
    except Malformed:
        return ""


def said_instance(part10: bytes | memoryview) -> str:
    """Return the SOP Instance UID of a file's data set, as a rule read no further than that; "" where it names none or cannot be read."""
    try:
        opened = open_part10(part10, any_syntax=True)
        data, encoding, pos, limit = opened.data, opened.encoding, opened.start, len(opened.data)
        while pos < limit:
            head = encoding.header(data, pos, limit)
            after = skip(data, head, limit, encoding)
            if head[0] == _SOP_INSTANCE:
                return uid_text(data[head[2] : after])
            if head[0] > _SOP_INSTANCE:
                break
            pos = after
        return read_header(part10).sop_uid
    except Malformed:
        return ""


def _invalid(error: Malformed) -> Invalid:
    """Return the error of a service for a file that cannot be read."""
    if error.reason in _NOT_DICOM:
        return Invalid("NOT_DICOM", f"Not a DICOM Part 10 file: {error.reason}.")
    if error.reason in _TRUNCATED:
        return Invalid("DICOM_TRUNCATED", "The DICOM file is cut off, or inflates to more than 512 MiB.")
    return Invalid("DICOM_MALFORMED", f"The DICOM data set cannot be read with certainty: {error.reason}.")
