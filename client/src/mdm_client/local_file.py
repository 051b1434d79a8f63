"""Local files, which get their names only when they are complete; standard input and output as files."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from mdm_crypto.stream import Buffer
from mdm_wire.errors import Conflict, Invalid, MdmError

STANDARD = "-"
_MAX_NAME_BYTES = 255
_FULL = (errno.ENOSPC, errno.EDQUOT)


class AtomicFile:
    """Writes `<name>.<random>.part` beside the destination, and renames it when the block ends without an exception.

    After an exception nothing remains. Only the owner may read the file. Unless `replace`, a file that has the name by then stays, and
    the end of the block raises FileExistsError.
    """

    def __init__(self, destination: Path, durable: bool = False, *, replace: bool = True) -> None:
        self._destination = destination
        self._durable = durable
        self._replace = replace
        suffix = f".{secrets.token_hex(4)}.part"
        stem = os.fsencode(destination.name)[: _MAX_NAME_BYTES - len(suffix)]
        self._part = destination.with_name(os.fsdecode(stem) + suffix)
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self

    def write(self, data: Buffer, /) -> None:
        _write_all(self._descriptor, data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._durable:
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            if kind is None:
                self._publish()
        except OSError:
            self._discard()
            raise
        if kind is not None:
            self._discard()

    def _publish(self) -> None:
        if self._replace:
            self._part.replace(self._destination)
            return
        try:
            self._destination.hardlink_to(self._part)
        except FileExistsError:
            raise
        except OSError:
            self._claim_and_replace()
        else:
            self._part.unlink()

    def _claim_and_replace(self) -> None:
        """Publish on a file system without hard links: an empty file takes the name first."""
        os.close(os.open(self._destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            self._part.replace(self._destination)
        except OSError:
            self._destination.unlink()
            raise

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink()


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[AtomicFile]:
    """Yield a file that appears when the block ends; a file that exists is refused at the beginning, unless `replace`.

    Raises:
        MdmError: LOCAL_FILE_EXISTS, LOCAL_DISK_FULL, LOCAL_FILE.
    """
    with translated(str(path), "written"):
        if not replace and os.path.lexists(path):
            raise FileExistsError
        with AtomicFile(path, replace=replace) as file:
            yield file


class StandardOutput:
    """Standard output, unbuffered."""

    def __enter__(self) -> Self:
        return self

    def write(self, data: Buffer, /) -> None:
        _write_all(1, data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


#: A file or pipe that is written in a `with` block.
Writer = AtomicFile | StandardOutput


class InputFile:
    """A file, or standard input (`-`), that is read; `size` in bytes is None if unknown before reading.

    `received` is called with each count of bytes read.
    """

    def __init__(self, name: str, received: Callable[[int], None] | None = None) -> None:
        """Open the file.

        Raises:
            MdmError: LOCAL_FILE: it does not exist or may not be read.
        """
        self.name = "standard input" if name == STANDARD else name
        self._received = received
        with translated(self.name, "read"):
            # Unbuffered: what is read goes straight into the reader's buffer.
            self._file = open(0 if name == STANDARD else name, "rb", buffering=0, closefd=name != STANDARD)  # noqa: SIM115
            status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None

    def readinto(self, buffer: memoryview, /) -> int:
        """Read into `buffer`; return the number of bytes, 0 only at the end."""
        with translated(self.name, "read"):
            count = self._file.readinto(buffer) or 0
        if self._received:
            self._received(count)
        return count

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none only at the end."""
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self.readinto(buffer)])

    def rewind(self) -> None:
        """Go back to the beginning; only if `size` is known."""
        with translated(self.name, "read"):
            self._file.seek(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def output_file(name: str, durable: bool = False) -> Writer:
    """Return a file that appears when it is complete, or standard output for `-`.

    A symbolic link is kept, and the file that it points to is replaced.

    Raises:
        Invalid: LOCAL_FILE: the name is that of a directory or device.
    """
    if name == STANDARD:
        return StandardOutput()
    path = Path(name).resolve()
    if path.is_dir() or not path.name:
        raise Invalid("LOCAL_FILE", f"{name}: is a directory; name a file")
    if path.exists() and not path.is_file():
        raise Invalid("LOCAL_FILE", f"{name}: is not a regular file; write - and redirect standard output to it")
    return AtomicFile(path, durable)


@contextlib.contextmanager
def translated(name: str, action: str) -> Iterator[None]:
    """Turn an OSError raised inside into a MdmError: the file `name` cannot be `action`, such as "read"."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe has disconnected, which is no failure of the file
    except OSError as error:
        raise local_error(error, name, action) from error


def local_error(error: OSError, name: str, action: str) -> MdmError:
    """Return the error for a failure of a local file: LOCAL_DISK_FULL, LOCAL_FILE_EXISTS or LOCAL_FILE."""
    if isinstance(error, FileExistsError):
        return Conflict("LOCAL_FILE_EXISTS", f"{name}: exists already; --force replaces it")
    reason = "LOCAL_DISK_FULL" if error.errno in _FULL else "LOCAL_FILE"
    return MdmError(reason, f"{name}: cannot be {action}: {error.strerror or error}")


def check_directory(directory: Path) -> None:
    """Check that files can be made in a directory, or, if it does not exist yet, that it can be made.

    A file is made and removed: permission bits alone do not show what a read-only mount, a quota or a file server allows.

    Raises:
        MdmError: LOCAL_FILE or LOCAL_DISK_FULL.
    """
    nearest = directory
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    probe = nearest / f".mdm.{secrets.token_hex(4)}.part"
    with translated(str(directory), "written"):
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        probe.unlink()


def stops_all(error: OSError, directory: Path) -> bool:
    """Return whether an error of one file stops all others below `directory`, too: the disk is full, or nothing can be written there."""
    if error.errno in (*_FULL, errno.EROFS):
        return True
    try:
        check_directory(directory)
    except MdmError:
        return True
    return False


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
