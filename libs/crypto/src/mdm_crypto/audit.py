"""The audit chain of a keystore: each entry's hash covers all entries before it; heads are signed, and witnessed by others."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action on one key: who (canonical DN), action (`create`, `confirm`, `release`, …), outcome (`OK` or a reason)."""

    time: datetime
    who: str
    action: str
    guid: UUID
    outcome: str


@dataclass(frozen=True, slots=True)
class ChainedEntry:
    """An audit entry at its place in the chain."""

    seq: int
    entry: AuditEntry
    hash: bytes


def chain(entries: Iterable[AuditEntry], seq: int, previous: bytes) -> Iterator[ChainedEntry]:
    """Yield entries chained after the one numbered `seq` whose hash is `previous` (0 and GENESIS: at the beginning)."""
    for entry in entries:
        seq += 1
        previous = audit_hash(previous, seq, entry)
        yield ChainedEntry(seq, entry, previous)


def audit_hash(previous: bytes, seq: int, entry: AuditEntry) -> bytes:
    """Return SHA-256(previous ‖ seq ‖ time ‖ GUID ‖ who ‖ action ‖ outcome).

    seq and time (microseconds since 1970 UTC) are 8 bytes big-endian; each text is its UTF-8 length in 4 bytes
    big-endian, then its UTF-8.
    """
    parts = [
        previous,
        seq.to_bytes(8, "big"),
        _microseconds(entry.time),
        entry.guid.bytes,
    ]
    for text in (entry.who, entry.action, entry.outcome):
        encoded = text.encode()
        parts += (len(encoded).to_bytes(4, "big"), encoded)
    return hashlib.sha256(b"".join(parts)).digest()


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The end of one keystore's chain, signed with its Ed25519 key. A new chain has another `chain_id`."""

    index: int
    chain_id: UUID
    seq: int
    hash: bytes
    time: datetime
    signature: bytes
    signing_key: bytes

    def is_authentic(self) -> bool:
        """Return whether `signing_key` made the signature. Does not check who owns that key."""
        return _verified(self.signing_key, self.signature, _head_message(self.index, self.chain_id, self.seq, self.hash, self.time))


@dataclass(frozen=True, slots=True)
class WitnessedHead:
    """A head that another keystore has countersigned."""

    head: SignedHead
    witness: int
    signature: bytes
    signing_key: bytes

    def is_authentic(self) -> bool:
        """Return whether both signatures were made with their `signing_key`. Does not check who owns the keys."""
        return self.head.is_authentic() and _verified(self.signing_key, self.signature, _witness_message(self.witness, self.head))


class HeadSigner:
    """One keystore's signing key."""

    def __init__(self, seed: bytes, index: int) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.index = index
        self.public_key = self._key.public_key().public_bytes_raw()

    def sign(self, chain_id: UUID, seq: int, head_hash: bytes, time: datetime) -> SignedHead:
        """Sign the head of this keystore's own chain."""
        signature = self._key.sign(_head_message(self.index, chain_id, seq, head_hash, time))
        return SignedHead(self.index, chain_id, seq, head_hash, time, signature, self.public_key)

    def countersign(self, head: SignedHead) -> WitnessedHead:
        """Witness another keystore's head."""
        return WitnessedHead(head, self.index, self._key.sign(_witness_message(self.index, head)), self.public_key)


def _head_message(index: int, chain_id: UUID, seq: int, head_hash: bytes, time: datetime) -> bytes:
    parts = (index.to_bytes(1, "big"), chain_id.bytes, seq.to_bytes(8, "big"), head_hash, _microseconds(time))
    return b"mdm keystore audit head\0" + b"".join(parts)


def _witness_message(witness: int, head: SignedHead) -> bytes:
    return b"mdm keystore audit witness\0" + witness.to_bytes(1, "big") + head.signature


def _verified(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _microseconds(time: datetime) -> bytes:
    whole_seconds = int(time.replace(microsecond=0).timestamp())
    return (whole_seconds * 1_000_000 + time.microsecond).to_bytes(8, "big", signed=True)
