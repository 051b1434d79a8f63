"""Text in the character sets of DICOM (PS3.5 section 6.1): decoded only when it can be with certainty."""

import contextlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

from mdm_deid.encoding.charset_term import ALONE, canonical

# Python's codec for these reads the escape sequences itself.
_READS_ESCAPES: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
_FRAGMENT: Final = re.compile(rb"\x1b\$[()].[^\x1b]*|\x1b..[^\x1b]*|[^\x1b]+", re.DOTALL)
# Each of these sets the value back to the first character set.
_DELIMITER: Final = re.compile(rb"([\r\n\t\f\\^=])")
_ESCAPE: Final = b"\x1b"
# Newer than pydicom's table.
_CODECS: Final = {**python_encoding, "ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}
_JAPANESE_SINGLE_BYTE: Final = "shift_jis"


class Charset:
    """A value of Specific Character Set.

    `term` is the value as the standard spells it: nothing for the default repertoire, None if it is not known what it says.
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
        """Return the text, or None where it is not certain what it says: UTF-8 under the name of a single-byte set, for example."""
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
        """Decode text with escape sequences; with `carry` a delimiter does not set back to the first set, as some writers have it.

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
        """Return the text, or Latin-1 for want of better."""
        text = self.decode(raw)
        return raw.decode("latin-1") if text is None else text

    def readings(self, raw: bytes) -> Iterator[str]:
        """Yield the text, and what it says if it is UTF-8, or has escape sequences, in spite of its character set."""
        yield self.guess(raw)
        if not raw.isascii():
            with contextlib.suppress(UnicodeError):
                yield raw.decode("utf-8")
        if _ESCAPE in raw:
            for carry in (False, True):
                with contextlib.suppress(UnicodeError, LookupError):
                    yield self._with_extensions(raw, carry)

    def by_first_set(self, raw: bytes) -> str:
        """Return the text read by the first character set alone, as pseudonyms depend on it for ever; a misspelt set is Latin-1 there."""
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
