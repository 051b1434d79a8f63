"""Between the messages of the contract and the model."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from mdm.catalog.v1 import catalog_pb2
from mdm_service.access.acl import Acl
from mdm_service.access.servicer import show_acl
from mdm_wire import path, status
from mdm_wire.errors import Invalid, MdmError

from mdm_catalog.rules import model, value
from mdm_catalog.rules.pattern import Condition, check_pattern
from mdm_catalog.rules.transaction import Operation

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def parse_target(message: catalog_pb2.Target) -> model.Target:
    """Return which entry a message names."""
    kind = message.WhichOneof("by")
    if kind == "lfn":
        return model.Target(lfn=path.parse(message.lfn))
    if kind == "guid":
        return model.Target(guid=value.parse_uuid(message.guid, "guid"))
    if kind == "surl":
        return model.Target(surl=value.parse_surl(message.surl))
    raise Invalid("TARGET_MISSING", "Say which entry: an LFN, a GUID or a SURL.")


def parse_directory(message: catalog_pb2.NewDirectory) -> model.NewDirectory:
    """Return a directory to make."""
    return model.NewDirectory(path.parse(message.lfn), _acl_id(message.acl_id), _acl_id(message.default_acl_id))


def parse_file(message: catalog_pb2.NewFile) -> model.NewFile:
    """Return a file to register."""
    return model.NewFile(
        lfn=path.parse(message.lfn),
        guid=value.parse_uuid(message.guid, "guid"),
        size=value.check_size(message.size) if message.HasField("size") else None,
        sha256=value.check_sha256(message.sha256) or None,
        comment=value.check_comment(message.comment),
        acl_id=_acl_id(message.acl_id),
        replicas=value.check_replicas([parse_replica(replica) for replica in message.replicas]),
    )


def parse_new_link(message: catalog_pb2.NewLink) -> model.NewLink:
    """Return a symbolic link to make."""
    return model.NewLink(path.parse(message.lfn), path.parse_link(message.target), _acl_id(message.acl_id))


def parse_renaming(message: catalog_pb2.Renaming) -> model.Renaming:
    """Return a new path for an entry."""
    return model.Renaming(parse_target(message.source), path.parse(message.lfn), message.replace)


def parse_condition(request: catalog_pb2.FindRequest) -> Condition:
    """Return what a search looks for."""
    try:
        kinds = frozenset(model.EntryKind(kind) for kind in request.kinds)
    except ValueError:
        raise Invalid("KIND_UNKNOWN", "kinds are DIRECTORY, FILE and SYMLINK.") from None
    return Condition(
        name=check_pattern(request.name_pattern),
        kinds=kinds,
        min_size=request.min_size if request.HasField("min_size") else None,
        max_size=request.max_size if request.HasField("max_size") else None,
        modified_since=_moment(request, "modified_since"),
        modified_before=_moment(request, "modified_before"),
    )


def parse_replica(message: catalog_pb2.Replica) -> model.Replica:
    """Return a replica."""
    return value.parse_replica(
        message.surl,
        _replica_status(message.status or catalog_pb2.REPLICA_STATUS_AVAILABLE),
        message.host,
        _replica_type(message.type or catalog_pb2.REPLICA_TYPE_PRIMARY),
        message.set_name,
    )


def parse_new_replica(message: catalog_pb2.NewReplica) -> model.NewReplica:
    """Return a replica to add to a file."""
    return model.NewReplica(parse_target(message.file), parse_replica(message.replica))


def parse_replica_change(message: catalog_pb2.ReplicaChange) -> model.ReplicaChange:
    """Return new attributes of a replica."""
    return model.ReplicaChange(
        surl=value.parse_surl(message.surl),
        status=_replica_status(message.status) if message.HasField("status") else None,
        type=_replica_type(message.type) if message.HasField("type") else None,
        set_name=value.check_set_name(message.set_name) if message.HasField("set_name") else None,
        host=value.check_host(message.host) if message.HasField("host") else None,
        accesses=value.check_accesses(message.accesses),
        if_rev=message.if_rev if message.HasField("if_rev") else None,
    )


def parse_replica_search(request: catalog_pb2.FindReplicasRequest) -> model.ReplicaSearch:
    """Return which replicas are searched for."""
    return model.ReplicaSearch(
        set_name=value.check_set_name(request.set_name),
        host=value.check_host(request.host) if request.host else "",
        statuses=frozenset(_replica_status(status) for status in request.statuses),
    )


def parse_operation(message: catalog_pb2.Operation) -> Operation:
    """Return an operation of a transaction."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise Invalid("OPERATION_MISSING", "Say what to do.")
    operation: Operation = _OPERATIONS[kind](getattr(message, kind))
    return operation


def parse_change(message: catalog_pb2.FileAttributes) -> model.FileChange:
    """Return new attributes of an entry."""
    return model.FileChange(
        target=parse_target(message.target),
        size=value.check_size(message.size) if message.HasField("size") else None,
        sha256=value.check_sha256(message.sha256) if message.HasField("sha256") else None,
        comment=value.check_comment(message.comment) if message.HasField("comment") else None,
        if_rev=message.if_rev if message.HasField("if_rev") else None,
        modify_time=_moment(message, "modify_time"),
        access_time=_moment(message, "access_time"),
    )


def parse_assignment(message: catalog_pb2.AclAssignment) -> model.AclAssignment:
    """Return an assignment of ACLs."""
    return model.AclAssignment(parse_target(message.target), value.parse_uuid(message.acl_id, "acl_id"), _acl_id(message.default_acl_id))


