"""RLE Lossless frames (PS3.5 annex G): writing one, the lossless compression that every DICOM reader undoes, and walking one."""

import itertools
import re
import struct
from collections.abc import Iterator

from mdm_deid.pixels.patch import Patch, Unreadable, blank, demand

# G.3.1: replicate runs of 3 to 128 equal bytes; shorter ones are cheaper inside a literal run.
_RUN = re.compile(rb"(.)\1{2,127}", re.DOTALL)
_LONGEST = 128
# No-op header byte; then, per header byte, how many bytes a run decodes to and how many it occupies.
_NO_OP = b"\x80"
_DECODED = (*range(1, 129), 0, *range(128, 1, -1))
_OCCUPIED = (*range(2, 130), 1, *[2] * 127)
_HEADER = struct.Struct("<16I")


def encode_frame(frame: bytes | bytearray, rows: int, samples: int, sample_bytes: int) -> bytes:
    """Return the RLE form of a frame of little endian samples, colour by pixel.

    One segment per sample and byte, most significant byte first (G.2); `rows` must be positive.
    """
    step = samples * sample_bytes
    segments = []
    for sample in range(samples):
        for byte in reversed(range(sample_bytes)):
            segments.append(_segment(bytes(frame[sample * sample_bytes + byte :: step]), rows))
    offsets, pos = [], _HEADER.size
    for segment in segments:
        offsets.append(pos)
        pos += len(segment)
    return _HEADER.pack(len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def _segment(plane: bytes, rows: int) -> bytes:
    """Return the PackBits form of a plane; rows are encoded apart, and the length is even (G.3.1)."""
    width = len(plane) // rows
    out = bytearray()
    for start in range(0, len(plane), width):
        _encode_row(plane[start : start + width], out)
    if len(out) % 2:
        out.append(0)
    return bytes(out)


def _encode_row(row: bytes, out: bytearray) -> None:
    pos = 0
    for run in _RUN.finditer(row):
        start, end = run.span()
        _literal(row, pos, start, out)
        out.append(257 - (end - start))
        out.append(row[start])
        pos = end
    _literal(row, pos, len(row), out)


def _literal(row: bytes, pos: int, end: int, out: bytearray) -> None:
    for start in range(pos, end, _LONGEST):
        stop = min(start + _LONGEST, end)
        out.append(stop - start - 1)
        out += row[start:stop]


def walk(data: memoryview, pixels: int, segments: int) -> Iterator[Patch]:
    """Yield what is to be written over a frame of so many pixels and segments: what follows the last pixel of a segment.

    Raises:
        Unreadable: there are more or fewer segments, they overlap or leave gaps, or one has fewer pixels or ends within a run.
    """
    demand(len(data) >= _HEADER.size)
    count, *offsets = _HEADER.unpack_from(data)
    demand(count == segments and 0 < count < len(offsets) + 1 and offsets[0] == _HEADER.size and not any(offsets[count:]))
    bounds = [*offsets[:count], len(data)]
    for start, end in itertools.pairwise(bounds):
        demand(start < end <= len(data))  # before a length out of the file is believed
        last = start + _decoded_end(bytes(data[start:end]), pixels)
        if any(data[last:end]):
            # Pad with no-ops: a zero header byte would decode as a literal run.
            yield from blank(data, last, end, _NO_OP)


def _decoded_end(segment: bytes, pixels: int) -> int:
    """Return where a segment has given all its pixels (G.3.2)."""
    # Hot loop: runs once per RLE run, so it uses lookup tables.
    pos, left, decoded, occupied = 0, pixels, _DECODED, _OCCUPIED
    try:
        while left > 0:
            header = segment[pos]
            left -= decoded[header]
            pos += occupied[header]
    except IndexError:
        raise Unreadable from None
    demand(left == 0 and pos <= len(segment))
    return pos
