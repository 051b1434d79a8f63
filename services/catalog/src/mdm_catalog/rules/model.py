"""The model of the catalog: entries, replicas, and the changes that callers ask for."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from mdm_wire.path import Lfn
from mdm_wire.permission import Permission

ROOT_ID = 0


class EntryKind(IntEnum):
    """Kind of a catalog entry, numbered as in the protocol."""

    DIRECTORY = 1
    FILE = 2
    SYMLINK = 3


class ReplicaStatus(IntEnum):
    """State of a replica, numbered as in the protocol."""

    AVAILABLE = 1
    POPULATING = 2
    DELETING = 3


class ReplicaType(IntEnum):
    """Role of a replica for its file, numbered as in the protocol."""

    PRIMARY = 1
    SECONDARY = 2


@dataclass(frozen=True, slots=True)
class Replica:
    """A copy of a file. The catalog itself sets the fields after `set_name`."""

    surl: str
    status: ReplicaStatus
    host: str
    type: ReplicaType = ReplicaType.PRIMARY
    set_name: str = ""
    create_time: datetime | None = None
    access_time: datetime | None = None
    access_count: int = 0
    rev: int = 1


class Node(NamedTuple):
    """The fields of an entry that lookup and access rules need; a tuple, because a batch has up to ten thousand."""

    id: int
    parent_id: int | None
    name: str
    kind: EntryKind
    acl_id: UUID
    default_acl_id: UUID | None
    guid: UUID | None
    size: int | None
    rev: int
    link: str | None


class Entry(NamedTuple):
    """A directory, a file or a link as stored; its path follows from its ancestors."""

    id: int
    parent_id: int | None
    name: str
    kind: EntryKind
    guid: UUID | None
    size: int | None
    sha256: bytes | None
    comment: str
    owner: str
    acl_id: UUID
    default_acl_id: UUID | None
    create_time: datetime
    modify_time: datetime
    rev: int
    link: str | None
    access_time: datetime | None


@dataclass(frozen=True, slots=True)
class EntryView:
    """An entry as a caller sees it: with its path, what the caller may do, and replicas where asked."""

    lfn: Lfn
    entry: Entry
    permissions: Permission
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """The directories from the root to `lfn` as far as they exist.

    `acl_ids` are theirs from the root down; `directory_id` is the last that exists, and `complete` is whether it is `lfn`.
    """

    lfn: Lfn
    directory_id: int
    default_acl_id: UUID
    acl_ids: tuple[UUID, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Target:
    """The name of an entry: exactly one of the fields is set."""

    lfn: Lfn | None = None
    guid: UUID | None = None
    surl: str | None = None


@dataclass(frozen=True, slots=True)
class NewDirectory:
    """A directory to make."""

    lfn: Lfn
    acl_id: UUID | None = None
    default_acl_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to register."""

    lfn: Lfn
    guid: UUID
    size: int | None = None
    sha256: bytes | None = None
    comment: str = ""
    acl_id: UUID | None = None
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True)
class NewLink:
    """A symbolic link to make."""

    lfn: Lfn
    link: str
    acl_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Renaming:
    """A new path for an entry; `replace` removes an entry that has this path."""

    source: Target
    lfn: Lfn
    replace: bool = False


@dataclass(frozen=True, slots=True)
class FileChange:
    """New attributes of a file: None leaves one as it is, an empty SHA-256 clears it. Directories and links have a comment only."""

    target: Target
    size: int | None = None
    sha256: bytes | None = None
    comment: str | None = None
    if_rev: int | None = None
    modify_time: datetime | None = None
    access_time: datetime | None = None

    @property
    def of_any_entry(self) -> bool:
        """Whether it changes only attributes that entries of any kind have."""
        return (self.size, self.sha256, self.modify_time, self.access_time) == (None, None, None, None)


@dataclass(frozen=True, slots=True)
class NewReplica:
    """A replica to add to a file."""

    file: Target
    replica: Replica


@dataclass(frozen=True, slots=True)
class ReplicaChange:
    """New attributes of a replica: None leaves one as it is; `accesses` are added to its count."""

    surl: str
    status: ReplicaStatus | None = None
    type: ReplicaType | None = None
    set_name: str | None = None
    host: str | None = None
    accesses: int = 0
    if_rev: int | None = None

    @property
    def of_attributes(self) -> bool:
        """Whether it changes anything besides the count of accesses."""
        return (self.status, self.type, self.set_name, self.host) != (None, None, None, None)


@dataclass(frozen=True, slots=True)
class ReplicaRemoval:
    """A replica to remove."""

    surl: str


@dataclass(frozen=True, slots=True)
class Removal:
    """An entry to remove, with `recursive` everything below it too."""

    target: Target
    recursive: bool


@dataclass(frozen=True, slots=True)
class ReplicaSearch:
    """A search for replicas: of a set, of a host, or both; no states means all."""

    set_name: str = ""
    host: str = ""
    statuses: frozenset[ReplicaStatus] = frozenset()


@dataclass(frozen=True, slots=True)
class FileReplicas:
    """A file and replicas of it."""

    lfn: Lfn
    guid: UUID
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class AclAssignment:
    """Points an entry at an ACL, a directory also at a default ACL (None leaves it)."""

    target: Target
    acl_id: UUID
    default_acl_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """The replicas from which a file can be read."""

    guid: UUID
    lfn: Lfn
    surls: tuple[str, ...]
    size: int | None


@dataclass(frozen=True, slots=True)
class SubtreeAcl:
    """An ACL in a subtree, how many entries there refer to it, and how many outside do."""

    acl_id: UUID
    files: int
    directories: int
    links: int
    outside: int


class SubtreeDirectory(NamedTuple):
    """A directory of a subtree, and the number of its files under each ACL."""

    id: int
    parent_id: int | None
    acl_id: UUID
    files: dict[UUID, int]


@dataclass(frozen=True, slots=True)
class AccessHolder:
    """A subject with permissions, on how many files, and the ACL entries that grant them."""

    subject: str
    files: int
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessReport:
    """The subjects with permissions below an entry; `hidden` counts files under ACLs that the caller may not see."""

    holders: tuple[AccessHolder, ...]
    files: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The contents of a directory and of all below it, summed up; `closed` counts directories that the caller may not list."""

    lfn: Lfn
    files: int
    directories: int
    links: int
    bytes: int
    closed: int
