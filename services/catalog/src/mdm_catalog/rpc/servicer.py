"""CatalogService over gRPC: between messages and the model."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1 import common_pb2
from mdm_service.access.change import AclEdit
from mdm_service.access.servicer import change_from_proto
from mdm_service.identity.caller import Caller, current_caller
from mdm_service.server.batch import answer_batch
from mdm_wire import path, status
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.permission import Permission, valid_permissions
from mdm_wire.url import check_surl

from mdm_catalog.rpc import message
from mdm_catalog.rules import replica, subtree, transaction, value
from mdm_catalog.rules.model import Failure
from mdm_catalog.rules.namespace import attribute, creation, lookup, removal, renaming
from mdm_catalog.rules.namespace.listing import Listing
from mdm_catalog.rules.namespace.usage import sum_up
from mdm_catalog.rules.port import Reading, Store, Subjects, Writing

M = TypeVar("M")
P = TypeVar("P")
R = TypeVar("R")

# Per message of a stream.
_USAGES = 1_000
_TARGETS = 1_000


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Answers the calls of clients and services; who may call what stands in the method policy, who may see what in the rules."""

    def __init__(self, store: Store, subjects: Subjects) -> None:
        self._store = store
        self._subjects = subjects

    def MakeDirectories(
        self, request: catalog_pb2.MakeDirectoriesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.MakeDirectoriesResponse:
        """Make each directory, or say why not."""
        work = partial(creation.make_directories, parents=request.parents)
        return catalog_pb2.MakeDirectoriesResponse(statuses=self._write(request.directories, message.directory_from_proto, work))

    def RegisterFiles(self, request: catalog_pb2.RegisterFilesRequest, context: grpc.ServicerContext) -> catalog_pb2.RegisterFilesResponse:
        """Register each file, or say why not."""
        statuses = self._write(request.files, message.file_from_proto, creation.register_files)
        return catalog_pb2.RegisterFilesResponse(statuses=statuses)

    def Stat(self, request: catalog_pb2.StatRequest, context: grpc.ServicerContext) -> catalog_pb2.StatResponse:
        """Show each entry, or say why not."""
        work = partial(lookup.stat, with_replicas=request.with_replicas, follow=not request.no_follow)
        found = self._read(current_caller(), request.targets, message.target_from_proto, work)
        return catalog_pb2.StatResponse(results=(message.stat_to_proto(item) for item in found))

    def List(self, request: catalog_pb2.ListRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.ListResponse]:
        """Stream what is in a directory."""
        depth = 0 if request.recursive else 1
        listing = Listing(self._store, current_caller(), depth=depth, with_replicas=request.with_replicas)
        for batch in listing.batches(path.parse(request.lfn), path.parse(request.after) if request.after else None):
            yield catalog_pb2.ListResponse(entries=(message.entry_to_proto(view) for view in batch))

    def Find(self, request: catalog_pb2.FindRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.FindResponse]:
        """Stream what matches below a directory."""
        if request.max_depth < 0:
            raise Invalid("DEPTH_INVALID", "max_depth is below zero.")
        condition = message.condition_from_proto(request)
        listing = Listing(self._store, current_caller(), depth=request.max_depth, with_replicas=request.with_replicas, condition=condition)
        for batch in listing.batches(path.parse(request.lfn), path.parse(request.after) if request.after else None):
            yield catalog_pb2.FindResponse(entries=(message.entry_to_proto(view) for view in batch))

    def GetUsage(self, request: catalog_pb2.GetUsageRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.GetUsageResponse]:
        """Sum up a directory."""
        if request.depth < 0:
            raise Invalid("DEPTH_INVALID", "depth is below zero.")
        caller, lfn = current_caller(), path.parse(request.lfn)
        usages = self._store.read(lambda reading: sum_up(reading, caller, lfn, request.depth))
        for start in range(0, len(usages), _USAGES):
            yield catalog_pb2.GetUsageResponse(usages=(message.usage_to_proto(usage) for usage in usages[start : start + _USAGES]))

    def MakeLinks(self, request: catalog_pb2.MakeLinksRequest, context: grpc.ServicerContext) -> catalog_pb2.MakeLinksResponse:
        """Make each link, or say why not."""
        statuses = self._write(request.links, message.link_from_proto, creation.make_links)
        return catalog_pb2.MakeLinksResponse(statuses=statuses)

    def Rename(self, request: catalog_pb2.RenameRequest, context: grpc.ServicerContext) -> catalog_pb2.RenameResponse:
        """Rename each entry, or say why not."""
        statuses = self._write(request.renamings, message.renaming_from_proto, renaming.rename, limit=value.MAX_RENAMINGS)
        return catalog_pb2.RenameResponse(statuses=statuses)

    def Resolve(self, request: catalog_pb2.ResolveRequest, context: grpc.ServicerContext) -> catalog_pb2.ResolveResponse:
        """Return where each file is, or why not."""
        found = self._read(current_caller(), request.targets, message.target_from_proto, lookup.resolve)
        return catalog_pb2.ResolveResponse(results=(message.resolution_to_proto(item) for item in found))

    def CheckAccess(self, request: catalog_pb2.CheckAccessRequest, context: grpc.ServicerContext) -> catalog_pb2.CheckAccessResponse:
        """Return for each file whether the subject holds the permissions."""
        needed = valid_permissions(request.permissions)
        found = answer_batch(
            value.check_batch(request.targets),
            message.target_from_proto,
            lambda targets: lookup.check_access(self._store, self._subjects, request.subject, targets, needed),
        )
        return catalog_pb2.CheckAccessResponse(results=(message.access_to_proto(item) for item in found))

    def SetFileAttributes(
        self, request: catalog_pb2.SetFileAttributesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.SetFileAttributesResponse:
        """Change each file, or say why not."""
        statuses = self._write(request.attributes, message.file_change_from_proto, attribute.set_attributes)
        return catalog_pb2.SetFileAttributesResponse(statuses=statuses)

    def Remove(self, request: catalog_pb2.RemoveRequest, context: grpc.ServicerContext) -> catalog_pb2.RemoveResponse:
        """Remove each entry, or say why not."""
        work = partial(removal.remove, recursive=request.recursive)
        return catalog_pb2.RemoveResponse(statuses=self._write(request.targets, message.target_from_proto, work))

    def AddReplicas(self, request: catalog_pb2.AddReplicasRequest, context: grpc.ServicerContext) -> catalog_pb2.AddReplicasResponse:
        """Add each replica, or say why not."""
        statuses = self._write(request.replicas, message.new_replica_from_proto, replica.add)
        return catalog_pb2.AddReplicasResponse(statuses=statuses)

    def ChangeReplicas(
        self, request: catalog_pb2.ChangeReplicasRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ChangeReplicasResponse:
        """Change each replica, or say why not."""
        statuses = self._write(request.changes, message.replica_change_from_proto, replica.change)
        return catalog_pb2.ChangeReplicasResponse(statuses=statuses)

    def RemoveReplicas(
        self, request: catalog_pb2.RemoveReplicasRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.RemoveReplicasResponse:
        """Remove each replica, or say why not."""
        statuses = self._write(request.surls, check_surl, replica.remove)
        return catalog_pb2.RemoveReplicasResponse(statuses=statuses)

    def ListReplicas(
        self, request: catalog_pb2.ListReplicasRequest, context: grpc.ServicerContext
    ) -> Iterator[catalog_pb2.ListReplicasResponse]:
        """Stream the replicas of each file, or why not."""
        caller = current_caller()
        value.check_batch(request.targets)
        for start in range(0, len(request.targets), _TARGETS):
            targets = request.targets[start : start + _TARGETS]
            found = self._read(caller, targets, message.target_from_proto, replica.list_of)
            yield catalog_pb2.ListReplicasResponse(results=(message.replicas_to_proto(item) for item in found))

    def FindReplicas(
        self, request: catalog_pb2.FindReplicasRequest, context: grpc.ServicerContext
    ) -> Iterator[catalog_pb2.FindReplicasResponse]:
        """Stream the replicas of a set or a host."""
        search = message.replica_search_from_proto(request)
        for batch in replica.find(self._store, current_caller(), search, request.after):
            yield catalog_pb2.FindReplicasResponse(replicas=(message.found_replica_to_proto(item) for item in batch))

    def Apply(self, request: catalog_pb2.ApplyRequest, context: grpc.ServicerContext) -> catalog_pb2.ApplyResponse:
        """Do everything, or nothing and say which operation was the obstacle."""
        value.check_batch(request.operations)
        operations = []
        for index, operation in enumerate(request.operations):
            try:
                operations.append(message.operation_from_proto(operation))
            except MdmError as error:
                return catalog_pb2.ApplyResponse(status=status.failed(error), failed=index)
        caller = current_caller()
        try:
            self._store.write(lambda writing: transaction.apply(writing, caller, operations))
        except transaction.Failed as failed:
            return catalog_pb2.ApplyResponse(status=status.failed(failed.error), failed=failed.index)
        return catalog_pb2.ApplyResponse(status=status.ok())

    def AssignAcls(self, request: catalog_pb2.AssignAclsRequest, context: grpc.ServicerContext) -> catalog_pb2.AssignAclsResponse:
        """Point each entry at an ACL, or say why not."""
        statuses = self._write(request.assignments, message.assignment_from_proto, attribute.assign_acls)
        return catalog_pb2.AssignAclsResponse(statuses=statuses)

    def ListSubtreeAcls(
        self, request: catalog_pb2.ListSubtreeAclsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListSubtreeAclsResponse:
        """Name the ACLs of a subtree."""
        caller, target = current_caller(), message.target_from_proto(request.target)
        shown, hidden = self._store.read(lambda reading: subtree.list_acls(reading, caller, target))
        return catalog_pb2.ListSubtreeAclsResponse(acls=(message.subtree_acl_to_proto(acl) for acl in shown), hidden=hidden)

    def ModifySubtreeAcls(
        self, request: catalog_pb2.ModifySubtreeAclsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ModifySubtreeAclsResponse:
        """Change the ACLs of a subtree."""
        caller, target = current_caller(), message.target_from_proto(request.target)
        changes = [change_from_proto(change) for change in value.check_batch(request.changes, value.MAX_ACL_CHANGES)]
        edit = AclEdit(changes, self._subjects.check_owner, request.shared)
        results, hidden = self._store.write(lambda writing: subtree.modify_acls(writing, caller, target, edit))
        return catalog_pb2.ModifySubtreeAclsResponse(results=(message.subtree_result_to_proto(*item) for item in results), hidden=hidden)

    def ReportAccess(self, request: catalog_pb2.ReportAccessRequest, context: grpc.ServicerContext) -> catalog_pb2.ReportAccessResponse:
        """Report who holds permissions on files."""
        caller, target = current_caller(), message.target_from_proto(request.target)
        needed = valid_permissions(request.permissions) or Permission.READ
        report = self._store.read(lambda reading: subtree.report_access(reading, caller, target, needed, self._subjects))
        holders = (catalog_pb2.AccessHolder(subject=item.subject, files=item.files, by=item.by) for item in report.holders)
        return catalog_pb2.ReportAccessResponse(holders=holders, files=report.files, hidden=report.hidden)

    def _read(
        self,
        caller: Caller,
        messages: Sequence[M],
        from_proto: Callable[[M], P],
        work: Callable[[Reading, Caller, list[P]], Sequence[R | MdmError]],
    ) -> list[R | MdmError]:
        """Return what `work` finds for each message, all on one view. Raises Invalid for more than 10,000."""
        value.check_batch(messages)
        return answer_batch(messages, from_proto, lambda items: self._store.read(lambda reading: work(reading, caller, items)))

    def _write(
        self,
        messages: Sequence[M],
        from_proto: Callable[[M], P],
        work: Callable[[Writing, Caller, list[P]], Sequence[Failure]],
        limit: int = value.MAX_BATCH,
    ) -> Iterator[common_pb2.ItemStatus]:
        """Return what became of each message, all in one transaction. Raises Invalid for more than `limit`."""
        caller = current_caller()
        value.check_batch(messages, limit)
        failures = answer_batch(messages, from_proto, lambda items: self._store.write(lambda writing: work(writing, caller, items)))
        return map(status.to_item, failures)
