"""JPEG and JPEG-LS frames (ITU-T T.81 annex B, T.87 annex C): every marker from SOI to EOI, and what lies between."""

import re
from collections.abc import Callable, Iterator
from typing import Final

from mdm_deid.pixels.patch import Patch, Unreadable, after_the_end, blank, comment, demand, refuse_sentence, refuse_text, uint

_START: Final = b"\xff\xd8"
_EOI, _SOS, _DNL = 0xD9, 0xDA, 0xDC
_DQT, _DHT, _DAC, _DRI, _COM, _APP0, _APP8, _APP14, _LSE = 0xDB, 0xC4, 0xCC, 0xDD, 0xFE, 0xE0, 0xE8, 0xEE, 0xF8
_SOF_LS: Final = 0xF7
_APPS: Final = range(0xE0, 0xF0)
_RESTARTS: Final = range(0xD0, 0xD8)
# Of T.81 those that are not hierarchical.
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB})
# In coded data FF is followed by a stuffed zero byte (T.81 F.1.2.3), or by a byte with a stuffed zero bit (T.87 A.1).
_MARKER: Final = re.compile(rb"\xff[^\0]")
_MARKER_LS: Final = re.compile(rb"\xff[\x80-\xff]")
_MOST_COMPONENTS: Final = 4
_COEFFICIENTS: Final = 64
_LONGEST_DIFFERENCE: Final = 16
_JFIF_LENGTH, _ADOBE_LENGTH = 14, 12
# T.84 F.2: version, profile, components; height and width; colour space, depth, compression; unit and two resolutions.
_SPIFF: Final = re.compile(
    rb"SPIFF\0[\1\2][\0-\2][\0-\4][\1-\4](?:\0\0..){2}[\0-\x0f][\1-\x10][\0-\x08][\0-\2](?:\0\0..){2}|\0\0\0\x01\xff\xd8", re.DOTALL
)
# Of an old lossless encoder.
_LJIF: Final = re.compile(rb"LJIF\0[\0-\2]{1,2}\0*")
_JFIF_VERSIONS: Final = (b"\1\1", b"\1\0", b"\1\2")
_DENSITY_UNITS: Final = range(3)
# In the upper byte, below any letter.
_HIGHEST_DENSITY: Final = 0x27
_ADOBE_VERSIONS: Final = (b"\0d", b"\0e")
_ADOBE_TRANSFORMS: Final = range(3)
_HP_TRANSFORM: Final = re.compile(rb"mrfx[\0-\3]")


def walk(data: memoryview) -> Iterator[Patch]:
    """Yield what is to be written over a frame.

    Raises:
        Unreadable: a marker is missing, misplaced or unknown, a segment is not as long as its content demands, or coded data read as text.
        SecondImage: another image follows.
    """
    return _Frame(data).patches()


class _Frame:
    """One frame being walked."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._pos = 0
        self._ls = False
        self._framed = self._scanned = False
        # Quantization tables: those a component names, all that there are, and what each has been since the last scan.
        self._named: set[int] = set()
        self._components: set[int] = set()
        self._tables: set[int] = set()
        self._waiting: dict[int, bytes] = {}

    def patches(self) -> Iterator[Patch]:
        demand(bytes(self._data[:2]) == _START)
        self._pos = 2
        while (code := self._marker()) != _EOI:
            start, end = self._segment()
            self._pos = end
            yield from self._cleaned(code, start, end)
            if code == _SOS:
                self._scan()
        demand(self._scanned and self._tables <= self._named)
        yield from after_the_end(self._data, self._pos, _START)

    def _marker(self) -> int:
        """Return the code of the marker here and step behind it; any number of fill bytes FF may precede it (T.81 B.1.1.2)."""
        data, pos, end = self._data, self._pos, len(self._data)
        while pos + 1 < end and data[pos] == 0xFF and data[pos + 1] == 0xFF:
            pos += 1
        if pos + 2 > end or data[pos] != 0xFF:
            raise Unreadable
        self._pos = pos + 2
        return data[pos + 1]

    def _segment(self) -> tuple[int, int]:
        """Return where the content of the segment here lies."""
        length = uint(self._data, self._pos, 2, len(self._data))
        if length < 2 or self._pos + length > len(self._data):
            raise Unreadable
        return self._pos + 2, self._pos + length

    def _cleaned(self, code: int, start: int, end: int) -> Iterator[Patch]:
        """Check a segment that decoders need, blank another."""
        if code == _COM:
            yield from comment(self._data, start, end)
        elif code in _APPS:
            yield from _application(self._data, code, start, end)
        elif code in _FRAMES or code == _SOF_LS:
            self._frame_header(code, start, end)
        elif code == _DQT:
            self._quantization(start, end)
        elif code == _SOS:
            self._scan_header(bytes(self._data[start:end]))
        elif code in _TABLES:
            _TABLES[code](self._data, start, end)
        else:
            raise Unreadable

    def _frame_header(self, code: int, start: int, end: int) -> None:
        count = uint(self._data, start + 5, 1, end)
        demand(not self._framed and 0 < count <= _MOST_COMPONENTS and end - start == 6 + 3 * count)
        self._framed, self._ls = True, code == _SOF_LS
        self._components = set(self._data[start + 6 : end : 3])
        self._named = set(self._data[start + 8 : end : 3])
        # Sampling factors of 1 to 4 each, four tables.
        demand(all(1 <= byte >> 4 <= 4 and 1 <= byte & 15 <= 4 for byte in self._data[start + 7 : end : 3]))
        demand(self._named <= set(range(_MOST_COMPONENTS)))

    def _scan_header(self, content: bytes) -> None:
        """Check the header of a scan (T.81 B.2.3, T.87 C.2.3): its components are the frame's, tables and parameters in their ranges."""
        count = content[0] if content else 0
        demand(self._framed and 0 < count <= _MOST_COMPONENTS and len(content) == 4 + 2 * count)
        demand(self._components.issuperset(content[1:-3:2]))
        tables, (first, last, approximation) = content[2:-3:2], content[-3:]
        if self._ls:
            # No mapping tables; any difference may be lost; three ways to interleave.
            demand(not any(tables) and last <= 2)
        else:
            demand(all(table >> 4 < 4 and table & 15 < 4 for table in tables) and max(first, last) < _COEFFICIENTS)
        # A scan refines another by one bit (T.81 G.1.1.1.2), or is the first.
        high, low = divmod(approximation, 16)
        demand(high in (0, low + 1))

    def _quantization(self, pos: int, end: int) -> None:
        """Check quantization tables; one that nothing uses, or that another one replaces unused, may hold anything."""
        while pos < end:
            wide, table = divmod(self._data[pos], 16)
            last = pos + 1 + 64 * (wide + 1)
            demand(wide <= 1 and table < _MOST_COMPONENTS and last <= end)
            content = bytes(self._data[pos + 1 : last])
            demand(self._waiting.setdefault(table, content) == content)
            refuse_sentence(content)
            self._tables.add(table)
            pos = last

    def _scan(self) -> None:
        """Step over coded data to the next marker that is no restart."""
        self._scanned, self._waiting = True, {}
        marker = _MARKER_LS if self._ls else _MARKER
        start = self._pos
        while True:
            found = marker.search(self._data, self._pos)
            if found is None:
                raise Unreadable
            at = self._pos = found.start()
            if self._marker() not in _RESTARTS:
                refuse_text(self._data, start, at)
                self._pos = at
                return


