"""CatalogService over gRPC: between messages and the model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1 import common_pb2
from mdm_service import status
from mdm_service.acl import valid_permissions
from mdm_service.errors import Invalid, MdmError
from mdm_service.identity import current_caller

from mdm_catalog import model, path
from mdm_catalog.pattern import Condition, check_pattern
from mdm_catalog.service import CatalogService

M = TypeVar("M")
P = TypeVar("P")
R = TypeVar("R")

_USAGES = 1_000  # per message

_STATUSES = {
    catalog_pb2.REPLICA_STATUS_UNSPECIFIED: model.ReplicaStatus.AVAILABLE,
    **{int(known): known for known in model.ReplicaStatus},
}


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Answers the calls of clients and services; who may call what stands in the method policy, who may see what in the service."""

    def __init__(self, service: CatalogService) -> None:
        self._service = service

    def MakeDirectories(
        self, request: catalog_pb2.MakeDirectoriesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.MakeDirectoriesResponse:
        """Make each directory, or say why not."""
        caller = current_caller()
        outcomes = _batch(
            request.directories,
            _new_directory,
            lambda wanted: self._service.make_directories(caller, wanted, parents=request.parents),
        )
        return catalog_pb2.MakeDirectoriesResponse(statuses=_statuses(outcomes))

    def RegisterFiles(self, request: catalog_pb2.RegisterFilesRequest, context: grpc.ServicerContext) -> catalog_pb2.RegisterFilesResponse:
        """Register each file, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.files, _new_file, lambda files: self._service.register_files(caller, files))
        return catalog_pb2.RegisterFilesResponse(statuses=_statuses(outcomes))

    def Stat(self, request: catalog_pb2.StatRequest, context: grpc.ServicerContext) -> catalog_pb2.StatResponse:
        """Show each entry, or say why not."""
        caller = current_caller()
        found = _batch(
            request.targets,
            _target,
            lambda targets: self._service.stat(caller, targets, with_replicas=request.with_replicas, follow=not request.no_follow),
        )
        results = (
            catalog_pb2.EntryResult(status=status.failed(item))
            if isinstance(item, MdmError)
            else catalog_pb2.EntryResult(status=status.ok(), entry=_entry(item))
            for item in found
        )
        return catalog_pb2.StatResponse(results=results)

    def List(self, request: catalog_pb2.ListRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.ListResponse]:
        """Stream what is in a directory."""
        batches = self._service.listing(
            current_caller(),
            path.parse(request.lfn),
            recursive=request.recursive,
            with_replicas=request.with_replicas,
            after=path.parse(request.after) if request.after else None,
        )
        for batch in batches:
            yield catalog_pb2.ListResponse(entries=(_entry(view) for view in batch))

    def Find(self, request: catalog_pb2.FindRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.FindResponse]:
        """Stream what matches below a directory."""
        if request.max_depth < 0:
            raise Invalid("DEPTH_INVALID", "max_depth is below zero.")
        batches = self._service.find(
            current_caller(),
            path.parse(request.lfn),
            _condition(request),
            depth=request.max_depth,
            with_replicas=request.with_replicas,
            after=path.parse(request.after) if request.after else None,
        )
        for batch in batches:
            yield catalog_pb2.FindResponse(entries=(_entry(view) for view in batch))

    def GetUsage(self, request: catalog_pb2.GetUsageRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.GetUsageResponse]:
        """Sum up a directory."""
        if request.depth < 0:
            raise Invalid("DEPTH_INVALID", "depth is below zero.")
        usages = self._service.usage(current_caller(), path.parse(request.lfn), request.depth)
        for start in range(0, len(usages), _USAGES):
            yield catalog_pb2.GetUsageResponse(
                usages=(
                    catalog_pb2.Usage(
                        lfn=usage.lfn,
                        files=usage.files,
                        directories=usage.directories,
                        links=usage.links,
                        bytes=usage.bytes,
                        closed=usage.closed,
                    )
                    for usage in usages[start : start + _USAGES]
                )
            )

    def MakeLinks(self, request: catalog_pb2.MakeLinksRequest, context: grpc.ServicerContext) -> catalog_pb2.MakeLinksResponse:
        """Make each link, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.links, _new_link, lambda links: self._service.make_links(caller, links))
        return catalog_pb2.MakeLinksResponse(statuses=_statuses(outcomes))

    def Rename(self, request: catalog_pb2.RenameRequest, context: grpc.ServicerContext) -> catalog_pb2.RenameResponse:
        """Rename each entry, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.renamings, _renaming, lambda renamings: self._service.rename(caller, renamings))
        return catalog_pb2.RenameResponse(statuses=_statuses(outcomes))

    def Resolve(self, request: catalog_pb2.ResolveRequest, context: grpc.ServicerContext) -> catalog_pb2.ResolveResponse:
        """Say where each file is, or why not."""
        caller = current_caller()
        found = _batch(request.targets, _target, lambda targets: self._service.resolve(caller, targets))
        return catalog_pb2.ResolveResponse(results=(_resolution(item) for item in found))

    def CheckAccess(self, request: catalog_pb2.CheckAccessRequest, context: grpc.ServicerContext) -> catalog_pb2.CheckAccessResponse:
        """Say for each file whether the subject holds the permissions."""
        needed = valid_permissions(request.permissions)
        found = _batch(request.targets, _target, lambda targets: self._service.check_access(request.subject, targets, needed))
        results = (
            catalog_pb2.AccessResult(status=status.failed(item))
            if isinstance(item, MdmError)
            else catalog_pb2.AccessResult(status=status.ok(), guid=str(item.guid))
            for item in found
        )
        return catalog_pb2.CheckAccessResponse(results=results)

    def SetFileAttributes(
        self, request: catalog_pb2.SetFileAttributesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.SetFileAttributesResponse:
        """Change each file, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.attributes, _file_change, lambda changes: self._service.set_attributes(caller, changes))
        return catalog_pb2.SetFileAttributesResponse(statuses=_statuses(outcomes))

    def Remove(self, request: catalog_pb2.RemoveRequest, context: grpc.ServicerContext) -> catalog_pb2.RemoveResponse:
        """Remove each entry, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.targets, _target, lambda targets: self._service.remove(caller, targets, recursive=request.recursive))
        return catalog_pb2.RemoveResponse(statuses=_statuses(outcomes))

    def AssignAcls(self, request: catalog_pb2.AssignAclsRequest, context: grpc.ServicerContext) -> catalog_pb2.AssignAclsResponse:
        """Point each entry at an ACL, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.assignments, _assignment, lambda changes: self._service.assign_acls(caller, changes))
        return catalog_pb2.AssignAclsResponse(statuses=_statuses(outcomes))

    def ListSubtreeAcls(
        self, request: catalog_pb2.ListSubtreeAclsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListSubtreeAclsResponse:
        """Name the ACLs of a subtree."""
        shown, hidden = self._service.subtree_acls(current_caller(), _target(request.target))
        acls = (
            catalog_pb2.SubtreeAcl(acl_id=str(acl.acl_id), files=acl.files, directories=acl.directories, shared_outside=acl.shared_outside)
            for acl in shown
        )
        return catalog_pb2.ListSubtreeAclsResponse(acls=acls, hidden=hidden)


def _batch(messages: Sequence[M], parse: Callable[[M], P], work: Callable[[list[P]], Sequence[R | MdmError]]) -> list[R | MdmError]:
    """Return the result of each message: what `work` says about those that parse, the error of the others."""
    model.check_batch(messages)
    results: list[R | MdmError | None] = [None] * len(messages)
    parsed: list[P] = []
    places: list[int] = []
    for index, message in enumerate(messages):
        try:
            parsed.append(parse(message))
            places.append(index)
        except MdmError as error:
            results[index] = error
    for index, result in zip(places, work(parsed) if parsed else (), strict=True):
        results[index] = result
    return results  # type: ignore[return-value]  # every place is filled


def _statuses(outcomes: Iterable[object]) -> Iterator[common_pb2.ItemStatus]:
    return (status.failed(outcome) if isinstance(outcome, MdmError) else status.ok() for outcome in outcomes)


def _target(message: catalog_pb2.Target) -> model.Target:
    kind = message.WhichOneof("by")
    if kind == "lfn":
        return model.Target(lfn=path.parse(message.lfn))
    if kind == "guid":
        return model.Target(guid=model.parse_uuid(message.guid, "guid"))
    if kind == "surl":
        return model.Target(surl=model.parse_surl(message.surl))
    raise Invalid("TARGET_MISSING", "Say which entry: an LFN, a GUID or a SURL.")


def _new_directory(message: catalog_pb2.NewDirectory) -> model.NewDirectory:
    return model.NewDirectory(path.parse(message.lfn), _acl_id(message.acl_id), _acl_id(message.default_acl_id))


def _new_file(message: catalog_pb2.NewFile) -> model.NewFile:
    return model.NewFile(
        lfn=path.parse(message.lfn),
        guid=model.parse_uuid(message.guid, "guid"),
        size=model.check_size(message.size) if message.HasField("size") else None,
        sha256=model.check_sha256(message.sha256) or None,
        comment=model.check_comment(message.comment),
        acl_id=_acl_id(message.acl_id),
        replicas=model.check_replicas([_replica(replica) for replica in message.replicas]),
    )


def _new_link(message: catalog_pb2.NewLink) -> model.NewLink:
    return model.NewLink(path.parse(message.lfn), path.parse_link(message.target), _acl_id(message.acl_id))


def _renaming(message: catalog_pb2.Renaming) -> model.Renaming:
    return model.Renaming(_target(message.source), path.parse(message.lfn), message.replace)


def _condition(request: catalog_pb2.FindRequest) -> Condition:
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


def _replica(message: catalog_pb2.Replica) -> model.Replica:
    if message.status not in _STATUSES:
        raise Invalid("REPLICA_STATUS_UNKNOWN", "status of a replica is AVAILABLE, POPULATING or DELETING.")
    return model.parse_replica(message.surl, _STATUSES[message.status], message.host)


def _file_change(message: catalog_pb2.FileAttributes) -> model.FileChange:
    return model.FileChange(
        target=_target(message.target),
        size=model.check_size(message.size) if message.HasField("size") else None,
        sha256=model.check_sha256(message.sha256) if message.HasField("sha256") else None,
        comment=model.check_comment(message.comment) if message.HasField("comment") else None,
        if_rev=message.if_rev if message.HasField("if_rev") else None,
        modify_time=_moment(message, "modify_time"),
        access_time=_moment(message, "access_time"),
    )


def _assignment(message: catalog_pb2.AclAssignment) -> model.AclAssignment:
    return model.AclAssignment(_target(message.target), model.parse_uuid(message.acl_id, "acl_id"), _acl_id(message.default_acl_id))


def _acl_id(text: str) -> UUID | None:
    return model.parse_uuid(text, "acl_id") if text else None


def _resolution(item: model.Resolution | MdmError) -> catalog_pb2.ResolveResult:
    if isinstance(item, MdmError):
        return catalog_pb2.ResolveResult(status=status.failed(item))
    return catalog_pb2.ResolveResult(status=status.ok(), guid=str(item.guid), lfn=item.lfn, surls=item.surls, size=item.size)


def _entry(view: model.EntryView) -> catalog_pb2.Entry:
    entry = view.entry
    return catalog_pb2.Entry(
        lfn=view.lfn,
        kind=catalog_pb2.EntryKind.ValueType(entry.kind),
        guid=str(entry.guid) if entry.guid is not None else "",
        size=entry.size,
        sha256=entry.sha256 or b"",
        comment=entry.comment,
        owner=entry.owner,
        acl_id=str(entry.acl_id),
        default_acl_id=str(entry.default_acl_id) if entry.default_acl_id is not None else "",
        create_time=_timestamp(entry.create_time),
        modify_time=_timestamp(entry.modify_time),
        rev=entry.rev,
        permissions=int(view.permissions),
        replicas=(
            catalog_pb2.Replica(surl=item.surl, status=catalog_pb2.ReplicaStatus.ValueType(item.status), host=item.host)
            for item in view.replicas
        ),
        link_target=entry.link or "",
        access_time=_timestamp(entry.access_time) if entry.access_time is not None else None,
    )


def _timestamp(moment: datetime) -> Timestamp:
    return Timestamp(seconds=int(moment.timestamp()), nanos=moment.microsecond * 1000)


def _moment(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    return model.moment(getattr(message, field).seconds, getattr(message, field).nanos)
