"""Text in the character sets of DICOM (PS3.5 section 6.1): decoded only when it can be with certainty."""

import contextlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

# Single-byte sets by number of the ISO registry; 6 is the default repertoire.
SINGLE_BYTE: Final = frozenset({13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 203})
# Sets that need an escape sequence before their first character, so they never come first.
MULTI_BYTE: Final = frozenset({58, 87, 149, 159})
# Sets that allow no others beside them.
_UTF8, _GB18030, _GBK = ALONE = ("ISO_IR 192", "GB18030", "GBK")
_DEFAULT: Final = 6
# Part of ISO 8859, or number of the Latin alphabet -> number of the ISO registry.
_PARTS: Final = {1: 100, 2: 101, 3: 109, 4: 110, 5: 144, 6: 127, 7: 126, 8: 138, 9: 148, 11: 166, 15: 203}
_LATIN: Final = {1: 100, 2: 101, 3: 109, 4: 110, 5: 148, 9: 203}
_NAMES: Final[dict[str, int | str]] = {
    **dict.fromkeys(("ASCII", "USASCII", "ISO646", "ISO646US", "ISO646IRV"), _DEFAULT),
    **dict.fromkeys(("CYRILLIC", "ISOCYRILLIC"), 144),
    "ARABIC": 127,
    "GREEK": 126,
    "HEBREW": 138,
    **dict.fromkeys(("THAI", "TIS620"), 166),
    "JISX0201": 13,
    "ISO2022JP": 87,
    "ISO2022KR": 149,
    "ISO2022CN": 58,
    **dict.fromkeys(("UTF8", "UNICODE", "UNICODEUTF8", "ISO10646", "ISO106461"), _UTF8),
    # GB 2312 without escape sequences is a part of GBK.
    **dict.fromkeys(("CP936", "GB2312", "GB231280", "EUCCN", "ISO2022GBK", "ISOIRGBK"), _GBK),
}
_IR: Final = re.compile(r"(?:ISO)?(2022)?IR0*(\d{1,3})|ISO(2022)0*(\d{1,3})")
_ISO_8859: Final = re.compile(r"(?:ISO)?8859(\d{1,2})")
_LATIN_N: Final = re.compile(r"(?:ISO)?L(?:ATIN)?(\d)")
_GB: Final = re.compile(r"(?:ISO)?(?:2022)?(?:IR)?(?:GB(18030)(?:20\d\d)?|GBK)")
_SEPARATORS: Final = re.compile(r"[\s\0_\-./]+")
# Python's codec for these reads the escape sequences itself.
_READS_ESCAPES: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
_FRAGMENT: Final = re.compile(rb"\x1b\$[()].[^\x1b]*|\x1b..[^\x1b]*|[^\x1b]+", re.DOTALL)
# Each of these sets the value back to the first character set.
_DELIMITER: Final = re.compile(rb"([\r\n\t\f\\^=])")
_ESCAPE: Final = b"\x1b"
# Missing in pydicom's table.
_CODECS: Final = {**python_encoding, "ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}
_JAPANESE_SINGLE_BYTE: Final = "shift_jis"


class Charset:
    """A value of Specific Character Set.

    `term` is the value as the standard spells it: "" for the default repertoire, None if its meaning is not certain.
    """

    def __init__(self, value: str = "") -> None:
        self.term = canonical(value)
        first, *others = (self.term or "").split("\\")
        # Without a character set only ASCII has a meaning (ISO-IR 6).
        self.codec = _CODECS[first] if first and first != "ISO 2022 IR 6" else "ascii"
        self._spelt = python_encoding.get(value.split("\\")[0].strip(" \0"), "latin-1")
        self._extended = bool(others) or first.startswith("ISO 2022")
        self._single_byte = self.term not in ALONE and self.codec != _JAPANESE_SINGLE_BYTE

    def decode(self, raw: bytes) -> str | None:
        """Return the text, or None where its meaning is not certain: UTF-8 under the name of a single-byte set, for example."""
        try:
            if raw.isascii() and _ESCAPE not in raw:
                return raw.decode("ascii")
            if self.term is None or (_ESCAPE in raw and not self._extended):
                return None
            if self._single_byte and not raw.isascii() and _ESCAPE not in raw and _is_utf8(raw):
                return None
            return self._with_extensions(raw) if _ESCAPE in raw else raw.decode(self.codec)
        except (UnicodeError, LookupError):
            return None

    def _with_extensions(self, raw: bytes, carry: bool = False) -> str:
        """Decode text with escape sequences; with `carry` a delimiter does not return to the first set, as some writers assume.

        Raises:
            LookupError: a sequence is not one of DICOM's.
            UnicodeError: a character is not in its set.
        """
        text, escape = [], b""
        for value in _DELIMITER.split(raw):
            fragments = _FRAGMENT.findall(value)
            if carry and escape and fragments and not value.startswith(_ESCAPE) and not _DELIMITER.fullmatch(value):
                fragments[0] = escape + fragments[0]
            text += [self._fragment(part) for part in fragments]
            escape = _escape_of(fragments[-1]) if fragments and fragments[-1].startswith(_ESCAPE) else escape
        return "".join(text)

    def _fragment(self, raw: bytes) -> str:
        if not raw.startswith(_ESCAPE):
            return raw.decode(self.codec)
        escape = _escape_of(raw)
        codec = CODES_TO_ENCODINGS[escape]
        return raw.decode(codec) if codec in _READS_ESCAPES else raw[len(escape) :].decode(codec)

    def guess(self, raw: bytes) -> str:
        """Return the text, read as Latin-1 if it cannot be decoded with certainty."""
        text = self.decode(raw)
        return raw.decode("latin-1") if text is None else text

    def readings(self, raw: bytes) -> Iterator[str]:
        """Yield the text, and its readings as UTF-8 and by escape sequences, whatever its character set allows."""
        yield self.guess(raw)
        if not raw.isascii():
            with contextlib.suppress(UnicodeError):
                yield raw.decode("utf-8")
        if _ESCAPE in raw:
            for carry in (False, True):
                with contextlib.suppress(UnicodeError, LookupError):
                    yield self._with_extensions(raw, carry)

    def by_first_set(self, raw: bytes) -> str:
        """Return the text read by the first character set alone, on which published pseudonyms depend; a misspelt set counts as Latin-1."""
        try:
            return raw.decode(self._spelt)
        except (UnicodeError, LookupError):
            return raw.decode("latin-1")

    def encode(self, text: str) -> bytes | None:
        """Return the bytes of a text that was shortened, or None where they would need code extensions."""
        try:
            return text.encode("ascii" if self._extended and self.codec == _JAPANESE_SINGLE_BYTE else self.codec)
        except (UnicodeError, LookupError):
            return None


def _escape_of(raw: bytes) -> bytes:
    return raw[: 4 if raw[1:3] in (b"$(", b"$)") else 3]


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeError:
        return False
    return True


@lru_cache(64)
def charset(value: str) -> Charset:
    """Return the character set of a value; the same object for the same value."""
    return Charset(value)


@lru_cache(64)
def canonical(value: str) -> str | None:
    """Return a value of Specific Character Set as PS3.3 spells it; nothing for the default repertoire, None if it is not certain.

    Other spellings of the defined terms are understood: case, blanks, hyphens for underscores, the names of IANA. A set that needs
    code extensions is written with the default repertoire before it.
    """
    parts = [part.strip(" \0\t") for part in value.split("\\")]
    meant = [_meant(part) for part in parts]
    if any(part is None for part in meant):
        return None
    sets = list(dict.fromkeys(part for part in meant if part is not None))
    alone = [part for part in sets if isinstance(part, str)]
    numbers = [part for part in sets if isinstance(part, int)]
    if alone:
        # What is named beside it could only be reached by escape sequences, which it has not.
        return alone[0] if len(alone) == 1 and (sets[0] == alone[0] or set(numbers) <= {_DEFAULT}) else None
    if numbers == [_DEFAULT]:
        return ""
    extended = any("2022" in _folded(part) for part in parts)
    others = [number for number in numbers if number != _DEFAULT]
    if len(others) == 1 and others[0] in SINGLE_BYTE and not extended:
        return f"ISO_IR {others[0]}"
    if numbers[0] in MULTI_BYTE:
        numbers = [_DEFAULT, *others]
    first = "" if numbers[0] == _DEFAULT and not parts[0] else f"ISO 2022 IR {numbers[0]}"
    return "\\".join([first, *(f"ISO 2022 IR {number}" for number in numbers[1:])])


def _folded(text: str) -> str:
    return _SEPARATORS.sub("", text.partition(":")[0]).upper()


def _meant(text: str) -> int | str | None:
    """Return the number of one set in the ISO registry, or the term of one that stands alone."""
    name = _folded(text)
    if not name:
        return _DEFAULT if not text else None
    if name in _NAMES:
        return _NAMES[name]
    if match := _GB.fullmatch(name):
        return _GB18030 if match[1] else _GBK
    if match := _IR.fullmatch(name):
        number = int(match[2] or match[4])
        return _UTF8 if number == 192 else number if number in SINGLE_BYTE | MULTI_BYTE | {_DEFAULT} else None
    if match := _ISO_8859.fullmatch(name):
        return _PARTS.get(int(match[1]))
    if match := _LATIN_N.fullmatch(name):
        return _LATIN.get(int(match[1]))
    return None
