"""Sequences of collections: numbers that nobody else gets."""

from collections.abc import Sequence
from dataclasses import dataclass

from mdm.metadata.v1 import metadata_pb2 as pb
from mdm.metadata.v1 import metadata_pb2_grpc

from mdm_client.service import Service


@dataclass(frozen=True)
class SequenceState:
    """A sequence: the number it gives next, and the step to the one after; None where the caller may not take numbers."""

    name: str
    next: int | None = None
    step: int | None = None


class MetadataSequences:
    """Calls of `mdm.metadata.v1` about sequences."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stub = metadata_pb2_grpc.MetadataServiceStub(service.channel)

    def create(self, path: str, name: str, start: int, step: int) -> None:
        """Create a sequence of a collection."""
        self._service.call_once(
            self._stub.CreateSequence, pb.CreateSequenceRequest(collection=path, name=name, start=start, step=step), None
        )

    def resume(self, path: str, name: str, start: int, step: int) -> None:
        """Create a sequence, or let the one that is there go on at `start`, unless it is further already.

        Raises:
            Conflict: SEQUENCE_EXISTS: it has another step.
        """
        request = pb.CreateSequenceRequest(collection=path, name=name, start=start, step=step, resume=True)
        self._service.call(self._stub.CreateSequence, request)

    def drop(self, path: str, name: str) -> None:
        """Drop a sequence."""
        self._service.call_once(self._stub.DropSequence, pb.DropSequenceRequest(collection=path, name=name), None)

    def of_collection(self, path: str) -> Sequence[SequenceState]:
        """Return a collection's sequences by name."""
        found = self._service.call(self._stub.ListSequences, pb.ListSequencesRequest(collection=path)).sequences
        return [SequenceState(s.name, s.next, s.step) if s.step else SequenceState(s.name) for s in found]

    def take(self, path: str, name: str, count: int = 1) -> range:
        """Return numbers of a sequence that nobody else gets."""
        taken = self._service.call_once(self._stub.TakeNumbers, pb.TakeNumbersRequest(collection=path, name=name, count=count), None)
        return range(taken.first, taken.first + taken.step * count, taken.step)
