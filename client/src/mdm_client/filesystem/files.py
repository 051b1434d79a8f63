"""Files of the grid, opened for reading at any place: small ones whole and ahead of their readers, large ones range by range."""

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

from mdm_wire.errors import Exhausted, FailedPrecondition, MdmError, NotFound

from mdm_client.catalog.model import FILE, Entry
from mdm_client.fetch.waiting import Cancellation
from mdm_client.filesystem.bulk import read_whole
from mdm_client.filesystem.ranged import RangedFile, usable_replica
from mdm_client.image.cache import MEMORY_TOO_SMALL, EncryptedFolder, FileCache, SizedCache
from mdm_client.image.fetching import Fetcher, FileRef, Grid, Priority
from mdm_client.name_syntax import Name

#: Of larger files ranges are read.
WHOLE_BYTES = 32 * 1024 * 1024
DEFAULT_MEMORY = 512 * 1024 * 1024
_DISK_BYTES = 16 * 1024**3
#: Files that are fetched ahead of the one in use, in lots of half as many; they take a quarter of the memory at most.
AHEAD = 256
_BATCHES = {Priority.URGENT: 8, Priority.HEADER: AHEAD, Priority.PREFETCH: AHEAD // 2}
#: For so long a file that is in memory is opened again without asking whether the user still may.
RECHECK_SECONDS = 30.0
_CHECKED_FILES = 200_000


class Handle(Protocol):
    """An open file. `size` is that of its plaintext in bytes."""

    @property
    def size(self) -> int:
        """Bytes of the plaintext."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, fewer only at the end; raises MdmError."""

    def close(self) -> None:
        """Give back what is held for it."""


class WholeFile:
    """A file in memory. See `Handle`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `Handle`, as for each method."""
        return self._data[offset : offset + size]

    def close(self) -> None:
        self._data = self._data[:0]


class Files:
    """Decrypted files of a grid. Close it, or use it in `with`. Thread-safe.

    At most `memory` bytes of whole files are held, what is under way included, and some MiB for each large file that is open; with
    `cache`, what is forgotten is kept in that directory, encrypted under a key of this process.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        memory: int = DEFAULT_MEMORY,
        cache: Path | None = None,
        timeout: float = 120.0,
        whole_bytes: int = WHOLE_BYTES,
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        """Start the threads; `timeout` is in seconds without progress.

        Raises:
            Invalid: CACHE_UNUSABLE.
        """
        self._grid = grid
        self._memory = memory
        self._timeout = timeout
        self._whole_bytes = min(whole_bytes, memory // 4)
        self._recheck_seconds = recheck_seconds
        self._cache = FileCache(memory, EncryptedFolder(cache, _DISK_BYTES) if cache else None)
        self._fetcher: Fetcher[int] = Fetcher(grid, self._cache, len, timeout=timeout, batches=_BATCHES)
        self._cancellation = Cancellation()
        self._checked: SizedCache[UUID, float] = SizedCache(_CHECKED_FILES, lambda _: 1)
        self._ahead = _Ahead()

    def size(self, entry: Entry) -> int | None:
        """Return the size of a file in bytes: what it was when it was here, else what the catalog says; None if nobody knows.

        Before a site has staged a file the catalog has the size that it has in the PACS, which is about the same.
        """
        known = self._fetcher.header(entry.guid) if entry.guid else None
        return entry.size if known is None else known

    def open(self, entry: Entry, siblings: Sequence[Entry] = ()) -> Handle:
        """Return a file for reading; of its `siblings`, in the order of their directory, those that come next are fetched meanwhile.

        Raises:
            MdmError: it is not a file, or cannot be had.
        """
        guid = _guid(entry)
        self.ahead(entry, siblings)
        if (self.size(entry) or 0) > self._whole_bytes:
            return self._ranged(entry)
        ref = FileRef(guid, entry.lfn, "")
        if self._fetcher.cached(ref) is None:
            self._checked.put(guid, time.monotonic())
        else:
            self._check(guid, entry.lfn)
        try:
            return WholeFile(self._fetcher.file(ref)[1])
        except Exhausted as error:
            if error.reason != MEMORY_TOO_SMALL:
                raise
            return self._ranged(entry)

    def ahead(self, entry: Entry, siblings: Sequence[Entry]) -> None:
        """Have the files after one fetched, if whoever reads seems to read its directory."""
        wanted = self._ahead.next(entry, siblings, self._memory // 4, self._whole_bytes)
        if wanted:
            now = time.monotonic()
            for item in wanted:
                if item.guid and item.guid not in self._cache:
                    self._checked.put(item.guid, now)
            self._fetcher.prefetch([FileRef(item.guid, item.lfn, "") for item in wanted if item.guid])

    def read_whole(self, entries: Iterable[Entry]) -> dict[UUID, bytes | MdmError]:
        """Return whole files, by one request to each site; or why each cannot be had. They are not kept."""
        wanted = {entry.guid: entry for entry in entries if entry.guid}
        return read_whole(self._grid, list(wanted.values()), self._timeout, self._cancellation)

    def close(self) -> None:
        """Stop everything and forget all files; whoever waits gets an error."""
        self._cancellation.stop()
        self._fetcher.close()
        self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _check(self, guid: UUID, lfn: str) -> None:
        """Ask, unless that was done lately, whether the user still may have a file that is in memory; raises MdmError."""
        checked = self._checked.get(guid)
        if checked is None or time.monotonic() - checked >= self._recheck_seconds:
            [answer] = self._grid.catalog.resolve([Name(guid=guid)])
            if isinstance(answer, MdmError):
                raise answer.saying(f"{lfn}: {answer.message}")
            self._checked.put(guid, time.monotonic())

    def _ranged(self, entry: Entry) -> RangedFile:
        guid = _guid(entry)
        [place] = self._grid.catalog.resolve([Name(guid=guid)])
        if isinstance(place, MdmError):
            raise place
        surl, site = usable_replica(place, self._grid.config.srm)
        key = self._grid.keystores.get_keys([guid]).get(guid) or NotFound("KEY_NOT_FOUND", f"keystores: no key for {guid}")
        if isinstance(key, MdmError):
            raise key
        return RangedFile(self._grid.srm(site), surl, guid, key, timeout=self._timeout, cancellation=self._cancellation)


class _Ahead:
    """Which files of a directory are fetched ahead: from the second file on that is opened in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._directory = ""
        self._upto = 0
        self._last = -1

    def next(self, entry: Entry, siblings: Sequence[Entry], most_bytes: int, whole_bytes: int) -> list[Entry]:
        directory = entry.lfn.rpartition("/")[0]
        place = next((number for number, item in enumerate(siblings) if item.lfn == entry.lfn), None)
        if place is None:
            return []
        with self._lock:
            new = directory != self._directory
            follows = not new and 0 <= place - self._last <= AHEAD
            self._directory, self._last = directory, place
            if new:
                self._upto = 0
            if (not follows and place) or place < self._upto - AHEAD // 2:
                return []
            chosen: list[Entry] = []
            for item in siblings[max(place + 1, self._upto) :]:
                most_bytes -= item.size or 0
                if len(chosen) == AHEAD or most_bytes < 0:
                    break
                if item.kind == FILE and (item.size or 0) <= whole_bytes:
                    chosen.append(item)
            self._upto = max(place + 1, self._upto) + len(chosen)
            return chosen


def _guid(entry: Entry) -> UUID:
    if entry.kind != FILE or entry.guid is None:
        raise FailedPrecondition("NOT_A_FILE", f"{entry.lfn}: not a file")
    return entry.guid
