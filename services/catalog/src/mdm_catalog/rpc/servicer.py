"""CatalogService over gRPC: messages to model and back."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1 import common_pb2
from mdm_service.access.acl import AclEdit
from mdm_service.access.servicer import change_from_proto
from mdm_service.identity.caller import Caller, current_caller
from mdm_wire import path, status
from mdm_wire.batch import MAX_CATALOG_ITEMS, MAX_RENAMINGS, answer_batch, check_batch
from mdm_wire.errors import Failure, Invalid, MdmError
from mdm_wire.permission import Permission, valid_permissions
from mdm_wire.url import check_surl

from mdm_catalog.rpc import message
from mdm_catalog.rules import replica, subtree, transaction
from mdm_catalog.rules.namespace import change, creation, lookup
from mdm_catalog.rules.namespace.listing import Listing, sum_up
from mdm_catalog.rules.port import ReadTransaction, Store, Subjects, WriteTransaction
from mdm_catalog.rules.value import MAX_ACL_CHANGES, check_listing_limit

M = TypeVar("M")
P = TypeVar("P")
R = TypeVar("R")

# Per message of a stream.
_USAGES = 1_000
_TARGETS = 1_000


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Answers the calls of clients and services: converts messages and calls the rules."""

    def __init__(self, store: Store, subjects: Subjects) -> None:
        self._store = store
        self._subjects = subjects

    def MakeDirectories(
        self, request: catalog_pb2.MakeDirectoriesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.MakeDirectoriesResponse:
        """Make each directory, or return why not."""
        work = partial(creation.make_directories, parents=request.parents)
        return catalog_pb2.MakeDirectoriesResponse(statuses=self._write(request.directories, message.directory_from_proto, work))

    def RegisterFiles(self, request: catalog_pb2.RegisterFilesRequest, context: grpc.ServicerContext) -> catalog_pb2.RegisterFilesResponse:
        """Register each file, or return why not."""
        statuses = self._write(request.files, message.file_from_proto, creation.register_files)
        return catalog_pb2.RegisterFilesResponse(statuses=statuses)

    def Stat(self, request: catalog_pb2.StatRequest, context: grpc.ServicerContext) -> catalog_pb2.StatResponse:
        """Show each entry, or return why not."""
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
            raise Invalid("DEPTH_INVALID", "max_depth must not be negative.")
        condition = message.condition_from_proto(request)
        listing = Listing(self._store, current_caller(), depth=request.max_depth, with_replicas=request.with_replicas, condition=condition)
        for batch in listing.batches(path.parse(request.lfn), path.parse(request.after) if request.after else None):
            yield catalog_pb2.FindResponse(entries=(message.entry_to_proto(view) for view in batch))

    def GetUsage(self, request: catalog_pb2.GetUsageRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.GetUsageResponse]:
        """Sum up a directory."""
        if request.depth < 0:
            raise Invalid("DEPTH_INVALID", "depth must not be negative.")
        caller, lfn = current_caller(), path.parse(request.lfn)
        usages = self._store.read(lambda reading: sum_up(reading, caller, lfn, request.depth))
        for start in range(0, len(usages), _USAGES):
            yield catalog_pb2.GetUsageResponse(usages=(message.usage_to_proto(usage) for usage in usages[start : start + _USAGES]))

    def MakeLinks(self, request: catalog_pb2.MakeLinksRequest, context: grpc.ServicerContext) -> catalog_pb2.MakeLinksResponse:
        """Make each link, or return why not."""
        statuses = self._write(request.links, message.link_from_proto, creation.make_links)
        return catalog_pb2.MakeLinksResponse(statuses=statuses)

    def Rename(self, request: catalog_pb2.RenameRequest, context: grpc.ServicerContext) -> catalog_pb2.RenameResponse:
        """Rename each entry, or return why not."""
        statuses = self._write(request.renamings, message.renaming_from_proto, change.rename, limit=MAX_RENAMINGS)
        return catalog_pb2.RenameResponse(statuses=statuses)

    def Resolve(self, request: catalog_pb2.ResolveRequest, context: grpc.ServicerContext) -> catalog_pb2.ResolveResponse:
        """Return where each file is, or why not."""
        found = self._read(current_caller(), request.targets, message.target_from_proto, lookup.resolve)
        return catalog_pb2.ResolveResponse(results=(message.resolution_to_proto(item) for item in found))

    def CheckAccess(self, request: catalog_pb2.CheckAccessRequest, context: grpc.ServicerContext) -> catalog_pb2.CheckAccessResponse:
        """Return for each file whether the subject holds the permissions."""
        needed = valid_permissions(request.permissions)
        found = answer_batch(
            check_batch(request.targets, MAX_CATALOG_ITEMS),
            message.target_from_proto,
            lambda targets: lookup.check_access(self._store, self._subjects, request.subject, targets, needed),
        )
        return catalog_pb2.CheckAccessResponse(results=(message.access_to_proto(item) for item in found))

    def StatFor(self, request: catalog_pb2.StatForRequest, context: grpc.ServicerContext) -> catalog_pb2.StatForResponse:
        """Show each entry as the subject would see it, or say why not."""
        subject = lookup.subject_of(self._subjects, request.subject)
        found = self._read(subject, request.targets, message.target_from_proto, partial(lookup.stat, with_replicas=False))
        return catalog_pb2.StatForResponse(results=(message.stat_to_proto(item) for item in found))

    def ListFor(self, request: catalog_pb2.ListForRequest, context: grpc.ServicerContext) -> Iterator[catalog_pb2.ListForResponse]:
        """Stream what is in a directory as the subject would see it."""
        if request.levels < 0:
            raise Invalid("DEPTH_INVALID", "levels is below zero.")
        limit = check_listing_limit(request.limit)
        subject = lookup.subject_of(self._subjects, request.subject)
        listing = Listing(self._store, subject, depth=request.levels, with_replicas=False)
        for batch in listing.batches(path.parse(request.lfn), path.parse(request.after) if request.after else None):
            yield catalog_pb2.ListForResponse(entries=(message.entry_to_proto(view) for view in batch[:limit]))
            limit -= len(batch)
            if limit <= 0:
                return

    def SetFileAttributes(
        self, request: catalog_pb2.SetFileAttributesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.SetFileAttributesResponse:
        """Change each file, or return why not."""
        statuses = self._write(request.attributes, message.file_change_from_proto, change.set_attributes)
        return catalog_pb2.SetFileAttributesResponse(statuses=statuses)

    def Remove(self, request: catalog_pb2.RemoveRequest, context: grpc.ServicerContext) -> catalog_pb2.RemoveResponse:
        """Remove each entry, or return why not."""
        work = partial(change.remove, recursive=request.recursive)
        return catalog_pb2.RemoveResponse(statuses=self._write(request.targets, message.target_from_proto, work))

    def AddReplicas(self, request: catalog_pb2.AddReplicasRequest, context: grpc.ServicerContext) -> catalog_pb2.AddReplicasResponse:
        """Add each replica, or return why not."""
        statuses = self._write(request.replicas, message.new_replica_from_proto, replica.add)
        return catalog_pb2.AddReplicasResponse(statuses=statuses)

    def ChangeReplicas(
        self, request: catalog_pb2.ChangeReplicasRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ChangeReplicasResponse:
        """Change each replica, or return why not."""
        statuses = self._write(request.changes, message.replica_change_from_proto, replica.change)
        return catalog_pb2.ChangeReplicasResponse(statuses=statuses)

    def RemoveReplicas(
        self, request: catalog_pb2.RemoveReplicasRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.RemoveReplicasResponse:
        """Remove each replica, or return why not."""
        statuses = self._write(request.surls, check_surl, replica.remove)
        return catalog_pb2.RemoveReplicasResponse(statuses=statuses)

    def ListReplicas(
        self, request: catalog_pb2.ListReplicasRequest, context: grpc.ServicerContext
    ) -> Iterator[catalog_pb2.ListReplicasResponse]:
        """Stream the replicas of each file, or why not."""
        caller = current_caller()
        check_batch(request.targets, MAX_CATALOG_ITEMS)
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
        """Apply all operations, or none and return which one failed."""
        check_batch(request.operations, MAX_CATALOG_ITEMS)
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
        """Point each entry at an ACL, or return why not."""
        statuses = self._write(request.assignments, message.assignment_from_proto, change.assign_acls)
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
        changes = [change_from_proto(item) for item in check_batch(request.changes, MAX_ACL_CHANGES)]
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
        work: Callable[[ReadTransaction, Caller, list[P]], Sequence[R | MdmError]],
    ) -> list[R | MdmError]:
        """Return the results of `work` for all messages, read on one view. Raises Invalid for more than 10,000."""
        check_batch(messages, MAX_CATALOG_ITEMS)
        return answer_batch(messages, from_proto, lambda items: self._store.read(lambda reading: work(reading, caller, items)))

    def _write(
        self,
        messages: Sequence[M],
        from_proto: Callable[[M], P],
        work: Callable[[WriteTransaction, Caller, list[P]], Sequence[Failure]],
        limit: int = MAX_CATALOG_ITEMS,
    ) -> Iterator[common_pb2.ItemStatus]:
        """Return the status of each message after `work`, all in one transaction. Raises Invalid for more than `limit`."""
        caller = current_caller()
        check_batch(messages, limit)
        failures = answer_batch(messages, from_proto, lambda items: self._store.write(lambda writing: work(writing, caller, items)))
        return map(status.to_item, failures)
