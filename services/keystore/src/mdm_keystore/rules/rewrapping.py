"""Replacing the key-encryption key while serving: shares sealed under an old key are sealed anew, batch by batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from mdm_crypto.audit import AuditEntry
from mdm_service.identity.caller import Caller

from mdm_keystore.rules.seal import SealBroken, Sealer

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class SealedShare:
    """A sealed share and its place."""

    guid: UUID
    epoch: int
    x: int
    version: int
    sealed: bytes
    kek_id: str


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """How many shares a batch sealed anew, how many are left, and how many cannot be opened."""

    rewrapped: int
    remaining: int
    unreadable: int


class SealChange(Protocol):
    """One atomic change; changes run one after the other."""

    def sealed_otherwise(self, table: str, kek_id: str, after: UUID | None, limit: int) -> Sequence[SealedShare]:
        """Return the next shares of a table after `after`, in order of GUID, that are sealed under another key than `kek_id`."""

    def reseal(self, table: str, shares: Sequence[SealedShare]) -> None:
        """Store the sealed values of these shares anew."""

    def count_sealed_otherwise(self, kek_id: str) -> int:
        """Count the shares of all tables that are sealed under another key than `kek_id`."""

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append to the audit chain, as part of the change."""


class Seals(Protocol):
    """The store of sealed shares."""

    tables: Sequence[str]

    def seal_change(self) -> AbstractContextManager[SealChange]:
        """Open a change: committed when the block ends, undone when it raises."""


class Rewrapping:
    """Seals the shares of one keystore anew."""

    def __init__(self, seals: Seals, sealer: Sealer) -> None:
        self._seals = seals
        self._sealer = sealer

    def rewrap(self, caller: Caller, batch: int = BATCH) -> Rewrapped:
        """Seal up to `batch` shares anew under the first key of the file; each is audited. Safe to interrupt and to repeat.

        It locks out all other changes, so nothing is sealed under an old key meanwhile.
        """
        with self._seals.seal_change() as change:
            current = self._sealer.current
            done: list[UUID] = []
            unreadable = 0
            for table in self._seals.tables:
                after = None
                while len(done) < batch and (shares := change.sealed_otherwise(table, current, after, batch - len(done))):
                    after = shares[-1].guid
                    renewed = [anew for share in shares if (anew := self._renewed(share)) is not None]
                    unreadable += len(shares) - len(renewed)
                    change.reseal(table, renewed)
                    done += [share.guid for share in renewed]
            now = datetime.now(UTC)
            change.audit([AuditEntry(now, caller.dn, "rewrap", guid, "OK") for guid in done])
            return Rewrapped(len(done), change.count_sealed_otherwise(current) - unreadable, unreadable)

    def _renewed(self, share: SealedShare) -> SealedShare | None:
        place = (share.guid, share.epoch, share.x)
        try:
            value = self._sealer.open(share.sealed, share.kek_id, *place, share.version)
        except SealBroken:
            return None
        sealed, kek_id = self._sealer.seal(value, *place, share.version)
        return replace(share, sealed=sealed, kek_id=kek_id)
