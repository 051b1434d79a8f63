"""Incremental reader of multipart/related bodies (RFC 2046 section 5.1, RFC 2387), into shared memory."""

import re
from collections.abc import Callable, Iterator
from email.message import Message

from mdm_dicom_srm.shared_memory import Block, BlockPool, Piece

_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d+)[ \t]*\r?$")
_MAX_HEADERS = 16 * 1024
# What follows a part of known length has room behind it.
_TAIL = 4 * 1024

#: Receives bytes into a view and returns how many; 0 at the end.
ReadInto = Callable[[memoryview], int]


class MultipartBroken(ValueError):
    """The body is not what its content type declares, or it ends early."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary parameter of a multipart content type.

    Raises:
        MultipartBroken: it is not multipart or has none.
    """
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_maintype() != "multipart" or not isinstance(boundary, str) or not boundary:
        raise MultipartBroken("the answer is not multipart")
    return boundary.encode("ascii", "replace")


def whole(read_into: ReadInto, limit: int, pool: BlockPool) -> Piece:
    """Return a body that is not multipart, of at most `limit` bytes.

    Raises:
        MultipartBroken: it has more.
    """
    reader = _Reader(read_into, pool)
    try:
        while reader.more():
            if reader.size > limit:
                raise MultipartBroken("the answer is too long")
        return reader.take(reader.size)
    finally:
        reader.close()


def parts(read_into: ReadInto, boundary: bytes, limit: int, pool: BlockPool) -> Iterator[Piece]:
    """Yield the content of each part, of at most `limit` bytes, as soon as it is complete; of its headers only Content-Length is used.

    A part with a Content-Length is taken by length, any other up to the next delimiter. Bytes are received where they stay; only a part
    that does not fit into the rest of its block, and has begun there, is copied.

    Raises:
        MultipartBroken: the body ends before its closing delimiter, or is malformed, or a part has more bytes.
    """
    reader = _Reader(read_into, pool)
    delimiter = b"\r\n--" + boundary
    try:
        # The first delimiter may stand at the very start, without the line break.
        reader.skip_past(b"--" + boundary)
        while True:
            ending = reader.line()
            if ending.startswith(b"--"):
                return
            headers = ending if ending.strip() else b""
            headers += reader.until_blank_line()
            match = _LENGTH.search(headers)
            if match:
                if int(match.group(1)) > limit:
                    raise MultipartBroken("a part is too long")
                content = reader.exactly(int(match.group(1)))
                reader.skip_past(delimiter)
            else:
                content = reader.take(reader.find(delimiter, limit))
                reader.skip(len(delimiter))
            yield content
    finally:
        reader.close()


class _Reader:
    """Receives into blocks; what was received and not yet taken lies between two positions of the present one."""

    def __init__(self, read_into: ReadInto, pool: BlockPool) -> None:
        self._read_into = read_into
        self._pool = pool
        self._block: Block = pool.take()
        self._start = self._end = 0

    @property
    def size(self) -> int:
        """How many bytes were received and not yet taken."""
        return self._end - self._start

    def close(self) -> None:
        """Give the block up."""
        self._block.release()

    def more(self) -> bool:
        """Receive more; return whether there was any."""
        if self._end == self._block.size:
            self._move(2 * self.size)
        count = self._read_into(self._block.view[self._end :])
        self._end += count
        return count > 0

    def take(self, length: int) -> Piece:
        """Take bytes that were received."""
        piece = self._block.piece(self._start, length)
        self._start += length
        return piece

    def skip(self, length: int) -> None:
        """Leave bytes out that were received."""
        self._start += length

    def exactly(self, length: int) -> Piece:
        """Return the next `length` bytes."""
        if self._start + length > self._block.size:
            self._move(length + _TAIL)
        self._need(length)
        return self.take(length)

    def find(self, mark: bytes, limit: int) -> int:
        """Return how far away the next `mark` is."""
        searched = 0
        while (found := self._block.find(mark, self._start + searched, self._end)) < 0:
            searched = max(0, self.size - len(mark) + 1)
            if searched > limit:
                raise MultipartBroken("a part, or its headers, has no end")
            self._need(self.size + 1)
        return found - self._start

    def skip_past(self, mark: bytes) -> None:
        """Go past the next `mark`."""
        self._until(mark)

    def line(self) -> bytes:
        """Return the rest of a delimiter's line; the closing one may end without a line break."""
        self._need(2)
        return b"--" if self._begins_with(b"--") else self._until(b"\r\n")

    def until_blank_line(self) -> bytes:
        """Return a part's headers and go past the blank line that ends them."""
        self._need(2)
        if self._begins_with(b"\r\n"):
            self.skip(2)
            return b""
        return self._until(b"\r\n\r\n")

    def _until(self, mark: bytes) -> bytes:
        length = self.find(mark, _MAX_HEADERS)
        content = bytes(self._block.view[self._start : self._start + length])
        self.skip(length + len(mark))
        return content

    def _begins_with(self, mark: bytes) -> bool:
        return self._block.view[self._start : self._start + len(mark)] == mark

    def _need(self, length: int) -> None:
        while self.size < length:
            if not self.more():
                raise MultipartBroken("the answer ends before its last part is complete")

    def _move(self, size: int) -> None:
        """Go on in another block, of at least `size` bytes."""
        left, block = self.size, self._pool.take(size)
        block.view[:left] = self._block.view[self._start : self._end]
        self._block.release()
        self._block, self._start, self._end = block, 0, left
