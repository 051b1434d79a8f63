"""The spool on a local disk: ciphertext of staged files, within a quota, least recently used first out."""

import fcntl
import math
import os
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from mdm_service.settings import ConfigurationError

from mdm_dicom_srm.stage.rules.port import NoSpace, Slot, Usage

_NAME = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# So long others may fill the disk unnoticed; a file that then has no room fails as one that finds the disk full.
_MEASURE_SECONDS = 1.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Entry:
    __slots__ = ("holders", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.holders: set[Hashable] = set()


class LocalSpool:
    """A directory (mode 0700) of files (mode 0600) named by GUID.

    A file appears complete, by rename, or not at all. What an earlier process left is taken over, except parts. If `generation` (the
    rules of de-identification) has changed, or the machine was restarted, everything is removed: nothing is synchronised to the disk,
    because every file can be made again.
    """

    def __init__(
        self,
        directory: Path,
        quota: int,
        *,
        generation: str = "",
        instance: str = "",
        keep_free: int = 0,
        disk_free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        """Open the spool and sweep it.

        Raises:
            ConfigurationError: the directory cannot be used, or another process uses it.
        """
        self._directory = directory
        self._instance = instance
        self._quota = quota
        self._keep_free = keep_free
        self._disk_free = disk_free
        self._lock = threading.Lock()
        self._entries: dict[UUID, _Entry] = {}
        self._idle: OrderedDict[UUID, None] = OrderedDict()
        self._stored = 0
        self._reserved = 0
        self._slots: dict[Path, Slot] = {}
        self._parts = 0
        # Bytes that can be reserved until the disk is measured again, and when it was.
        self._room, self._measured = 0, -math.inf
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            self._claim = os.open(directory / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sweep(generation)
        except BlockingIOError:
            os.close(self._claim)
            raise ConfigurationError(f"spool {directory}: another process uses it; give each its own directory") from None
        except OSError as error:
            raise ConfigurationError(f"spool {directory}: {error.strerror}; it must be a writable directory") from error

    def close(self) -> None:
        """Let another process use the directory."""
        os.close(self._claim)

    def reserve(self, guid: UUID, size: int) -> Slot:
        """Set aside `size` bytes, evicting files without a pin if needed; end with `commit` or `discard`.

        Raises:
            NoSpace: pinned files fill the quota, or the disk is full.
        """
        with self._lock:
            while self._stored + self._reserved + size > self._quota or self._disk_is_short(size):
                if not self._idle:
                    raise NoSpace
                self._drop(next(iter(self._idle)))
            self._reserved += size
            self._room -= size
            self._parts += 1
            slot = Slot(guid, size, self._directory / f"{guid}.{self._parts}.part")
            self._slots[slot.path] = slot
            return slot

    def commit(self, slot: Slot, size: int, holder: Hashable) -> None:
        """Make the written part visible as the file of its GUID, pinned by `holder`.

        Raises:
            OSError: the part does not exist; nothing changed, and the slot still has to be discarded.
        """
        with self._lock:
            slot.path.rename(self._path(slot.guid))
            old = self._entries.pop(slot.guid, None)
            self._idle.pop(slot.guid, None)
            entry = _Entry(size)
            if old is not None:
                self._stored -= old.size
                entry.holders |= old.holders
            entry.holders.add(holder)
            self._entries[slot.guid] = entry
            self._stored += size
            self._give_back(slot)

    def discard(self, slot: Slot) -> None:
        """Give a reservation back and remove what was written of it."""
        slot.path.unlink(missing_ok=True)
        with self._lock:
            self._give_back(slot)

    def pin(self, guid: UUID, holder: Hashable) -> int | None:
        """Keep a file until `holder` unpins it; return its size, or None if it is not here."""
        with self._lock:
            entry = self._entries.get(guid)
            if entry is None:
                return None
            if not os.access(f"{self._directory}/{guid}", os.F_OK):
                self._drop(guid)
                return None
            entry.holders.add(holder)
            self._idle.pop(guid, None)
            return entry.size

    def unpin(self, guid: UUID, holder: Hashable) -> None:
        """Take back a pin; one that does not exist is no error."""
        with self._lock:
            entry = self._entries.get(guid)
            if entry is not None and holder in entry.holders:
                entry.holders.discard(holder)
                if not entry.holders:
                    self._idle[guid] = None

    def found(self) -> list[UUID]:
        """Return every file."""
        with self._lock:
            return list(self._entries)

    def holds(self, guids: Iterable[UUID]) -> set[UUID]:
        """Return which files are here."""
        with self._lock:
            return {guid for guid in guids if guid in self._entries}

    def sizes(self, guids: Iterable[UUID]) -> dict[UUID, int]:
        """Return the sizes of those files that are here."""
        with self._lock:
            return {guid: entry.size for guid in guids if (entry := self._entries.get(guid)) is not None}

    def open(self, guid: UUID) -> BinaryIO | None:
        """Return the file for reading, or None if it is not here. An open file stays readable when it is evicted."""
        try:
            return self._path(guid).open("rb", buffering=0)
        except FileNotFoundError:
            return None

    def open_beside(self, instance: str, guid: UUID) -> BinaryIO | None:
        """Return a file of another worker of this instance, which has its spool beside this one; None if it is not there."""
        base, _, number = instance.rpartition(".")
        mine, _, own_number = self._instance.rpartition(".")
        if not number.isdecimal() or not own_number.isdecimal() or base != mine:
            return None
        try:
            return (self._directory.parent / number / str(guid)).open("rb", buffering=0)
        except FileNotFoundError:
            return None

    def forget(self, guids: Iterable[UUID]) -> None:
        """Remove files, pinned or not: their content must not be given out any more."""
        with self._lock:
            for guid in guids:
                if guid in self._entries:
                    self._drop(guid)

    def usage(self) -> Usage:
        """Return how full the spool is."""
        with self._lock:
            idle = sum(self._entries[guid].size for guid in self._idle)
            return Usage(self._quota, self._stored, self._stored - idle, self._reserved, len(self._entries))

    def _path(self, guid: UUID) -> Path:
        return self._directory / str(guid)

    def _disk_is_short(self, size: int) -> bool:
        """Return whether the disk lacks room. It is measured now and then, and when room runs out; between, what is reserved counts."""
        now = time.monotonic()
        if size > self._room or now - self._measured >= _MEASURE_SECONDS:
            # What has been written of a part is no longer free on the disk. Sizes of parts are read first: growth since then counts twice.
            to_come = sum(max(0, slot.size - _size_of(slot.path)) for slot in self._slots.values())
            self._room, self._measured = self._disk_free(self._directory) - to_come - self._keep_free, now
        return size > self._room

    def _give_back(self, slot: Slot) -> None:
        del self._slots[slot.path]
        self._reserved -= slot.size

    def _drop(self, guid: UUID) -> None:
        self._path(guid).unlink(missing_ok=True)
        self._stored -= self._entries.pop(guid).size
        self._idle.pop(guid, None)

    def _sweep(self, generation: str) -> None:
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        wanted = f"2 {boot} {generation}"  # of version 1 the same content had other ciphertext each time
        marker = self._directory / "GENERATION"
        keep = marker.exists() and marker.read_text() == wanted
        found: list[tuple[float, UUID, int]] = []
        for item in os.scandir(self._directory):
            whole = _NAME.fullmatch(item.name) is not None
            if item.name.endswith(".part") or (whole and not keep):
                Path(item.path).unlink()
            elif whole:
                stat = item.stat()
                found.append((stat.st_mtime, UUID(item.name), stat.st_size))
        for _, guid, size in sorted(found):
            self._entries[guid] = _Entry(size)
            self._idle[guid] = None
            self._stored += size
        while self._stored > self._quota:  # it is smaller than before
            self._drop(next(iter(self._idle)))
        marker.write_text(wanted)
        marker.chmod(0o600)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
