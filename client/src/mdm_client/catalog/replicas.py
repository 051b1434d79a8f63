"""Replicas of files: where copies are."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import grpc
from mdm.catalog.v1 import catalog_pb2
from mdm_wire.errors import MdmError, Unavailable
from mdm_wire.status import from_item, from_rpc_error

from mdm_client.calls import Backoff, in_batches
from mdm_client.catalog.changes import MAX_BATCH, CatalogChanges, Outcome
from mdm_client.catalog.model import moment
from mdm_client.names import Name

STATUSES = {
    "available": catalog_pb2.REPLICA_STATUS_AVAILABLE,
    "populating": catalog_pb2.REPLICA_STATUS_POPULATING,
    "deleting": catalog_pb2.REPLICA_STATUS_DELETING,
}
TYPES = {"primary": catalog_pb2.REPLICA_TYPE_PRIMARY, "secondary": catalog_pb2.REPLICA_TYPE_SECONDARY}
_STATUS_NAMES = {number: name for name, number in STATUSES.items()}
_TYPE_NAMES = {number: name for name, number in TYPES.items()}
_ATTEMPTS = 5  # to go on with a broken stream, without anything new in between


@dataclass(frozen=True, slots=True)
class Replica:
    """A copy of a file. `accesses` counts what was reported, `rev` is for optimistic changes."""

    surl: str
    status: str = "available"
    type: str = "primary"
    set_name: str = ""
    host: str = ""
    create_time: datetime | None = None
    access_time: datetime | None = None
    accesses: int = 0
    rev: int = 0

    def to_proto(self) -> catalog_pb2.Replica:
        """Return the catalog's message for a replica to add."""
        return catalog_pb2.Replica(
            surl=self.surl, status=STATUSES[self.status], type=TYPES[self.type], set_name=self.set_name, host=self.host
        )


@dataclass(frozen=True, slots=True)
class FileReplicas:
    """A file and replicas of it."""

    lfn: str
    guid: UUID
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class ReplicaChange:
    """What to change of a replica: None leaves one as it is; `accesses` are added to its count. `if_rev`: only if that is its rev."""

    surl: str
    status: str | None = None
    type: str | None = None
    set_name: str | None = None
    host: str | None = None
    accesses: int = 0
    if_rev: int | None = None

    def to_proto(self) -> catalog_pb2.ReplicaChange:
        """Return the catalog's message for it."""
        return catalog_pb2.ReplicaChange(
            surl=self.surl,
            status=None if self.status is None else STATUSES[self.status],
            type=None if self.type is None else TYPES[self.type],
            set_name=self.set_name,
            host=self.host,
            accesses=self.accesses,
            if_rev=self.if_rev,
        )


class ReplicaCalls(CatalogChanges):
    """Calls about replicas, beside those that change names."""

    def add_replicas(self, pairs: Iterable[tuple[Name, Replica]]) -> list[Outcome]:
        """Add replicas to files; one that is there stays as it is. Return what went wrong with each, in the order asked."""
        items = [catalog_pb2.NewReplica(file=name.to_proto(), replica=replica.to_proto()) for name, replica in pairs]

        def call(batch: list[catalog_pb2.NewReplica]) -> Any:
            return self.call(self.stub.AddReplicas, catalog_pb2.AddReplicasRequest(replicas=batch)).statuses

        return self.outcomes(items, call)

    def change_replicas(self, changes: Iterable[ReplicaChange]) -> list[Outcome]:
        """Change replicas; return what went wrong with each, in the order asked."""

        def call(batch: list[catalog_pb2.ReplicaChange]) -> Any:
            return self.call(self.stub.ChangeReplicas, catalog_pb2.ChangeReplicasRequest(changes=batch)).statuses

        return self.outcomes([change.to_proto() for change in changes], call)

    def remove_replicas(self, surls: Sequence[str]) -> list[Outcome]:
        """Remove replicas, not the files; return what went wrong with each, in the order asked."""

        def call(batch: list[str]) -> Any:
            return self.call(self.stub.RemoveReplicas, catalog_pb2.RemoveReplicasRequest(surls=batch)).statuses

        return self.outcomes(list(surls), call)

    def replicas(self, names: Sequence[Name]) -> list[FileReplicas | MdmError]:
        """Return the replicas of each file, or why they are not given, in the order asked."""
        found: list[FileReplicas | MdmError] = []
        for batch in in_batches([name.to_proto() for name in names], MAX_BATCH):
            results = self.repeat(partial(self._list, catalog_pb2.ListReplicasRequest(targets=batch)))
            found += (from_item(result.status) or _file(result.lfn, result.guid, result.replicas) for result in results)
        return found

    def find_replicas(self, set_name: str = "", host: str = "", statuses: Sequence[str] = ()) -> Iterator[FileReplicas]:
        """Yield each replica of a set or on a host, with its file, in order of SURL. A broken stream is resumed.

        Raises:
            MdmError: on first use of the iterator or later.
        """
        wanted = [STATUSES[status] for status in statuses]

        def start(after: str) -> Any:
            return self.stub.FindReplicas(catalog_pb2.FindReplicasRequest(set_name=set_name, host=host, statuses=wanted, after=after))

        for found in self.resumed(start, lambda answer: answer.replicas, lambda found: found.replica.surl):
            yield _file(found.lfn, found.guid, [found.replica])

    def apply(self, operations: Sequence[catalog_pb2.Operation]) -> None:
        """Apply operations of any kind (`mdm.catalog.v1.Operation`) wholly or not at all. Not repeated by itself.

        Raises:
            MdmError: nothing was done; the message begins with the number of the operation, from 0, that was the obstacle.
        """
        try:
            answer = self.stub.Apply(catalog_pb2.ApplyRequest(operations=operations), timeout=self.patience.call_seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.place) from error
        obstacle = from_item(answer.status)
        if obstacle is not None:
            raise obstacle.at(f"operation {answer.failed}")

    def _list(self, request: catalog_pb2.ListReplicasRequest) -> list[catalog_pb2.ReplicasResult]:
        return [result for answer in self.stub.ListReplicas(request) for result in answer.results]

    def resumed(self, start: Callable[[str], Any], parts: Callable[[Any], Iterable[Any]], place: Callable[[Any], str]) -> Iterator[Any]:
        """Yield the parts of a stream that `start` opens after a place, opening it again where it broke."""
        after = ""
        backoff = Backoff()
        failures = 0
        while True:
            try:
                for response in start(after):
                    for part in parts(response):
                        yield part
                        after = place(part)
                    failures = 0
                return
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self.place)
                failures += 1
                if not isinstance(failure, Unavailable) or failures == _ATTEMPTS:
                    raise failure from error
                self.wait(backoff)


def _file(lfn: str, guid: str, replicas: Iterable[catalog_pb2.Replica]) -> FileReplicas:
    return FileReplicas(lfn, UUID(guid), tuple(_replica(replica) for replica in replicas))


def _replica(message: catalog_pb2.Replica) -> Replica:
    return Replica(
        surl=message.surl,
        status=_STATUS_NAMES.get(message.status, "unknown"),
        type=_TYPE_NAMES.get(message.type, "unknown"),
        set_name=message.set_name,
        host=message.host,
        create_time=moment(message.create_time) if message.HasField("create_time") else None,
        access_time=moment(message.access_time) if message.HasField("access_time") else None,
        accesses=message.access_count,
        rev=message.rev,
    )
