"""An item of a sequence, looked at as a whole only where it has to be: for its code, and for its character set."""

from collections.abc import Callable
from functools import cached_property
from typing import Final

from mdm_deid.encoding.charset import Charset
from mdm_deid.encoding.codec import Encoding, Header, skip
from mdm_deid.outcome import Malformed
from mdm_deid.text.term import CodedEntry, coded_entry

_LONGEST_MEANING: Final = 64


class Item:
    """The item whose elements lie in `start:limit` of the data, or end earlier with its delimiter."""

    def __init__(self, data: memoryview, start: int, limit: int, encoding: Encoding) -> None:
        self._data, self._start, self._limit, self._encoding = data, start, limit, encoding

    @cached_property
    def entry(self) -> CodedEntry | None:
        """The coded entry of the standard that the item is, if it is one.

        Raises:
            Malformed: the item cannot be walked.
        """
        return coded_entry(self._data, self._start, self._limit, self._encoding)

    def code(self, head: Header, start: int, end: int, charset: Charset, stays: Callable[[bytes], bool]) -> memoryview | bytes | None:
        """Return what stands in the place of an element of a coded entry of the standard: itself, or as bytes the standard's meaning.

        A meaning in other words gives way to the standard's where it would be removed or shortened, so that not all of it `stays`.
        None is returned where the element is to be judged as it would be elsewhere.

        Raises:
            Malformed: the item cannot be walked.
        """
        tag, vr, value, _ = head
        if self.entry is None:
            return None
        if tag in self.entry.plain:
            return self._data[start:end]
        meaning = None if stays(bytes(self._data[value:end])) else charset.encode(self.entry.meaning)
        if meaning is None or len(meaning) > _LONGEST_MEANING:
            return None
        return self._encoding.element(tag, b"LO" if vr == b"UN" else vr, meaning)

    def check_nothing_before(self, tag: int, end: int, depth: int) -> None:
        """Check that the elements before `end` have lower tags than the character set's `tag`, by which they would be read.

        Raises:
            Malformed: `late_character_set`, text stands before it, or it comes twice.
        """
        pos = self._start
        while pos < end:
            before = self._encoding.header(self._data, pos, end)
            if before[0] >= tag:
                raise Malformed("late_character_set")
            pos = skip(self._data, before, end, self._encoding, depth)