def _application(data: memoryview, code: int, start: int, end: int) -> Iterator[Patch]:
    """Blank an application segment but for what decoders go by."""
    content = bytes(data[start:end])
    kept = b""
    if code == _APP0 and content[:5] == b"JFIF\0" and len(content) >= _JFIF_LENGTH:
        kept = _jfif(content)
    elif code == _APP14 and content[:5] == b"Adobe" and len(content) >= _ADOBE_LENGTH:
        kept = _adobe(content)
    elif code == _APP8 and _HP_TRANSFORM.match(content):
        kept = content[:5]
    elif (code == _APP8 and _SPIFF.fullmatch(content)) or (code == _APP0 and _LJIF.fullmatch(content)):
        kept = content
    if content[: len(kept)] != kept:
        yield Patch(start, kept)
    yield from blank(data, start + len(kept), end)


def _jfif(content: bytes) -> bytes:
    """Return what stays of a JFIF segment: version, unit and densities as encoders write them, its thumbnail's size if that fits."""
    version = content[5:7] if content[5:7] in _JFIF_VERSIONS else _JFIF_VERSIONS[0]
    density = content[7:12] if content[7] in _DENSITY_UNITS and max(content[8], content[10]) <= _HIGHEST_DENSITY else b"\0\0\1\0\1"
    size = content[12:14] if len(content) == _JFIF_LENGTH + 3 * content[12] * content[13] else bytes(2)
    return content[:5] + version + density + size


def _adobe(content: bytes) -> bytes:
    """Return what stays of Adobe's segment (T.872 6.5.3): decoders read the colour transform."""
    demand(content[11] in _ADOBE_TRANSFORMS)
    usual = content[5:7] in _ADOBE_VERSIONS and not content[7] & 0x3F and not any(content[8:11])
    return content[:_ADOBE_LENGTH] if usual else content[:5] + _ADOBE_VERSIONS[0] + bytes(4) + content[11:12]


def _huffman(data: memoryview, pos: int, end: int) -> None:
    """Check Huffman tables: none has a symbol twice (T.81 C.2), as text has letters; those of differences have small ones (H.1.2.2)."""
    while pos < end:
        demand(pos + 17 <= end and data[pos] >> 4 <= 1 and data[pos] & 15 < 4)
        count = sum(data[pos + 1 : pos + 17])
        symbols = bytes(data[pos + 17 : pos + 17 + count])
        demand(len(set(symbols)) == count and (data[pos] >> 4 == 1 or max(symbols, default=0) <= _LONGEST_DIFFERENCE))
        pos += 17 + count
    demand(pos == end)


def _conditioning(data: memoryview, pos: int, end: int) -> None:
    demand((end - pos) % 2 == 0 and all(data[at] >> 4 <= 1 and data[at] & 15 < 4 for at in range(pos, end, 2)))


def _two_bytes(_: memoryview, pos: int, end: int) -> None:
    demand(end - pos == 2)


def _presets(data: memoryview, pos: int, end: int) -> None:
    """Check JPEG-LS parameters; mapping tables (T.87 C.2.4.1.2) hold what they like and have no place in DICOM."""
    kind = uint(data, pos, 1, end)
    demand((kind == 1 and end - pos == 11) or (kind == 4 and end - pos == 2 + 2 * uint(data, pos + 1, 1, end) and end - pos <= 10))


_TABLES: Final[dict[int, Callable[[memoryview, int, int], None]]] = {
    _DHT: _huffman,
    _DAC: _conditioning,
    _DRI: _two_bytes,
    _DNL: _two_bytes,
    _LSE: _presets,
}
