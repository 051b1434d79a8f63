"""What changes the names in the catalog."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.batch import MAX_CATALOG_ITEMS, MAX_RENAMINGS
from mdm_wire.errors import MdmError
from mdm_wire.status import from_item, translated

from mdm_client.names import Name
from mdm_client.service import Service


class CatalogChanges:
    """Calls that change the catalog. Each returns what went wrong with each item, in the order asked; None where nothing did.

    While the catalog cannot be reached a call is repeated, which is harmless save that a repeated renaming or removal that had
    been done is answered with NotFound.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = catalog_pb2_grpc.CatalogServiceStub(service.channel)

    def make_directories(
        self, lfns: Sequence[str], parents: bool = False, acl_id: str = "", default_acl_id: str = ""
    ) -> list[MdmError | None]:
        """Make directories under an ACL (default: what the parent's says); with `parents` what is missing above them too."""
        items = (pb.NewDirectory(lfn=lfn, acl_id=acl_id, default_acl_id=default_acl_id) for lfn in lfns)
        return self._service.errors(
            self._stub.MakeDirectories,
            items,
            lambda batch: pb.MakeDirectoriesRequest(directories=batch, parents=parents),
            MAX_CATALOG_ITEMS,
        )

    def make_links(self, links: Iterable[tuple[str, str]]) -> list[MdmError | None]:
        """Make symbolic links: pairs of the link's path and where it leads, absolute or relative to the link's directory."""
        items = (pb.NewLink(lfn=lfn, target=target) for lfn, target in links)
        return self._service.errors(self._stub.MakeLinks, items, lambda batch: pb.MakeLinksRequest(links=batch), MAX_CATALOG_ITEMS)

    def rename(self, pairs: Iterable[tuple[Name, str]], replace: bool = False) -> list[MdmError | None]:
        """Give entries new paths, in order; `replace` removes a file, link or empty directory that has the new path."""
        items = (pb.Renaming(source=source.to_proto(), lfn=lfn, replace=replace) for source, lfn in pairs)
        return self._service.errors(self._stub.Rename, items, lambda batch: pb.RenameRequest(renamings=batch), MAX_RENAMINGS)

    def remove(self, names: Sequence[Name], recursive: bool = False) -> list[MdmError | None]:
        """Remove entries from the catalog, with `recursive` directories with everything below; keys and metadata stay."""
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
        """Give entries the attributes that are not None; all but the comment are for files. `if_rev`: only if that is their rev."""
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
        """Apply operations of any kind (`mdm.catalog.v1.Operation`) wholly or not at all. Not repeated by itself.

        Raises:
            MdmError: nothing was done; the message begins with the number of the operation, from 0, that was the obstacle.
        """
        with translated(self._service.place):
            answer = self._stub.Apply(pb.ApplyRequest(operations=operations), timeout=self._service.policy.call_seconds)
        obstacle = from_item(answer.status)
        if obstacle is not None:
            raise obstacle.at(f"operation {answer.failed}")
