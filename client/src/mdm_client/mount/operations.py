"""What the kernel asks of the mounted catalog, answered from its tree and its files."""

import errno
import os
import posixpath
import stat
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import mfusepy
from mdm_wire.errors import Invalid, MdmError, NotFound
from mdm_wire.path import MAX_NAME_BYTES

from mdm_client.catalog.model import DIRECTORY, FILE, SYMLINK, Entry
from mdm_client.filesystem.error import os_error
from mdm_client.filesystem.files import Files, Handle
from mdm_client.filesystem.tree import Tree

_MODES = {DIRECTORY: stat.S_IFDIR | 0o500, FILE: stat.S_IFREG | 0o400, SYMLINK: stat.S_IFLNK | 0o777}
_BLOCK = 512
_Answer = TypeVar("_Answer")


def _answering(method: Callable[..., _Answer]) -> Callable[..., _Answer]:
    """Turn every failure into an errno: whatever else reached libfuse would be written, with paths in it, or end the process."""

    @wraps(method)
    def answer(*arguments: Any) -> _Answer:
        try:
            return method(*arguments)
        except MdmError as error:
            raise _of_kernel(error) from None
        except OSError:
            raise
        except Exception as error:
            raise mfusepy.FuseOSError(errno.EIO) from error

    return answer


class CatalogOperations(mfusepy.Operations):  # type: ignore[misc]  # mfusepy has no types
    """The catalog from `root` on, read-only, for one user. `mounted` is set once the kernel has it."""

    use_ns = True

    def __init__(self, tree: Tree, files: Files, root: str) -> None:
        self._tree = tree
        self._files = files
        self._root = root.rstrip("/")
        self._lock = threading.Lock()
        self._handles: dict[int, tuple[str, Handle]] = {}
        self._next = 1
        self._owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        self.mounted = threading.Event()

    def init(self, path: str) -> None:
        """Note that the directory is there."""
        del path
        self.mounted.set()

    @_answering
    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Return mode, size and times."""
        entry = self._entry(path)
        size = 0
        if entry.kind == FILE:
            with self._lock:
                opened = self._handles.get(fh or 0) or next((item for item in self._handles.values() if item[0] == path), None)
            size = opened[1].size if opened else self._files.size(entry) or 0
        elif entry.kind == SYMLINK:
            size = len(os.fsencode(self._link(entry)))
        modified, created = (int(time.timestamp() * 1e9) for time in (entry.modify_time, entry.create_time))
        return {
            "st_mode": _MODES[entry.kind],
            "st_nlink": 2 if entry.kind == DIRECTORY else 1,
            "st_size": size,
            "st_blocks": -(-size // _BLOCK),
            "st_mtime": modified,
            "st_atime": modified,
            "st_ctime": max(modified, created),
            **self._owner,
        }

    @_answering
    def readdir(self, path: str, fh: int) -> Iterator[Any]:
        """Return the names in a directory."""
        del fh
        children = self._tree.children(self._lfn(path))
        return iter([".", "..", *((name, {"st_mode": _MODES[entry.kind]}, 0) for name, entry in children.items())])

    @_answering
    def readlink(self, path: str) -> str:
        """Return where a link leads, from its own directory."""
        return self._link(self._entry(path))

    @_answering
    def open(self, path: str, flags: int) -> int:
        """Have a file staged, and return a number for it. The first file of a directory has those after it fetched too."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise mfusepy.FuseOSError(errno.EROFS)
        entry = self._entry(path)
        siblings = self._tree.known(entry.lfn.rpartition("/")[0] or "/")
        handle = self._files.open(entry, list(siblings.values()) if siblings else ())
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._handles[number] = (path, handle)
        return number

    @_answering
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Return a range of an open file."""
        del path
        with self._lock:
            opened = self._handles.get(fh)
        if opened is None:
            raise mfusepy.FuseOSError(errno.EBADF)
        return opened[1].read_at(offset, size)

    @_answering
    def release(self, path: str, fh: int) -> int:
        """Close a file."""
        del path
        with self._lock:
            opened = self._handles.pop(fh, None)
        if opened is not None:
            opened[1].close()
        return 0

    @_answering
    def statfs(self, path: str) -> dict[str, int]:
        """Return a file system that is full: nothing can be written."""
        del path
        return {"f_bsize": 4096, "f_frsize": 4096, "f_namemax": MAX_NAME_BYTES}

    def _entry(self, path: str) -> Entry:
        return self._tree.entry(self._lfn(path))

    def _lfn(self, path: str) -> str:
        return (self._root + path).rstrip("/") or "/"

    def _link(self, entry: Entry) -> str:
        """Return a link's target as a path from the link's directory; one that leads out of what is mounted is not there.

        The kernel would follow it into the user's own files: the catalog's root is not that of this machine.
        """
        parent = entry.lfn.rpartition("/")[0] or "/"
        target = posixpath.normpath(posixpath.join(parent, entry.link_target))
        if target.startswith("//") or (self._root and target != self._root and not target.startswith(f"{self._root}/")):
            raise mfusepy.FuseOSError(errno.ENOENT)
        return posixpath.relpath(target, parent)


def _of_kernel(error: MdmError) -> OSError:
    """Return the errno for an error; a name that no entry can have is only not there."""
    if isinstance(error, Invalid) and error.reason == "LFN_INVALID":
        error = NotFound(error.reason, error.message)
    return mfusepy.FuseOSError(os_error(error, "").errno)  # type: ignore[no-any-return]
