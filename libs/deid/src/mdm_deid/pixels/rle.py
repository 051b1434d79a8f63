"""RLE Lossless encoding of one frame (PS3.5 annex G): the lossless compression that every DICOM reader undoes."""

import re
import struct

# G.3.1: replicate runs of 3 to 128 equal bytes; shorter ones are cheaper inside a literal run.
_RUN = re.compile(rb"(.)\1{2,127}", re.DOTALL)
_LONGEST = 128
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
