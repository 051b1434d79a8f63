"""Cleaning of kept text, once the whole file is known; and the search for values that were removed in other places."""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from mdm_deid.encoding.charset import Charset
from mdm_deid.encoding.element import Encoding, standard_vr
from mdm_deid.rules.date import possible_digits
from mdm_deid.rules.operation import Kind, Op
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.replacement import Replacements
from mdm_deid.rules.value import BINARY_VRS, FREE_TEXT_VRS
from mdm_deid.text.cleaner import Cleaner, fit
from mdm_deid.text.identity import LONG_NUMBER, identity, speaks_of_none
from mdm_deid.text.term import is_term, only_terms
from mdm_deid.text.vocabulary import names_nobody

_LONGEST: Final = 1024
# Makes an element when all identifying values of the file are known.
Make = Callable[[Cleaner], bytes]
_NUMBER_VRS: Final = frozenset({b"DS", b"IS"})
_INTEGER: Final = re.compile(rb"[-+ ]*0*(\d+)")
_WORD: Final = re.compile(r"[^\W_]+")
# Known texts times bytes of binary values that are searched; what comes after cannot be judged.
_MAX_SEARCH: Final = 2 << 30


class Learnt:
    """The identifying values of one file, each with the VR and the character set that it had."""

    def __init__(self) -> None:
        self._values: set[tuple[bytes, bytes, Charset]] = set()

    def add(self, vr: bytes, value: memoryview, charset: Charset) -> None:
        """Record a value, unless it is empty or too long to name someone."""
        if 0 < len(value) <= _LONGEST:
            learnt = bytes(value).strip(b" \0")
            if vr in (b"DA", b"DT"):
                learnt = b"\\".join(day for part in learnt.split(b"\\") for day in possible_digits(part) or (part[:10],))
            self._values.add((vr, learnt, charset))

    def update(self, other: "Learnt") -> None:
        """Record what was recorded in another place."""
        self._values |= other._values

    @property
    def values(self) -> frozenset[object]:
        """All that was recorded."""
        return frozenset(self._values)

    def cleaner(self, profile: Profile) -> Cleaner:
        """Return a cleaner for these values, which also says whether all of them could be read with certainty."""
        dates_stay = profile.dates == "keep"
        readings = frozenset((vr, text) for vr, value, charset in self._values for text in charset.readings(value))
        certain = all(charset.decode(value) is not None for _, value, charset in self._values)
        ages_stay = "retain_patient_characteristics" in profile.options
        return Cleaner(identity(readings, dates_stay), dates_stay, ages_stay, certain, profile.words)


class LateElements:
    """Elements that depend on the whole file: in the first pass they wait; in the second, with a `cleaner`, they are made at once."""

    def __init__(self, replacements: Replacements, cleaner: Cleaner | None) -> None:
        self._replacements = replacements
        self._cleaner = cleaner
        # At the top level: the place in the output, and what makes the element.
        self.waiting: list[tuple[int, Make]] = []
        # Whether an element inside a sequence waits, which needs a second pass.
        self.again = False

    def add(self, make: Make, depth: int, out: list[memoryview | bytes]) -> None:
        """Write an element to `out` if the whole file is known, else an empty place for it."""
        if self._cleaner is None:
            if depth == 0:
                self.waiting.append((len(out), make))
            self.again |= depth > 0
        out.append(make(self._cleaner) if self._cleaner is not None else b"")

    def add_text(
        self, op: Op, tag: int, old: bytes, charset: Charset, encoding: Encoding, depth: int, out: list[memoryview | bytes]
    ) -> None:
        """Write an element whose text is to be cleaned by `op`, or postpone it."""
        self.add(partial(self._cleaned, op, tag, old, charset, encoding), depth, out)

    def finish(self, out: list[memoryview | bytes], cleaner: Cleaner) -> None:
        """Write the postponed elements to their places in `out`."""
        for index, make in self.waiting:
            out[index] = make(cleaner)

    def _cleaned(self, op: Op, tag: int, old: bytes, charset: Charset, encoding: Encoding, cleaner: Cleaner) -> bytes:
        """Return the element with clean text, or its fallback if no text can be kept."""
        text = charset.decode(old.rstrip(b" \0")) or ""
        if op.whole:
            new = old if text and cleaner.keeps(text) else self._replacements.label(old, charset)
        else:
            clean = cleaner.clean(text) if text else ""
            new = old if clean == text and clean else charset.encode(fit(clean, op.vr)) or b""
        if new:
            return encoding.element(tag, op.vr, new)
        fallback = op.fallback
        if fallback is None or fallback.kind is Kind.DROP:
            return b""
        return encoding.element(tag, fallback.vr, fallback.value)


class KnownValueSearch:
    """Searches the values of one file for the identifying values that its `cleaner` knows."""

    def __init__(self, cleaner: Cleaner) -> None:
        self._cleaner = cleaner
        self._left = _MAX_SEARCH

    def left_of(self, tag: int, vr: bytes, old: bytes, charset: Charset, needed: bool) -> bytes:
        """Return what may stay of a value, b"" if nothing; `needed`: the IOD demands the attribute."""
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
        marked = self._cleaner.mark_known(text)
        if marked == text:
            return old
        return b"" if vr == b"UN" else charset.encode(fit(marked, vr or standard_vr(tag))) or b""

    def repeats(self, vr: bytes, old: bytes, charset: Charset) -> bool:
        """Return whether a private value repeats a known one; VR UN is searched both as text and as binary."""
        if vr in BINARY_VRS or vr == b"UN":
            found = self._stands_in(old)
            if found or vr != b"UN":
                return found
        if vr in _NUMBER_VRS:
            return self._numbers_identify(old)
        text = charset.decode(old)
        return text is None or self._cleaner.mark_known(text) != text

    def _codes(self, tag: int, old: bytes, charset: Charset, needed: bool) -> bytes:
        """Return codes without those that name someone; one that is also a word of the standard stays if it is `needed`."""
        values = charset.guess(old).split("\\")
        stay = [
            is_term(tag, value.encode("utf-8"))
            or self._cleaner.mark_known(value) == value
            or (_is_code(value) if needed else speaks_of_none(value))
            for value in values
        ]
        if all(stay):
            return old
        left = "\\".join(value if stays else "" for value, stays in zip(values, stay, strict=True)) if any(stay) else ""
        return charset.encode(left) or b""

    def _numbers_identify(self, old: bytes) -> bool:
        """Return whether a number is one that was removed as an identifier."""
        numbers = (match[1].decode("ascii") for part in old.split(b"\\") if (match := _INTEGER.match(part)))
        return any(len(number) >= LONG_NUMBER and number in self._cleaner.identity.others for number in numbers)

    def _stands_in(self, old: bytes) -> bool:
        """Return whether a known text stands in a binary value, with one or two bytes a character."""
        known = self._cleaner.identity.binary
        self._left -= len(known) * len(old)
        if self._left < 0:
            return True
        lowered = old.lower()
        thin = lowered.replace(b"\0", b"")
        return any(text in lowered or text in thin for text in known)


def _is_code(value: str) -> bool:
    return all(names_nobody(word) for word in _WORD.findall(value))
