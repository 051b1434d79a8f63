"""The keyed digest of a header: equal when the PACS sends the same attributes again, however it encodes their lengths."""

import hashlib
import hmac

from mdm_dicom_srm.deid.codec import UNDEFINED, Encoding
from mdm_dicom_srm.deid.outcome import Malformed
from mdm_dicom_srm.deid.part10 import open_part10
from mdm_dicom_srm.deid.table import standard_vr
from mdm_dicom_srm.deid.walk import Element, elements, items

_PIXEL_GROUP = 0x7FE00000
_TRAILING_PADDING = 0xFFFCFFFC
_PADDING = b" \0"


def digest(key: bytes, part10: bytes) -> bytes:
    """Return the HMAC-SHA-256 of transfer syntax, tags and values of a Part 10 file's header, sequences included.

    Left out is what changes from one transfer to the next: file meta information, group lengths, padding, and whether lengths of
    sequences and items are defined. What cannot be read with certainty is taken byte for byte.
    """
    mac = hmac.new(key, digestmod=hashlib.sha256)
    try:
        opened = open_part10(part10)
        mac.update(opened.transfer_syntax.encode())
        _update(mac, opened.data, opened.start, len(opened.data), opened.encoding, 0)
    except Malformed:
        return hmac.digest(key, part10, "sha256")
    return mac.digest()


def _update(mac: hmac.HMAC, data: memoryview, start: int, limit: int, encoding: Encoding, depth: int) -> None:
    for element in elements(data, start, limit, encoding, depth):
        if element.tag & 0xFFFF == 0 or element.tag == _TRAILING_PADDING or (depth == 0 and element.tag >= _PIXEL_GROUP):
            continue
        mac.update(element.tag.to_bytes(4, "big"))
        if _is_sequence(element):
            mac.update(b"[")
            for item in items(data, element, encoding, depth):
                mac.update(b"{")
                _update(mac, data, item.start, item.limit, item.encoding, depth + 1)
                mac.update(b"}")
            mac.update(b"]")
        else:
            value = bytes(data[element.value : element.end]).rstrip(_PADDING)
            mac.update(len(value).to_bytes(4, "big") + value)


def _is_sequence(element: Element) -> bool:
    return element.vr == b"SQ" or element.length == UNDEFINED or (element.vr == b"" and standard_vr(element.tag) == b"SQ")
