"""Messages of the contract to model and back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from mdm.catalog.v1 import catalog_pb2
from mdm_service.access.acl import Acl
from mdm_service.access.servicer import acl_to_proto
from mdm_wire import path, status
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.url import check_surl

from mdm_catalog.rules import model, value
from mdm_catalog.rules.transaction import Operation
from mdm_catalog.rules.value import Condition, check_pattern

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def target_from_proto(message: catalog_pb2.Target) -> model.Target:
    """Return the target that a message names."""
    kind = message.WhichOneof("by")
    if kind == "lfn":
        return model.Target(lfn=path.parse(message.lfn))
    if kind == "guid":
        return model.Target(guid=value.parse_uuid(message.guid, "guid"))
    if kind == "surl":
        return model.Target(surl=check_surl(message.surl))
    raise Invalid("TARGET_MISSING", "The target is missing: name an LFN, a GUID or a SURL.")


def directory_from_proto(message: catalog_pb2.NewDirectory) -> model.NewDirectory:
    """Return a directory to make."""
    return model.NewDirectory(path.parse(message.lfn), _acl_id(message.acl_id), _acl_id(message.default_acl_id))


def file_from_proto(message: catalog_pb2.NewFile) -> model.NewFile:
    """Return a file to register."""
    return model.NewFile(
        lfn=path.parse(message.lfn),
        guid=value.parse_uuid(message.guid, "guid"),
        size=value.check_size(message.size) if message.HasField("size") else None,
        sha256=value.check_sha256(message.sha256) or None,
        comment=value.check_comment(message.comment),
        acl_id=_acl_id(message.acl_id),
        replicas=value.check_replicas([replica_from_proto(replica) for replica in message.replicas]),
    )


def link_from_proto(message: catalog_pb2.NewLink) -> model.NewLink:
    """Return a symbolic link to make."""
    return model.NewLink(path.parse(message.lfn), path.parse_link(message.target), _acl_id(message.acl_id))


def renaming_from_proto(message: catalog_pb2.Renaming) -> model.Renaming:
    """Return a new path for an entry."""
    return model.Renaming(target_from_proto(message.source), path.parse(message.lfn), message.replace)


def condition_from_proto(request: catalog_pb2.FindRequest) -> Condition:
    """Return the condition of a search."""
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


def replica_from_proto(message: catalog_pb2.Replica) -> model.Replica:
    """Return a replica."""
    return value.parse_replica(
        message.surl,
        _replica_status(message.status or catalog_pb2.REPLICA_STATUS_AVAILABLE),
        message.host,
        _replica_type(message.type or catalog_pb2.REPLICA_TYPE_PRIMARY),
        message.set_name,
    )


def new_replica_from_proto(message: catalog_pb2.NewReplica) -> model.NewReplica:
    """Return a replica to add to a file."""
    return model.NewReplica(target_from_proto(message.file), replica_from_proto(message.replica))


def replica_change_from_proto(message: catalog_pb2.ReplicaChange) -> model.ReplicaChange:
    """Return new attributes of a replica."""
    return model.ReplicaChange(
        surl=check_surl(message.surl),
        status=_replica_status(message.status) if message.HasField("status") else None,
        type=_replica_type(message.type) if message.HasField("type") else None,
        set_name=value.check_set_name(message.set_name) if message.HasField("set_name") else None,
        host=value.check_host(message.host) if message.HasField("host") else None,
        accesses=value.check_accesses(message.accesses),
        if_rev=message.if_rev if message.HasField("if_rev") else None,
    )


def replica_search_from_proto(request: catalog_pb2.FindReplicasRequest) -> model.ReplicaSearch:
    """Return a search for replicas."""
    return model.ReplicaSearch(
        set_name=value.check_set_name(request.set_name),
        host=value.check_host(request.host) if request.host else "",
        statuses=frozenset(_replica_status(status) for status in request.statuses),
    )


def operation_from_proto(message: catalog_pb2.Operation) -> Operation:
    """Return an operation of a transaction."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise Invalid("OPERATION_MISSING", "The operation is missing or unknown.")
    operation: Operation = _OPERATIONS[kind](getattr(message, kind))
    return operation


def file_change_from_proto(message: catalog_pb2.FileAttributes) -> model.FileChange:
    """Return new attributes of an entry."""
    return model.FileChange(
        target=target_from_proto(message.target),
        size=value.check_size(message.size) if message.HasField("size") else None,
        sha256=value.check_sha256(message.sha256) if message.HasField("sha256") else None,
        comment=value.check_comment(message.comment) if message.HasField("comment") else None,
        if_rev=message.if_rev if message.HasField("if_rev") else None,
        modify_time=_moment(message, "modify_time"),
        access_time=_moment(message, "access_time"),
    )


