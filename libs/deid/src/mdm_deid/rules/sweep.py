"""The second look at what stays: it must not repeat what was taken away elsewhere in the file."""

import re
from typing import Final

from mdm_deid.encoding.charset import Charset
from mdm_deid.encoding.codec import standard_vr
from mdm_deid.rules.value import BINARY_VRS, FREE_TEXT_VRS
from mdm_deid.text.cleaner import Cleaner, fit
from mdm_deid.text.identity import LONG_NUMBER, speaks_of_none
from mdm_deid.text.term import is_term, only_terms
from mdm_deid.text.vocabulary import names_nobody

_NUMBER_VRS: Final = frozenset({b"DS", b"IS"})
_INTEGER: Final = re.compile(rb"[-+ ]*0*(\d+)")
_WORD: Final = re.compile(r"[^\W_]+")
# Needles times bytes of binary values that are searched; what comes after cannot be judged.
_MAX_SEARCH: Final = 2 << 30


class Sweeper:
    """Looks through the values of one file for what its `cleaner` knows."""

    def __init__(self, cleaner: Cleaner) -> None:
        self._cleaner = cleaner
        self._left = _MAX_SEARCH

    def left_of(self, tag: int, vr: bytes, old: bytes, charset: Charset, needed: bool) -> bytes:
        """Return what may stay of a value, nothing if it has to go; `needed`: the IOD demands the attribute."""
        if only_terms(tag, old):
            return old
        vrs = {vr, standard_vr(tag)}
        if not vrs.isdisjoint(_NUMBER_VRS):
            return b"" if self._numbers_identify(old) else old
        if b"CS" in vrs:
            return self._codes(tag, old, charset, needed)
        if vrs.isdisjoint(FREE_TEXT_VRS):
            return b"" if not vrs.isdisjoint(BINARY_VRS) and self._stands_in(old) else old
        text = charset.decode(old)
        if text is None:
            return b""  # nothing can be looked for in it
        swept = self._cleaner.sweep(text)
        if swept == text:
            return old
        return b"" if vr == b"UN" else charset.encode(fit(swept, vr or standard_vr(tag))) or b""

    def repeats(self, vr: bytes, old: bytes, charset: Charset) -> bool:
        """Tell whether a private value repeats what is known; one of VR UN is looked at both as text and as binary."""
        if vr in BINARY_VRS or vr == b"UN":
            found = self._stands_in(old)
            if found or vr != b"UN":
                return found
        if vr in _NUMBER_VRS:
            return self._numbers_identify(old)
        text = charset.decode(old)
        return text is None or self._cleaner.sweep(text) != text

    def _codes(self, tag: int, old: bytes, charset: Charset, needed: bool) -> bytes:
        """Return codes without those that name someone; one that is a word of the standard as well as a person stays if it must."""
        values = charset.guess(old).split("\\")
        stay = [
            is_term(tag, value.encode("utf-8"))
            or self._cleaner.sweep(value) == value
            or (_is_code(value) if needed else speaks_of_none(value))
            for value in values
        ]
        if all(stay):
            return old
        left = "\\".join(value if stays else "" for value, stays in zip(values, stay, strict=True)) if any(stay) else ""
        return charset.encode(left) or b""

    def _numbers_identify(self, old: bytes) -> bool:
        """Tell whether a number is one that was taken away as an identifier."""
        numbers = (match[1].decode("ascii") for part in old.split(b"\\") if (match := _INTEGER.match(part)))
        return any(len(number) >= LONG_NUMBER and number in self._cleaner.identity.others for number in numbers)

    def _stands_in(self, old: bytes) -> bool:
        """Tell whether a known text stands in a binary value, with one or two bytes a character."""
        needles = self._cleaner.identity.binary
        self._left -= len(needles) * len(old)
        if self._left < 0:
            return True
        lowered = old.lower()
        thin = lowered.replace(b"\0", b"")
        return any(needle in lowered or needle in thin for needle in needles)


def _is_code(value: str) -> bool:
    return all(names_nobody(word) for word in _WORD.findall(value))
