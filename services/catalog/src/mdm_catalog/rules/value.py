"""Limits, and the checks of single values that callers send."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from mdm_wire.errors import Invalid

from mdm_catalog.rules.model import Replica, ReplicaStatus, ReplicaType

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

_SURL = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9A-Fa-f:.]+\]|[^/\s:\[\]]+)(:[0-9]{1,5})?/[^\s\x00-\x1f\x7f-\x9f]*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

Item = TypeVar("Item")


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
