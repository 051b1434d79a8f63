"""Runs of elements that came in earlier files with the same bytes, so that what they led to need not be found out again."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from mdm_deid.encoding.element import PIXELS, Encoding, skip
from mdm_deid.outcome import Malformed

#: A header that is longer is not remembered; nor are more attributes of a series.
LONGEST_HEADER: Final = 256 << 10
_MOST_ATTRIBUTES: Final = 4096
#: Of so many series a thread remembers runs.
SERIES: Final = 8
_SERIES_UID: Final = 0x0020000E
_LONGEST_UID: Final = 64
_AFTER_ALL: Final = 1 << 32
# An item that is longer is not remembered by itself.
_LONGEST_ITEM: Final = 4096
# So many items of a sequence may be new, and two more for each that was not.
_PATIENCE: Final = 32
# What it takes to remember an item beside its bytes.
_ITEM_OVERHEAD: Final = 256
# Its elements, and what comes after them, are not part of a run.
_PIXEL_GROUP: Final = min(PIXELS) & 0xFFFF0000
# In place of an element's bytes, where they are not the same in all files.
_VARIES: Final = b""
T = TypeVar("T")
S = TypeVar("S")


class Run(Generic[T]):
    """Elements in a row, in ascending order and complete: their bytes, and what they led to (None: not yet known)."""

    __slots__ = ("elements", "outcome", "raw")

    def __init__(self, raw: bytes, elements: Sequence[tuple[int, int]]) -> None:
        """Take the bytes, and the tag and length in bytes of each element."""
        self.raw = raw
        self.elements = tuple(elements)
        self.outcome: T | None = None

    @property
    def tags(self) -> Iterable[int]:
        """The attributes."""
        return (tag for tag, _ in self.elements)


class Piece(NamedTuple, Generic[T]):
    """A part of a data set, of whole elements: `start:end`, the first tag, and its run; None where the elements are to be read."""

    start: int
    end: int
    first: int
    run: Run[T] | None


class Runs(Generic[T]):
    """The runs of one series of files; each file may change them.

    An attribute becomes part of a run when it comes with the same bytes in two files, and is never part of one again once it came with
    others. So runs are few and long, and what they are does not matter: a run stands only for the very bytes it was made of.
    """

    def __init__(self, encoding: Encoding, apart: Callable[[int], bool], bounds: Sequence[int] = ()) -> None:
        """Keep attributes for which `apart` holds out of all runs; no run goes across one of `bounds`, in ascending order."""
        self._encoding = encoding
        self._apart = apart
        self._bounds = bounds
        # By the four bytes of its first tag.
        self._runs: dict[bytes, Run[T]] = {}
        self._attributes: dict[int, Run[T] | bytes] = {}

    def forget_outcomes(self) -> None:
        """Forget what runs led to."""
        for run in self._runs.values():
            run.outcome = None

    def cover(self, data: memoryview, text: bytes, start: int) -> list[Piece[T]]:
        """Return all elements of `data` from `start` in pieces, the pixel data and what comes after them in the last one.

        `text` is the beginning of `data`.

        Raises:
            Malformed: as `pieces`.
        """
        pieces = self.pieces(text, start)
        end = pieces[-1].end if pieces else start
        if end < len(data):
            pieces.append(Piece(end, len(data), _AFTER_ALL, None))
        return pieces

    def pieces(self, text: bytes, pos: int) -> list[Piece[T]]:
        """Return the elements from `pos` up to the pixel data or the end of `text` in pieces.

        Raises:
            Malformed: they cannot be read, are not in ascending order, or do not end within `text`.
        """
        if len(self._attributes) > _MOST_ATTRIBUTES:  # of no honest series
            self._runs, self._attributes = {}, {}
        pieces: list[Piece[T]] = []
        same: list[tuple[int, int, int]] = []
        runs, header, limit = self._runs, self._encoding.header, len(text)
        read_from, read_first, last = -1, 0, 0
        while pos < limit:
            run = runs.get(text[pos : pos + 4])
            if run is not None and run.elements[0][0] > last and text.startswith(run.raw, pos):
                end, (last, _) = pos + len(run.raw), run.elements[-1]
                if read_from >= 0:
                    pieces.append(Piece(read_from, pos, read_first, None))
                    read_from = -1
                if same:
                    self._form(text, same, pieces)
                pieces.append(Piece(pos, end, run.elements[0][0], run))
                pos = end
                continue
            head = header(text, pos, limit)
            tag = head[0]
            if tag >= _PIXEL_GROUP:
                break
            if tag <= last:
                raise Malformed("malformed")
            last, end = tag, skip(text, head, limit, self._encoding)
            if self._is_same(tag, text, pos, end):
                if read_from >= 0:
                    pieces.append(Piece(read_from, pos, read_first, None))
                    read_from = -1
                same.append((tag, pos, end))
            else:
                if same:
                    self._form(text, same, pieces)
                if read_from < 0:
                    read_from, read_first = pos, tag
            pos = end
        if read_from >= 0:
            pieces.append(Piece(read_from, pos, read_first, None))
        if same:
            self._form(text, same, pieces)
        return pieces

    def _is_same(self, tag: int, text: bytes, pos: int, end: int) -> bool:
        """Return whether an element that no run begins with is the same as in the file before."""
        known = self._attributes.get(tag)
        if isinstance(known, Run):
            self._dissolve(known)
            known = self._attributes[tag]
        if known is None:
            self._attributes[tag] = _VARIES if self._apart(tag) else text[pos:end]
            return False
        if known == _VARIES:
            return False
        if known == text[pos:end]:
            return True
        self._attributes[tag] = _VARIES
        return False

    def _dissolve(self, run: Run[T]) -> None:
        """Take a run apart of which an element has changed or is missing; what is the same forms shorter ones."""
        del self._runs[run.raw[:4]]
        pos = 0
        for tag, length in run.elements:
            self._attributes[tag] = run.raw[pos : pos + length]
            pos += length

    def _form(self, text: bytes, same: list[tuple[int, int, int]], pieces: list[Piece[T]]) -> None:
        """Make runs of elements in a row that were the same, and add them to `pieces`."""
        while same:
            section = bisect_right(self._bounds, same[0][0])
            count = sum(bisect_right(self._bounds, tag) == section for tag, _, _ in same)
            part, same[:] = same[:count], same[count:]
            start, end = part[0][1], part[-1][2]
            run: Run[T] = Run(text[start:end], [(tag, stop - begin) for tag, begin, stop in part])
            self._runs[run.raw[:4]] = run
            self._attributes.update(dict.fromkeys(run.tags, run))
            pieces.append(Piece(start, end, part[0][0], run))


class Items(Generic[T]):
    """What items of sequences led to, by their bytes and all that it depends on beside them; kept within bounds."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[object, ...], T] = {}
        self._bytes = 0
        # Of each sequence's attribute: how many more items may be new before it is not worth the while.
        self._patience: dict[int, int] = {}

    def remembers(self, sequence: int, length: int) -> bool:
        """Return whether items of so many bytes of an attribute are worth remembering: they are short, and enough came again."""
        return length <= _LONGEST_ITEM and self._patience.get(sequence, _PATIENCE) > 0

    def get(self, sequence: int, *circumstances: object) -> T | None:
        """Return what an item of an attribute led to under these circumstances, the first of which are its bytes; None if not known."""
        outcome = self._outcomes.get(circumstances)
        left = self._patience.get(sequence, _PATIENCE)
        self._patience[sequence] = left - 1 if outcome is None else min(left + 2, _PATIENCE)
        return outcome

    def put(self, outcome: T, raw: bytes, *circumstances: object) -> None:
        """Remember what an item led to."""
        if self._bytes > LONGEST_HEADER:
            self.clear()
        self._outcomes[(raw, *circumstances)] = outcome
        self._bytes += len(raw) + _ITEM_OVERHEAD

    def clear(self) -> None:
        """Forget all outcomes."""
        self._outcomes.clear()
        self._bytes = 0


class RecentSeries(Generic[S]):
    """What each thread remembers of the series whose files it saw last."""

    def __init__(self, most: int, new: Callable[[Encoding], S]) -> None:
        """Keep `most` series, each made by `new` when its first file comes."""
        self._most = most
        self._new = new
        self._local = threading.local()

    def find(self, text: bytes, start: int, encoding: Encoding) -> S | None:
        """Return the series that the header in `text` seems to be of; None with the first of its files, as it may be the only one.

        Where that is wrong, because a sequence names another series, say, the header has less in common with it.

        Raises:
            Malformed: the header ends too early.
        """
        known: OrderedDict[tuple[int, bytes], S | None] = self._local.__dict__.setdefault("series", OrderedDict())
        pos = text.find(encoding.prefix(_SERIES_UID, b"UI", 0)[:4], start)
        name = encoding.index, b""
        if pos >= 0:
            _, _, value, length = encoding.header(text, pos, len(text))
            name = encoding.index, text[pos : value + min(length, _LONGEST_UID)]
        if name not in known:
            known[name] = series = None
        else:
            series = known.pop(name)
            known[name] = series = self._new(encoding) if series is None else series
        if len(known) > self._most:
            known.popitem(last=False)
        return series
