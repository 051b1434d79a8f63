"""What pixel data hold besides pixels: bytes after the last one, and comments inside compressed frames. The pixels stay as they are."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from mdm_deid.encoding.codec import ITEM, SEQUENCE_END, Encoding
from mdm_deid.text.vocabulary import known_to_encoders

# Float, double float and integer pixel data.
PIXELS: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
SAMPLES: Final = 0x00280002
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS: Final = 0x00280100
GEOMETRY: Final = frozenset({SAMPLES, ROWS, COLUMNS, BITS})
_ZEROS: Final = bytes(1 << 16)
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f"
_COM_2000: Final = 0x64
_COM: Final = 0xFE
_APPS: Final = range(0xE0, 0xF0)
# Start of scan, end of image, start of tile: what follows is coded pixels.
_LAST: Final = frozenset({0xDA, 0xD9, 0x90, 0x93})
# Application segments that decoders go by, and how much of each: JFIF without thumbnail, Adobe's and HP's colour transforms,
# SPIFF's header and the end of its directory.
_NEEDED: Final = ((b"JFIF\0", 14), (b"LJIF\0", 14), (b"Adobe", 12), (b"mrfx", 5), (b"SPIFF\0", 30), (b"\0\0\0\1\xff\xd8", 6))
_LONGEST_HEADER: Final = 1 << 20


class SurplusPixels(Exception):
    """There are frames that the header does not tell of."""


def native(value: memoryview, geometry: Mapping[int, int], frames: int, subsampled: bool) -> Iterator[memoryview | bytes]:
    """Yield uncompressed pixel data with zeros after the last pixel; as they are where the geometry is not told.

    Raises:
        SurplusPixels: what comes after is as long as a frame, or longer.
    """
    rows, columns, bits = (geometry.get(tag, 0) for tag in (ROWS, COLUMNS, BITS))
    bits_per_pixel = bits * 2 if subsampled else bits * geometry.get(SAMPLES, 1)
    expected = (rows * columns * bits_per_pixel * frames + 7) // 8
    expected += expected % 2  # in words of big endian the padding is not the last byte
    surplus = len(value) - expected
    if expected == 0 or surplus <= 0 or (surplus < 4096 and not any(value[expected:])):
        yield value
        return
    if surplus >= max(expected // frames, 2):
        raise SurplusPixels
    yield value[:expected]
    yield from (_ZEROS[: min(len(_ZEROS), surplus - start)] for start in range(0, surplus, len(_ZEROS)))


def encapsulated(data: memoryview, pos: int, end: int, encoding: Encoding) -> Iterator[memoryview | bytes]:
    """Yield `data[pos:end]`, the items of compressed pixel data, with unknown comments blanked; nothing changes its length."""
    run, at = pos, pos
    while at < end:
        tag, _, value, length = encoding.item_header(data, at, end)
        if tag == SEQUENCE_END or tag != ITEM:
            break
        at = value + length
        for first, last, blank in _comments(data, value, at):
            yield data[run:first]
            yield blank * (last - first)
            run = last
    yield data[run:end]


def _comments(data: memoryview, pos: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield where in a frame's header there is something that no decoder needs, and what to write over it."""
    start = bytes(data[pos : pos + 2])
    if start not in (_JPEG, _JPEG_2000):
        return
    end = min(end, pos + _LONGEST_HEADER)
    pos += 2
    while pos + 4 <= end and data[pos] == 0xFF:
        marker, length = data[pos + 1], data[pos + 2] << 8 | data[pos + 3]
        first, last = pos + 4, min(pos + 2 + length, end)
        if marker in _LAST or length < 2:
            return
        pos = pos + 2 + length
        if start == _JPEG_2000 and marker == _COM_2000 and not _harmless(data, first + 2, last):
            yield first + 2, last, b" "
        elif start == _JPEG and marker == _COM and not _harmless(data, first, last):
            yield first, last, b" "
        elif start == _JPEG and marker in _APPS:
            kept = next((length for magic, length in _NEEDED if bytes(data[first : first + len(magic)]) == magic), 0)
            if any(data[min(first + kept, last) : last]):
                yield min(first + kept, last), last, b"\0"


_WORD: Final = re.compile(rb"[0-9A-Za-z]+")


def _harmless(data: memoryview, first: int, last: int) -> bool:
    """Tell whether a comment has only the names and versions of encoders."""
    text = bytes(data[first:last])
    return text.isascii() and all(known_to_encoders(word.decode("ascii")) for word in _WORD.findall(text))
