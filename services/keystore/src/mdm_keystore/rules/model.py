"""What a keystore holds: sealed shares in two states."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID


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
