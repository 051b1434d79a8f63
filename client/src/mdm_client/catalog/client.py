"""The file catalog: names, GUIDs and where copies are."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mdm.acl.v1 import acl_pb2
from mdm.catalog.v1 import catalog_pb2
from mdm_wire.errors import MdmError
from mdm_wire.status import from_item

from mdm_client.catalog.model import (
    DIRECTORY,
    FILE,
    SYMLINK,
    AccessHolder,
    AccessReport,
    ChangedAcl,
    Entry,
    Location,
    Search,
    SubtreeAcl,
    Usage,
    entry_from_proto,
    location_from_proto,
    usages_from_proto,
)
from mdm_client.catalog.replicas import FileReplicas, Replica, ReplicaCalls, ReplicaChange
from mdm_client.names import Name

__all__ = [
    "DIRECTORY",
    "FILE",
    "SYMLINK",
    "AccessHolder",
    "AccessReport",
    "CatalogClient",
    "ChangedAcl",
    "Entry",
    "FileReplicas",
    "Location",
    "Replica",
    "ReplicaChange",
    "Search",
    "SubtreeAcl",
    "Usage",
]


class CatalogClient(ReplicaCalls):
    """Calls of `mdm.catalog.v1` for users; what changes names is in `CatalogChanges`, what is about replicas in `ReplicaCalls`."""

    def stat(self, names: Sequence[Name], with_replicas: bool = False, follow: bool = True) -> list[Entry | MdmError]:
        """Return each entry, or why it is not given, in the order asked; a symbolic link itself unless `follow`."""

        def call(batch: list[catalog_pb2.Target]) -> Any:
            request = catalog_pb2.StatRequest(targets=batch, with_replicas=with_replicas, no_follow=not follow)
            return self.call(self.stub.Stat, request).results

        return self.batched([name.to_proto() for name in names], call, lambda result: entry_from_proto(result.entry))

    def resolve(self, names: Sequence[Name]) -> list[Location | MdmError]:
        """Return where each file is, or why that is not told, in the order asked."""

        def call(batch: list[catalog_pb2.Target]) -> Any:
            return self.call(self.stub.Resolve, catalog_pb2.ResolveRequest(targets=batch)).results

        return self.batched([name.to_proto() for name in names], call, location_from_proto)

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what is in a directory in order of path; a file yields itself. A broken stream is resumed.

        Raises:
            MdmError: on first use of the iterator or later.
        """

        def start(after: str) -> Any:
            request = catalog_pb2.ListRequest(lfn=lfn, recursive=recursive, with_replicas=with_replicas, after=after)
            return self.stub.List(request)

        return self._entries(start)

    def find(self, lfn: str, search: Search, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what meets a search below a directory in order of path. A broken stream is resumed.

        Raises:
            MdmError: on first use of the iterator or later.
        """
        return self._entries(lambda after: self.stub.Find(search.to_proto(lfn, after, with_replicas)))

    def usage(self, lfn: str, depth: int = 0) -> list[Usage]:
        """Return what is below a directory, and below each directory down to `depth`, in order of path."""

        def read() -> list[Usage]:
            request = catalog_pb2.GetUsageRequest(lfn=lfn, depth=depth)
            return [usage for answer in self.stub.GetUsage(request) for usage in usages_from_proto(answer.usages)]

        return self.repeat(read)  # type: ignore[no-any-return]

    def subtree_acls(self, name: Name) -> tuple[list[SubtreeAcl], int]:
        """Return the distinct ACLs at and below an entry, and how many more the caller may not see."""
        response = self.call(self.stub.ListSubtreeAcls, catalog_pb2.ListSubtreeAclsRequest(target=name.to_proto()))
        return [_subtree_acl(acl) for acl in response.acls], response.hidden

    def modify_subtree_acls(
        self, name: Name, changes: Sequence[acl_pb2.AclChange], include_shared: bool = False
    ) -> tuple[list[ChangedAcl], int]:
        """Apply changes to every ACL at and below an entry that the caller may change, in one transaction of the catalog.

        Returns each ACL that the caller may see with what became of it, and how many more there are. Safe to repeat.
        """
        request = catalog_pb2.ModifySubtreeAclsRequest(target=name.to_proto(), changes=changes, include_shared=include_shared)
        response = self.call(self.stub.ModifySubtreeAcls, request)
        found = []
        for result in response.results:
            error = from_item(result.status)
            found.append(ChangedAcl(_subtree_acl(result.subtree_acl), None if error else result.acl, error))
        return found, response.hidden

    def report_access(self, name: Name, permissions: int) -> AccessReport:
        """Return who holds permissions on a file, or on how many files below a directory; for operators and who holds `p` on it."""
        response = self.call(self.stub.ReportAccess, catalog_pb2.ReportAccessRequest(target=name.to_proto(), permissions=permissions))
        holders = tuple(AccessHolder(item.subject, item.files, tuple(item.by)) for item in response.holders)
        return AccessReport(holders, response.files, response.hidden)

    def _entries(self, start: Callable[[str], Any]) -> Iterator[Entry]:
        found = self.resumed(start, lambda answer: answer.entries, lambda entry: str(entry.lfn))
        return (entry_from_proto(entry) for entry in found)


def _subtree_acl(acl: catalog_pb2.SubtreeAcl) -> SubtreeAcl:
    return SubtreeAcl(acl.acl_id, acl.files, acl.directories, acl.shared_outside)
