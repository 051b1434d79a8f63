"""Reading a data set element by element, sequences entered on request; what is nested is walked once more per level."""

from collections.abc import Iterator
from typing import NamedTuple

from mdm_deid.encoding.codec import IMPLICIT_LE, ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Encoding, skip
from mdm_deid.outcome import Malformed


class Element(NamedTuple):
    """One element: its value lies in `value:end` of the buffer, delimiters included where its length is undefined."""

    tag: int
    vr: bytes
    start: int
    value: int
    length: int
    end: int


class Item(NamedTuple):
    """One item of a sequence: its elements begin at `start` and lie before `limit`, in `encoding`."""

    start: int
    limit: int
    encoding: Encoding


def elements(data: memoryview, pos: int, limit: int, encoding: Encoding, depth: int = 0) -> Iterator[Element]:
    """Yield the elements from `pos` to `limit` or to the item delimiter.

    Raises:
        Malformed: an element does not end within `limit`, or nests deeper than MAX_DEPTH.
    """
    while pos < limit:
        head = encoding.header(data, pos, limit)
        tag, vr, value, length = head
        if tag == ITEM_END:
            return
        end = skip(data, head, limit, encoding, depth)
        yield Element(tag, vr, pos, value, length, end)
        pos = end


def items(data: memoryview, element: Element, encoding: Encoding, depth: int = 0) -> Iterator[Item]:
    """Yield the items of an element that is a sequence.

    Raises:
        Malformed: it is none.
    """
    inner = IMPLICIT_LE if element.vr == b"UN" else encoding
    pos = element.value
    while pos < element.end:
        tag, _, value, length = inner.item_header(data, pos, element.end)
        if tag == SEQUENCE_END and element.length == UNDEFINED:
            return
        if tag != ITEM or (length != UNDEFINED and value + length > element.end):
            raise Malformed("sequence_items")
        limit = element.end if length == UNDEFINED else value + length
        yield Item(value, limit, inner)
        pos = _after(data, value, limit, inner, depth) if length == UNDEFINED else limit


def _after(data: memoryview, pos: int, limit: int, encoding: Encoding, depth: int) -> int:
    """Return where an item of undefined length that begins at `pos` ends, its delimiter included."""
    while True:
        head = encoding.header(data, pos, limit)
        if head[0] == ITEM_END:
            return head[2]
        pos = skip(data, head, limit, encoding, depth + 1)