def assignment_from_proto(message: catalog_pb2.AclAssignment) -> model.AclAssignment:
    """Return an assignment of ACLs."""
    return model.AclAssignment(
        target_from_proto(message.target), value.parse_uuid(message.acl_id, "acl_id"), _acl_id(message.default_acl_id)
    )


def replica_to_proto(replica: model.Replica) -> catalog_pb2.Replica:
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


def replicas_to_proto(item: model.FileReplicas | MdmError) -> catalog_pb2.ReplicasResult:
    """Return a file's replicas, or the refusal."""
    if isinstance(item, MdmError):
        return catalog_pb2.ReplicasResult(status=status.failed(item))
    replicas = (replica_to_proto(replica) for replica in item.replicas)
    return catalog_pb2.ReplicasResult(status=status.ok(), lfn=item.lfn, guid=str(item.guid), replicas=replicas)


def found_replica_to_proto(item: model.FileReplicas) -> catalog_pb2.FoundReplica:
    """Return a replica with its file."""
    [replica] = item.replicas
    return catalog_pb2.FoundReplica(lfn=item.lfn, guid=str(item.guid), replica=replica_to_proto(replica))


def stat_to_proto(item: model.EntryView | MdmError) -> catalog_pb2.EntryResult:
    """Return an entry as a caller sees it, or the refusal."""
    if isinstance(item, MdmError):
        return catalog_pb2.EntryResult(status=status.failed(item))
    return catalog_pb2.EntryResult(status=status.ok(), entry=entry_to_proto(item))


def access_to_proto(item: model.Node | MdmError) -> catalog_pb2.AccessResult:
    """Return the GUID of a file that the subject may use, or why it may not."""
    if isinstance(item, MdmError):
        return catalog_pb2.AccessResult(status=status.failed(item))
    return catalog_pb2.AccessResult(status=status.ok(), guid=str(item.guid))


def usage_to_proto(usage: model.Usage) -> catalog_pb2.Usage:
    """Return the usage of a directory."""
    return catalog_pb2.Usage(
        lfn=usage.lfn, files=usage.files, directories=usage.directories, links=usage.links, bytes=usage.bytes, closed=usage.closed
    )


def subtree_acl_to_proto(acl: model.SubtreeAcl) -> catalog_pb2.SubtreeAcl:
    """Return an ACL of a subtree, with what refers to it."""
    return catalog_pb2.SubtreeAcl(
        acl_id=str(acl.acl_id), files=acl.files, directories=acl.directories, links=acl.links, outside=acl.outside
    )


def subtree_result_to_proto(item: model.SubtreeAcl, changed: Acl | MdmError) -> catalog_pb2.SubtreeAclResult:
    """Return an ACL of a subtree as it is now, or why it was not changed."""
    if isinstance(changed, MdmError):
        return catalog_pb2.SubtreeAclResult(status=status.failed(changed), subtree_acl=subtree_acl_to_proto(item))
    return catalog_pb2.SubtreeAclResult(status=status.ok(), subtree_acl=subtree_acl_to_proto(item), acl=acl_to_proto(changed))


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


def resolution_to_proto(item: model.Resolution | MdmError) -> catalog_pb2.ResolveResult:
    """Return the replicas of a file, or the refusal."""
    if isinstance(item, MdmError):
        return catalog_pb2.ResolveResult(status=status.failed(item))
    return catalog_pb2.ResolveResult(status=status.ok(), guid=str(item.guid), lfn=item.lfn, surls=item.surls, size=item.size)


def entry_to_proto(view: model.EntryView) -> catalog_pb2.Entry:
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
        replicas=(replica_to_proto(item) for item in view.replicas),
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
    "make_directory": directory_from_proto,
    "register_file": file_from_proto,
    "make_link": link_from_proto,
    "rename": renaming_from_proto,
    "set_attributes": file_change_from_proto,
    "assign_acl": assignment_from_proto,
    "add_replica": new_replica_from_proto,
    "change_replica": replica_change_from_proto,
    "remove_replica": lambda surl: model.ReplicaRemoval(check_surl(surl)),
    "remove": lambda message: model.Removal(target_from_proto(message.target), message.recursive),
}
