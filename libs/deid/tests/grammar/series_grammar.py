"""Series of files of which each is the one before with some elements changed, in every way that could mislead a memory."""

import random
from collections.abc import Iterator

from mdm_deid.encoding.element import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Encoding

_SYNTAXES = ((b"1.2.840.10008.1.2", IMPLICIT_LE), (b"1.2.840.10008.1.2.1", EXPLICIT_LE), (b"1.2.840.10008.1.2.2", EXPLICIT_BE))
_CLASSES = (*(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.4", b"1.2.840.10008.5.1.4.1.1.128") * 5, b"1.2.826.0.1.9")
_CHARSETS = (b"", b"ISO_IR 100", b"ISO_IR 192", b"\\ISO 2022 IR 87", b"LATIN1", b"XX")
_NAMES = (b"Kowalczyk^Anna Maria", b"Doe^Jane", b"Rui^Max", b"M\xfcller^J\xf6rg", b"", b"Abdomen^Chest")
_TEXTS = (
    b"Abdomen Routine",
    b"Kowalczyk abdomen",
    b"seen by Dr. House at Mercy Hospital",
    b"CT_01 PAT-0001",
    b"Sch\xe4del",
    b"19610317",
    b"axial 5.0 B30f",
    b"Mercy",
    b"4711",
    b"",
)
# Those of files in which nothing repeats what is removed.
_CALM_TEXTS = (b"Abdomen Routine", b"axial 5.0 B30f", b"T2w head", b"contrast 20 ml", b"")
_CALM_NAMES = (b"Nowak^Zofia", b"Roe^Wendeline", b"Kovacs^Ilona=K", b"")
_NUMBERS = (b"1", b"-5.25", b"471147", b"19610317", b"nine", b"")
_DATES = (b"20200102", b"19610317", b"2020-01-02", b"02.03.2020", b"")
_TIMES = (b"112936", b"11:29:36", b"112937.250000", b"late", b"")
_UIDS = (*(b"1.2.3.4.5", b"1.2.840.10008.1.1", b"1.2.826.77.1", b"1.2.826.77.2", b"2.25.77") * 6, b"")
_CREATORS = (b"SIEMENS MED", b"SIEMENS CSA HEADER", b"GEMS_ACQU_01", b"GEMS_PARM_01", b"Philips Imaging DD 001", b"NOBODY")
# Attributes of the top level with their VRs; those of sequences and private groups are made by methods.
_VALUES = {
    b"CS": (b"ORIGINAL\\PRIMARY\\AXIAL", b"CT", b"MR", b"AXIAL", b"YES", b"ABDOMEN", b"KOWALCZYK", b"MERCY"),
    b"DA": _DATES,
    b"TM": _TIMES,
    b"DT": tuple(date + time for date in _DATES for time in _TIMES),
    b"UI": _UIDS,
    b"PN": _NAMES,
    b"DS": _NUMBERS,
    b"IS": _NUMBERS,
    b"AS": (b"043Y", b"095Y", b"43", b""),
    b"US": (b"\2\0", b"\0\2", b"\1\0"),
    b"FD": (bytes(8), b"\1" * 8, b"PAT-1\0\0\0", b"Kowalczy"),
    **dict.fromkeys((b"LO", b"SH", b"LT", b"ST", b"UT", b"AE", b"UN"), _TEXTS),
}
_TOP = {
    **dict.fromkeys((0x00080008, 0x00080060, 0x00080064, 0x00180015, 0x00185100, 0x00280301, 0x00280004, 0x00100040), b"CS"),
    **dict.fromkeys((0x00080012, 0x00080020, 0x00080022, 0x00100030), b"DA"),
    **dict.fromkeys((0x00080013, 0x00080030, 0x00080032), b"TM"),
    **dict.fromkeys((0x0008002A, 0x00189074), b"DT"),
    **dict.fromkeys((0x00080018, 0x0020000D, 0x0020000E, 0x00200052), b"UI"),
    **dict.fromkeys((0x00080090, 0x00081050, 0x00081070, 0x00321032), b"PN"),
    **dict.fromkeys((0x00180050, 0x00180060, 0x00201041, 0x00281050, 0x00101030), b"DS"),
    **dict.fromkeys((0x00200011, 0x00200013, 0x00181151), b"IS"),
    **dict.fromkeys((0x00080050, 0x00081010, 0x00181210, 0x00200010), b"SH"),
    **dict.fromkeys((0x00080070, 0x00080080, 0x00081030, 0x0008103E, 0x00081090, 0x00181030, 0x00181020), b"LO"),
    **dict.fromkeys((0x00204000, 0x001021B0), b"LT"),
    **dict.fromkeys((0x00280010, 0x00280011, 0x00280100, 0x00280002), b"US"),
    0x00101010: b"AS",
    0x00120063: b"LO",
    0x00280303: b"CS",
    0x60000010: b"US",
    0x60000022: b"LO",
    0x00189073: b"FD",
    0x00081072: b"LO",
}
_SEQUENCES = (0x00081140, 0x00082112, 0x00400275, 0x00082218, 0x00081032, 0x00120064, 0x00189346, 0x52009230)
_PRIVATE_GROUPS = (0x0009, 0x0019, 0x0029, 0x0043, 0x2001)


class SeriesGrammar:
    """Builds files; what it builds follows from the numbers that `source` draws."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._encoding: Encoding = EXPLICIT_LE
        self._syntax = b""
        self._calm = bool(source.randrange(2))

    def files(self, count: int) -> Iterator[bytes]:
        """Yield the files of two or three series as they may arrive: in turn, at random, and now and then one again."""
        series = [self._series() for _ in range(self._source.randrange(1, 4))]
        sent: list[bytes] = []
        for _ in range(count):
            if sent and not self._source.randrange(8):
                yield sent[self._source.randrange(len(sent))]
                continue
            state = series[self._source.randrange(len(series))]
            self._syntax, self._encoding = state[0]
            for _ in range(self._pick(0, 1, 1, 2, 3, 8)):
                self._change(state[1])
            sent.append(self._file(state[1]))
            yield sent[-1]

    def _series(self) -> tuple[tuple[bytes, Encoding], list[tuple[int, bytes]]]:
        syntax = self._syntax, self._encoding = _SYNTAXES[self._pick(0, 1, 1, 1, 2)]
        tags = {tag for tag in _TOP if self._source.randrange(4)} | {tag for tag in _SEQUENCES if self._source.randrange(2)}
        tags |= {0x00280010, 0x00280011, 0x00280100, 0x00280002, 0x00080018, 0x0020000D, 0x0020000E}
        elements = [(tag, self._element(tag)) for tag in sorted(tags)]
        elements += self._identity()
        for group in _PRIVATE_GROUPS:
            if self._source.randrange(2):
                elements += self._private(group)
        elements.append((0x7FE00010, self._encoding.element(0x7FE00010, b"OW", b"\0\0")))
        return syntax, sorted(elements)

    def _identity(self) -> list[tuple[int, bytes]]:
        write = self._encoding.element
        return [
            (0x00080005, write(0x00080005, b"CS", self._pick(*_CHARSETS))),
            (0x00080016, write(0x00080016, b"UI", self._pick(*_CLASSES))),
            (0x00100010, write(0x00100010, b"PN", self._value(b"PN"))),
            (0x00100020, write(0x00100020, b"LO", self._pick(b"PAT-0001", b"PAT-0002", b"PAT-0003", b""))),
        ]

    def _change(self, elements: list[tuple[int, bytes]]) -> None:
        """Change a series from here on: one element or more, what stands around it, or its order."""
        kind, at = self._source.randrange(20), self._source.randrange(len(elements))
        tag = elements[at][0]
        if kind < 9:
            self._change_value(elements, at)
        elif kind < 11:
            elements[at] = (tag, self._scrawled(elements[at][1]))
        elif kind == 11 and tag < 0x7FE00010:
            del elements[at]
        elif kind == 12:
            new = self._pick(*_TOP, *_SEQUENCES)
            elements[:] = sorted([element for element in elements if element[0] != new] + [(new, self._element(new))])
        elif kind == 13:
            for identity in self._identity():
                if self._source.randrange(2):
                    elements[:] = sorted([element for element in elements if element[0] != identity[0]] + [identity])
        elif kind == 14:
            group = self._pick(*_PRIVATE_GROUPS)
            elements[:] = sorted([element for element in elements if element[0] >> 16 != group] + self._private(group))
        elif kind == 15 and not self._source.randrange(4):
            other = self._source.randrange(len(elements))
            elements[at], elements[other] = elements[other], elements[at]
        elif kind == 16 and not self._source.randrange(8):
            elements.insert(at, elements[at])
        elif kind == 17:
            elements.sort()
        elif kind == 18 and not self._source.randrange(4):
            raw = bytearray(elements[at][1])
            raw[self._source.randrange(len(raw))] = self._source.randrange(256)
            elements[at] = (tag, bytes(raw))
        else:
            elements[:] = [
                (tag, self._element(tag)) if tag in _TOP and not self._source.randrange(3) else (tag, raw) for tag, raw in elements
            ]

    def _change_value(self, elements: list[tuple[int, bytes]], at: int) -> None:
        tag, raw = elements[at]
        if tag in _TOP or tag in _SEQUENCES:
            elements[at] = (tag, self._element(tag))
        elif tag & 0x10000:
            elements[at] = (tag, self._scrawled(raw))

    def _scrawled(self, raw: bytes) -> bytes:
        """Return an element with one letter or digit changed, wherever it is."""
        places = [place for place, byte in enumerate(raw) if place >= 8 and chr(byte).isalnum() and byte < 128]
        if not places:
            return raw
        new = bytearray(raw)
        new[self._pick(*places)] = self._pick(*b"ABCXYZabcxyz0189")
        return bytes(new)

    def _element(self, tag: int) -> bytes:
        if tag in _SEQUENCES:
            items = [self._encoding.item(self._content(2)) for _ in range(self._source.randrange(3))]
            content = b"".join(items)
            if self._source.randrange(4):
                return self._encoding.element(tag, b"SQ", content)
            delimiter = self._encoding.element(0xFFFEE0DD, b"", b"") if not self._encoding.explicit else self._delimiter()
            return self._encoding.prefix(tag, b"SQ", 0xFFFFFFFF) + content + delimiter
        vr = _TOP[tag] if self._source.randrange(30) else self._pick(b"UN", b"LO", b"PN", b"US")
        return self._encoding.element(tag, vr, self._value(_TOP[tag]))

    def _value(self, vr: bytes) -> bytes:
        choices = _VALUES[vr]
        if self._calm and choices is _TEXTS:
            choices = _CALM_TEXTS
        if self._calm and choices is _NAMES:
            choices = _CALM_NAMES
        return self._pick(*choices[:-2] if self._calm and vr in (b"CS", b"FD") else choices)

    def _delimiter(self) -> bytes:
        return self._encoding.item(b"")[:2] + (0xE0DD).to_bytes(2, "little" if self._encoding.little else "big") + bytes(4)

    def _content(self, depth: int) -> bytes:
        """Return the elements of an item: codes of the standard and others, references, text, names, items in it."""
        write, pick = self._encoding.element, self._pick
        code = pick((b"818983003", b"SCT", b"Abdomen"), (b"T-D4000", b"SRT", b"Kowalczyk"), (b"X1", b"99SITE", b"Mercy abdomen"))
        made = {
            0x00080005: write(0x00080005, b"CS", pick(*_CHARSETS)),
            0x00080100: write(0x00080100, b"SH", code[0]),
            0x00080102: write(0x00080102, b"SH", code[1]),
            0x00080104: write(0x00080104, b"LO", pick(code[2], self._value(b"LO"))),
            0x00081155: write(0x00081155, b"UI", pick(*_UIDS)),
            0x00081048: write(0x00081048, b"PN", self._value(b"PN")),
            0x00080022: write(0x00080022, b"DA", pick(*_DATES)),
            0x00321060: write(0x00321060, b"LO", self._value(b"LO")),
            0x00400007: write(0x00400007, b"LO", self._value(b"LO")),
            0x0040A160: write(0x0040A160, b"UT", self._value(b"UT")),
            0x00180060: write(0x00180060, b"DS", pick(*_NUMBERS)),
        }
        content = b"".join(raw for tag, raw in sorted(made.items()) if self._source.randrange(3))
        private = b"".join(raw for _, raw in self._private(pick(*_PRIVATE_GROUPS))) if not self._source.randrange(4) else b""
        inner = write(0x00409096, b"SQ", self._encoding.item(self._content(depth - 1))) if depth and not self._source.randrange(3) else b""
        return content + (private or inner)

    def _private(self, group: int) -> list[tuple[int, bytes]]:
        """Return a private group: one or two creators, and elements of their blocks and of one that nobody reserved."""
        write, base = self._encoding.element, group << 16
        elements = {base | 0x10: write(base | 0x10, b"LO", self._pick(*_CREATORS))}
        if self._source.randrange(2):
            elements[base | 0x11] = write(base | 0x11, b"LO", self._pick(*_CREATORS))
        for _ in range(self._source.randrange(6)):
            tag = base | self._pick(0x1000, 0x1100, 0x1200) | self._pick(0x02, 0x08, 0x0A, 0x0B, 0x0C, 0x10, 0x1E, 0x27, 0x39, 0x3F)
            vr = self._pick(b"LO", b"DS", b"SH", b"UN", b"FD", b"IS", b"CS")
            elements[tag] = write(tag, vr, self._value(vr))
        return sorted(elements.items())

    def _file(self, elements: list[tuple[int, bytes]]) -> bytes:
        meta = EXPLICIT_LE.element(0x00020010, b"UI", self._syntax)
        length = EXPLICIT_LE.element(0x00020000, b"UL", len(meta).to_bytes(4, "little"))
        return bytes(128) + b"DICM" + length + meta + b"".join(raw for _, raw in elements)

    def _pick(self, *choices):  # type: ignore[no-untyped-def]
        return choices[self._source.randrange(len(choices))]
