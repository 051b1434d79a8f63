"""What the catalog holds: entries, replicas, and the limits on both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import NamedTuple, TypeVar
from uuid import UUID

from mdm_service.acl import Permission
from mdm_service.errors import Invalid

from mdm_catalog.path import Lfn

MAX_BATCH = 10_000
MAX_COMMENT_BYTES = 255
MAX_SURL_BYTES = 1023
MAX_HOST_BYTES = 255
MAX_REPLICAS = 100
MAX_SET_BYTES = 255
MAX_ACCESSES = 1_000_000_000
MAX_ACL_CHANGES = 100
MAX_SIZE = 2**63 - 1
MAX_LINKS = 16  # that one path may lead through
MAX_RENAMINGS = 1_000
MAX_PATTERN_BYTES = 255
SHA256_BYTES = 32
ROOT_ID = 0

_SURL = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9A-Fa-f:.]+\]|[^/\s:\[\]]+)(:[0-9]{1,5})?/[^\s\x00-\x1f\x7f-\x9f]*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

Item = TypeVar("Item")


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
    """What a replica is to its file, numbered as in the protocol."""

    PRIMARY = 1
    SECONDARY = 2


@dataclass(frozen=True, slots=True)
class Replica:
    """Where a copy of a file is. What follows `set_name` is the catalog's own knowledge."""

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
    """What is needed of an entry to find it and to decide about it; a tuple, because batches hold ten thousand."""

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

    `acl_ids` are theirs from the root down; `directory_id` is the last that exists, and `complete` tells whether it is `lfn`.
    """

    lfn: Lfn
    directory_id: int
    default_acl_id: UUID
    acl_ids: tuple[UUID, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What a caller names: exactly one of the three."""

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
    """A new path for an entry; `replace` removes what has it."""

    source: Target
    lfn: Lfn
    replace: bool = False


@dataclass(frozen=True, slots=True)
class FileChange:
    """New attributes of a file: None leaves one as it is, an empty SHA-256 forgets it. Directories and links have a comment only."""

    target: Target
    size: int | None = None
    sha256: bytes | None = None
    comment: str | None = None
    if_rev: int | None = None
    modify_time: datetime | None = None
    access_time: datetime | None = None

    @property
    def of_any_entry(self) -> bool:
        """Whether it changes nothing that only a file has."""
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
        """Whether it changes more than the count of accesses."""
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
    """Which replicas are wanted: of a set, of a host, or both; no states means all."""

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
    """Where a file can be read."""

    guid: UUID
    lfn: Lfn
    surls: tuple[str, ...]
    size: int | None


@dataclass(frozen=True, slots=True)
class SubtreeAcl:
    """An ACL in a subtree, how many entries there refer to it, and whether one outside does."""

    acl_id: UUID
    files: int
    directories: int
    links: int
    shared_outside: bool


class SubtreeDirectory(NamedTuple):
    """A directory of a subtree, and how many files in it are under which ACL."""

    id: int
    parent_id: int | None
    acl_id: UUID
    files: dict[UUID, int]


