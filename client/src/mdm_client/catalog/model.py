"""The model of the catalog's calls: entries, locations, usage, access control lists; searches and patterns of names."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from mdm.acl.v1 import acl_pb2
from mdm.catalog.v1 import catalog_pb2
from mdm_wire.errors import MdmError

DIRECTORY = "directory"
FILE = "file"
SYMLINK = "symlink"

KINDS = {DIRECTORY: catalog_pb2.ENTRY_KIND_DIRECTORY, FILE: catalog_pb2.ENTRY_KIND_FILE, SYMLINK: catalog_pb2.ENTRY_KIND_SYMLINK}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KIND_NAMES = {number: name for name, number in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A catalog entry. `permissions` are the caller's; `surls` is empty unless replicas were asked for.

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
    """The replicas of a file; `size` in bytes is None, and `sha256` empty, while unknown."""

    lfn: str
    guid: UUID
    surls: tuple[str, ...]
    size: int | None
    sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class Usage:
    """The contents below a directory, summed up; `closed` counts directories that the caller may not list."""

    lfn: str
    files: int
    directories: int
    links: int
    bytes: int
    closed: int


@dataclass(frozen=True)
class SubtreeAcl:
    """An ACL in a subtree, with the number of files and directories in it and outside that refer to the ACL."""

    acl_id: str
    files: int
    directories: int
    outside: int


@dataclass(frozen=True)
class ChangedAcl:
    """An ACL of a subtree after a change, or the error."""

    acl: SubtreeAcl
    after: acl_pb2.Acl | None
    error: MdmError | None


@dataclass(frozen=True, slots=True)
class AccessHolder:
    """A subject with permissions, on how many files, and by which entries. `authenticated` is anybody else with a certificate."""

    subject: str
    files: int
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessReport:
    """The subjects with permissions on `files` files, of which `hidden` are not in the report."""

    holders: tuple[AccessHolder, ...]
    files: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Search:
    """The conditions of `find`; an empty one or None always holds. `name` is a shell pattern for the last name."""

    name: str = ""
    kinds: tuple[str, ...] = ()
    min_size: int | None = None
    max_size: int | None = None
    modified_since: datetime | None = None
    modified_before: datetime | None = None
    max_depth: int = 0

    def to_proto(self, lfn: str, after: str, with_replicas: bool) -> catalog_pb2.FindRequest:
        """Return the message for a search below `lfn`."""
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
    """Return an entry of the catalog's message."""
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
    """Return a time in UTC; `ToDatetime` does the same at half the speed."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


_WILD = re.compile(r"[*?[]")
_ANY_DEPTH = "**"


@dataclass(frozen=True)
class Pattern:
    """An LFN with wildcards (`*`, `?`, `[abc]`, `[!a-z]` within a name, `**` for any number of directories): the directory below which it
    can match, and the names from there on."""

    base: str
    names: tuple[str, ...]

    @property
    def search(self) -> Search:
        """A search that finds all entries that match, and perhaps others."""
        last = self.names[-1]
        deep = _ANY_DEPTH in self.names
        return Search(name="" if last == _ANY_DEPTH else last, max_depth=0 if deep else len(self.names))

    def matches(self, lfn: str) -> bool:
        """Return whether an LFN below `base` matches; upper and lower case differ."""
        places = self._skipping({0})
        for name in lfn.removeprefix("/" if self.base == "/" else f"{self.base}/").split("/"):
            places = self._skipping({after for place in places for after in self._after(place, name)})
        return len(self.names) in places

    def _after(self, place: int, name: str) -> Iterator[int]:
        """Yield the places in `names` that may follow if `name` is at `place`."""
        if place == len(self.names):
            return
        if self.names[place] == _ANY_DEPTH:
            yield place
        elif fnmatch.fnmatchcase(name, self.names[place]):
            yield place + 1

    def _skipping(self, places: set[int]) -> set[int]:
        """Return the places, and those after each `**`, which may match no directory at all."""
        found = set(places)
        for place, name in enumerate(self.names):
            if place in found and name == _ANY_DEPTH:
                found.add(place + 1)
        return found


def find_pattern(lfn: str) -> Pattern | None:
    """Return an LFN as a pattern, None if it has no wildcard."""
    names = lfn.strip("/").split("/")
    fixed = next((index for index, name in enumerate(names) if _WILD.search(name)), None)
    return None if fixed is None else Pattern("/" + "/".join(names[:fixed]), tuple(names[fixed:]))
