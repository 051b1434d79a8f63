"""The file catalog: reading names and directories, changing them, their access control lists."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import grpc
from mdm.acl.v1 import acl_pb2
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.batch import MAX_CATALOG_ITEMS, MAX_RENAMINGS
from mdm_wire.errors import MdmError
from mdm_wire.retry import RetryPolicy
from mdm_wire.status import from_item, translated

from mdm_client.catalog.model import AccessHolder, AccessReport, ChangedAcl, Entry, Location, Search, SubtreeAcl, Usage, entry_from_proto
from mdm_client.catalog.replicas import CatalogReplicas
from mdm_client.name_syntax import Name
from mdm_client.service import Service


class CatalogClient:
    """Calls of `mdm.catalog.v1` that read, and the parts `changes` of names, `replicas` and `acls`. Iterators raise MdmError when used."""

    def __init__(self, channel: grpc.Channel, policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 - frozen
        self.service = Service("catalog", channel, policy)
        self.changes = CatalogChanges(self.service)
        self.replicas = CatalogReplicas(self.service)
        self.acls = CatalogAcls(self.service)
        self._stub = catalog_pb2_grpc.CatalogServiceStub(channel)

    def stat(self, names: Sequence[Name], with_replicas: bool = False, follow: bool = True) -> list[Entry | MdmError]:
        """Return each entry, or the error, in the order asked; a symbolic link itself unless `follow`."""

        def request(batch: list[pb.Target]) -> pb.StatRequest:
            return pb.StatRequest(targets=batch, with_replicas=with_replicas, no_follow=not follow)

        items = (name.to_proto() for name in names)
        return self.service.answers(self._stub.Stat, items, request, MAX_CATALOG_ITEMS, lambda result: entry_from_proto(result.entry))

    def resolve(self, names: Sequence[Name]) -> list[Location | MdmError]:
        """Return each file's location, or the error, in the order asked."""

        def location(result: pb.ResolveResult) -> Location:
            return Location(result.lfn, UUID(result.guid), tuple(result.surls), result.size if result.HasField("size") else None)

        items = (name.to_proto() for name in names)
        return self.service.answers(self._stub.Resolve, items, lambda batch: pb.ResolveRequest(targets=batch), MAX_CATALOG_ITEMS, location)

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield the entries of a directory in order of path; for a file, itself. A broken stream is resumed."""

        def start(after: str) -> Any:
            return self._stub.List(pb.ListRequest(lfn=lfn, recursive=recursive, with_replicas=with_replicas, after=after))

        return self._entries(start)

    def find(self, lfn: str, search: Search, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield the entries below a directory that meet a search, in order of path. A broken stream is resumed."""
        return self._entries(lambda after: self._stub.Find(search.to_proto(lfn, after, with_replicas)))

    def usage(self, lfn: str, depth: int = 0) -> list[Usage]:
        """Return the usage of a directory, and of each directory below down to `depth`, in order of path."""

        def read() -> list[Usage]:
            request = pb.GetUsageRequest(lfn=lfn, depth=depth)
            found = (usage for answer in self._stub.GetUsage(request) for usage in answer.usages)
            return [Usage(item.lfn, item.files, item.directories, item.links, item.bytes, item.closed) for item in found]

        return self.service.repeat(read)

    def _entries(self, start: Callable[[str], Any]) -> Iterator[Entry]:
        found = self.service.resumed(start, lambda answer: answer.entries, lambda entry: str(entry.lfn))
        return (entry_from_proto(entry) for entry in found)


