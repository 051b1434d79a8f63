"""The file catalog: names, GUIDs and where copies are."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.batch import MAX_CATALOG_ITEMS
from mdm_wire.errors import MdmError
from mdm_wire.retry import RetryPolicy

from mdm_client.catalog.acls import CatalogAcls
from mdm_client.catalog.changes import CatalogChanges
from mdm_client.catalog.model import Entry, Location, Search, Usage, entry_from_proto, location_from_proto, usages_from_proto
from mdm_client.catalog.replicas import CatalogReplicas
from mdm_client.names import Name
from mdm_client.service import Service


class CatalogClient:
    """Calls of `mdm.catalog.v1` that look; its parts are `changes` of names, `replicas` and `acls`."""

    def __init__(self, channel: grpc.Channel, policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 - frozen
        self.service = Service("catalog", channel, policy)
        self.changes = CatalogChanges(self.service)
        self.replicas = CatalogReplicas(self.service)
        self.acls = CatalogAcls(self.service)
        self._stub = catalog_pb2_grpc.CatalogServiceStub(channel)

    def stat(self, names: Sequence[Name], with_replicas: bool = False, follow: bool = True) -> list[Entry | MdmError]:
        """Return each entry, or why it is not given, in the order asked; a symbolic link itself unless `follow`."""

        def request(batch: list[pb.Target]) -> pb.StatRequest:
            return pb.StatRequest(targets=batch, with_replicas=with_replicas, no_follow=not follow)

        items = (name.to_proto() for name in names)
        return self.service.answers(self._stub.Stat, items, request, MAX_CATALOG_ITEMS, lambda result: entry_from_proto(result.entry))

    def resolve(self, names: Sequence[Name]) -> list[Location | MdmError]:
        """Return where each file is, or why that is not said, in the order asked."""
        items = (name.to_proto() for name in names)
        return self.service.answers(
            self._stub.Resolve, items, lambda batch: pb.ResolveRequest(targets=batch), MAX_CATALOG_ITEMS, location_from_proto
        )

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what is in a directory in order of path; a file yields itself. A broken stream is resumed.

        Raises:
            MdmError: on first use of the iterator or later.
        """

        def start(after: str) -> Any:
            return self._stub.List(pb.ListRequest(lfn=lfn, recursive=recursive, with_replicas=with_replicas, after=after))

        return self._entries(start)

    def find(self, lfn: str, search: Search, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what meets a search below a directory in order of path. A broken stream is resumed.

        Raises:
            MdmError: on first use of the iterator or later.
        """
        return self._entries(lambda after: self._stub.Find(search.to_proto(lfn, after, with_replicas)))

    def usage(self, lfn: str, depth: int = 0) -> list[Usage]:
        """Return what is below a directory, and below each directory down to `depth`, in order of path."""

        def read() -> list[Usage]:
            request = pb.GetUsageRequest(lfn=lfn, depth=depth)
            return [usage for answer in self._stub.GetUsage(request) for usage in usages_from_proto(answer.usages)]

        return self.service.repeat(read)

    def _entries(self, start: Callable[[str], Any]) -> Iterator[Entry]:
        found = self.service.resumed(start, lambda answer: answer.entries, lambda entry: str(entry.lfn))
        return (entry_from_proto(entry) for entry in found)
