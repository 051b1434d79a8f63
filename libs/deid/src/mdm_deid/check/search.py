"""One search for identifying values in a released file: as words of its header, and anywhere in its pixel data."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from threading import local
from typing import Final, NamedTuple

from mdm_deid.check.identifier import IdentifyingValues, forms
from mdm_deid.encoding.element import Buffer
from mdm_deid.text.pattern import MOST_COMPILED, Patterns

_TOKEN = re.compile(rb"[0-9a-z\x80-\xff]+")
_TOKEN_BYTES: Final = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyz") | frozenset(range(0x80, 0x100))
_UID = re.compile(rb"[0-9.]{9,}")
# Text of two or four bytes a character, in either order.
_WIDE = (re.compile(rb"(?:[^\0]\0{1,3}){3,}"), re.compile(rb"(?:\0{1,3}[^\0]){3,}"))
_GAPS: Final = (b"\0", b"\0\0", b"\0\0\0")
# Values shorter than this turn up in pixels by chance.
_SHORTEST_IN_PIXELS: Final = 8
_SHORT: Final = 5
# Bytes outside ASCII that do not follow each other by chance.
_SHORTEST_RUN, _NOT_ASCII = 4, 0x80
_DATE, _DATE_TIME = 8, 14
# The UIDs of a system begin alike, and so much is more than the root of the standard's own.
_UID_BEGINNING: Final = 16
# A search reads at most so many bytes, or the file so many times.
_LONGEST_SEARCH, _SEARCHES = 8 << 30, 64
_SETS: Final = 6
_MOST_PLACES: Final = 64


class SearchTooLong(Exception):
    """The search exceeds its bound; only an input made for that makes it so long."""


class CompiledValues:
    """Looks for the values of one file after the other; as those of a series are mostly the same, they are compiled once.

    What is compiled is text to look for, and says nothing about another file: each search gives what it found of the values asked for.
    Every thread has its own, at most six sets. `few` new values are looked for beside a compiled set, with more of them there is a new one.
    """

    def __init__(self, few: int) -> None:
        self._few = few
        self._local = local()

    def occurring(self, values: Iterable[bytes], contents: Sequence[Buffer]) -> tuple[set[bytes], int]:
        """Return those of `values`, in lower case, that stand in one of `contents` in any case, and how many bytes were read for it."""
        wanted = frozenset(values)
        known = self._nearest(wanted)
        found, read = set[bytes](), 0
        for patterns in (known, Patterns(wanted - known.texts, ignore_case=True)):
            for content in contents:
                if patterns.texts:
                    read += patterns.cost(content)
                    found |= patterns.occurring(content)
        return found & wanted, read

    def _nearest(self, wanted: frozenset[bytes]) -> Patterns:
        """Return patterns that hold all of `wanted` but a few; new ones if there are none."""
        sets: list[Patterns] = self._local.__dict__.setdefault("sets", [])
        for index, patterns in enumerate(sets):
            if len(wanted - patterns.texts) <= min(self._few, len(wanted) // 2) and len(patterns.texts) <= 2 * len(wanted) + self._few:
                sets.insert(0, sets.pop(index))
                return patterns
        sets.insert(0, Patterns(wanted, ignore_case=True))
        del sets[_SETS:]
        return sets[0]


class CompiledSearch(NamedTuple):
    """What is compiled for searches in headers and in pixels."""

    text: CompiledValues
    pixels: CompiledValues

    @classmethod
    def new(cls) -> "CompiledSearch":
        """Return one in which nothing is compiled yet."""
        return cls(CompiledValues(few=24), CompiledValues(few=8))


class Search:
    """One search. First all values are looked for at once, wherever they stand; what occurs is then judged as word or number."""

    def __init__(self, known: IdentifyingValues, text: bytes, pixels: Sequence[Buffer], compiled: CompiledSearch) -> None:
        """Search for `known` in the `text` of a header, and in its pixel data."""
        self._known = known
        self._pixels = pixels
        self._compiled = compiled
        self._text = text.lower()
        # Without its zeros, text of two bytes a character reads as one byte a character. So does an element number before a VR:
        # (0020,0052) UI ends in RUI. Short values are therefore looked for only in what is wide throughout.
        self._thin = self._text.replace(b"\0", b"")
        self._left = max(_LONGEST_SEARCH, _SEARCHES * (len(text) + sum(map(len, pixels))))

    def found(self) -> Iterator[int]:
        """Yield the tags whose values occur.

        Raises:
            SearchTooLong: the search exceeds its bound.
        """
        known = self._known
        own = {value: tag for value, tag in known.own.items() if len(value) > _SHORT or value not in known.terms}
        beginnings = {uid[:_UID_BEGINNING] for uid in known.uids}
        variants = {value: self._variants(value) for value in (own | known.shared)}
        occurring = self._occurring(beginnings.union(*variants.values()))
        if not occurring.isdisjoint(beginnings):
            yield from (tag for uid, tag in known.uids.items() if uid in self._uids)
        # Zeros in a value of few bytes may be those between wide words.
        maybe = {
            value
            for value, forms in variants.items()
            if any(form in occurring or (b"\0" in form and len(form) <= _SHORT) for form in forms)
        }
        yield from (tag for value, tag in own.items() if value in maybe and self._occurs(variants[value]))
        shared = [(value, tag) for value, tag in known.shared.items() if value in maybe]
        staying = b"\0".join(known.staying) if shared else b""
        yield from (tag for value, tag in shared if not self._contains(staying, value) and self._occurs(variants[value]))
        yield from self._in_pixels()

    def _variants(self, value: bytes) -> Sequence[bytes]:
        return [value] if value.isascii() else [value, *forms(value, self._known.codecs)]

    def _occurring(self, values: set[bytes]) -> set[bytes]:
        """Return which of these stand anywhere in the text, with or without its zeros; all, if they are very many."""
        if len(values) > MOST_COMPILED:
            return values
        found, read = self._compiled.text.occurring(values, (self._text, self._thin))
        self._spend(read)
        return found

    @cached_property
    def _wide(self) -> bytes:
        return b"\0".join(run.replace(b"\0", b"") for pattern in _WIDE for run in pattern.findall(self._text))

    @cached_property
    def _words(self) -> set[bytes]:
        words = set(_TOKEN.findall(self._text)) | set(_TOKEN.findall(self._wide))
        words |= {word for word in _TOKEN.findall(self._thin) if len(word) > _SHORT}
        # A date also begins a date-time.
        return words | {word[:_DATE] for word in words if _DATE < len(word) <= _DATE_TIME and word.isdigit()}

    @cached_property
    def _uids(self) -> set[bytes]:
        return {uid.strip(b".") for uid in (*_UID.findall(self._text), *_UID.findall(self._thin))}

    def _occurs(self, variants: Iterable[bytes]) -> bool:
        return any(self._occurs_as(variant) for variant in variants)

    def _occurs_as(self, value: bytes) -> bool:
        if _is_apart(self._text, value):
            return True
        if self._is_no_word(value):
            return False
        parts = _TOKEN.findall(value)
        # Not every script sets words apart.
        run_together = len(value) >= _SHORTEST_RUN and min(value) >= _NOT_ASCII
        as_words = all(part in self._words for part in parts)
        if not parts or not (run_together or as_words):
            return False
        if as_words and len(parts) == 1 and parts[0] == value:
            return True
        return self._contains(self._text, value) or self._contains(self._thin if len(value) > _SHORT else self._wide, value)

    def _is_no_word(self, value: bytes) -> bool:
        """Return quickly whether a value of one word is certainly none of the text's words; False says nothing.

        Names of few letters stand in longer words of nearly every file, for which its words need not all be listed.
        """
        if not value.isascii() or not _TOKEN.fullmatch(value) or (len(value) == _DATE and value.isdigit()):
            return False
        texts = (self._text, self._thin) if len(value) > _SHORT else (self._text,)
        if any(_is_apart(text, value) is not False for text in texts):
            return False
        pairs = pairwise(value)
        wide = all(any(bytes((first,)) + gap + bytes((second,)) in self._text for gap in _GAPS) for first, second in pairs)
        return len(value) > 1 and not wide

    def _in_pixels(self) -> Iterator[int]:
        values = {value: tag for value, tag in self._known.own.items() if len(value) >= _SHORTEST_IN_PIXELS}
        if values and self._pixels:
            found, read = self._compiled.pixels.occurring(values, self._pixels)
            self._spend(read)
            yield from (values[value] for value in found)

    def _contains(self, text: bytes, value: bytes) -> bool:
        self._spend(len(text))
        return value in text

    def _spend(self, read: int) -> None:
        self._left -= read
        if self._left < 0:
            raise SearchTooLong


def _is_apart(text: bytes, value: bytes) -> bool | None:
    """Return whether a value stands in a text between other bytes than those of words; None if it stands there too often to say.

    One that begins and ends with a word's bytes then consists of words of the text.
    """
    if not value or value[0] not in _TOKEN_BYTES or value[-1] not in _TOKEN_BYTES:
        return None
    pos = text.find(value)
    for _ in range(_MOST_PLACES):
        if pos < 0:
            return False
        end = pos + len(value)
        if not (pos and text[pos - 1] in _TOKEN_BYTES) and not (end < len(text) and text[end] in _TOKEN_BYTES):
            return True
        pos = text.find(value, pos + 1)
    return None
