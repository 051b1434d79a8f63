"""Text in the character sets of DICOM (PS3.5 section 6.1): decoded only when it can be with certainty."""

import contextlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

# Python's codec for these reads the escape sequences itself.
_READS_ESCAPES: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
_FRAGMENT: Final = re.compile(rb"\x1b\$[()].[^\x1b]*|\x1b..[^\x1b]*|[^\x1b]+", re.DOTALL)
# Each of these sets the value back to the first character set.
_DELIMITER: Final = re.compile(rb"([\r\n\t\f\\^=])")
_ESCAPE: Final = b"\x1b"


class Charset:
    """A value of Specific Character Set."""

    def __init__(self, value: str = "") -> None:
        names = [part.strip(" \0") for part in value.split("\\")]
        self._known = all(name in python_encoding for name in names)
        # Without a character set only ASCII has a meaning (ISO-IR 6).
        self._codec = python_encoding.get(names[0], "latin-1") if names[0] else "ascii"
        self._first = python_encoding.get(names[0], "latin-1")
        self._extended = len(names) > 1

    def decode(self, raw: bytes) -> str | None:
        """Return the text, or None where it is not certain what it says."""
        try:
            if raw.isascii() and _ESCAPE not in raw:
                return raw.decode("ascii")
            if not self._known:
                return None
            if not self._extended:
                return None if _ESCAPE in raw else raw.decode(self._codec)
            return "".join(self._fragment(part) for value in _DELIMITER.split(raw) for part in _FRAGMENT.findall(value))
        except (UnicodeError, LookupError):
            return None

    def _fragment(self, raw: bytes) -> str:
        """Decode what follows one escape sequence, or none.

        Raises:
            LookupError: the sequence is not one of DICOM's.
        """
        if not raw.startswith(_ESCAPE):
            return raw.decode(self._codec)
        length = 4 if raw[1:3] in (b"$(", b"$)") else 3
        codec = CODES_TO_ENCODINGS[raw[:length]]
        return raw.decode(codec) if codec in _READS_ESCAPES else raw[length:].decode(codec)

    def guess(self, raw: bytes) -> str:
        """Return the text, or Latin-1 for want of better."""
        text = self.decode(raw)
        return raw.decode("latin-1") if text is None else text

    def readings(self, raw: bytes) -> Iterator[str]:
        """Yield the text, and what it says if it is UTF-8 in spite of its character set."""
        yield self.guess(raw)
        if not raw.isascii():
            with contextlib.suppress(UnicodeError):
                yield raw.decode("utf-8")

    def by_first_set(self, raw: bytes) -> str:
        """Return the text read by the first character set alone, as pseudonyms depend on it for ever."""
        try:
            return raw.decode(self._first)
        except (UnicodeError, LookupError):
            return raw.decode("latin-1")

    def encode(self, text: str) -> bytes | None:
        """Return the bytes of a text that was shortened, or None where they would need code extensions."""
        try:
            return text.encode("ascii" if self._extended else self._codec)
        except (UnicodeError, LookupError):
            return None


@lru_cache(64)
def charset(value: str) -> Charset:
    """Return the character set of a value; the same object for the same value."""
    return Charset(value)
