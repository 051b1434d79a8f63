"""Builds Part 10 files by PS3.5 and PS3.10, with a text wherever the basic profile must not leave one."""

import struct
import zlib

from stream_grammar import COLUMNS, ROWS, TEXT, Grammar

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_UNDEFINED = 0xFFFFFFFF
_SYNTAXES = {
    "implicit": ("1.2.840.10008.1.2", False, "<"),
    "explicit": ("1.2.840.10008.1.2.1", True, "<"),
    "big": ("1.2.840.10008.1.2.2", True, ">"),
    "deflated": ("1.2.840.10008.1.2.1.99", True, "<"),
}
_SHARED, _ICON = 0x52009229, 0x00880200


class DataSetGrammar(Grammar):
    """Makes one file in one of the four encodings."""

    def part10(self) -> bytes:
        """Return a whole file."""
        name = self.pick(*_SYNTAXES)
        syntax, self._explicit, self._order = _SYNTAXES[name]
        body = self._body()
        if name == "deflated":
            deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = deflater.compress(body) + deflater.flush() + self.pick(b"", b"\0", TEXT)
        self._explicit, self._order = True, "<"
        meta = {
            0x00020002: (b"UI", b"1.2.840.10008.5.1.4.1.1.2"),
            0x00020010: (b"UI", syntax.encode()),
            0x00020013: (b"SH", TEXT[:16]),
            0x00020016: (b"AE", TEXT[:16]),
            0x00020017: (b"AE", TEXT[:16]),
            0x00020100: (b"UI", b"1.2.3"),
            0x00020102: (b"OB", TEXT),
            0x00020200: (b"LO", TEXT),
        }
        group = b"".join(self._element(tag, vr, value) for tag, (vr, value) in meta.items())
        length = self._element(0x00020000, b"UL", struct.pack("<I", len(group) + (4 if self.breaks() else 0)))
        return self.pick(bytes(128), (TEXT * 3)[:128]) + b"DICM" + length + group + body

    def _body(self) -> bytes:
        number = lambda value: struct.pack(self._order + "H", value)  # noqa: E731
        elements = {
            0x00080016: self._element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2"),
            0x00080018: self._element(0x00080018, b"UI", b"1.2.3.4.5"),
            0x00100020: self._element(0x00100020, b"LO", b"PATIENT-0815"),
            0x0020000D: self._element(0x0020000D, b"UI", b"1.2.3.4"),
            0x00280010: self._element(0x00280010, b"US", number(ROWS)),
            0x00280011: self._element(0x00280011, b"US", number(COLUMNS)),
            0x00280100: self._element(0x00280100, b"US", number(8)),
            0x7FE00010: self._element(0x7FE00010, b"OW", b"\7" * (ROWS * COLUMNS) + self.pick(b"", b"", TEXT[:20], TEXT * 2)),
        }
        for _ in range(self.pick(1, 2, 4, 8)):
            tag, written = self._hidden(0)
            elements[tag] = written + (written if self.breaks() else b"")
        body = b"".join(elements[tag] for tag in sorted(elements))
        return body + self.pick(TEXT, TEXT[:5]) if self.breaks() else body

    def _hidden(self, depth: int) -> tuple[int, bytes]:
        """Return an element with a text that must not stay, and its tag."""
        text, private = self.text(), self.pick(0x00091001, 0x00191010, 0x7FE11010)
        nested = depth < 3 and self.often()
        tag, vr, value = self.pick(
            (private, self.pick(b"LO", b"UN", b"OB", b"OW", b"UT"), text),
            (0x00090010, b"LO", text),
            (self.pick(0x00080000, 0x00280000), self.pick(b"UL", b"UN"), text),
            (self.pick(0x00087777, 0x00187FFE), b"LT", text),
            (self.pick(0x50003000, 0x60003000, 0x60003002), b"OW", text),
            (self.pick(0x60004000, 0x60000022), b"LT", text),
            (self.pick(0xFFFCFFFC, 0x7FE00020, 0x7FE00001, 0x7FE00002), b"OB", text),
            (self.pick(0x00180050, 0x00200013, 0x00281052), self.pick(b"UT", b"UN", b"LO", b"DS"), text),
            (self.pick(0x00204000, 0x00102000, 0x0040A160), b"LT", text),
            (0x00282000, b"OB", text),
        )
        if not nested:
            return tag, self._element(tag, vr, value)
        content = b"".join(self._hidden(depth + 1)[1] for _ in range(self.pick(1, 2)))
        place = self.pick(_SHARED, _ICON, private)
        if self.breaks():
            return place, self._element(place, b"SQ", self._item(content) + text)
        return place, self._sequence(place, self._item(content) + self.pick(b"", self._item(self._element(0x7FE00010, b"OW", text))))

    def _sequence(self, tag: int, items: bytes) -> bytes:
        if self.pick(False, True):
            return self._element(tag, b"SQ", items)
        return self._head(tag, b"SQ", _UNDEFINED) + items + struct.pack(self._order + "HHI", 0xFFFE, 0xE0DD, 0)

    def _item(self, content: bytes) -> bytes:
        pack = lambda element, length: struct.pack(self._order + "HHI", 0xFFFE, element, length)  # noqa: E731
        if self.pick(False, True):
            return pack(0xE000, len(content)) + content
        return pack(0xE000, _UNDEFINED) + content + pack(0xE00D, 0)

    def _element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return self._head(tag, vr, len(value) + (self.pick(2, 1 << 20) if self.breaks() else 0)) + value

    def _head(self, tag: int, vr: bytes, length: int) -> bytes:
        head = struct.pack(self._order + "HH", tag >> 16, tag & 0xFFFF)
        if not self._explicit:
            return head + struct.pack("<I", length)
        if vr in _LONG:
            return head + vr + struct.pack(self._order + "HI", 0, length)
        return head + vr + struct.pack(self._order + "H", length & 0xFFFF)
