"""What changes the names in the catalog."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm_wire.errors import MdmError
from mdm_wire.status import from_item

from mdm_client.calls import Patience, Service, in_batches
from mdm_client.names import Name

MAX_BATCH = 10_000
MAX_RENAMINGS = 1_000
M = TypeVar("M")
# What went wrong with one item, None if nothing did.
Outcome = MdmError | None


class CatalogChanges(Service):
    """Calls that change the catalog. Each returns what went wrong with each item, in the order asked; nothing is None.

    While the catalog cannot be reached a call is repeated, which is harmless save that a repeated renaming or removal that had
    been done is answered with NotFound.
    """

    def __init__(self, channel: grpc.Channel, patience: Patience = Patience()) -> None:  # noqa: B008 - frozen
        super().__init__("catalog", channel, patience)
        self.stub = catalog_pb2_grpc.CatalogServiceStub(channel)

    def make_directories(self, lfns: Sequence[str], parents: bool = False, acl_id: str = "", default_acl_id: str = "") -> list[Outcome]:
        """Make directories under an ACL (default: what the parent's says); with `parents` what is missing above them too."""
        items = [catalog_pb2.NewDirectory(lfn=lfn, acl_id=acl_id, default_acl_id=default_acl_id) for lfn in lfns]

        def call(batch: list[catalog_pb2.NewDirectory]) -> Any:
            return self.call(self.stub.MakeDirectories, catalog_pb2.MakeDirectoriesRequest(directories=batch, parents=parents)).statuses

        return self.outcomes(items, call)

    def make_links(self, links: Iterable[tuple[str, str]]) -> list[Outcome]:
        """Make symbolic links: pairs of the link's path and where it leads, absolute or relative to the link's directory."""
        items = [catalog_pb2.NewLink(lfn=lfn, target=target) for lfn, target in links]
        return self.outcomes(items, lambda batch: self.call(self.stub.MakeLinks, catalog_pb2.MakeLinksRequest(links=batch)).statuses)

    def rename(self, pairs: Iterable[tuple[Name, str]], replace: bool = False) -> list[Outcome]:
        """Give entries new paths, in order; `replace` removes a file, link or empty directory that has the new path."""
        items = [catalog_pb2.Renaming(source=source.to_proto(), lfn=lfn, replace=replace) for source, lfn in pairs]

        def call(batch: list[catalog_pb2.Renaming]) -> Any:
            return self.call(self.stub.Rename, catalog_pb2.RenameRequest(renamings=batch)).statuses

        return self.outcomes(items, call, MAX_RENAMINGS)

    def remove(self, names: Sequence[Name], recursive: bool = False) -> list[Outcome]:
        """Remove entries from the catalog, with `recursive` directories with everything below; keys and metadata stay."""

        def call(batch: list[catalog_pb2.Target]) -> Any:
            return self.call(self.stub.Remove, catalog_pb2.RemoveRequest(targets=batch, recursive=recursive)).statuses

        return self.outcomes([name.to_proto() for name in names], call)

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
    ) -> list[Outcome]:
        """Give entries the attributes that are not None; all but the comment are for files. `if_rev`: only if that is their rev."""
        items = []
        for name in names:
            item = catalog_pb2.FileAttributes(target=name.to_proto(), size=size, sha256=sha256, comment=comment, if_rev=if_rev)
            if modify_time is not None:
                item.modify_time.FromDatetime(modify_time)
            if access_time is not None:
                item.access_time.FromDatetime(access_time)
            items.append(item)

        def call(batch: list[catalog_pb2.FileAttributes]) -> Any:
            return self.call(self.stub.SetFileAttributes, catalog_pb2.SetFileAttributesRequest(attributes=batch)).statuses

        return self.outcomes(items, call)

    def assign_acls(self, assignments: Iterable[tuple[Name, str, str]]) -> list[Outcome]:
        """Point entries at ACLs that exist in the catalog: the entry, its ACL, a directory's default ACL (empty: as it is)."""
        items = [
            catalog_pb2.AclAssignment(target=name.to_proto(), acl_id=acl_id, default_acl_id=default)
            for name, acl_id, default in assignments
        ]

        def call(batch: list[catalog_pb2.AclAssignment]) -> Any:
            return self.call(self.stub.AssignAcls, catalog_pb2.AssignAclsRequest(assignments=batch)).statuses

        return self.outcomes(items, call)

    def outcomes(self, items: list[M], call: Callable[[list[M]], Any], size: int = MAX_BATCH) -> list[Outcome]:
        """Return the outcome of each item, asked in batches."""
        return [from_item(status) for batch in in_batches(items, size) for status in call(batch)]

    def batched(self, items: list[M], call: Callable[[list[M]], Any], convert: Callable[[Any], Any]) -> "list[Any]":
        """Return the converted result or the error of each item, asked in batches."""
        return [from_item(result.status) or convert(result) for batch in in_batches(items, MAX_BATCH) for result in call(batch)]