class CatalogChanges:
    """Calls that change the catalog. Each returns the error of each item, or None, in the order asked.

    While the catalog cannot be reached, a call is repeated. That is harmless, except that a renaming or removal that was done already is
    answered with NotFound.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = catalog_pb2_grpc.CatalogServiceStub(service.channel)

    def make_directories(
        self, lfns: Sequence[str], parents: bool = False, acl_id: str = "", default_acl_id: str = ""
    ) -> list[MdmError | None]:
        """Make directories under an ACL (default: that of the parent for new entries); with `parents`, the missing ones above too."""
        items = (pb.NewDirectory(lfn=lfn, acl_id=acl_id, default_acl_id=default_acl_id) for lfn in lfns)
        return self._service.errors(
            self._stub.MakeDirectories,
            items,
            lambda batch: pb.MakeDirectoriesRequest(directories=batch, parents=parents),
            MAX_CATALOG_ITEMS,
        )

    def make_links(self, links: Iterable[tuple[str, str]]) -> list[MdmError | None]:
        """Make symbolic links: pairs of a link's path and its target, absolute or relative to the link's directory."""
        items = (pb.NewLink(lfn=lfn, target=target) for lfn, target in links)
        return self._service.errors(self._stub.MakeLinks, items, lambda batch: pb.MakeLinksRequest(links=batch), MAX_CATALOG_ITEMS)

    def rename(self, pairs: Iterable[tuple[Name, str]], replace: bool = False) -> list[MdmError | None]:
        """Give entries new paths, in order; with `replace`, a file, link or empty directory that has the new path is removed."""
        items = (pb.Renaming(source=source.to_proto(), lfn=lfn, replace=replace) for source, lfn in pairs)
        return self._service.errors(self._stub.Rename, items, lambda batch: pb.RenameRequest(renamings=batch), MAX_RENAMINGS)

    def remove(self, names: Sequence[Name], recursive: bool = False) -> list[MdmError | None]:
        """Remove entries from the catalog, with `recursive` everything below directories too; keys and metadata stay."""
        items = (name.to_proto() for name in names)
        return self._service.errors(
            self._stub.Remove, items, lambda batch: pb.RemoveRequest(targets=batch, recursive=recursive), MAX_CATALOG_ITEMS
        )

    def set_attributes(
        self,
        names: Sequence[Name],
        *,
        comment: str | None = None,
        size: int | None = None,
        sha256: bytes | None = None,
        modify_time: datetime | None = None,
        access_time: datetime | None = None,
        if_rev: int | None = None,
    ) -> list[MdmError | None]:
        """Set the attributes that are not None; all but the comment are for files. `if_rev`: only if that is an entry's rev."""
        items = []
        for name in names:
            item = pb.FileAttributes(target=name.to_proto(), size=size, sha256=sha256, comment=comment, if_rev=if_rev)
            if modify_time is not None:
                item.modify_time.FromDatetime(modify_time)
            if access_time is not None:
                item.access_time.FromDatetime(access_time)
            items.append(item)
        return self._service.errors(
            self._stub.SetFileAttributes, items, lambda batch: pb.SetFileAttributesRequest(attributes=batch), MAX_CATALOG_ITEMS
        )

    def apply(self, operations: Sequence[pb.Operation]) -> None:
        """Apply operations of any kind (`mdm.catalog.v1.Operation`) wholly or not at all. The call is not repeated.

        Raises:
            MdmError: nothing was done; the message begins with the number, from 0, of the operation that failed.
        """
        with translated(self._service.place):
            answer = self._stub.Apply(pb.ApplyRequest(operations=operations), timeout=self._service.policy.call_seconds)
        obstacle = from_item(answer.status)
        if obstacle is not None:
            raise obstacle.at(f"operation {answer.failed}")


class CatalogAcls:
    """Calls about the ACLs of names."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = catalog_pb2_grpc.CatalogServiceStub(service.channel)

    def assign(self, assignments: Iterable[tuple[Name, str, str]]) -> list[MdmError | None]:
        """Put entries under ACLs that exist: triples of an entry, its ACL, and a directory's default ACL (empty: as it is).

        Return the error of each, or None, in the order asked.
        """
        items = (pb.AclAssignment(target=name.to_proto(), acl_id=acl_id, default_acl_id=default) for name, acl_id, default in assignments)
        return self._service.errors(self._stub.AssignAcls, items, lambda batch: pb.AssignAclsRequest(assignments=batch), MAX_CATALOG_ITEMS)

    def of_subtree(self, name: Name) -> tuple[list[SubtreeAcl], int]:
        """Return the distinct ACLs at and below an entry, and the number of others, which the caller may not see."""
        response = self._service.call(self._stub.ListSubtreeAcls, pb.ListSubtreeAclsRequest(target=name.to_proto()))
        return [_from_proto(acl) for acl in response.acls], response.hidden

    def modify_subtree(self, name: Name, changes: Sequence[acl_pb2.AclChange], shared: bool = False) -> tuple[list[ChangedAcl], int]:
        """Apply changes to every ACL at and below an entry that the caller may change, in one transaction of the catalog.

        Return each ACL that the caller may see as it is now, or the error, and how many more there are. Safe to repeat.
        """
        request = pb.ModifySubtreeAclsRequest(target=name.to_proto(), changes=changes, shared=shared)
        response = self._service.call(self._stub.ModifySubtreeAcls, request)
        found = []
        for result in response.results:
            error = from_item(result.status)
            found.append(ChangedAcl(_from_proto(result.subtree_acl), None if error else result.acl, error))
        return found, response.hidden

    def report_access(self, name: Name, permissions: int) -> AccessReport:
        """Return who holds permissions on a file, or on how many files below a directory; for operators and holders of `p` on it."""
        request = pb.ReportAccessRequest(target=name.to_proto(), permissions=permissions)
        response = self._service.call(self._stub.ReportAccess, request)
        holders = tuple(AccessHolder(item.subject, item.files, tuple(item.by)) for item in response.holders)
        return AccessReport(holders, response.files, response.hidden)


def _from_proto(acl: pb.SubtreeAcl) -> SubtreeAcl:
    return SubtreeAcl(acl.acl_id, acl.files, acl.directories, acl.outside)
