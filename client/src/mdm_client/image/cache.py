"""Bounded caches: decrypted files in memory, and on disk, encrypted under a key that only this process has."""

import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar
from uuid import UUID

from mdm_crypto import stream
from mdm_wire.errors import Exhausted, Invalid

MEMORY_TOO_SMALL = "MEMORY_TOO_SMALL"

Key = TypeVar("Key")
Value = TypeVar("Value")


class SizedCache(Generic[Key, Value]):
    """Values up to `limit` bytes together; the least recently used go first, to `evicted`. Thread-safe."""

    def __init__(self, limit: int, size: Callable[[Value], int], evicted: Callable[[Key, Value], None] | None = None) -> None:
        self.limit = limit
        self._size = size
        self._evicted = evicted
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.RLock()
        self.held = 0

    def get(self, key: Key) -> Value | None:
        """Return a value, which counts as used; None if it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def put(self, key: Key, value: Value) -> None:
        """Keep a value; one that is larger than the limit is not kept."""
        size = self._size(value)
        with self._lock:
            self.pop(key)
            if size > self.limit:
                return
            self._values[key] = value
            self.held += size
        self.shrink(self.limit)

    def pop(self, key: Key) -> Value | None:
        """Forget a value and return it; None if it is not kept."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is not None:
                self.held -= self._size(value)
            return value

    def shrink(self, limit: int) -> None:
        """Forget values until at most `limit` bytes are held."""
        while True:
            with self._lock:
                if self.held <= limit or not self._values:
                    return
                key = next(iter(self._values))
                value = self.pop(key)
            if self._evicted and value is not None:
                self._evicted(key, value)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.held = 0


class EncryptedFolder:
    """Files in a new folder below `directory`, encrypted under a key that is never written; gone after `close`.

    Whatever a crash leaves there cannot be read by anybody.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        """Make the folder.

        Raises:
            Invalid: CACHE_UNUSABLE: the directory cannot be made or written.
        """
        self._key = os.urandom(stream.KEY_SIZE)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="mdm-view-", dir=directory))
        except OSError as error:
            raise Invalid("CACHE_UNUSABLE", f"{directory}: cannot be used as a cache ({error.strerror})") from error
        self._files: SizedCache[UUID, int] = SizedCache(limit, lambda size: size, lambda guid, _: self._remove(guid))

    def put(self, guid: UUID, data: bytes) -> None:
        """Write a file that is not there yet; a disk that is full keeps nothing more."""
        if guid in self._files:
            return
        path = self._path(guid)
        with suppress(OSError):
            part = path.with_suffix(".part")
            part.write_bytes(stream.encrypt(self._key, guid.bytes, [data]))
            part.replace(path)
            self._files.put(guid, len(data))

    def get(self, guid: UUID) -> bytes | None:
        """Return a file; None if it is not there or was altered."""
        if self._files.get(guid) is None:
            return None
        try:
            return stream.decrypt(self._key, guid.bytes, self._path(guid).read_bytes())
        except (OSError, stream.StreamError):
            self._files.pop(guid)
            return None

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, guid: UUID) -> Path:
        return self._folder / guid.hex

    def _remove(self, guid: UUID) -> None:
        self._path(guid).unlink(missing_ok=True)


class FileCache:
    """Decrypted files by GUID. What is held and what is being fetched take at most `limit` bytes together."""

    def __init__(self, limit: int, overflow: EncryptedFolder | None = None) -> None:
        self.limit = limit
        self._overflow = overflow
        self._files: SizedCache[UUID, bytes] = SizedCache(limit, len, overflow.put if overflow else None)
        self._room = threading.Condition()
        self._reserved = 0

    @property
    def held(self) -> int:
        """Bytes held and reserved now."""
        return self._files.held + self._reserved

    def get(self, guid: UUID) -> bytes | None:
        """Return a file, from the disk too; None if it is not kept."""
        data = self._files.get(guid)
        if data is None and self._overflow and (data := self._overflow.get(guid)) is not None:
            with self.reserving(len(data)):
                self._files.put(guid, data)
        return data

    def __contains__(self, guid: UUID) -> bool:
        return guid in self._files

    @contextmanager
    def reserving(self, size: int) -> Iterator[None]:
        """Have room for `size` bytes while the block runs: wait for other reservations, and forget files.

        Raises:
            Exhausted: MEMORY_TOO_SMALL: the limit is less than `size`.
        """
        if size > self.limit:
            raise Exhausted(MEMORY_TOO_SMALL, f"an image of {size:,} bytes does not fit into {self.limit:,}: give more --memory")
        with self._room:
            self._room.wait_for(lambda: self._reserved + size <= self.limit)
            self._reserved += size
        try:
            self._files.shrink(self.limit - self._reserved)
            yield
        finally:
            with self._room:
                self._reserved -= size
                self._room.notify_all()

    def put(self, guid: UUID, data: bytes) -> None:
        """Keep a file."""
        self._files.put(guid, data)

    def close(self) -> None:
        """Forget everything, on disk too."""
        self._files.clear()
        if self._overflow:
            self._overflow.close()