def show_replica(replica: model.Replica) -> catalog_pb2.Replica:
    """Return a replica as the catalog knows it."""
    message = catalog_pb2.Replica(
        surl=replica.surl,
        status=catalog_pb2.ReplicaStatus.ValueType(replica.status),
        host=replica.host,
        type=catalog_pb2.ReplicaType.ValueType(replica.type),
        set_name=replica.set_name,
        access_count=replica.access_count,
        rev=replica.rev,
    )
    if replica.create_time is not None:
        _set(message.create_time, replica.create_time)
    if replica.access_time is not None:
        _set(message.access_time, replica.access_time)
    return message


def show_replicas(item: model.FileReplicas | MdmError) -> catalog_pb2.ReplicasResult:
    """Return a file's replicas, or why they are not given."""
    if isinstance(item, MdmError):
        return catalog_pb2.ReplicasResult(status=status.failed(item))
    replicas = (show_replica(replica) for replica in item.replicas)
    return catalog_pb2.ReplicasResult(status=status.ok(), lfn=item.lfn, guid=str(item.guid), replicas=replicas)


def show_found(item: model.FileReplicas) -> catalog_pb2.FoundReplica:
    """Return a replica with its file."""
    [replica] = item.replicas
    return catalog_pb2.FoundReplica(lfn=item.lfn, guid=str(item.guid), replica=show_replica(replica))


def show_usage(usage: model.Usage) -> catalog_pb2.Usage:
    """Return what is in a directory and below."""
    return catalog_pb2.Usage(
        lfn=usage.lfn, files=usage.files, directories=usage.directories, links=usage.links, bytes=usage.bytes, closed=usage.closed
    )


def show_subtree_acl(acl: model.SubtreeAcl) -> catalog_pb2.SubtreeAcl:
    """Return an ACL of a subtree, with what refers to it."""
    return catalog_pb2.SubtreeAcl(
        acl_id=str(acl.acl_id), files=acl.files, directories=acl.directories, links=acl.links, shared_outside=acl.shared_outside
    )


def show_subtree_result(item: model.SubtreeAcl, outcome: Acl | MdmError) -> catalog_pb2.SubtreeAclResult:
    """Return an ACL of a subtree as it is now, or why it was not changed."""
    if isinstance(outcome, MdmError):
        return catalog_pb2.SubtreeAclResult(status=status.failed(outcome), subtree_acl=show_subtree_acl(item))
    return catalog_pb2.SubtreeAclResult(status=status.ok(), subtree_acl=show_subtree_acl(item), acl=show_acl(outcome))


def _replica_status(number: int) -> model.ReplicaStatus:
    try:
        return model.ReplicaStatus(number)
    except ValueError:
        raise Invalid("REPLICA_STATUS_UNKNOWN", "status of a replica is AVAILABLE, POPULATING or DELETING.") from None


def _replica_type(number: int) -> model.ReplicaType:
    try:
        return model.ReplicaType(number)
    except ValueError:
        raise Invalid("REPLICA_TYPE_UNKNOWN", "type of a replica is PRIMARY or SECONDARY.") from None


def _acl_id(text: str) -> UUID | None:
    return value.parse_uuid(text, "acl_id") if text else None


def show_resolution(item: model.Resolution | MdmError) -> catalog_pb2.ResolveResult:
    """Return where a file is, or why that is not told."""
    if isinstance(item, MdmError):
        return catalog_pb2.ResolveResult(status=status.failed(item))
    return catalog_pb2.ResolveResult(status=status.ok(), guid=str(item.guid), lfn=item.lfn, surls=item.surls, size=item.size)


def show_entry(view: model.EntryView) -> catalog_pb2.Entry:
    """Return an entry as a caller sees it."""
    entry = view.entry
    message = catalog_pb2.Entry(
        lfn=view.lfn,
        kind=catalog_pb2.EntryKind.ValueType(entry.kind),
        guid=str(entry.guid) if entry.guid is not None else "",
        size=entry.size,
        sha256=entry.sha256 or b"",
        comment=entry.comment,
        owner=entry.owner,
        acl_id=str(entry.acl_id),
        default_acl_id=str(entry.default_acl_id) if entry.default_acl_id is not None else "",
        rev=entry.rev,
        permissions=int(view.permissions),
        replicas=(show_replica(item) for item in view.replicas),
        link_target=entry.link or "",
    )
    _set(message.create_time, entry.create_time)
    _set(message.modify_time, entry.modify_time)
    if entry.access_time is not None:
        _set(message.access_time, entry.access_time)
    return message


def _set(timestamp: Timestamp, moment: datetime) -> None:
    # In place: a message made apart and copied takes twice the time, which long listings feel.
    timestamp.seconds = (moment - _EPOCH) // _SECOND
    timestamp.nanos = moment.microsecond * 1000


def _moment(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    return value.moment(getattr(message, field).seconds, getattr(message, field).nanos)


_OPERATIONS: dict[str, Callable[[Any], Operation]] = {
    "make_directory": parse_directory,
    "register_file": parse_file,
    "make_link": parse_new_link,
    "rename": parse_renaming,
    "set_attributes": parse_change,
    "assign_acl": parse_assignment,
    "add_replica": parse_new_replica,
    "change_replica": parse_replica_change,
    "remove_replica": lambda surl: model.ReplicaRemoval(value.parse_surl(surl)),
    "remove": lambda message: model.Removal(parse_target(message.target), message.recursive),
}
