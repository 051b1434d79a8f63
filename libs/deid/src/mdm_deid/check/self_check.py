"""The self-check: reads a released file again and looks for every identifying value of the original in all its bytes."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from mdm_deid.check.identifier import ValueCollector
from mdm_deid.check.search import CompiledSearch, Search, SearchTooLong
from mdm_deid.encoding.element import PIXEL_DATA, skip
from mdm_deid.encoding.part10 import Part10, open_part10
from mdm_deid.encoding.remembered_run import LONGEST_HEADER, SERIES, RecentSeries, Runs
from mdm_deid.encoding.vr import with_known_vrs
from mdm_deid.outcome import Malformed, Outcome, Result
from mdm_deid.rules.facts import METHOD, METHOD_CODES, steers
from mdm_deid.rules.patient import Patient
from mdm_deid.rules.private import PrivateAttributes
from mdm_deid.rules.profile import Profile
from mdm_deid.text.term import term_spans

REASON: Final = "self_check"
# Written by the de-identifier: pseudonym and codes; and of the method the last value.
_OURS = frozenset({0x00100010, 0x00100020, METHOD_CODES})
_PIXEL_GROUP: Final = 0x7FE00000
# In place of what is not searched: no word's character, and none that stands between the bytes of wide ones.
_JOINS_NOTHING: Final = b"\n"
# Returns whether a private creator (group, creator) stays; None if terms are searched as well.
_Terms = Callable[[int, str], bool] | None


class Deidentifies(Protocol):
    """A de-identifier that can be checked, such as `mdm_deid.Deidentifier`."""

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None = None, released: frozenset[str] = frozenset()) -> Result:
        """Return the released file or why it is not released; see `mdm_deid.Deidentifier`."""
        ...


class CheckedDeidentifier:
    """Passes files to a de-identifier and quarantines released files that contain an identifying value of the original."""

    def __init__(self, deidentifier: Deidentifies, profile: Profile, remembered: int = SERIES) -> None:
        """`remembered`: of so many series each thread remembers what it read, of the original and of what was released."""
        self._deidentifier = deidentifier
        self._collector = ValueCollector(profile, remembered)
        self._recent = RecentSeries(remembered, lambda encoding: Runs[None](encoding, steers)) if remembered else None
        self._keeps_creator = PrivateAttributes(profile.attribute_rules, profile.options, profile.private_lists).keeps_creator
        self._compiled = CompiledSearch.new()

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None = None, released: frozenset[str] = frozenset()) -> Result:
        """De-identify a file; QUARANTINED with reason `self_check` if the check finds anything. Never raises for bad input."""
        result = self._deidentifier.deidentify(part10, patient, released)
        if result.outcome is not Outcome.RELEASED or result.data is None:
            return result
        found = self.leaks(part10, result.data, same_pixels=not result.pixel_rule)
        if found:
            return Result(Outcome.QUARANTINED, REASON, found=tuple(sorted(found)))
        return replace(result, checked=True)

    def leaks(self, original: bytes | memoryview, released: Sequence[bytes | memoryview], same_pixels: bool = True) -> frozenset[int]:
        """Return the tags whose values in `original` are still in `released`; empty if all is well.

        With `same_pixels` the pixel data are known to be as long as they were, and are not copied. What cannot be read again, or
        not searched within bounds, counts as tag 0.
        """
        content = memoryview(original).cast("B")
        try:
            known = with_known_vrs(partial(self._collector.collect, content), open_part10(content))
            pixel_bytes = known.pixel_bytes if same_pixels else 0
            text, pixels = parted(released, pixel_bytes, recent=self._recent)
            found = frozenset(Search(known, text, pixels, self._compiled).found())
            if not found:
                return found
            # A patient may be called like a term (Chest, Axial): a second search leaves out what the standard itself says.
            text, pixels = parted(released, pixel_bytes, self._keeps_creator)
            return frozenset(Search(known, text, pixels, self._compiled).found())
        except (Malformed, SearchTooLong):
            return frozenset({0})


def parted(
    released: Sequence[bytes | memoryview], pixel_bytes: int, terms: _Terms = None, recent: RecentSeries[Runs[None]] | None = None
) -> tuple[bytes, list[bytes | memoryview]]:
    """Return the text to search, and the pixel data, which are the last `pixel_bytes`, or where the data set has them if that is 0.

    The text is the file up to its pixel data, inflated if need be, without our own values, and with `terms` without those.

    Raises:
        Malformed: what was released cannot be read.
    """
    header, pixels = _cut(released, pixel_bytes)
    opened = open_part10(header)
    data, encoding = opened.data, opened.encoding
    text = bytearray(data) if terms else data
    kept, copied = [bytes(header[: opened.start])], opened.start
    for first, until in _read_spans(opened, recent):
        pos = first
        while pos < until:
            head = encoding.header(data, pos, len(data))
            if head[0] >= _PIXEL_GROUP and pixels:
                break
            end = skip(data, head, len(data), encoding)
            if terms and head[0] < _PIXEL_GROUP:
                for start, stop in term_spans(data, pos, end, encoding, terms):
                    text[start:stop] = _JOINS_NOTHING * (stop - start)
            if head[0] in _OURS or head[0] == PIXEL_DATA:
                kept.append(bytes(text[copied:pos]))
                copied = end
            elif head[0] == METHOD:
                kept += [bytes(text[copied:pos]), bytes(data[head[2] : end]).rpartition(b"\\")[0]]
                copied = end
            if head[0] == PIXEL_DATA:
                pixels.append(data[head[2] : end])
            pos = end
    kept.append(bytes(text[copied:]))
    return b"\0".join(kept), pixels


def _read_spans(opened: Part10, recent: RecentSeries[Runs[None]] | None) -> list[tuple[int, int]]:
    """Return where the elements lie that have to be read; the others came in earlier files, and are neither ours nor pixel data."""
    if recent is not None:
        text = bytes(opened.data[: opened.start + LONGEST_HEADER])
        with suppress(Malformed):
            runs = recent.find(text, opened.start, opened.encoding)
            if runs is not None:
                return [(piece.start, piece.end) for piece in runs.cover(opened.data, text, opened.start) if piece.run is None]
    return [(opened.start, len(opened.data))]


def _cut(released: Sequence[bytes | memoryview], pixel_bytes: int) -> tuple[bytes, list[bytes | memoryview]]:
    """Return what is before the last `pixel_bytes` in one piece, and these as they are."""
    left = sum(map(len, released)) - pixel_bytes
    header: list[bytes | memoryview] = []
    pixels: list[bytes | memoryview] = []
    for part in released:
        cut = max(0, min(left, len(part)))
        header.append(part[:cut])
        pixels.append(part[cut:])
        left -= cut
    return b"".join(header), [part for part in pixels if part]
