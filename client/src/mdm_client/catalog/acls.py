"""The catalog's access control lists by the names that they guard."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mdm.acl.v1 import acl_pb2
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.batch import MAX_CATALOG_ITEMS
from mdm_wire.errors import MdmError
from mdm_wire.status import from_item

from mdm_client.names import Name
from mdm_client.service import Service


@dataclass(frozen=True)
class SubtreeAcl:
    """An ACL in a subtree, how many files and directories there refer to it, and how many others do."""

    acl_id: str
    files: int
    directories: int
    outside: int


@dataclass(frozen=True)
class ChangedAcl:
    """An ACL of a subtree as it is after a change, or why it was not changed."""

    acl: SubtreeAcl
    after: acl_pb2.Acl | None
    error: MdmError | None


@dataclass(frozen=True, slots=True)
class AccessHolder:
    """Who holds permissions on how many files, and by which entries. `authenticated` is anybody else with a certificate."""

    subject: str
    files: int
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessReport:
    """Who holds permissions, of how many files; `hidden` of them are not in the report."""

    holders: tuple[AccessHolder, ...]
    files: int
    hidden: int


class CatalogAcls:
    """Calls about the ACLs of names."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = catalog_pb2_grpc.CatalogServiceStub(service.channel)

    def assign(self, assignments: Iterable[tuple[Name, str, str]]) -> list[MdmError | None]:
        """Point entries at ACLs that exist in the catalog: the entry, its ACL, a directory's default ACL (empty: as it is).

        Returns what went wrong with each, in the order asked.
        """
        items = (pb.AclAssignment(target=name.to_proto(), acl_id=acl_id, default_acl_id=default) for name, acl_id, default in assignments)
        return self._service.errors(self._stub.AssignAcls, items, lambda batch: pb.AssignAclsRequest(assignments=batch), MAX_CATALOG_ITEMS)

    def of_subtree(self, name: Name) -> tuple[list[SubtreeAcl], int]:
        """Return the distinct ACLs at and below an entry, and how many more the caller may not see."""
        response = self._service.call(self._stub.ListSubtreeAcls, pb.ListSubtreeAclsRequest(target=name.to_proto()))
        return [_from_proto(acl) for acl in response.acls], response.hidden

    def modify_subtree(self, name: Name, changes: Sequence[acl_pb2.AclChange], shared: bool = False) -> tuple[list[ChangedAcl], int]:
        """Apply changes to every ACL at and below an entry that the caller may change, in one transaction of the catalog.

        Returns each ACL that the caller may see with what became of it, and how many more there are. Safe to repeat.
        """
        request = pb.ModifySubtreeAclsRequest(target=name.to_proto(), changes=changes, shared=shared)
        response = self._service.call(self._stub.ModifySubtreeAcls, request)
        found = []
        for result in response.results:
            error = from_item(result.status)
            found.append(ChangedAcl(_from_proto(result.subtree_acl), None if error else result.acl, error))
        return found, response.hidden

    def report_access(self, name: Name, permissions: int) -> AccessReport:
        """Return who holds permissions on a file, or on how many files below a directory; for operators and who holds `p` on it."""
        request = pb.ReportAccessRequest(target=name.to_proto(), permissions=permissions)
        response = self._service.call(self._stub.ReportAccess, request)
        holders = tuple(AccessHolder(item.subject, item.files, tuple(item.by)) for item in response.holders)
        return AccessReport(holders, response.files, response.hidden)


def _from_proto(acl: pb.SubtreeAcl) -> SubtreeAcl:
    return SubtreeAcl(acl.acl_id, acl.files, acl.directories, acl.outside)
