"""fsspec's `mdm://`: `fsspec.open("mdm:///biomed/…")` reads a file of the grid, decrypted in this process."""

import io
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from mdm_wire.errors import Invalid, MdmError

from mdm_client.catalog.model import DIRECTORY, SYMLINK, Entry
from mdm_client.client import Client
from mdm_client.config import DEFAULT_PATH, ClientConfig
from mdm_client.filesystem.error import as_os_errors, os_error
from mdm_client.filesystem.files import DEFAULT_MEMORY, Files, Handle
from mdm_client.filesystem.tree import Tree, names_of_collections
from mdm_client.name_syntax import normalise_lfn

if TYPE_CHECKING:
    from fsspec.core import OpenFile

_LISTED_SECONDS = 30.0
_BLOCK_BYTES = 1024 * 1024
_LINK = {"type": "link", "islink": True}


class MdmFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The catalog for reading, under the user's own certificate.

    Options, as `storage_options` or arguments: `config` (a file, else MDM_CONFIG, else the default), `memory` for whole files in bytes,
    `timeout` in seconds without progress. Paths are LFNs: `mdm:///biomed/…` or `mdm://biomed/…`. Errors are OSError, as
    `mdm_client.filesystem.error.os_error` says. Files of a listed directory that are opened in order are fetched ahead; `cat` and
    `open_files` of many ask each site once.
    """

    protocol = "mdm"
    root_marker = "/"

    def __init__(
        self,
        config: str | os.PathLike[str] | None = None,
        memory: int = DEFAULT_MEMORY,
        timeout: float = 120.0,
        client: Client | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._config = config
        self._memory = memory
        self._timeout = timeout
        self._given = client
        self._lock = threading.Lock()
        self._opened: tuple[Path, Tree, Files] | None = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        text = os.fspath(path)
        text = text.removeprefix("mdm://").removeprefix("mdm:")
        return "/" + text.strip("/")

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **_: Any) -> list[Any]:
        """Return what is in a directory, or the file itself: names, or with `detail` what `info` says; links to files as those."""
        name = self._lfn(path)
        tree, files = self._parts()
        links: set[str] = set()
        with as_os_errors(name):
            entry = tree.target(name)
            if entry.kind != DIRECTORY:
                found: Sequence[Entry] = [entry]
            else:
                # A link that leads nowhere, or to what the user may not see, is not there.
                children = tree.children(name, fresh=refresh)
                answers = tree.followed(list(children.values()))
                found = [answer for answer in answers if not isinstance(answer, MdmError)]
                links = {item.lfn for item in children.values() if item.kind == SYMLINK}
        if not detail:
            return [item.lfn for item in found]
        # What walks a tree goes into directories; a link to one may lead back to where it is.
        return [{**_info(item, files), **(_LINK if item.lfn in links and item.kind == DIRECTORY else {})} for item in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, type (file or directory), size in bytes (None: not known before it was read once), times, GUID, SHA-256."""
        name = self._lfn(path)
        tree, files = self._parts()
        with as_os_errors(name):
            return _info(tree.target(name), files)

    def created(self, path: str) -> Any:
        """Return when an entry was made."""
        return self.info(path)["created"]

    def modified(self, path: str) -> Any:
        """Return when an entry changed last."""
        return self.info(path)["mtime"]

    def checksum(self, path: str) -> Any:
        """Return the SHA-256 of a file in hexadecimal, if the catalog has it, else its GUID."""
        found = self.info(path)
        return found["sha256"] or found["guid"]

    def invalidate_cache(self, path: str | None = None) -> None:
        """Ask the catalog anew."""
        if self._opened is not None:
            self._opened[1].forget()
        super().invalidate_cache(path)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        """Return the bytes of a file, or of several by path; `on_error`: raise, omit, or return the errors."""
        paths = self.expand_path(path, recursive=recursive)
        if recursive:
            paths = [item for item in paths if not self.isdir(item)]
        if not isinstance(path, list) and paths == [self._strip_protocol(path)]:
            return self.cat_file(paths[0])
        found = self._read(paths)
        failed = [answer for answer in found.values() if isinstance(answer, OSError)]
        if failed and on_error == "raise":
            raise failed[0]
        return {name: answer for name, answer in found.items() if on_error == "return" or not isinstance(answer, OSError)}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes of a file from `start` to `end`; negative ones count from its end."""
        name = self._lfn(path)
        with as_os_errors(name):
            handle = self._handle(name)
            try:
                first, last = slice(start, end).indices(handle.size)[:2]
                return handle.read_at(first, max(last - first, 0))
            finally:
                handle.close()

    def get_file(self, rpath: str, lpath: Any, callback: Any = None, outfile: Any = None, **_: Any) -> None:
        """Copy a file to this machine, readable by its owner only."""
        if self.isdir(rpath):
            Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        del callback
        with self.open(rpath, "rb") as source:
            if outfile is not None:
                _copy(source, outfile)
                return
            Path(lpath).parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(lpath, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
                _copy(source, copy)

    def open_many(self, open_files: "Sequence[OpenFile]") -> list[Any]:
        """Return the files of `fsspec.open_files` open, all of them asked for at once. They are held in memory."""
        found = self._read([item.path for item in open_files])
        opened: list[Any] = []
        for item in open_files:
            answer = found[item.path]
            if isinstance(answer, OSError):
                raise answer
            compression = get_compression(item.path, item.compression)
            raw: Any = io.BytesIO(answer) if compression is None else compr[compression](io.BytesIO(answer), mode="r")
            opened.append(raw if "b" in item.mode else io.TextIOWrapper(raw, item.encoding, item.errors, item.newline))
        return opened

    def close(self) -> None:
        """Stop everything and forget all files. The file system opens anew when it is used again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened[2].close()

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, autocommit: bool = True, cache_options: Any = None, **options: Any
    ) -> "MdmFile":
        name = self._lfn(path)
        if mode != "rb":
            raise OSError(30, "the catalog is read-only here", name)
        with as_os_errors(name):
            handle = self._handle(name)
        size = block_size if isinstance(block_size, int) else _BLOCK_BYTES
        return MdmFile(self, name, handle, size, autocommit=autocommit, cache_options=cache_options, **options)

    def _handle(self, name: str) -> Handle:
        tree, files = self._parts()
        entry = tree.target(name)
        siblings = tree.known(name.rpartition("/")[0] or "/")
        return files.open(entry, list(siblings.values()) if siblings else ())

    def _read(self, paths: Sequence[str]) -> dict[str, bytes | OSError]:
        """Return the bytes of files by path, or the error of each."""
        tree, files = self._parts()
        names = [self._lfn(path) for path in paths]
        with as_os_errors(""):
            entries = dict(zip(paths, tree.targets(names), strict=True))
            data = files.read_whole(entry for entry in entries.values() if not isinstance(entry, MdmError))
        found: dict[str, bytes | OSError] = {}
        for path, entry in entries.items():
            answer: bytes | MdmError
            if isinstance(entry, MdmError):
                answer = entry
            elif entry.guid is None:
                answer = Invalid("NOT_A_FILE", f"{path}: not a file")
            else:
                answer = data[entry.guid]
            found[path] = os_error(answer, path) if isinstance(answer, MdmError) else answer
        return found

    def _lfn(self, path: str) -> str:
        with as_os_errors(str(path)):
            return normalise_lfn(self._strip_protocol(path))

    def _parts(self) -> tuple[Tree, Files]:
        """Return the tree and the files, opened at the first use, and again where MDM_CONFIG names another configuration since."""
        path = Path(self._config or os.environ.get("MDM_CONFIG") or DEFAULT_PATH).expanduser()
        with self._lock, as_os_errors(str(path)):
            if self._opened is None or self._opened[0] != path:
                client = self._given or Client(ClientConfig.load(path))
                files = Files(client, memory=self._memory, timeout=self._timeout)
                tree = Tree(client.catalog, _LISTED_SECONDS, lambda: names_of_collections(client.metadata))
                self._opened = (path, tree, files)
            return self._opened[1:]


class MdmFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file of the grid, read in blocks; a small one is in memory already."""

    def __init__(self, fs: MdmFileSystem, path: str, handle: Handle, block_size: int, **options: Any) -> None:
        self._handle = handle
        options["size"] = handle.size
        super().__init__(fs, path, "rb", block_size, **options)

    def close(self) -> None:
        """Close the file and give back its pin."""
        super().close()
        self._handle.close()

    def _fetch_range(self, start: int, end: int) -> bytes:
        with as_os_errors(self.path):
            return self._handle.read_at(start, end - start)


def _info(entry: Entry, files: Files) -> dict[str, Any]:
    directory = entry.kind == DIRECTORY
    return {
        "name": entry.lfn,
        "type": "directory" if directory else "file",
        "size": 0 if directory else files.size(entry),
        "mtime": entry.modify_time,
        "created": entry.create_time,
        "guid": str(entry.guid) if entry.guid else "",
        "sha256": entry.sha256.hex(),
        "mode": stat.S_IFDIR | 0o500 if directory else stat.S_IFREG | 0o400,
    }


def _copy(source: Any, target: Any) -> None:
    while data := source.read(_BLOCK_BYTES):
        target.write(data)
