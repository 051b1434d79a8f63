"""JPEG 2000 codestreams (ITU-T T.800 annex A, T.801 annex A, T.814 annex A), and the boxes of JP2 files around them (T.800 annex I)."""

import re
from collections.abc import Callable, Generator, Iterator
from typing import Final

from mdm_deid.pixels import icc
from mdm_deid.pixels.patch import Patch, Unreadable, after_the_end, blank, comment, demand, refuse_text, uint

_SOC, _SOT, _SOD, _EOC, _SIZ, _COM = 0x4F, 0x90, 0x93, 0xD9, 0x51, 0x64
_COD, _COC, _QCD, _QCC, _RGN, _POC, _PPM, _PPT, _PLM, _PLT, _TLM, _CRG = (
    0x52,
    0x53,
    0x5C,
    0x5D,
    0x5E,
    0x5F,
    0x60,
    0x61,
    0x57,
    0x58,
    0x55,
    0x63,
)
# Capabilities and corresponding profile; T.801: DC offset, visual masking, downsampling, decomposition, transformations, components.
_CAPABILITIES: Final = frozenset({0x50, 0x59, *range(0x70, 0x7A)})
_MAIN: Final = frozenset({_COD, _COC, _QCD, _QCC, _RGN, _POC, _PPM, _PLM, _TLM, _CRG, *_CAPABILITIES})
_TILE: Final = frozenset({_COD, _COC, _QCD, _QCC, _RGN, _POC, _PPT, _PLT, *range(0x70, 0x7A)})
# A.3: after FF coded data have no byte above 8F, but for the markers at the start of a packet and after its header.
_MARKER: Final = re.compile(rb"\xff[\x90-\xff]")
_START_OF_PACKET, _END_OF_PACKET_HEADER = b"\xff\x91\0\4", b"\xff\x92"
_SOT_LENGTH: Final = 12
# The first segment has their number.
_COMPONENTS_AT: Final = 40
_MOST_COMPONENTS: Final = 16384
# Rcom: binary, or ISO 8859-15.
_REGISTRATIONS: Final = (b"\0\0", b"\0\1")
# Type of the signature box, and what it holds.
_MAGIC: Final = b"jP  \r\n\x87\n"
_HEADER_BOX, _CODESTREAM_BOX, _FILE_TYPE = b"jp2h", b"jp2c", b"ftyp"
# Inside the header box: size, depth, colour, palette, which channel is which, resolution.
_IMAGE: Final = frozenset({b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef"})
# T.801 M.11.18: contents of no meaning.
_FREE: Final = b"free"
_BRANDS: Final = (b"jp2 ", b"jpx ", b"jpxb", b"jph ")
_ENUMERATED: Final = 1
_PROFILES: Final = (2, 3)


def walk(data: memoryview) -> Iterator[Patch]:
    """Yield what is to be written over a frame, a codestream or a JP2 file with one.

    Raises:
        Unreadable: a marker is missing, misplaced or unknown, a tile-part ends elsewhere than it says, or a segment is too long or short.
        SecondImage: another codestream follows.
    """
    if bytes(data[4:12]) == _MAGIC:
        yield from _walk_boxes(data, _codestream)
    else:
        yield from _codestream(data)


def _codestream(data: memoryview) -> Iterator[Patch]:
    demand(bytes(data[:4]) == b"\xff\x4f\xff\x51")
    pos, tiles = 2, 0
    while True:
        code = _marker(data, pos)
        if code == _EOC and tiles:
            pos += 2
            break
        start, end = _segment(data, pos)
        if code != _SOT:
            demand(not tiles and (code == _SIZ) is (pos == 2))
            yield from _header(data, code, _MAIN | {_SIZ}, start, end)
            pos = end
            continue
        tiles += 1
        pos = yield from _tile_part(data, pos)
        if pos == len(data):
            return  # every byte is accounted for, though the last marker is missing
    yield from after_the_end(data, pos, b"\xff\x4f\xff\x51")


def _marker(data: memoryview, pos: int) -> int:
    demand(pos + 2 <= len(data) and data[pos] == 0xFF)
    return data[pos + 1]


def _segment(data: memoryview, pos: int) -> tuple[int, int]:
    """Return where the content of the segment lies whose marker is at `pos`."""
    length = uint(data, pos + 2, 2, len(data))
    demand(length >= 2 and pos + 2 + length <= len(data))
    return pos + 4, pos + 2 + length


def _header(data: memoryview, code: int, known: frozenset[int], start: int, end: int) -> Iterator[Patch]:
    """Check a marker segment of a header, blank a comment."""
    if code == _COM:
        demand(end - start >= 2)
        if bytes(data[start : start + 2]) not in _REGISTRATIONS:
            yield Patch(start, _REGISTRATIONS[1])
        yield from comment(data, start + 2, end)
        return
    demand(code in known)
    refuse_text(data, start, end)
    if code == _SIZ:
        components = uint(data, start + 34, 2, end)
        demand(components <= _MOST_COMPONENTS and end - start == 36 + 3 * components)
    elif code == _COD:
        # With precincts of its own every resolution has one byte more.
        levels = uint(data, start + 5, 1, end)
        demand(end - start == 10 + (levels + 1) * (data[start] & 1))
    elif code == _CRG:
        demand(end - start == 4 * uint(data, _COMPONENTS_AT, 2, len(data)))


def _tile_part(data: memoryview, pos: int) -> Generator[Patch, None, int]:
    """Walk the tile-part whose SOT marker is at `pos`: its header and what cannot be in its coded data; return where it ends."""
    length = uint(data, pos + 6, 4, len(data))
    demand(uint(data, pos + 2, 2, len(data)) == _SOT_LENGTH - 2 and length <= len(data) - pos)
    # The last one may leave its length open (A.4.2).
    limit = pos + length if length else len(data)
    view = data[:limit]
    pos += _SOT_LENGTH
    while (code := _marker(view, pos)) != _SOD:
        start, end = _segment(view, pos)
        yield from _header(view, code, _TILE, start, end)
        pos = end
    start = pos = pos + 2
    while (found := _MARKER.search(view, pos)) is not None:
        pos = found.end()
        if found[0][1] == _EOC and not length:
            limit = found.start()
            break
        if bytes(view[found.start() : pos + 2]) == _START_OF_PACKET and pos + 4 <= limit:
            pos += 4
        else:
            demand(found[0] == _END_OF_PACKET_HEADER)
    demand(bool(length) or limit < len(data))
    refuse_text(view, start, limit)
    return limit


def _walk_boxes(data: memoryview, codestream: Callable[[memoryview], Iterator[Patch]]) -> Iterator[Patch]:
    """Yield what is to be written over a JP2 file; `codestream` walks what its one codestream box holds.

    Raises:
        Unreadable: boxes do not fill the file, an image box is not what it should be, or there is not one codestream.
    """
    images = 0
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == _CODESTREAM_BOX:
            images += 1
            yield from (Patch(start + patch.start, patch.content) for patch in codestream(data[start:end]))
        elif kind == _HEADER_BOX:
            yield from _image_header(data, start, end)
        elif kind == _MAGIC[:4]:
            demand(bytes(data[start:end]) == _MAGIC[4:])
        elif kind == _FILE_TYPE:
            demand((end - start) % 4 == 0)
            yield from _brands(data, start, end)
        else:
            yield from _freed(data, kind, start, end)
    demand(images == 1)


def _boxes(data: memoryview, pos: int, limit: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the content of each box."""
    while any(data[pos:limit]):  # else there is padding at most
        length, kind, start = uint(data, pos, 4, limit), bytes(data[pos + 4 : pos + 8]), pos + 8
        if length == 1:
            length, start = uint(data, start, 8, limit), pos + 16
        end = limit if length == 0 else pos + length
        demand(start <= end <= limit)
        yield kind, start, end
        pos = end


def _image_header(data: memoryview, pos: int, limit: int) -> Iterator[Patch]:
    for kind, start, end in _boxes(data, pos, limit):
        if kind not in _IMAGE:
            yield from _freed(data, kind, start, end)
            continue
        if kind == b"colr":
            yield from _colours(data, start, end)
        else:
            refuse_text(data, start, end)


def _colours(data: memoryview, start: int, end: int) -> Iterator[Patch]:
    """Walk the profile in a colour specification, or check its enumerated colour space."""
    method = uint(data, start, 1, end)
    if method in _PROFILES:
        yield from (Patch(start + 3 + patch.start, patch.content) for patch in icc.walk(data[start + 3 : end]))
    else:
        demand(method == _ENUMERATED and end - start == 7)


def _brands(data: memoryview, start: int, end: int) -> Iterator[Patch]:
    """Write the brand that every JP2 file has over unknown ones; the second word is a version."""
    for at in range(start, end, 4):
        said = bytes(data[at : at + 4])
        if at == start + 4:
            yield from blank(data, at, at + 4)
        elif said not in _BRANDS:
            yield Patch(at, _BRANDS[0])


def _freed(data: memoryview, kind: bytes, start: int, end: int) -> Iterator[Patch]:
    """Make a box free space; its type stands right before its content unless its length has eight bytes."""
    at = start - 4 if bytes(data[start - 4 : start]) == kind else start - 12
    if bytes(data[at : at + 4]) != kind:
        raise Unreadable
    if kind != _FREE:
        yield Patch(at, _FREE)
    yield from blank(data, start, end)
