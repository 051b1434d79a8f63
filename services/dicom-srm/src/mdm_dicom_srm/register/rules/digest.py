"""The keyed digest of a header: equal when the PACS sends the same attributes again, however it encodes their lengths."""

import hmac
import struct

from mdm_deid.encoding.codec import ITEM_END, UNDEFINED, Encoding, skip, standard_vr
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.encoding.walk import Element, items
from mdm_deid.outcome import Malformed

_PIXEL_GROUP = 0x7FE00000
_TRAILING_PADDING = 0xFFFCFFFC
_PADDING = b" \0"
_TAG, _HEAD = struct.Struct(">I").pack, struct.Struct(">II").pack


def digest(key: bytes, part10: bytes) -> bytes:
    """Return the HMAC-SHA-256 of transfer syntax, tags and values of a Part 10 file's header, sequences included.

    Left out is what changes from one transfer to the next: file meta information, group lengths, padding, and whether lengths of
    sequences and items are defined. What cannot be read with certainty is taken byte for byte.
    """
    try:
        opened = open_part10(part10)
        said = [opened.transfer_syntax.encode()]
        # Slices of bytes cost a third of those of a memoryview.
        _gather(said, bytes(opened.data), opened.start, len(opened.data), opened.encoding, 0)
    except Malformed:
        said = [part10]
    return hmac.digest(key, b"".join(said), "sha256")


def _gather(said: list[bytes], data: bytes, pos: int, limit: int, encoding: Encoding, depth: int) -> None:
    """Append what the elements from `pos` to `limit`, or to the item's delimiter, say."""
    while pos < limit:
        head = encoding.header(data, pos, limit)
        tag, vr, value, length = head
        if tag == ITEM_END:
            return
        pos = value + length if length <= limit - value else skip(data, head, limit, encoding, depth)
        if tag & 0xFFFF == 0 or tag == _TRAILING_PADDING or (depth == 0 and tag >= _PIXEL_GROUP):
            continue
        if vr == b"SQ" or length == UNDEFINED or (not vr and standard_vr(tag) == b"SQ"):
            said.append(_TAG(tag) + b"[")
            for item in items(memoryview(data), Element(tag, vr, value, value, length, pos), encoding, depth):
                said.append(b"{")
                _gather(said, data, item.start, item.limit, item.encoding, depth + 1)
                said.append(b"}")
            said.append(b"]")
        else:
            text = data[value:pos].rstrip(_PADDING)
            said.append(_HEAD(tag, len(text)))
            said.append(text)
