"""The self-check: reads a released file again and looks for every identifying value of the original in all its bytes."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from mdm_deid.check.identifier import NeedleCase, Needles, forms
from mdm_deid.encoding.codec import PIXEL_DATA, skip
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.encoding.vr import with_known_vrs
from mdm_deid.outcome import Malformed, Outcome, Result
from mdm_deid.rules.facts import METHOD, METHOD_CODES
from mdm_deid.rules.patient import Patient
from mdm_deid.rules.private import PrivateAttributes
from mdm_deid.rules.profile import Profile
from mdm_deid.text.term import term_spans

REASON: Final = "self_check"
# Written by the de-identifier: pseudonym and codes; and of the method the last value.
_OURS = frozenset({0x00100010, 0x00100020, METHOD_CODES})
_TOKEN = re.compile(rb"[0-9a-z\x80-\xff]+")
_UID = re.compile(rb"[0-9.]{9,}")
# Text of two or four bytes a character, in either order.
_WIDE = (re.compile(rb"(?:[^\0]\0{1,3}){3,}"), re.compile(rb"(?:\0{1,3}[^\0]){3,}"))
_PIXEL_GROUP: Final = 0x7FE00000
# Values shorter than this turn up in pixels by chance.
_SHORTEST_IN_PIXELS: Final = 8
_SHORT: Final = 5
# Bytes outside ASCII that do not follow each other by chance.
_SHORTEST_RUN, _NOT_ASCII = 4, 0x80
_DATE_TIME: Final = 14
# In place of what is not searched: no word's character, and none that stands between the bytes of wide ones.
_JOINS_NOTHING: Final = b"\n"
_CHUNK, _OVERLAP = 4 << 20, 4096
# Returns whether a private creator (group, creator) stays; None if terms are searched as well.
_Terms = Callable[[int, str], bool] | None
# A search reads at most so many bytes, or the file so many times.
_LONGEST_SEARCH, _SEARCHES = 8 << 30, 64


class Deidentifies(Protocol):
    """What the check stands behind; `mdm_deid.Deidentifier` is one."""

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None = None) -> Result:
        """Return the released file or why it is not released; `patient` is of whom its study is, if that is known."""
        ...


class CheckedDeidentifier:
    """Passes files to a de-identifier and holds back what it released with an identifying value of the original in it."""

    def __init__(self, deidentifier: Deidentifies, profile: Profile) -> None:
        self._deidentifier = deidentifier
        self._case = NeedleCase(profile)
        self._keeps_creator = PrivateAttributes(profile).keeps_creator

    def deidentify(self, part10: bytes | memoryview, patient: Patient | None = None) -> Result:
        """De-identify a file; QUARANTINED with reason `self_check` if the check finds anything. Never raises for bad input."""
        result = self._deidentifier.deidentify(part10, patient)
        if result.outcome is not Outcome.RELEASED or result.data is None:
            return result
        found = self.leaks(part10, result.data, same_pixels=not result.pixel_rule)
        if found:
            return Result(Outcome.QUARANTINED, REASON, found=tuple(sorted(found)))
        return replace(result, checked=True)

    def leaks(self, original: bytes | memoryview, released: Sequence[bytes | memoryview], same_pixels: bool = True) -> frozenset[int]:
        """Return the tags whose values in `original` are still in `released`; empty if all is well.

        With `same_pixels` the pixel data are known to be as long as they were, and are not copied. What cannot be read again, or
        not searched within bounds, counts as a leak of tag 0.
        """
        content = memoryview(original).cast("B")
        try:
            needles = with_known_vrs(partial(self._case.collect, content), open_part10(content))
            pixel_bytes = needles.pixel_bytes if same_pixels else 0
            found = frozenset(_Search(needles, released, pixel_bytes).found())
            # A patient may be called like a term (Chest, Axial): a second search leaves out what the standard itself says.
            return found and frozenset(_Search(needles, released, pixel_bytes, self._keeps_creator).found())
        except (Malformed, _SearchTooLong):
            return frozenset({0})


class _SearchTooLong(Exception):
    """An input made to keep the search busy."""


class _Search:
    """One search. A value is looked for in full only if all its words occur, so that the work grows with the file, not its square."""

    def __init__(self, needles: Needles, released: Sequence[bytes | memoryview], pixel_bytes: int = 0, terms: _Terms = None) -> None:
        """Prepare; with `terms` values that the standard lists for the attribute they stand in are not searched, nor creators that stay."""
        self._needles = needles
        text, self._pixels = _parted(released, pixel_bytes, terms)
        self._text = text.lower()
        # Without its zeros, text of two bytes a character reads as one byte a character. So does an element number before a VR:
        # (0020,0052) UI ends in RUI. Short values are therefore looked for only in what is wide throughout.
        self._thin = self._text.replace(b"\0", b"")
        self._wide = b"\0".join(run.replace(b"\0", b"") for pattern in _WIDE for run in pattern.findall(self._text))
        self._left = max(_LONGEST_SEARCH, _SEARCHES * sum(map(len, released)))

    def found(self) -> Iterator[int]:
        """Yield the tags whose values are there."""
        needles, honest = self._needles, b"\0".join(self._needles.honest)
        words = set(_TOKEN.findall(self._text)) | set(_TOKEN.findall(self._wide))
        words |= {word for word in _TOKEN.findall(self._thin) if len(word) > _SHORT}
        # A date also begins a date-time.
        words |= {word[:8] for word in words if 8 < len(word) <= _DATE_TIME and word.isdigit()}
        uids = {uid.strip(b".") for uid in (*_UID.findall(self._text), *_UID.findall(self._thin))}
        yield from (tag for uid, tag in needles.uids.items() if uid in uids)
        own = ((value, tag) for value, tag in needles.own.items() if len(value) > _SHORT or value not in needles.terms)
        yield from (tag for value, tag in own if self._occurs(value, words))
        yield from (tag for value, tag in needles.shared.items() if self._occurs(value, words) and not self._contains(honest, value))
        yield from self._in_pixels()

    def _occurs(self, value: bytes, words: set[bytes]) -> bool:
        variants = [value] if value.isascii() else [value, *forms(value, self._needles.codecs)]
        return any(self._occurs_as(variant, words) for variant in variants)

    def _occurs_as(self, value: bytes, words: set[bytes]) -> bool:
        parts = _TOKEN.findall(value)
        # Not every script sets words apart.
        run_together = len(value) >= _SHORTEST_RUN and min(value) >= _NOT_ASCII
        as_words = all(part in words for part in parts)
        if not parts or not (run_together or as_words):
            return False
        if as_words and len(parts) == 1 and parts[0] == value:
            return True
        return self._contains(self._text, value) or self._contains(self._thin if len(value) > _SHORT else self._wide, value)

    def _in_pixels(self) -> Iterator[int]:
        values = {value: tag for value, tag in self._needles.own.items() if len(value) >= _SHORTEST_IN_PIXELS}
        for part in self._pixels:
            for start in range(0, len(part), _CHUNK):
                text = bytes(part[start : start + _CHUNK + _OVERLAP]).lower()
                yield from (tag for value, tag in values.items() if self._contains(text, value))

    def _contains(self, text: bytes, value: bytes) -> bool:
        self._left -= len(text)
        if self._left < 0:
            raise _SearchTooLong
        return value in text


def _parted(released: Sequence[bytes | memoryview], pixel_bytes: int, terms: _Terms) -> tuple[bytes, list[bytes | memoryview]]:
    """Return the text to search, and the pixel data, which are the last `pixel_bytes`, or where the data set has them if that is 0.

    The text is the file up to its pixel data, inflated if need be, without our own values, and with `terms` without those.

    Raises:
        Malformed: what was released cannot be read.
    """
    header, pixels = _cut(released, pixel_bytes)
    opened = open_part10(header)
    data, encoding = opened.data, opened.encoding
    text = bytearray(data) if terms else data
    kept, run, pos = [bytes(header[: opened.start])], opened.start, opened.start
    while pos < len(data):
        head = encoding.header(data, pos, len(data))
        if head[0] >= _PIXEL_GROUP and pixels:
            break
        end = skip(data, head, len(data), encoding)
        if terms and head[0] < _PIXEL_GROUP:
            for start, stop in term_spans(data, pos, end, encoding, terms):
                text[start:stop] = _JOINS_NOTHING * (stop - start)
        if head[0] in _OURS or head[0] == PIXEL_DATA:
            kept.append(bytes(text[run:pos]))
            run = end
        elif head[0] == METHOD:
            kept += [bytes(text[run:pos]), bytes(data[head[2] : end]).rpartition(b"\\")[0]]
            run = end
        if head[0] == PIXEL_DATA:
            pixels.append(data[head[2] : end])
        pos = end
    kept.append(bytes(text[run:]))
    return b"\0".join(kept), pixels


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
