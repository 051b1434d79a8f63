"""CatalogService over gRPC: between messages and the model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1 import common_pb2
from mdm_service.access.servicer import parse_change
from mdm_service.identity.caller import current_caller
from mdm_wire import path, status
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.permission import Permission, valid_permissions

from mdm_catalog.rpc import message
from mdm_catalog.rules import value
from mdm_catalog.rules.service import CatalogService

M = TypeVar("M")
P = TypeVar("P")
R = TypeVar("R")

# Per message of a stream.
_USAGES = 1_000
_TARGETS = 1_000


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
            message.parse_directory,
            lambda wanted: self._service.make_directories(caller, wanted, parents=request.parents),
        )
        return catalog_pb2.MakeDirectoriesResponse(statuses=_statuses(outcomes))

    def RegisterFiles(self, request: catalog_pb2.RegisterFilesRequest, context: grpc.ServicerContext) -> catalog_pb2.RegisterFilesResponse:
        """Register each file, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.files, message.parse_file, lambda files: self._service.register_files(caller, files))
        return catalog_pb2.RegisterFilesResponse(statuses=_statuses(outcomes))

    def Stat(self, request: catalog_pb2.StatRequest, context: grpc.ServicerContext) -> catalog_pb2.StatResponse:
        """Show each entry, or say why not."""
        caller = current_caller()
        found = _batch(
            request.targets,
            message.parse_target,
            lambda targets: self._service.stat(caller, targets, with_replicas=request.with_replicas, follow=not request.no_follow),
        )
        results = (
            catalog_pb2.EntryResult(status=status.failed(item))
            if isinstance(item, MdmError)
            else catalog_pb2.EntryResult(status=status.ok(), entry=message.show_entry(item))
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
            yield catalog_pb2.ListResponse(entries=(message.show_entry(view) for view in batch))

    def Find(self, request: catalog_pb2.FindRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.FindResponse]:
        """Stream what matches below a directory."""
        if request.max_depth < 0:
            raise Invalid("DEPTH_INVALID", "max_depth is below zero.")
        batches = self._service.find(
            current_caller(),
            path.parse(request.lfn),
            message.parse_condition(request),
            depth=request.max_depth,
            with_replicas=request.with_replicas,
            after=path.parse(request.after) if request.after else None,
        )
        for batch in batches:
            yield catalog_pb2.FindResponse(entries=(message.show_entry(view) for view in batch))

    def GetUsage(self, request: catalog_pb2.GetUsageRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.GetUsageResponse]:
        """Sum up a directory."""
        if request.depth < 0:
            raise Invalid("DEPTH_INVALID", "depth is below zero.")
        usages = self._service.usage(current_caller(), path.parse(request.lfn), request.depth)
        for start in range(0, len(usages), _USAGES):
            yield catalog_pb2.GetUsageResponse(usages=(message.show_usage(usage) for usage in usages[start : start + _USAGES]))

    def MakeLinks(self, request: catalog_pb2.MakeLinksRequest, context: grpc.ServicerContext) -> catalog_pb2.MakeLinksResponse:
        """Make each link, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.links, message.parse_new_link, lambda links: self._service.make_links(caller, links))
        return catalog_pb2.MakeLinksResponse(statuses=_statuses(outcomes))

    def Rename(self, request: catalog_pb2.RenameRequest, context: grpc.ServicerContext) -> catalog_pb2.RenameResponse:
        """Rename each entry, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.renamings, message.parse_renaming, lambda renamings: self._service.rename(caller, renamings))
        return catalog_pb2.RenameResponse(statuses=_statuses(outcomes))

    def Resolve(self, request: catalog_pb2.ResolveRequest, context: grpc.ServicerContext) -> catalog_pb2.ResolveResponse:
        """Say where each file is, or why not."""
        caller = current_caller()
        found = _batch(request.targets, message.parse_target, lambda targets: self._service.resolve(caller, targets))
        return catalog_pb2.ResolveResponse(results=(message.show_resolution(item) for item in found))

    def CheckAccess(self, request: catalog_pb2.CheckAccessRequest, context: grpc.ServicerContext) -> catalog_pb2.CheckAccessResponse:
        """Say for each file whether the subject holds the permissions."""
        needed = valid_permissions(request.permissions)
        found = _batch(request.targets, message.parse_target, lambda targets: self._service.check_access(request.subject, targets, needed))
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
        outcomes = _batch(request.attributes, message.parse_change, lambda changes: self._service.set_attributes(caller, changes))
        return catalog_pb2.SetFileAttributesResponse(statuses=_statuses(outcomes))

    def Remove(self, request: catalog_pb2.RemoveRequest, context: grpc.ServicerContext) -> catalog_pb2.RemoveResponse:
        """Remove each entry, or say why not."""
        caller = current_caller()
        outcomes = _batch(
            request.targets, message.parse_target, lambda targets: self._service.remove(caller, targets, recursive=request.recursive)
        )
        return catalog_pb2.RemoveResponse(statuses=_statuses(outcomes))

    def AddReplicas(self, request: catalog_pb2.AddReplicasRequest, context: grpc.ServicerContext) -> catalog_pb2.AddReplicasResponse:
        """Add each replica, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.replicas, message.parse_new_replica, lambda replicas: self._service.add_replicas(caller, replicas))
        return catalog_pb2.AddReplicasResponse(statuses=_statuses(outcomes))

    def ChangeReplicas(
        self, request: catalog_pb2.ChangeReplicasRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ChangeReplicasResponse:
        """Change each replica, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.changes, message.parse_replica_change, lambda changes: self._service.change_replicas(caller, changes))
        return catalog_pb2.ChangeReplicasResponse(statuses=_statuses(outcomes))

    def RemoveReplicas(
        self, request: catalog_pb2.RemoveReplicasRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.RemoveReplicasResponse:
        """Remove each replica, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.surls, value.parse_surl, lambda surls: self._service.remove_replicas(caller, surls))
        return catalog_pb2.RemoveReplicasResponse(statuses=_statuses(outcomes))

    def ListReplicas(
        self, request: catalog_pb2.ListReplicasRequest, context: grpc.ServicerContext
    ) -> Iterator[catalog_pb2.ListReplicasResponse]:
        """Stream the replicas of each file, or why not."""
        caller = current_caller()
        value.check_batch(request.targets)
        for start in range(0, len(request.targets), _TARGETS):
            found = _batch(
                request.targets[start : start + _TARGETS],
                message.parse_target,
                lambda targets: self._service.list_replicas(caller, targets),
            )
            yield catalog_pb2.ListReplicasResponse(results=(message.show_replicas(item) for item in found))

    def FindReplicas(
        self, request: catalog_pb2.FindReplicasRequest, context: grpc.ServicerContext
    ) -> Iterator[catalog_pb2.FindReplicasResponse]:
        """Stream the replicas of a set or a host."""
        search = message.parse_replica_search(request)
        for batch in self._service.find_replicas(current_caller(), search, request.after):
            yield catalog_pb2.FindReplicasResponse(replicas=(message.show_found(item) for item in batch))

    def Apply(self, request: catalog_pb2.ApplyRequest, context: grpc.ServicerContext) -> catalog_pb2.ApplyResponse:
        """Do everything, or nothing and say which operation was the obstacle."""
        value.check_batch(request.operations)
        operations = []
        for index, operation in enumerate(request.operations):
            try:
                operations.append(message.parse_operation(operation))
            except MdmError as error:
                return catalog_pb2.ApplyResponse(status=status.failed(error), failed=index)
        failed = self._service.apply(current_caller(), operations)
        if failed is not None:
            return catalog_pb2.ApplyResponse(status=status.failed(failed.error), failed=failed.index)
        return catalog_pb2.ApplyResponse(status=status.ok())

    def AssignAcls(self, request: catalog_pb2.AssignAclsRequest, context: grpc.ServicerContext) -> catalog_pb2.AssignAclsResponse:
        """Point each entry at an ACL, or say why not."""
        caller = current_caller()
        outcomes = _batch(request.assignments, message.parse_assignment, lambda changes: self._service.assign_acls(caller, changes))
        return catalog_pb2.AssignAclsResponse(statuses=_statuses(outcomes))

    def ListSubtreeAcls(
        self, request: catalog_pb2.ListSubtreeAclsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListSubtreeAclsResponse:
        """Name the ACLs of a subtree."""
        shown, hidden = self._service.subtree_acls(current_caller(), message.parse_target(request.target))
        return catalog_pb2.ListSubtreeAclsResponse(acls=(message.show_subtree_acl(acl) for acl in shown), hidden=hidden)

    def ModifySubtreeAcls(
        self, request: catalog_pb2.ModifySubtreeAclsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ModifySubtreeAclsResponse:
        """Change the ACLs of a subtree."""
        results, hidden = self._service.modify_subtree_acls(
            current_caller(),
            message.parse_target(request.target),
            [parse_change(change) for change in request.changes],
            include_shared=request.include_shared,
        )
        return catalog_pb2.ModifySubtreeAclsResponse(results=(message.show_subtree_result(*item) for item in results), hidden=hidden)

    def ReportAccess(self, request: catalog_pb2.ReportAccessRequest, context: grpc.ServicerContext) -> catalog_pb2.ReportAccessResponse:
        """Tell who holds permissions on files."""
        needed = valid_permissions(request.permissions) or Permission.READ
        report = self._service.report_access(current_caller(), message.parse_target(request.target), needed)
        holders = (catalog_pb2.AccessHolder(subject=item.subject, files=item.files, by=item.by) for item in report.holders)
        return catalog_pb2.ReportAccessResponse(holders=holders, files=report.files, hidden=report.hidden)


def _batch(messages: Sequence[M], parse: Callable[[M], P], work: Callable[[list[P]], Sequence[R | MdmError]]) -> list[R | MdmError]:
    """Return the result of each message: what `work` says about those that parse, the error of the others."""
    value.check_batch(messages)
    results: list[R | MdmError | None] = [None] * len(messages)
    parsed: list[P] = []
    places: list[int] = []
    for index, item in enumerate(messages):
        try:
            parsed.append(parse(item))
            places.append(index)
        except MdmError as error:
            results[index] = error
    for index, result in zip(places, work(parsed) if parsed else (), strict=True):
        results[index] = result
    return results  # type: ignore[return-value]  # every place is filled


def _statuses(outcomes: Iterable[object]) -> Iterator[common_pb2.ItemStatus]:
    return (status.failed(outcome) if isinstance(outcome, MdmError) else status.ok() for outcome in outcomes)
