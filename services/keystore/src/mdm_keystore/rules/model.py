"""The model of a keystore: sealed shares in two states, and what callers ask for."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from mdm_crypto.shamir import Share
from mdm_wire.permission import Permission


class KeyState(IntEnum):
    """State of a key on one server; the values are those of the protocol and of the database."""

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
    """The assignment of an ACL to a key."""

    guid: UUID
    acl_id: UUID


@dataclass(frozen=True, slots=True)
class NewKey:
    """A share to store, and the ACL that will guard it."""

    share: Share
    acl_id: UUID


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A live (confirmed or unexpired) key with the caller's permissions; while its shares are replaced, with its previous share too."""

    record: KeyRecord
    granted: Permission
    previous: KeyRecord | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """This server's share of a key, and the share before it as long as some server may lack its new one."""

    share: Share
    previous: Share | None = None
