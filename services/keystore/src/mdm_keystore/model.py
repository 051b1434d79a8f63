"""What a keystore holds: sealed shares in two states, and the audit chain."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

GENESIS = bytes(32)


class KeyState(IntEnum):
    """Life of a key on one server; the values are those of the protocol and of the database."""

    PENDING = 1
    CONFIRMED = 2


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """This server's share of one key as stored; `sealed` opens only with the key-encryption key that `kek_id` names."""

    guid: UUID
    epoch: int
    x: int
    threshold: int
    total: int
    commitments: tuple[bytes, ...]
    sealed: bytes
    kek_id: str
    state: KeyState
    creator: str
    acl_id: UUID
    create_time: datetime
    expire_time: datetime | None
    version: int = 0

    @property
    def public_key(self) -> bytes:
        """The commitment to the constant term, which names the key."""
        return self.commitments[0]


@dataclass(frozen=True, slots=True)
class KeyRef:
    """One generation of one key, as its creator names it."""

    guid: UUID
    epoch: int
    public_key: bytes


@dataclass(frozen=True, slots=True)
class AclAssignment:
    """A key and the ACL that is to guard it."""

    guid: UUID
    acl_id: UUID


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One deed on one key: who (canonical DN), action (`create`, `confirm`, `release`, …), outcome (`OK` or a reason)."""

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
    """Put entries behind the one numbered `seq` whose hash is `previous` (0 and GENESIS: at the beginning)."""
    for entry in entries:
        seq += 1
        previous = audit_hash(previous, seq, entry)
        yield ChainedEntry(seq, entry, previous)


def audit_hash(previous: bytes, seq: int, entry: AuditEntry) -> bytes:
    """Return SHA-256(previous ‖ seq ‖ time ‖ GUID ‖ who ‖ action ‖ outcome).

    seq and time (microseconds since 1970 UTC) are 8 bytes big-endian; each text is its UTF-8 length in 4 bytes
    big-endian, then its UTF-8.
    """
    whole_seconds = int(entry.time.replace(microsecond=0).timestamp())
    parts = [
        previous,
        seq.to_bytes(8, "big"),
        (whole_seconds * 1_000_000 + entry.time.microsecond).to_bytes(8, "big", signed=True),
        entry.guid.bytes,
    ]
    for text in (entry.who, entry.action, entry.outcome):
        encoded = text.encode()
        parts += (len(encoded).to_bytes(4, "big"), encoded)
    return hashlib.sha256(b"".join(parts)).digest()


def first_break(entries: Iterable[ChainedEntry]) -> int | None:
    """Return the sequence number at which a chain read from its beginning is broken, None if it is whole."""
    previous = GENESIS
    for seq, chained in enumerate(entries, start=1):
        if chained.seq != seq or chained.hash != audit_hash(previous, seq, chained.entry):
            return seq
        previous = chained.hash
    return None
