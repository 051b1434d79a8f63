"""The bytes of staged files: whole in memory, or read by a call of their own."""

from collections.abc import Callable, Generator
from typing import Protocol

from mdm_wire.errors import MdmError, Unavailable
from mdm_wire.retry import Backoff, is_busy, is_transient

from mdm_client.fetch.srm import SrmClient
from mdm_client.fetch.waiting import Cancellation

# How often in a row a stream may break before anything has come.
MAX_BREAKS = 6
# A server takes only so many calls of one caller at a time; a refused read waits for the others, for two minutes at most.
_MAX_REFUSALS = 60


class Ciphertext(Protocol):
    """The bytes of one staged file, in order; an error of the site is raised as MdmError while they are read."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""

    @property
    def whole(self) -> bool:
        """Whether all of it is in memory already, so that reading waits for nothing."""

    def read_all(self) -> bytes | memoryview:
        """Return what has not been read."""

    def read(self, size: int, /) -> memoryview:
        """Return up to `size` bytes; none only at the end."""

    def again(self) -> "Ciphertext":
        """Return the same file, to be read from its beginning once more; what this one had to come is dropped."""


class WholeFile:
    """A file that has come whole."""

    whole = True

    def __init__(self, data: memoryview) -> None:
        self.size = len(data)
        self._whole = self._data = data

    def read_all(self) -> memoryview:
        """See `Ciphertext`, as for each method."""
        return self.read(self.size)

    def read(self, size: int, /) -> memoryview:
        part, self._data = self._data[:size], self._data[size:]
        return part

    def again(self) -> "WholeFile":
        return WholeFile(self._whole)


class StagedFile:
    """The bytes of one TURL, read by a call of its own; a broken stream is resumed where it broke. See `Ciphertext`."""

    whole = False

    def __init__(self, site: SrmClient, turl: str, size: int, cancellation: Cancellation, received: Callable[[int], None]) -> None:
        self._site = site
        self._turl = turl
        self.size = size
        self._cancellation = cancellation
        self._received = received
        self._chunks = self._read_chunks()
        self._rest = memoryview(b"")

    def read_all(self) -> bytes:
        """See `Ciphertext`, as for each method."""
        chunks = list(self._chunks)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def read(self, size: int, /) -> memoryview:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def again(self) -> "StagedFile":
        self.close()
        return StagedFile(self._site, self._turl, self.size, self._cancellation, self._received)

    def close(self) -> None:
        """End the call."""
        self._chunks.close()

    def _read_chunks(self) -> Generator[bytes, None, None]:
        offset = 0
        breaks = refusals = 0
        backoff = Backoff()
        while True:
            self._cancellation.check()
            call = self._site.read(self._turl, offset)
            try:
                with self._cancellation.cancelling(call):
                    for chunk in call:
                        offset += len(chunk.data)
                        breaks = refusals = 0
                        self._received(len(chunk.data))
                        yield chunk.data
                failure: MdmError = Unavailable("STREAM_CUT", f"{self._site.place}: the stream ended early")
            except MdmError as error:
                failure = error
            finally:
                call.cancel()
            if offset >= self.size:
                return
            busy = is_busy(failure)
            refusals, breaks = refusals + busy, breaks + (not busy)
            if not is_transient(failure) or breaks > MAX_BREAKS or refusals > _MAX_REFUSALS:
                self._cancellation.check()
                raise failure
            self._cancellation.wait(backoff.pause())