@dataclass(frozen=True, slots=True)
class AccessHolder:
    """Who holds permissions, on how many files, and the entries by which."""

    subject: str
    files: int
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessReport:
    """Who holds permissions below an entry; `hidden` files are under ACLs that the caller may not see."""

    holders: tuple[AccessHolder, ...]
    files: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in a directory and everywhere below; `closed` counts directories that the caller may not look into."""

    lfn: Lfn
    files: int
    directories: int
    links: int
    bytes: int
    closed: int


def check_batch(items: Sequence[Item], limit: int = MAX_BATCH) -> Sequence[Item]:
    """Return `items`.

    Raises:
        Invalid: there are more than `limit`.
    """
    if len(items) > limit:
        raise Invalid("BATCH_TOO_LARGE", f"At most {limit:,} items per call, not {len(items):,}: split the batch.")
    return items


def parse_uuid(text: str, what: str) -> UUID:
    """Return a UUID from its canonical text (36 characters, lower case).

    Raises:
        Invalid: it is not; `what` names the field.
    """
    if not _CANONICAL_UUID.fullmatch(text):
        raise Invalid(f"{what.upper()}_INVALID", f"{what} is not a UUID in canonical form (8-4-4-4-12 lower-case hexadecimal digits).")
    return UUID(text)


def check_size(size: int | None) -> int | None:
    """Return a size in bytes. Raises Invalid below zero."""
    if size is not None and size < 0:
        raise Invalid("SIZE_INVALID", "size is below zero.")
    return size


def check_sha256(digest: bytes) -> bytes:
    """Return a SHA-256, or nothing when unknown. Raises Invalid at any other length."""
    if len(digest) not in (0, SHA256_BYTES):
        raise Invalid("SHA256_INVALID", f"sha256 has {len(digest)} bytes, not {SHA256_BYTES}.")
    return digest


def check_comment(comment: str) -> str:
    """Return a comment. Raises Invalid above 255 bytes or with control characters."""
    if len(comment.encode()) > MAX_COMMENT_BYTES or _CONTROL.search(comment):
        raise Invalid("COMMENT_INVALID", f"comment must be one line of at most {MAX_COMMENT_BYTES} bytes without control characters.")
    return comment


def moment(seconds: int, nanos: int) -> datetime:
    """Return a time since 1970 in UTC. Raises Invalid outside of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=nanos // 1000)
    except (OverflowError, OSError, ValueError):
        raise Invalid("TIME_INVALID", "A time is outside of the years 1 to 9999.") from None


def parse_surl(surl: str) -> str:
    """Return a SURL. Raises Invalid unless it is `scheme://authority/path` of at most 1,023 bytes without spaces."""
    if len(surl.encode()) > MAX_SURL_BYTES or not _SURL.fullmatch(surl):
        raise Invalid("SURL_INVALID", f"surl must be scheme://authority/path of at most {MAX_SURL_BYTES:,} bytes without spaces.")
    return surl


def parse_replica(surl: str, status: ReplicaStatus, host: str, kind: ReplicaType = ReplicaType.PRIMARY, set_name: str = "") -> Replica:
    """Return a replica; without a host it is taken from the SURL.

    Raises:
        Invalid: SURL, host or name of the set cannot be one.
    """
    parse_surl(surl)
    if not host:
        authority = surl.split("/", 3)[2]
        host = authority.rpartition(":")[0] if re.search(r":[0-9]+$", authority) else authority
    return Replica(surl, status, check_host(host), kind, check_set_name(set_name))


def check_host(host: str) -> str:
    """Return the name of a host. Raises Invalid when it cannot be one."""
    if not host or len(host.encode()) > MAX_HOST_BYTES or " " in host or _CONTROL.search(host):
        raise Invalid("HOST_INVALID", "host is not a host name.")
    return host


def check_set_name(name: str) -> str:
    """Return the name of a set of replicas. Raises Invalid above 255 bytes or with control characters."""
    if len(name.encode()) > MAX_SET_BYTES or _CONTROL.search(name):
        raise Invalid("SET_NAME_INVALID", f"set_name is at most {MAX_SET_BYTES} bytes without control characters.")
    return name


def check_accesses(count: int) -> int:
    """Return a number of accesses to add. Raises Invalid outside of 0 to 1,000,000,000."""
    if not 0 <= count <= MAX_ACCESSES:
        raise Invalid("ACCESSES_INVALID", f"accesses is a number from 0 to {MAX_ACCESSES:,}.")
    return count


def check_replicas(replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """Return a file's replicas. Raises Invalid when there are more than 100 or one is named twice."""
    if len(replicas) > MAX_REPLICAS:
        raise Invalid("REPLICAS_TOO_MANY", f"At most {MAX_REPLICAS} replicas per file, not {len(replicas)}.")
    if len({replica.surl for replica in replicas}) != len(replicas):
        raise Invalid("REPLICA_TWICE", "A SURL is given twice.")
    return tuple(replicas)
