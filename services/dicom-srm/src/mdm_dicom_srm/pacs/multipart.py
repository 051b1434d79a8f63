"""Incremental reader of multipart/related bodies (RFC 2046 section 5.1, RFC 2387)."""

import re
from collections.abc import Iterable, Iterator
from email.message import Message

_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d+)[ \t]*\r?$")
_MAX_HEADERS = 16 * 1024


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


def parts(chunks: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """Yield the content of each part as soon as it is complete; part headers are used for Content-Length only.

    A part with a Content-Length is taken by length, any other up to the next delimiter; bytes are copied twice at most.

    Raises:
        MultipartBroken: the body ends before its closing delimiter, or is malformed.
    """
    reader = _Reader(chunks)
    delimiter = b"\r\n--" + boundary
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
            content = reader.exactly(int(match.group(1)))
            reader.skip_past(delimiter)
        else:
            content = reader.until(delimiter)
        yield content


class _Reader:
    """Takes bytes from chunks; the buffer begins at the reading position."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def exactly(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        while len(self._buffer) < length:
            self._more()
        return self._take(length)

    def until(self, mark: bytes, limit: int | None = None) -> bytes:
        """Return what stands before `mark` and go past it."""
        searched = 0
        while (found := self._buffer.find(mark, searched)) < 0:
            searched = max(0, len(self._buffer) - len(mark) + 1)
            if limit is not None and searched > limit:
                raise MultipartBroken("a part has endless headers")
            self._more()
        content = self._take(found)
        del self._buffer[: len(mark)]
        return content

    def skip_past(self, mark: bytes) -> None:
        """Go past the next `mark`."""
        self.until(mark)

    def line(self) -> bytes:
        """Return the rest of a delimiter's line; the closing one may end without a line break."""
        while len(self._buffer) < 2:
            self._more()
        return b"--" if self._buffer.startswith(b"--") else self.until(b"\r\n", _MAX_HEADERS)

    def until_blank_line(self) -> bytes:
        """Return a part's headers and go past the blank line that ends them."""
        while len(self._buffer) < 2:
            self._more()
        if self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
            return b""
        return self.until(b"\r\n\r\n", _MAX_HEADERS)

    def _take(self, length: int) -> bytes:
        with memoryview(self._buffer) as view:
            content = bytes(view[:length])
        del self._buffer[:length]
        return content

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise MultipartBroken("the answer ends before its last part is complete")
        self._buffer += chunk
