"""Text in the character sets of DICOM (PS3.5 section 6.1): decoded only when it can be with certainty."""

import warnings
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes, python_encoding

_DELIMITERS: Final = frozenset(b"\r\n\t\f\\^=")
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
        self._encodings = _encodings(names) if self._extended and self._known else []

    def decode(self, raw: bytes) -> str | None:
        """Return the text, or None where it is not certain what it says."""
        try:
            if raw.isascii() and _ESCAPE not in raw:
                return raw.decode("ascii")
            if not self._known:
                return None
            if not self._extended:
                return None if _ESCAPE in raw else raw.decode(self._codec)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return decode_bytes(raw, self._encodings, set(_DELIMITERS))
        except (UnicodeError, LookupError, UserWarning):
            return None

    def guess(self, raw: bytes) -> str:
        """Return the text, or Latin-1 for want of better."""
        text = self.decode(raw)
        return raw.decode("latin-1") if text is None else text

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


def _encodings(names: list[str]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_encodings(names)
