"""Patches that the walks of compressed formats yield, and the checks that they share."""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from mdm_deid.text.vocabulary import known_to_encoders


class Patch(NamedTuple):
    """Bytes to be written over a stream at `start`; its length never changes."""

    start: int
    content: bytes

    @property
    def end(self) -> int:
        """Where the stream goes on as it was."""
        return self.start + len(self.content)


class Unreadable(Exception):
    """A stream does not follow its format's grammar, so its content is unknown."""


class SecondImage(Unreadable):
    """Another image follows that of a frame."""


# Yields the patches of one frame, none over another. Raises Unreadable.
Walk = Callable[[memoryview], Iterator[Patch]]

_WORD: Final = re.compile(rb"[0-9A-Za-z]+")
_NAME: Final = re.compile(rb"[A-Za-z]{4}")
_DIGITS, _MOST_DIGITS = b"0123456789", 6
_LETTER: Final = re.compile(rb"[A-Za-z]")
# In coded data every byte is about as likely as another: so many printable ones in a row come once in 10^10 places.
_LONGEST_BY_CHANCE: Final = 24
_FEWEST_LETTERS: Final = 6
# What names and texts are made of; of the tables that encoders write, in any quality, none has so many in a row.
_SENTENCE: Final = re.compile(rb"[A-Za-z0-9 ^=,.'-]{24,}")
_PRINTABLE: Final = bytes(ord("p") if 0x20 <= byte < 0x7F else 0 for byte in range(256))
_RUN: Final = b"p" * _LONGEST_BY_CHANCE
_BLOCK: Final = 1 << 20


def blank(data: memoryview, start: int, end: int, fill: bytes = b"\0") -> Iterator[Patch]:
    """Yield the patch that fills `data[start:end]`, none if it is filled already."""
    if start < end and bytes(data[start:end]) != fill * (end - start):
        yield Patch(start, fill * (end - start))


def comment(data: memoryview, start: int, end: int) -> Iterator[Patch]:
    """Yield the patch that blanks a comment, none if it has only the names and versions of encoders."""
    text = bytes(data[start:end])
    known = text.isascii() and all(known_to_encoders(word.decode("ascii")) for word in _WORD.findall(text))
    # Numbers alone, or more digits than a version has, may be a date or an identifier.
    if not (known and _NAME.search(text) and sum(byte in _DIGITS for byte in text) <= _MOST_DIGITS):
        yield from blank(data, start, end, b" ")


def refuse_text(data: memoryview, start: int, end: int) -> None:
    """Refuse coded data with a stretch that reads as text: more printable bytes in a row, of more letters, than chance makes.

    Raises:
        Unreadable: there is such a stretch.
    """
    for first in range(start, end, _BLOCK):
        block = bytes(data[first : min(end, first + _BLOCK + _LONGEST_BY_CHANCE)])
        shape = block.translate(_PRINTABLE)
        at = shape.find(_RUN)
        while at >= 0:
            stop = shape.find(b"\0", at)
            stop = len(shape) if stop < 0 else stop
            # Flat areas are coded as a few bytes over and over.
            if len(set(_LETTER.findall(block[at:stop]))) >= _FEWEST_LETTERS:
                raise Unreadable
            at = shape.find(_RUN, stop)


def refuse_sentence(content: bytes) -> None:
    """Refuse a table of numbers that reads as text, even with a zero before each letter; the usual ones are printable in part.

    Raises:
        Unreadable: it does.
    """
    for text in (content, content[::2], content[1::2]):
        if any(len(set(_LETTER.findall(run))) >= _FEWEST_LETTERS for run in _SENTENCE.findall(text)):
            raise Unreadable


def demand(holds: bool) -> None:
    """Raise Unreadable unless a rule of the grammar holds."""
    if not holds:
        raise Unreadable


def after_the_end(data: memoryview, pos: int, start_of_image: bytes) -> Iterator[Patch]:
    """Yield the patch that blanks what follows the end of an image.

    Raises:
        SecondImage: what follows is, or holds, another image.
    """
    if pos < len(data):
        after = bytes(data[pos:])
        if start_of_image in after:
            raise SecondImage
        if after.strip(b"\0\xff"):
            yield from blank(data, pos, len(data))


def uint(data: memoryview, start: int, length: int, end: int) -> int:
    """Return a big endian number.

    Raises:
        Unreadable: it does not lie before `end`.
    """
    if start + length > end:
        raise Unreadable
    return int.from_bytes(data[start : start + length], "big")
