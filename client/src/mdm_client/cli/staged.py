"""What the commands for staged files write of requests, files and listings."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from mdm.srm.v1 import srm_pb2 as pb
from mdm_wire.permission import format_permissions

from mdm_client.cli.output import printable, readable_size, with_path


def state_name(code: "pb.StatusCode.ValueType") -> str:
    """Return the name of a state as in SRM v2.2."""
    return pb.StatusCode.Name(code).removeprefix("STATUS_CODE_")


def moment(seconds: int) -> str:
    """Return a time in seconds since the epoch as text."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def file_facts(file: pb.FileStatus) -> dict[str, Any]:
    """Return what programs read of a file of a request."""
    facts: dict[str, Any] = {"surl": file.surl, "guid": file.guid, "status": state_name(file.status)}
    if file.status == pb.STATUS_CODE_FILE_PINNED:
        facts |= {
            "size": file.size,
            "remaining_pin_seconds": file.remaining_pin_seconds,
            "pin_expires": moment(file.pin_expire_time.seconds),
        }
        facts |= {"turl": file.turl} if file.turl else {}
    return facts | ({"explanation": file.explanation} if file.explanation else {})


def file_line(file: pb.FileStatus) -> str:
    """Return what people read of a file of a request."""
    pinned = f" until {moment(file.pin_expire_time.seconds)}" if file.status == pb.STATUS_CODE_FILE_PINNED else ""
    why = f"  {printable(file.explanation)}" if file.explanation else ""
    return with_path(f"{state_name(file.status)}{pinned}  ", printable(file.surl or file.guid), why)


def status_facts(token: str, response: pb.StatusOfGetRequestResponse) -> dict[str, Any]:
    """Return what programs read of a request."""
    facts: dict[str, Any] = {
        "token": token,
        "status": state_name(response.status),
        "kind": pb.RequestKind.Name(response.kind).removeprefix("REQUEST_KIND_"),
        "pin_seconds": response.pin_seconds,
        "remaining_seconds": response.remaining_seconds,
        "files": dict(sorted(Counter(state_name(file.status) for file in response.files).items())),
    }
    if response.HasField("estimated_wait_seconds"):
        facts["estimated_wait_seconds"] = response.estimated_wait_seconds
    return facts


def status_line(response: pb.StatusOfGetRequestResponse) -> str:
    """Return what people read of a request."""
    counts = sorted(Counter(state_name(file.status) for file in response.files).items())
    wait = f"; the last in about {response.estimated_wait_seconds} s" if response.HasField("estimated_wait_seconds") else ""
    return f"{state_name(response.status)}: " + ", ".join(f"{count} {name}" for name, count in counts) + wait


def entry_facts(entry: pb.LsEntry, long: bool) -> dict[str, Any]:
    """Return what programs read of an entry of a listing."""
    facts: dict[str, Any] = {
        "surl": entry.surl,
        "kind": pb.PathKind.Name(entry.kind).removeprefix("PATH_KIND_"),
        "guid": entry.guid,
        "locality": _locality(entry),
        "size": entry.size if entry.HasField("size") else None,
    }
    if long:
        facts |= {"owner": entry.owner, "permissions": format_permissions(entry.permissions)}
        facts |= {"created": moment(entry.create_time.seconds), "modified": moment(entry.modify_time.seconds)}
        facts |= {"sha256": entry.sha256.hex()} if entry.sha256 else {}
        facts |= {"pin_expires": moment(entry.pin_expire_time.seconds)} if entry.pin_expire_time.seconds else {}
    return facts


def entry_line(entry: pb.LsEntry, long: bool) -> str:
    """Return what people read of an entry of a listing."""
    before = f"{_locality(entry):<19}  "
    if long:
        size = readable_size(entry.size) if entry.HasField("size") else "-"
        pin = moment(entry.pin_expire_time.seconds) if entry.pin_expire_time.seconds else "-"
        before += f"{format_permissions(entry.permissions):<8}  {size:>9}  {pin:<20}  "
    return with_path(before, printable(entry.surl), "/" if entry.kind == pb.PATH_KIND_DIRECTORY else "")


def _locality(entry: pb.LsEntry) -> str:
    return pb.FileLocality.Name(entry.locality).removeprefix("FILE_LOCALITY_")
