"""The result space on a local disk."""

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from mdm_service.settings import ConfigurationError
from mdm_wire.errors import Aborted, Corrupt, Exhausted, FailedPrecondition, Invalid, NotFound

_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalSpace:
    """A directory with `incoming/` and `kept/` (mode 0700), files of mode 0600 named by GUID.

    A file is synchronised to the disk before it is renamed from one to the other. Several processes may use the directory.
    """

    def __init__(self, directory: Path, keep_free: int = 0) -> None:
        """Open the space; uploads are refused that would leave less than `keep_free` bytes of the disk.

        Raises:
            ConfigurationError: the directory cannot be used.
        """
        self._incoming, self._kept = directory / "incoming", directory / "kept"
        self._keep_free = keep_free
        self._lock = threading.Lock()
        # The digest of what has been written in this process, and up to where.
        self._digests: dict[UUID, tuple[hashlib._Hash, int]] = {}
        try:
            for path in (directory, self._incoming, self._kept):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                # The root of a container's volume is not ours; what is in it is.
                if path != directory or path.stat().st_uid == os.geteuid():
                    path.chmod(0o700)
        except OSError as error:
            raise ConfigurationError(f"results {directory}: {error.strerror}; it must be a writable directory") from error

    def begin(self, guid: UUID) -> str:
        """Return the name of an upload; nothing is made before its first byte."""
        return str(guid)

    def received(self, guid: UUID, place: str) -> int:
        """Return how many bytes are here."""
        for path in (self._incoming / place, self._kept / str(guid)):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def write(self, guid: UUID, place: str, offset: int, size: int, parts: Iterator[bytes]) -> int:
        """Append to an upload; see `Space`."""
        try:
            descriptor = os.open(self._incoming / place, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _full(error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Aborted("WRITE_UNDER_WAY", "Another stream is writing this file.") from None
            here = os.fstat(descriptor).st_size
            if offset != here:
                raise Invalid(
                    "BAD_OFFSET", f"{here:,} bytes of the file are here: go on there.", fields={"offset": "not where the file ends"}
                )
            digest, counted = self._taken(guid)
            if counted != here:
                digest, counted = _digest_of(descriptor, here), here
            try:
                for part in parts:
                    if here + len(part) > size:
                        raise Invalid("TOO_LONG", f"The file has {size:,} bytes.", fields={"data": "beyond the end"})
                    if self.free() < len(part):
                        raise Exhausted("RESULT_SPACE_FULL", "The site has no room for results now; what has arrived stays for a while.")
                    _write_all(descriptor, part)
                    digest.update(part)
                    here += len(part)
            except OSError as error:
                raise _full(error) from error
            finally:
                # What a failed call wrote of a part does not count.
                with suppress(OSError):
                    os.ftruncate(descriptor, here)
                with self._lock:
                    self._digests[guid] = digest, here
            return here
        finally:
            os.close(descriptor)

    def finish(self, guid: UUID, place: str, size: int, sha256: bytes) -> None:
        """Make an upload permanent; see `Space`."""
        kept, incoming = self._kept / str(guid), self._incoming / place
        if kept.exists():  # by an earlier call that did not end
            return
        try:
            descriptor = os.open(incoming, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FailedPrecondition("UPLOAD_INCOMPLETE", f"Nothing of {size:,} bytes has arrived.") from None
        try:
            here = os.fstat(descriptor).st_size
            if here != size:
                raise FailedPrecondition("UPLOAD_INCOMPLETE", f"{here:,} of {size:,} bytes have arrived.")
            digest, counted = self._taken(guid)
            if counted != size:
                digest = _digest_of(descriptor, size)
            if digest.digest() != sha256:
                raise Corrupt("CHECKSUM_DIFFERS", "What arrived is not what was sent: its SHA-256 is another one. Put it again.")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        incoming.rename(kept)
        _synchronise(self._kept)

    def copy_to(self, guid: UUID, path: Path) -> int:
        """Link a kept file to `path`, or copy it where that is another file system; see `Space`."""
        source = self._kept / str(guid)
        try:
            path.unlink(missing_ok=True)
            try:
                os.link(source, path)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                    raise
                shutil.copyfile(source, path)
                path.chmod(0o600)
        except FileNotFoundError:
            raise NotFound("RESULT_LOST", "The result space does not have the file.") from None
        return path.stat().st_size

    def remove(self, guid: UUID, place: str) -> None:
        """Remove a file."""
        self._taken(guid)
        (self._kept / str(guid)).unlink(missing_ok=True)
        if place:
            (self._incoming / place).unlink(missing_ok=True)

    def free(self) -> int:
        """Return how many bytes there is room for."""
        return max(0, shutil.disk_usage(self._incoming).free - self._keep_free)

    def _taken(self, guid: UUID) -> "tuple[hashlib._Hash, int]":
        """Take what is known of an upload's digest."""
        with self._lock:
            return self._digests.pop(guid, None) or (hashlib.sha256(), 0)


def _digest_of(descriptor: int, size: int) -> "hashlib._Hash":
    digest, position = hashlib.sha256(), 0
    while position < size and (block := os.pread(descriptor, min(_BLOCK, size - position), position)):
        digest.update(block)
        position += len(block)
    return digest


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _synchronise(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(error: OSError) -> Exception:
    if error.errno in _FULL:
        return Exhausted("RESULT_SPACE_FULL", "The site has no room for results now; what has arrived stays for a while.")
    return error
