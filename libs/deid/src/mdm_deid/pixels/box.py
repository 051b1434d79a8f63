"""The boxes of a JP2 file (ITU-T T.800 annex I): those that show an image stay, the others become free space."""

from collections.abc import Callable, Iterator
from typing import Final

from mdm_deid.pixels import icc
from mdm_deid.pixels.patch import Patch, Unreadable, blank, demand, refuse_text, uint

# Type of the signature box, and what it holds.
MAGIC: Final = b"jP  \r\n\x87\n"
_HEADER, _CODESTREAM, _FILE_TYPE = b"jp2h", b"jp2c", b"ftyp"
# Inside the header box: size, depth, colour, palette, which channel is which, resolution.
_IMAGE: Final = frozenset({b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef"})
# T.801 M.11.18: contents of no meaning.
_FREE: Final = b"free"
_BRANDS: Final = (b"jp2 ", b"jpx ", b"jpxb", b"jph ")
_ENUMERATED: Final = 1
_PROFILES: Final = (2, 3)


def walk_boxes(data: memoryview, codestream: Callable[[memoryview], Iterator[Patch]]) -> Iterator[Patch]:
    """Yield what is to be written over a JP2 file; `codestream` walks what its one codestream box holds.

    Raises:
        Unreadable: boxes do not fill the file, an image box is not what it should be, or there is not one codestream.
    """
    images = 0
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == _CODESTREAM:
            images += 1
            yield from (Patch(start + patch.start, patch.content) for patch in codestream(data[start:end]))
        elif kind == _HEADER:
            yield from _image_header(data, start, end)
        elif kind == MAGIC[:4]:
            demand(bytes(data[start:end]) == MAGIC[4:])
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
