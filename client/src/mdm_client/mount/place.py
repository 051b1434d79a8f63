"""Directories where the catalog is mounted: what the kernel says of one, who holds it, and how it becomes an ordinary one again."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdm_wire.errors import Conflict, Invalid, MdmError, NotFound, Unavailable

#: The type of our mounts in /proc/self/mountinfo.
KIND = "fuse.mdm"
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_UNMOUNT_SECONDS = 30.0


def mounted_kind(directory: Path) -> str:
    """Return the type of the file system that is mounted on a directory, the uppermost one; empty if none is."""
    wanted = os.fsencode(os.path.realpath(directory))
    kind = ""
    for line in _MOUNTS.read_bytes().splitlines():
        mount, _, source = line.partition(b" - ")
        if _unescaped(mount.split(b" ")[4]) == wanted:
            kind = os.fsdecode(source.split(b" ")[0])
    return kind


def unmount(directory: Path) -> int:
    """Unmount the catalog from a directory, however it is: also if programs have files open there, or the process has died.

    Programs that have files open read on until they close them. Return how many mounts there were, one upon the other.

    Raises:
        NotFound: NOT_MOUNTED. Unavailable: UNMOUNT_FAILED. Invalid: FUSE_NOT_INSTALLED.
    """
    done = 0
    while mounted_kind(directory) == KIND:
        if _fusermount("-u", "-q", directory).returncode != 0:
            lazy = _fusermount("-u", "-z", directory)
            if lazy.returncode != 0 and mounted_kind(directory) == KIND:
                raise Unavailable("UNMOUNT_FAILED", f"{directory}: {lazy.stderr.strip() or 'cannot be unmounted'}")
        done += 1
    if not done:
        raise NotFound("NOT_MOUNTED", f"{directory}: the catalog is not mounted there")
    return done


@contextmanager
def held(directory: Path) -> Iterator[Path]:
    """Make a directory ready to be mounted on, and keep others from doing the same while the block runs; yield its real path.

    What a process left that died is unmounted first.

    Raises:
        Conflict: MOUNTED_ALREADY. Invalid: MOUNT_POINT: it is no directory, not empty, not the user's.
    """
    if mounted_kind(directory) == KIND and _is_dead(directory):
        unmount(directory)
    if mounted_kind(directory):
        raise _mounted_already(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Invalid("MOUNT_POINT", f"{directory}: cannot be mounted on ({error.strerror})") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _mounted_already(directory) from None
        if any(os.scandir(descriptor)):
            raise Invalid("MOUNT_POINT", f"{directory}: not empty; its files could not be seen any more")
        yield Path(os.path.realpath(directory))
    finally:
        os.close(descriptor)


def check_fuse() -> None:
    """Check that the kernel and the programs are there.

    Raises:
        Invalid: FUSE_NOT_INSTALLED.
    """
    _fusermount_path()
    if not Path("/dev/fuse").exists():
        raise Invalid("FUSE_NOT_INSTALLED", "mdm mount needs /dev/fuse: load the kernel's module fuse, or give the container the device")


def _is_dead(directory: Path) -> bool:
    try:
        os.stat(directory)  # noqa: PTH116 - pathlib hides this error
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _fusermount_path() -> str:
    found = shutil.which("fusermount3")
    if found is None:
        raise Invalid("FUSE_NOT_INSTALLED", "mdm mount needs fusermount3: install Debian's fuse3")
    return found


def _fusermount(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [_fusermount_path(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=_UNMOUNT_SECONDS, check=False)


def _mounted_already(directory: Path) -> MdmError:
    return Conflict("MOUNTED_ALREADY", f"{directory}: something is mounted there already; mdm mount --unmount DIR ends a mount of ours")


def _unescaped(path: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), path)
