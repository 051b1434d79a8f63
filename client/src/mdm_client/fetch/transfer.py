"""Reads one staged file: ciphertext from the site, through authentication, into a local file."""

import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol
from uuid import UUID

import grpc
from mdm_crypto.stream import StreamError, decrypt, decrypt_stream
from mdm_wire.errors import Cancelled, Corrupt, MdmError, Unavailable
from mdm_wire.retry import Backoff, is_busy, is_transient
from mdm_wire.status import from_rpc_error

from mdm_client.local_file import AtomicFile

# Files up to this size are decrypted in memory in one go: cheaper per file than a stream.
ONE_SHOT_BYTES = 8 * 1024 * 1024
_MAX_BREAKS = 6
# A server takes so many calls of one caller at a time; what is refused for that waits for the others, at most some two minutes.
_MAX_REFUSALS = 60


class StagedReader(Protocol):
    """What reading needs of a site."""

    place: str

    def read(self, turl: str, offset: int = 0) -> "ReadCall":
        """Return the stream of a file's bytes from `offset`."""


class ReadCall(Protocol):
    """A running stream of chunks."""

    def __iter__(self) -> Iterator["Chunk"]:
        """Yield chunks; may raise grpc.RpcError."""

    def cancel(self) -> object:
        """Give the stream up."""


class Chunk(Protocol):
    """A message of the stream."""

    data: bytes


class Cancellation:
    """Stops calls in other threads."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._calls: dict[int, ReadCall] = {}

    def stop(self) -> None:
        """Cancel what runs, and everything that starts later."""
        self._stopped.set()
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.cancel()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def check(self) -> None:
        """Raise Cancelled after `stop`."""
        if self._stopped.is_set():
            raise Cancelled("CANCELLED", "given up on request")

    def wait(self, seconds: float) -> None:
        """Pause, but not beyond `stop`."""
        self._stopped.wait(seconds)

    def enter(self, call: ReadCall) -> None:
        """Cancel `call` too from now on."""
        with self._lock:
            self._calls[id(call)] = call
        if self._stopped.is_set():
            call.cancel()

    def leave(self, call: ReadCall) -> None:
        """Forget a call that ended."""
        with self._lock:
            self._calls.pop(id(call), None)


class StagedFile:
    """The bytes of one TURL, in order; a broken stream is taken up again where it broke."""

    def __init__(self, site: StagedReader, turl: str, size: int, cancellation: Cancellation, received: Callable[[int], None]) -> None:
        self._site = site
        self._turl = turl
        self._size = size
        self._cancellation = cancellation
        self._received = received
        self._chunks = self._read_chunks()
        self._rest = memoryview(b"")

    def read_all(self) -> bytes:
        """Return everything."""
        chunks = list(self._chunks)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def read(self, size: int, /) -> memoryview:
        """Return up to `size` bytes, nothing only at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def close(self) -> None:
        """Give up what was not read."""
        self._chunks.close()

    def _read_chunks(self) -> Generator[bytes, None, None]:
        offset = 0
        breaks = refusals = 0
        backoff = Backoff()
        while True:
            self._cancellation.check()
            call = self._site.read(self._turl, offset)
            self._cancellation.enter(call)
            try:
                for chunk in call:
                    offset += len(chunk.data)
                    breaks = refusals = 0
                    self._received(len(chunk.data))
                    yield chunk.data
                failure: MdmError = Unavailable("STREAM_CUT", f"{self._site.place}: the stream ended early")
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self._site.place)
            finally:
                self._cancellation.leave(call)
                call.cancel()
            if offset >= self._size:
                return
            if is_busy(failure):
                refusals += 1
            else:
                breaks += 1
            if not is_transient(failure) or breaks > _MAX_BREAKS or refusals > _MAX_REFUSALS:
                self._cancellation.check()
                raise failure
            self._cancellation.wait(backoff.pause())


def fetch_file(
    source: StagedFile, size: int, key: bytes, guid: UUID, destination: Path, durable: bool = False, *, replace: bool = False
) -> int:
    """Write the plaintext of a staged file of `size` bytes to `destination` and return its size in bytes.

    Only authenticated bytes are written, and only a whole file gets its name: after any error nothing remains. What has the name already
    stays unless `replace`.

    Raises:
        Corrupt: CIPHERTEXT_NOT_AUTHENTIC.
        MdmError: the site could not be read.
        OSError: the local file could not be written; FileExistsError: there is one.
    """
    try:
        if size <= ONE_SHOT_BYTES:
            plaintext = decrypt(key, guid.bytes, source.read_all())
            with AtomicFile(destination, durable, replace=replace) as file:
                file.write(plaintext)
            return len(plaintext)
        with AtomicFile(destination, durable, replace=replace) as file:
            return decrypt_stream(key, guid.bytes, source, file)
    except StreamError as error:
        raise Corrupt(
            "CIPHERTEXT_NOT_AUTHENTIC", f"{guid}: what the site sent is not what was encrypted for this file; nothing was kept"
        ) from error
    finally:
        source.close()
