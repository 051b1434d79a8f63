"""The namespace as JSON lines: one object per ACL and entry, directories before what is in them."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from mdm_service.access.acl import Acl, AclEntry
from mdm_wire import path
from mdm_wire.dn import canonical
from mdm_wire.errors import Invalid
from mdm_wire.path import ROOT, Lfn, join, names
from mdm_wire.permission import canonical_principal, format_permissions, parse_permissions

from mdm_catalog.rules import model, value
from mdm_catalog.rules.model import Entry, EntryKind, Replica, ReplicaStatus, ReplicaType
from mdm_catalog.rules.namespace.listing import PAGE
from mdm_catalog.rules.port import ReadTransaction

VERSION = 1
_KINDS = {EntryKind.DIRECTORY: "directory", EntryKind.FILE: "file", EntryKind.SYMLINK: "link"}
_NUMBERS = {name: kind for kind, name in _KINDS.items()}


def export(reading: ReadTransaction, after: Lfn | None) -> Iterator[str]:
    """Yield the lines of an export: a header, every entry but the root in order of path, each ACL before its first use, and an end.

    With `after`, return only the entries after that path, without a header: the rest of an export that was interrupted there.
    """
    if after is None:
        yield _line(type="catalog", version=VERSION)
    seen: set[UUID] = set()
    count = 0
    for page in _walk(reading, after):
        ids = {acl_id for _, entry in page for acl_id in (entry.acl_id, entry.default_acl_id) if acl_id is not None} - seen
        for acl in reading.acls(ids).values():
            entries = {entry.principal: format_permissions(entry.permissions) for entry in acl.entries}
            yield _line(type="acl", id=str(acl.id), owner=acl.owner, entries=entries)
        seen |= ids
        replicas = reading.replicas([entry.id for _, entry in page if entry.kind == EntryKind.FILE])
        for lfn, entry in page:
            yield _entry_line(lfn, entry, replicas.get(entry.id, ()))
        count += len(page)
    yield _line(type="end", entries=count)


def path_in(line: str) -> Lfn | None:
    """Return the path of the entry in a line of an export, None if the line has no entry."""
    fields = json.loads(line)
    return path.parse(fields["lfn"]) if fields["type"] in _NUMBERS else None


def parse_acl(fields: dict[str, Any]) -> Acl:
    """Return the ACL of a line. Raises Invalid, KeyError, ValueError or TypeError if it is malformed."""
    entries = (AclEntry(canonical_principal(who), parse_permissions(letters)) for who, letters in fields["entries"].items())
    return Acl(UUID(fields["id"]), canonical(fields["owner"]), tuple(sorted(entries, key=lambda entry: entry.principal)))


def parse_entry(fields: dict[str, Any]) -> tuple[Lfn, Entry, tuple[Replica, ...]]:
    """Return path, entry (its id and directory are not known here) and replicas of a line. Raises as `parse_acl`."""
    kind = _NUMBERS[fields["type"]]
    lfn = path.parse(fields["lfn"])
    if lfn == ROOT:
        raise Invalid("LFN_INVALID", "The root is not part of an export.")
    accessed = fields.get("accessed")
    entry = Entry(
        id=0,
        parent_id=None,
        name=names(lfn)[-1],
        kind=kind,
        guid=UUID(fields["guid"]) if kind == EntryKind.FILE else None,
        size=value.check_size(fields.get("size")),
        sha256=value.check_sha256(bytes.fromhex(fields.get("sha256") or "")) or None,
        comment=value.check_comment(fields.get("comment", "")),
        owner="",
        acl_id=UUID(fields["acl"]),
        default_acl_id=UUID(fields["default_acl"]) if kind == EntryKind.DIRECTORY else None,
        create_time=datetime.fromisoformat(fields["created"]),
        modify_time=datetime.fromisoformat(fields["modified"]),
        rev=int(fields["rev"]),
        link=path.parse_link(fields["target"]) if kind == EntryKind.SYMLINK else None,
        access_time=datetime.fromisoformat(accessed) if accessed else None,
    )
    return lfn, entry, tuple(_parse_replica(item) for item in fields.get("replicas", ()))


def _walk(reading: ReadTransaction, after: Lfn | None) -> Iterator[list[tuple[Lfn, Entry]]]:
    """Yield pages of everything below the root, a directory before its contents; only a page per level is in memory."""
    stack: list[tuple[Lfn, int, str, list[Entry]]] = [(ROOT, model.ROOT_ID, "", [])]
    for name in names(after) if after is not None else ():
        lfn, directory, _, _ = stack.pop()
        stack.append((lfn, directory, name, []))
        node = reading.children([(directory, name)]).get((directory, name))
        if node is None or node.kind != EntryKind.DIRECTORY:
            break
        stack.append((join(lfn, name), node.id, "", []))
    found: list[tuple[Lfn, Entry]] = []
    while stack:
        lfn, directory, last, pending = stack.pop()
        pending = pending or reading.page(directory, last, PAGE)
        if not pending:
            continue
        entry, rest = pending[0], pending[1:]
        stack.append((lfn, directory, entry.name, rest))
        found.append((join(lfn, entry.name), entry))
        if entry.kind == EntryKind.DIRECTORY:
            stack.append((join(lfn, entry.name), entry.id, "", []))
        if len(found) == PAGE:
            yield found
            found = []
    if found:
        yield found


def _entry_line(lfn: Lfn, entry: Entry, replicas: tuple[Replica, ...]) -> str:
    return _line(
        type=_KINDS[entry.kind],
        lfn=lfn,
        guid=entry.guid and str(entry.guid),
        target=entry.link,
        size=entry.size,
        sha256=entry.sha256 and entry.sha256.hex(),
        comment=entry.comment or None,
        acl=str(entry.acl_id),
        default_acl=entry.default_acl_id and str(entry.default_acl_id),
        created=entry.create_time.isoformat(),
        modified=entry.modify_time.isoformat(),
        accessed=entry.access_time and entry.access_time.isoformat(),
        rev=entry.rev,
        replicas=[_replica_fields(replica) for replica in replicas] or None,
    )


def _replica_fields(replica: Replica) -> dict[str, Any]:
    assert replica.create_time is not None
    fields = {
        "surl": replica.surl,
        "status": replica.status.name.lower(),
        "type": replica.type.name.lower(),
        "host": replica.host,
        "set": replica.set_name or None,
        "created": replica.create_time.isoformat(),
        "accessed": replica.access_time and replica.access_time.isoformat(),
        "accesses": replica.access_count or None,
        "rev": replica.rev,
    }
    return {name: given for name, given in fields.items() if given is not None}


def _parse_replica(fields: dict[str, Any]) -> Replica:
    replica = value.parse_replica(
        fields["surl"],
        ReplicaStatus[fields["status"].upper()],
        fields["host"],
        ReplicaType[fields["type"].upper()],
        fields.get("set", ""),
    )
    accessed = fields.get("accessed")
    return Replica(
        replica.surl,
        replica.status,
        replica.host,
        replica.type,
        replica.set_name,
        datetime.fromisoformat(fields["created"]),
        datetime.fromisoformat(accessed) if accessed else None,
        int(fields.get("accesses", 0)),
        int(fields["rev"]),
    )


def _line(**fields: Any) -> str:
    return json.dumps({name: given for name, given in fields.items() if given is not None}, ensure_ascii=False) + "\n"
