"""Text that is cleaned once all of the file is known: what a first pass learns from what it takes away, and what waits for that."""

from collections.abc import Callable
from functools import partial
from typing import Final

from mdm_deid.encoding.charset import Charset
from mdm_deid.encoding.codec import Encoding
from mdm_deid.rules.date import possible_digits
from mdm_deid.rules.operation import Kind, Op
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.replacement import Replacements
from mdm_deid.text.cleaner import Cleaner, fit
from mdm_deid.text.identity import identity

_LONGEST: Final = 1024
# What makes an element when all that the file names is known.
Make = Callable[[Cleaner], bytes]


class Learnt:
    """The identifying values of one file, each with the VR and the character set that it had."""

    def __init__(self) -> None:
        self._values: set[tuple[bytes, bytes, Charset]] = set()

    def add(self, vr: bytes, value: memoryview, charset: Charset) -> None:
        """Note a value, unless it is empty or longer than one that names someone."""
        if 0 < len(value) <= _LONGEST:
            learnt = bytes(value).strip(b" \0")
            if vr in (b"DA", b"DT"):
                learnt = b"\\".join(day for part in learnt.split(b"\\") for day in possible_digits(part) or (part[:10],))
            self._values.add((vr, learnt, charset))

    def cleaner(self, profile: Profile) -> Cleaner:
        """Return what cleans text of these values, and knows whether all of them could be read with certainty."""
        dates_stay = profile.dates == "keep"
        readings = frozenset((vr, text) for vr, value, charset in self._values for text in charset.readings(value))
        certain = all(charset.decode(value) is not None for _, value, charset in self._values)
        ages_stay = "retain_patient_characteristics" in profile.options
        return Cleaner(identity(readings, dates_stay), dates_stay, ages_stay, certain, profile.words)


class LateElements:
    """Elements that depend on all of the file: in a first pass they wait, with a `cleaner`, in the second one, they are made at once."""

    def __init__(self, replacements: Replacements, cleaner: Cleaner | None) -> None:
        self._replacements = replacements
        self._cleaner = cleaner
        # At the top level: the place in the output, and what makes the element.
        self._waiting: list[tuple[int, Make]] = []
        # Whether one inside a sequence waits, for which a second pass is needed.
        self.again = False

    def add(self, make: Make, depth: int, out: list[memoryview | bytes]) -> None:
        """Write an element to `out` if all of the file is known; until then nothing, in its place."""
        if self._cleaner is None:
            if depth == 0:
                self._waiting.append((len(out), make))
            self.again |= depth > 0
        out.append(make(self._cleaner) if self._cleaner is not None else b"")

    def add_text(
        self, op: Op, tag: int, old: bytes, charset: Charset, encoding: Encoding, depth: int, out: list[memoryview | bytes]
    ) -> None:
        """Write an element whose text is to be cleaned by `op`, or let it wait."""
        self.add(partial(self._cleaned, op, tag, old, charset, encoding), depth, out)

    def finish(self, out: list[memoryview | bytes], cleaner: Cleaner) -> None:
        """Write what waits to its places in `out`."""
        for index, make in self._waiting:
            out[index] = make(cleaner)

    def _cleaned(self, op: Op, tag: int, old: bytes, charset: Charset, encoding: Encoding, cleaner: Cleaner) -> bytes:
        """Return the element with clean text, or what is left if nothing of it can stay."""
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
