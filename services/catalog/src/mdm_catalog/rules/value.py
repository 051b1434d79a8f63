"""Limits, the checks of single values that callers send, and the condition of a search."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import UUID

from mdm_wire.errors import Invalid
from mdm_wire.url import canonical_uuid, check_surl

from mdm_catalog.rules.model import Entry, EntryKind, Replica, ReplicaStatus, ReplicaType

MAX_COMMENT_BYTES = 255
MAX_HOST_BYTES = 255
MAX_REPLICAS = 100
MAX_SET_BYTES = 255
MAX_ACCESSES = 1_000_000_000
MAX_ACL_CHANGES = 100
MAX_SIZE = 2**63 - 1
MAX_LISTED = 100_000  # entries of one ListFor
MAX_LINKS = 16  # on one path
MAX_PATTERN_BYTES = 255
SHA256_BYTES = 32

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_listing_limit(limit: int) -> int:
    """Return how many entries a listing gives, 0 meaning the most. Raises Invalid outside of 0 to 100,000."""
    if not 0 <= limit <= MAX_LISTED:
        raise Invalid("LIMIT_INVALID", f"limit is a number from 0 to {MAX_LISTED:,}.")
    return limit or MAX_LISTED


def parse_uuid(text: str, what: str) -> UUID:
    """Return a UUID from its canonical text (36 characters, lower case).

    Raises:
        Invalid: it is not; `what` names the field.
    """
    found = canonical_uuid(text)
    if found is None:
        raise Invalid(f"{what.upper()}_INVALID", f"{what} is not a UUID in canonical form (8-4-4-4-12 lower-case hexadecimal digits).")
    return found


def check_size(size: int | None) -> int | None:
    """Return a size in bytes. Raises Invalid below zero."""
    if size is not None and size < 0:
        raise Invalid("SIZE_INVALID", "size must not be negative.")
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


def parse_replica(surl: str, status: ReplicaStatus, host: str, kind: ReplicaType = ReplicaType.PRIMARY, set_name: str = "") -> Replica:
    """Return a replica; without a host it is taken from the SURL.

    Raises:
        Invalid: SURL, host or set name is not valid.
    """
    check_surl(surl)
    if not host:
        authority = surl.split("/", 3)[2]
        host = authority.rpartition(":")[0] if re.search(r":[0-9]+$", authority) else authority
    return Replica(surl, status, check_host(host), kind, check_set_name(set_name))


def check_host(host: str) -> str:
    """Return `text`, the name of a host. Raises Invalid if it is not one."""
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


_CLASS = re.compile(r"\[!?\]?[^\]]*\]")


@dataclass(frozen=True)
class Condition:
    """The condition of a search; None or an empty field matches every entry."""

    name: str = ""
    kinds: frozenset[EntryKind] = frozenset()
    min_size: int | None = None
    max_size: int | None = None
    modified_since: datetime | None = None
    modified_before: datetime | None = None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(fnmatch.translate(self.name))

    @cached_property
    def like(self) -> str | None:
        """A pattern of SQL's LIKE that every matching name meets, and perhaps others; None for all names."""
        return _like(self.name) if self.name else None

    def met_by(self, entry: Entry) -> bool:
        """Return whether an entry meets the whole condition."""
        sized = self.min_size is not None or self.max_size is not None
        return (
            (not self.kinds or entry.kind in self.kinds)
            and (not self.name or self._pattern.match(entry.name) is not None)
            and (not sized or (entry.size is not None and entry.size >= (self.min_size or 0)))
            and (self.max_size is None or (entry.size or 0) <= self.max_size)
            and (self.modified_since is None or entry.modify_time >= self.modified_since)
            and (self.modified_before is None or entry.modify_time < self.modified_before)
        )


def check_pattern(text: str) -> str:
    """Return a shell pattern for names. Raises Invalid if it could match no name: with `/`, or longer than 255 bytes."""
    if "/" in text or len(text.encode()) > MAX_PATTERN_BYTES:
        raise Invalid("PATTERN_INVALID", f"A pattern is for one name: at most {MAX_PATTERN_BYTES} bytes, without '/'.")
    return text


def _like(pattern: str) -> str:
    """Return `pattern` for LIKE, a class of characters being any character."""
    found = []
    place = 0
    while place < len(pattern):
        character = pattern[place]
        group = _CLASS.match(pattern, place)
        if group:
            found.append("_")
            place = group.end()
            continue
        if character != "*" or found[-1:] != ["%"]:
            found.append({"*": "%", "?": "_"}.get(character, f"\\{character}" if character in "%_\\" else character))
        place += 1
    return "".join(found)
