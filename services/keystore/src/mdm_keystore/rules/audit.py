"""The audit trail: pages of the chain, signed heads, and countersigned heads of other keystores."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from mdm_crypto.audit import AuditEntry, ChainedEntry, HeadSigner, SignedHead, WitnessedHead
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, Failure, Forbidden, Invalid, MdmError

from mdm_keystore.rules.seal import SealBroken, Sealer

MAX_PAGE = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """The id of the chain and the sealed seed of its signing key (none before the first start)."""

    chain_id: UUID
    sealed: bytes | None
    kek_id: str | None


@dataclass(frozen=True, slots=True)
class End:
    """The end of the chain."""

    seq: int
    hash: bytes


class TrailChange(Protocol):
    """One atomic change of identity and witnessed heads."""

    def identity(self) -> Identity:
        """Return the identity."""

    def put_identity(self, identity: Identity) -> None:
        """Store it."""

    def last_witnessed(self, share_index: int, chain_id: UUID) -> WitnessedHead | None:
        """Return the newest head of a chain that was countersigned here."""

    def add_witnessed(self, head: WitnessedHead) -> None:
        """Store a countersigned head."""

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append to the audit chain, as part of the change."""


class Trail(Protocol):
    """The store of the chain."""

    def trail_change(self) -> AbstractContextManager[TrailChange]:
        """Open a change: committed when the block ends, undone when it raises."""

    def entries(self, after: int, limit: int) -> tuple[Sequence[ChainedEntry], End]:
        """Return the next entries after `after` and the end of the chain, both as of one moment."""

    def end(self) -> End:
        """Return the end of the chain."""

    def showing(self) -> AbstractContextManager[bool]:
        """Make this process the only one of the keystore that shows heads during the block; yield False if another one does."""

    def witnessed(self, share_index: int, after: int, limit: int) -> Sequence[tuple[int, WitnessedHead]]:
        """Return the next countersigned heads (of one keystore, 0: of all) after number `after`, with their numbers."""


class Witness(Protocol):
    """Another keystore, to which heads are shown."""

    def witness(self, head: SignedHead) -> WitnessedHead:
        """Have a head countersigned and kept.

        Raises:
            MdmError: it cannot be asked, or refuses.
        """


class AuditTrail:
    """The audit trail of one keystore."""

    def __init__(self, trail: Trail, sealer: Sealer, *, index: int, witnesses: Mapping[int, Witness]) -> None:
        self._trail = trail
        self._sealer = sealer
        self._index = index
        self._witnesses = witnesses
        self._shown: dict[int, tuple[UUID, int]] = {}

    def page(self, after: int, limit: int) -> tuple[Sequence[ChainedEntry], SignedHead]:
        """Return the entries after `after` and the signed head of the whole chain, both as of one moment."""
        entries, end = self._trail.entries(after, limit)
        return entries, self._signed(end)

    def witnessed(self, share_index: int, after: int, limit: int) -> Sequence[tuple[int, WitnessedHead]]:
        """Return heads that were countersigned here, oldest first, with their numbers."""
        return self._trail.witnessed(share_index, after, limit)

    def witness(self, caller: Caller, index: int, head: SignedHead) -> WitnessedHead:
        """Countersign and keep the head of keystore `index`, which is the caller.

        Raises:
            Forbidden: PEER_WRONG, it is another keystore's head. Invalid: HEAD_FORGED. Conflict: HEAD_CONTRADICTS an earlier one.
        """
        if head.index != index:
            raise Forbidden("PEER_WRONG", "This is not the caller's own head.")
        if not head.is_authentic():
            raise Invalid("HEAD_FORGED", "The signature of the head is wrong.")
        countersigned = self._signing()[0].countersign(head)
        with self._trail.trail_change() as change:
            last = change.last_witnessed(index, head.chain_id)
            if last is not None and last.head.seq == head.seq and _continues(last.head, head):
                return last
            contradicts = last is not None and not _continues(last.head, head)
            if contradicts:
                change.audit([AuditEntry(datetime.now(UTC), caller.dn, "witness", head.chain_id, "HEAD_CONTRADICTS")])
            else:
                change.add_witnessed(countersigned)
        if contradicts:
            _log.error("a keystore shows an audit chain that contradicts what it showed before", extra={"keystore": index})
            raise Conflict("HEAD_CONTRADICTS", "This head does not continue the chain that was witnessed before: run mdm key audit verify.")
        return countersigned

    def show_head(self) -> None:
        """Have each witness that has not seen the present head countersign it; one that cannot be reached gets a later head.

        Only one process at a time does so: an earlier head that arrives behind a later one would look like a chain that was cut.
        """
        with self._trail.showing() as mine:
            if mine:
                self._show_head()

    def _show_head(self) -> None:
        head = self._signed(self._trail.end())
        for index, witness in self._witnesses.items():
            if self._shown.get(index) == (head.chain_id, head.seq):
                continue
            try:
                witnessed = witness.witness(head)
            except MdmError as error:
                _log.warning("head not witnessed", extra={"keystore": index, "reason": error.reason})
                continue
            if witnessed.witness == index and witnessed.is_authentic():
                self._shown[index] = (head.chain_id, head.seq)

    def rewrap(self) -> None:
        """Seal the signing key under the present key-encryption key."""
        self._signing()
        with self._trail.trail_change() as change:
            found = change.identity()
            if found.sealed is not None and found.kek_id is not None and found.kek_id != self._sealer.current:
                seed = self._sealer.open_signing_key(found.sealed, found.kek_id, found.chain_id)
                change.put_identity(Identity(found.chain_id, *self._sealer.seal_signing_key(seed, found.chain_id)))

    def _signed(self, end: End) -> SignedHead:
        signer, chain_id = self._signing()
        return signer.sign(chain_id, end.seq, end.hash, datetime.now(UTC))

    def _signing(self) -> tuple[HeadSigner, UUID]:
        """Return the signer and the chain's id; a seed that no longer opens is replaced, which verification of the audit reports."""
        with self._trail.trail_change() as change:
            found = change.identity()
            seed = None
            if found.sealed is not None and found.kek_id is not None:
                try:
                    seed = self._sealer.open_signing_key(found.sealed, found.kek_id, found.chain_id)
                except SealBroken:
                    _log.error("the key that signs the audit does not open: a new one is made")
            if seed is None:
                seed = os.urandom(32)
                change.put_identity(Identity(found.chain_id, *self._sealer.seal_signing_key(seed, found.chain_id)))
                change.audit([AuditEntry(datetime.now(UTC), "service:audit", "new-signing-key", found.chain_id, "OK")])
        return HeadSigner(seed, self._index), found.chain_id


def audit_entries(caller: Caller, action: str, guids: Sequence[UUID], failures: Sequence[Failure]) -> list[AuditEntry]:
    """Return one entry per GUID: what `caller` did to it, and how it ended."""
    now, who = datetime.now(UTC), caller.actor
    return [AuditEntry(now, who, action, guid, failure.reason if failure else "OK") for guid, failure in zip(guids, failures, strict=True)]


def _continues(earlier: SignedHead, later: SignedHead) -> bool:
    """Return whether a head may belong to the same chain as an earlier one; the heads alone cannot prove it."""
    if earlier.signing_key != later.signing_key or later.seq < earlier.seq:
        return False
    return later.seq > earlier.seq or later.hash == earlier.hash
