"""The file catalog: names, GUIDs and where copies are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from mdm_client.calls import Backoff, Patience, Service, in_batches
from mdm_client.errors import ClientError, Unavailable, from_rpc_error, from_status
from mdm_client.names import Name

MAX_BATCH = 10_000
DIRECTORY = "directory"
FILE = "file"
SYMLINK = "symlink"

_KINDS = {
    catalog_pb2.ENTRY_KIND_DIRECTORY: DIRECTORY,
    catalog_pb2.ENTRY_KIND_FILE: FILE,
    catalog_pb2.ENTRY_KIND_SYMLINK: SYMLINK,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A catalog entry. `permissions` is what the caller may do; `surls` is empty unless replicas were asked for."""

    lfn: str
    kind: str
    guid: UUID | None
    size: int | None
    sha256: bytes
    comment: str
    owner: str
    acl_id: str
    default_acl_id: str
    create_time: datetime
    modify_time: datetime
    rev: int
    permissions: int
    surls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a file is; `size` in bytes is None while unknown."""

    lfn: str
    guid: UUID
    surls: tuple[str, ...]
    size: int | None


@dataclass(frozen=True)
class SubtreeAcl:
    """An ACL in a subtree, how many files and directories there refer to it, and whether others do too."""

    acl_id: str
    files: int
    directories: int
    shared_outside: bool


class CatalogClient(Service):
    """Calls of `mdm.catalog.v1` that a user needs."""

    def __init__(self, channel: grpc.Channel, patience: Patience = Patience()) -> None:  # noqa: B008 - frozen
        super().__init__("catalog", channel, patience)
        self._stub = catalog_pb2_grpc.CatalogServiceStub(channel)

    def stat(self, names: Sequence[Name], with_replicas: bool = False) -> list[Entry | ClientError]:
        """Return each entry, or why it is not given, in the order asked."""

        def call(batch: list[catalog_pb2.Target]) -> Any:
            request = catalog_pb2.StatRequest(targets=batch, with_replicas=with_replicas)
            return self.call(self._stub.Stat, request).results

        return self._batched(names, call, lambda result: _entry(result.entry))

    def resolve(self, names: Sequence[Name]) -> list[Location | ClientError]:
        """Return where each file is, or why that is not told, in the order asked."""

        def call(batch: list[catalog_pb2.Target]) -> Any:
            return self.call(self._stub.Resolve, catalog_pb2.ResolveRequest(targets=batch)).results

        return self._batched(names, call, _location)

    def list_entries(self, lfn: str, recursive: bool = False, with_replicas: bool = False) -> Iterator[Entry]:
        """Yield what is in a directory in order of path; a file yields itself. A broken stream is resumed.

        Raises:
            ClientError: on first use of the iterator or later.
        """
        after = ""
        backoff = Backoff()
        failures = 0
        while True:
            request = catalog_pb2.ListRequest(lfn=lfn, recursive=recursive, with_replicas=with_replicas, after=after)
            try:
                for response in self._stub.List(request):
                    for entry in response.entries:
                        yield _entry(entry)
                        after = entry.lfn
                    failures = 0
                return
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self.place)
                failures += 1
                if not isinstance(failure, Unavailable) or failures > 4:
                    raise failure from error
                self.wait(backoff)

    def subtree_acls(self, name: Name) -> tuple[list[SubtreeAcl], int]:
        """Return the distinct ACLs at and below an entry, and how many more the caller may not see."""
        response = self.call(self._stub.ListSubtreeAcls, catalog_pb2.ListSubtreeAclsRequest(target=name.to_proto()))
        acls = [SubtreeAcl(acl.acl_id, acl.files, acl.directories, acl.shared_outside) for acl in response.acls]
        return acls, response.hidden

    def _batched(self, names: Sequence[Name], call: Callable[[Any], Any], convert: Callable[[Any], Any]) -> "list[Any]":
        answers: list[Any] = []
        for batch in in_batches([name.to_proto() for name in names], MAX_BATCH):
            for result in call(batch):
                answers.append(from_status(result.status) or convert(result))
        return answers


def _entry(entry: catalog_pb2.Entry) -> Entry:
    return Entry(
        lfn=entry.lfn,
        kind=_KINDS.get(entry.kind, FILE),
        guid=UUID(entry.guid) if entry.guid else None,
        size=entry.size if entry.HasField("size") else None,
        sha256=entry.sha256,
        comment=entry.comment,
        owner=entry.owner,
        acl_id=entry.acl_id,
        default_acl_id=entry.default_acl_id,
        create_time=entry.create_time.ToDatetime(tzinfo=UTC),
        modify_time=entry.modify_time.ToDatetime(tzinfo=UTC),
        rev=entry.rev,
        permissions=entry.permissions,
        surls=tuple(replica.surl for replica in entry.replicas),
    )


def _location(result: catalog_pb2.ResolveResult) -> Location:
    size = result.size if result.HasField("size") else None
    return Location(result.lfn, UUID(result.guid), tuple(result.surls), size)
