"""A result and how far it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

MAX_FILES = 10_000
MAX_SOURCES = 100_000


class State(StrEnum):
    """How far a result is; REMOVING: its name is going or gone, the rest follows."""

    UPLOADING = "UPLOADING"
    STORED = "STORED"
    PUBLISHED = "PUBLISHED"
    REMOVING = "REMOVING"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may read results besides their owner: permission bits by principal, under one id in every service."""

    id: UUID
    entries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewResult:
    """What a user wants to put; `size` is the plaintext's, in bytes."""

    lfn: str
    guid: UUID
    size: int
    derived_from: tuple[UUID, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class About:
    """What is sealed of a result: name, sizes, access, description; the checksums once they are known."""

    lfn: str
    plain_size: int
    access: Access
    attributes: Mapping[str, str]
    sha256: bytes = b""
    plain_sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """A result as it is kept; `size` is the ciphertext's, times are in seconds since the epoch."""

    guid: UUID
    digest: bytes
    position: int
    owner: str
    charged: str
    state: State
    about: About
    size: int
    place: str = ""
    expires: float = 0.0
