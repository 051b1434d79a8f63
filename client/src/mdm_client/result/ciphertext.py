"""The ciphertext of a local file, encrypted while it is sent."""

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from uuid import UUID

from mdm_crypto.stream import ciphertext_size, encrypt_stream
from mdm_wire.errors import Conflict

from mdm_client.local_file import InputFile, translated

PART = 1 << 20


class Ciphertext:
    """A file's ciphertext, made in a thread into a temporary file without a name, from which it is sent, again after a break.

    Only ciphertext is in that file. Its bytes can be read as soon as they are made. Use it in `with`.
    """

    def __init__(self, path: str, key: bytes, guid: UUID, plain_size: int) -> None:
        """Begin to encrypt a file that has so many bytes."""
        self._path = path
        self._key = key
        self._guid = guid
        self._plain_size = plain_size
        self.size = ciphertext_size(plain_size)
        self._digest = hashlib.sha256()
        self._plain_digest = hashlib.sha256()
        self._changed = threading.Condition()
        self._made = 0
        self._ended = False
        self._error: BaseException | None = None
        with translated(tempfile.gettempdir(), "written"):
            self._file = tempfile.TemporaryFile(prefix="mdm-put-", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._thread = threading.Thread(target=self._encrypt, name="encrypt", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._ended = True
        self._thread.join()
        self._file.close()

    def parts(self, offset: int) -> Iterator[bytes]:
        """Yield the ciphertext from `offset` on, as it is made.

        Raises:
            MdmError: the file cannot be read, or has changed.
        """
        while offset < self.size:
            size = min(PART, self._wait_for(min(offset + PART, self.size)) - offset)
            if size <= 0:
                return
            part = os.pread(self._file.fileno(), size, offset)
            offset += len(part)
            yield part

    def digests(self) -> tuple[bytes, bytes]:
        """Return the SHA-256 of ciphertext and plaintext, once all is made."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.digest(), self._plain_digest.digest()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a piece of ciphertext from the cipher."""
        if self._ended:
            raise _Ended
        self._digest.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        with self._changed:
            self._made += len(data)
            self._changed.notify_all()

    def _wait_for(self, size: int) -> int:
        """Wait until so much is made, or no more will be; return how much is."""
        with self._changed:
            self._changed.wait_for(lambda: self._made >= size or self._error is not None or self._ended)
            if self._error is not None:
                raise self._error
            return self._made

    def _encrypt(self) -> None:
        try:
            with translated(tempfile.gettempdir(), "written"), InputFile(self._path) as source:
                count = encrypt_stream(self._key, self._guid.bytes, _Counted(source, self._plain_digest), self)
            if count != self._plain_size:
                raise Conflict("LOCAL_FILE_CHANGED", f"{self._path}: it changed while it was read; put it again")
        except _Ended:
            pass
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


class _Ended(Exception):
    """Nobody wants the ciphertext any more."""


class _Counted:
    """A source of which the digest is taken as it is read."""

    def __init__(self, source: InputFile, digest: "hashlib._Hash") -> None:
        self._source = source
        self._digest = digest

    def read(self, size: int, /) -> bytes:
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._source.readinto(buffer)
        self._digest.update(buffer[:count])
        return count
