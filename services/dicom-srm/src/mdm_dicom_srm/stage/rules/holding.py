"""Which requests wait for which file, and which pins they hold in the spool."""

from collections import defaultdict
from collections.abc import Mapping
from uuid import UUID

from mdm_dicom_srm.stage.rules.port import Spool

_NOBODY: Mapping[bytes, int] = {}


class Holdings:
    """By file: the digests of requests, and the file's position in each. Not thread-safe: `Requests` guards it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._waiting: defaultdict[UUID, dict[bytes, int]] = defaultdict(dict)
        self._pinned: defaultdict[UUID, dict[bytes, int]] = defaultdict(dict)

    def wanted(self, guid: UUID) -> bool:
        """Return whether a request waits for the file."""
        return guid in self._waiting

    def wait(self, guid: UUID, digest: bytes, position: int) -> None:
        """Have a request wait for a file."""
        self._waiting[guid][digest] = position

    def waiting(self, guid: UUID) -> Mapping[bytes, int]:
        """Return who waits for a file."""
        return self._waiting.get(guid, _NOBODY)

    def take_waiting(self, guid: UUID) -> Mapping[bytes, int]:
        """Return who waits for a file; from now on nobody does."""
        return self._waiting.pop(guid, _NOBODY)

    def pin(self, guid: UUID, digest: bytes, position: int) -> int | None:
        """Pin a file for a request; return its size, or None if the spool does not have it."""
        size = self._spool.pin(guid, digest)
        if size is not None:
            self._pinned[guid][digest] = position
        return size

    def held(self, guid: UUID) -> bool:
        """Return whether a request waits for the file or has pinned it."""
        return guid in self._waiting or guid in self._pinned

    def pins(self, guid: UUID) -> Mapping[bytes, int]:
        """Return who holds a pin on a file."""
        return self._pinned.get(guid, _NOBODY)

    def drop(self, guid: UUID, digest: bytes) -> None:
        """End the waiting and the pin of a request."""
        for holders_of in (self._waiting, self._pinned):
            holders = holders_of.get(guid)
            if holders is not None:
                holders.pop(digest, None)
                if not holders:
                    del holders_of[guid]
        self._spool.unpin(guid, digest)
