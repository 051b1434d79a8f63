"""Replicas of files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_wire.batch import MAX_CATALOG_ITEMS, in_batches, item_answers
from mdm_wire.errors import MdmError

from mdm_client.catalog.model import moment
from mdm_client.name_syntax import Name
from mdm_client.service import Service

STATUSES = {"available": pb.REPLICA_STATUS_AVAILABLE, "populating": pb.REPLICA_STATUS_POPULATING, "deleting": pb.REPLICA_STATUS_DELETING}
TYPES = {"primary": pb.REPLICA_TYPE_PRIMARY, "secondary": pb.REPLICA_TYPE_SECONDARY}
_STATUS_NAMES = {number: name for name, number in STATUSES.items()}
_TYPE_NAMES = {number: name for name, number in TYPES.items()}


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica of a file. `accesses` counts the reported readings; `rev` is for changes on condition that nobody else made one."""

    surl: str
    status: str = "available"
    type: str = "primary"
    set_name: str = ""
    host: str = ""
    create_time: datetime | None = None
    access_time: datetime | None = None
    accesses: int = 0
    rev: int = 0

    def to_proto(self) -> pb.Replica:
        """Return the message for a new replica."""
        return pb.Replica(surl=self.surl, status=STATUSES[self.status], type=TYPES[self.type], set_name=self.set_name, host=self.host)


@dataclass(frozen=True, slots=True)
class FileReplicas:
    """A file and replicas of it."""

    lfn: str
    guid: UUID
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class ReplicaChange:
    """A change of a replica: None leaves a field unchanged; `accesses` are added to its count. `if_rev`: only if that is its rev."""

    surl: str
    status: str | None = None
    type: str | None = None
    set_name: str | None = None
    host: str | None = None
    accesses: int = 0
    if_rev: int | None = None

    def to_proto(self) -> pb.ReplicaChange:
        return pb.ReplicaChange(
            surl=self.surl,
            status=None if self.status is None else STATUSES[self.status],
            type=None if self.type is None else TYPES[self.type],
            set_name=self.set_name,
            host=self.host,
            accesses=self.accesses,
            if_rev=self.if_rev,
        )


class CatalogReplicas:
    """Calls about replicas. Those that change them return the error of each, or None, in the order asked."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = catalog_pb2_grpc.CatalogServiceStub(service.channel)

    def add(self, pairs: Iterable[tuple[Name, Replica]]) -> list[MdmError | None]:
        """Add replicas to files; an existing one is not changed."""
        items = (pb.NewReplica(file=name.to_proto(), replica=replica.to_proto()) for name, replica in pairs)
        return self._service.errors(self._stub.AddReplicas, items, lambda batch: pb.AddReplicasRequest(replicas=batch), MAX_CATALOG_ITEMS)

    def change(self, changes: Iterable[ReplicaChange]) -> list[MdmError | None]:
        items = (change.to_proto() for change in changes)
        return self._service.errors(
            self._stub.ChangeReplicas, items, lambda batch: pb.ChangeReplicasRequest(changes=batch), MAX_CATALOG_ITEMS
        )

    def remove(self, surls: Sequence[str]) -> list[MdmError | None]:
        """Remove replicas, not the files."""
        return self._service.errors(
            self._stub.RemoveReplicas, surls, lambda batch: pb.RemoveReplicasRequest(surls=batch), MAX_CATALOG_ITEMS
        )

    def of_files(self, names: Sequence[Name]) -> list[FileReplicas | MdmError]:
        """Return the replicas of each file, or the error, in the order asked."""
        found: list[FileReplicas | MdmError] = []
        for batch in in_batches((name.to_proto() for name in names), MAX_CATALOG_ITEMS):
            results = self._service.repeat(partial(self._list, pb.ListReplicasRequest(targets=batch)))
            found += item_answers(batch, results, lambda result: _file(result.lfn, result.guid, result.replicas))
        return found

    def find(self, set_name: str = "", host: str = "", statuses: Sequence[str] = ()) -> Iterator[FileReplicas]:
        """Yield each replica of a set or on a host, with its file, in order of SURL. A broken stream is resumed."""
        wanted = [STATUSES[status] for status in statuses]

        def start(after: str) -> Any:
            return self._stub.FindReplicas(pb.FindReplicasRequest(set_name=set_name, host=host, statuses=wanted, after=after))

        for found in self._service.resumed(start, lambda answer: answer.replicas, lambda found: str(found.replica.surl)):
            yield _file(found.lfn, found.guid, [found.replica])

    def _list(self, request: pb.ListReplicasRequest) -> list[pb.ReplicasResult]:
        return [result for answer in self._stub.ListReplicas(request) for result in answer.results]


def _file(lfn: str, guid: str, replicas: Iterable[pb.Replica]) -> FileReplicas:
    return FileReplicas(lfn, UUID(guid), tuple(_replica(replica) for replica in replicas))


def _replica(message: pb.Replica) -> Replica:
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
