"""An item of a sequence, looked at as a whole only where it has to be."""

from functools import cached_property

from mdm_deid.encoding.codec import Encoding, skip
from mdm_deid.outcome import Malformed
from mdm_deid.text.term import CodedEntry, coded_entry


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
