"""What the catalog answers: entries, places, sums."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from mdm.catalog.v1 import catalog_pb2

DIRECTORY = "directory"
FILE = "file"
SYMLINK = "symlink"

KINDS = {
    DIRECTORY: catalog_pb2.ENTRY_KIND_DIRECTORY,
    FILE: catalog_pb2.ENTRY_KIND_FILE,
    SYMLINK: catalog_pb2.ENTRY_KIND_SYMLINK,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KIND_NAMES = {number: name for name, number in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A catalog entry. `permissions` is what the caller may do; `surls` is empty unless replicas were asked for.

    `link_target` is where a symbolic link leads, absolute or relative to its directory; empty for others.
    """

    lfn: str
    kind: str
    guid: UUID | None
    size: int | None
    sha256: bytes
    comment: str
    owner: str
    acl_id: str
    default_acl_id: str
    create_time: datetime
    modify_time: datetime
    rev: int
    permissions: int
    surls: tuple[str, ...]
    access_time: datetime | None = None
    link_target: str = ""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a file is; `size` in bytes is None, and `sha256` empty, while unknown."""

    lfn: str
    guid: UUID
    surls: tuple[str, ...]
    size: int | None
    sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in a directory and everywhere below; `closed` counts directories that the caller may not look into."""

    lfn: str
    files: int
    directories: int
    links: int
    bytes: int
    closed: int


@dataclass(frozen=True, slots=True)
class Search:
    """What `find` looks for: what is empty or None holds for everything. `name` is a shell pattern for the last name."""

    name: str = ""
    kinds: tuple[str, ...] = ()
    min_size: int | None = None
    max_size: int | None = None
    modified_since: datetime | None = None
    modified_before: datetime | None = None
    max_depth: int = 0

    def to_proto(self, lfn: str, after: str, with_replicas: bool) -> catalog_pb2.FindRequest:
        """Return the catalog's message for searching below `lfn`."""
        request = catalog_pb2.FindRequest(
            lfn=lfn,
            name_pattern=self.name,
            kinds=[KINDS[kind] for kind in self.kinds],
            min_size=self.min_size,
            max_size=self.max_size,
            max_depth=self.max_depth,
            with_replicas=with_replicas,
            after=after,
        )
        if self.modified_since is not None:
            request.modified_since.FromDatetime(self.modified_since)
        if self.modified_before is not None:
            request.modified_before.FromDatetime(self.modified_before)
        return request


def entry_from_proto(entry: catalog_pb2.Entry) -> Entry:
    """Return an entry as the catalog sent it."""
    return Entry(
        lfn=entry.lfn,
        kind=_KIND_NAMES.get(entry.kind, FILE),
        guid=UUID(entry.guid) if entry.guid else None,
        size=entry.size if entry.HasField("size") else None,
        sha256=entry.sha256,
        comment=entry.comment,
        owner=entry.owner,
        acl_id=entry.acl_id,
        default_acl_id=entry.default_acl_id,
        create_time=moment(entry.create_time),
        modify_time=moment(entry.modify_time),
        access_time=moment(entry.access_time) if entry.HasField("access_time") else None,
        rev=entry.rev,
        permissions=entry.permissions,
        surls=tuple(replica.surl for replica in entry.replicas),
        link_target=entry.link_target,
    )


def moment(timestamp: Timestamp) -> datetime:
    """Return a time in UTC; `ToDatetime` does the same in twice the time, which long listings feel."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def location_from_proto(result: catalog_pb2.ResolveResult) -> Location:
    """Return where a file is as the catalog sent it."""
    size = result.size if result.HasField("size") else None
    return Location(result.lfn, UUID(result.guid), tuple(result.surls), size)


def usages_from_proto(messages: Iterable[catalog_pb2.Usage]) -> list[Usage]:
    """Return sums as the catalog sent them."""
    return [Usage(item.lfn, item.files, item.directories, item.links, item.bytes, item.closed) for item in messages]
