"""Which address of a site is which instance of its dicom-srm."""

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from mdm.srm.v1 import srm_pb2, srm_pb2_grpc, transfer_pb2, transfer_pb2_grpc
from mdm_wire.channel import RotatingChannel
from mdm_wire.frame import decode
from mdm_wire.url import token_instance

# An address that does not answer within this is not known yet.
_PING_SECONDS = 3.0
# How long an instance that no address is known of is not looked for again.
_FORGET_SECONDS = 5.0


class Instances:
    """Stubs of a site's addresses: of any, of each, and of the one that a request belongs to. Thread-safe."""

    def __init__(self, channel: grpc.Channel) -> None:
        views, alone = [channel], [channel]
        if isinstance(channel, RotatingChannel) and len(channel) > 1:
            views = [channel.preferring(index) for index in range(len(channel))]
            alone = [channel.only(index) for index in range(len(channel))]
        self.any = srm_pb2_grpc.SrmServiceStub(channel)
        self._transfer = transfer_pb2_grpc.TransferServiceStub(channel)
        self._stubs = [srm_pb2_grpc.SrmServiceStub(view) for view in views]
        self._transfers = [transfer_pb2_grpc.TransferServiceStub(view) for view in views]
        self._any_files = _read_files(channel)
        self._files = [_read_files(view) for view in views]
        self._alone = [srm_pb2_grpc.SrmServiceStub(view) for view in alone]
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self._looked = float("-inf")

    def each(self) -> list[srm_pb2_grpc.SrmServiceStub]:
        """Return a stub for each address, whose calls go nowhere else."""
        return list(self._alone)

    def of(self, token: str) -> srm_pb2_grpc.SrmServiceStub:
        """Return the stub of the instance that a token names; of any where it names none, or one that no address is known of."""
        index = self._index(token)
        return self.any if index is None else self._stubs[index]

    def transfer_of(self, token: str) -> transfer_pb2_grpc.TransferServiceStub:
        """Return the stub from which files of a token are read."""
        index = self._index(token)
        return self._transfer if index is None else self._transfers[index]

    def files_of(self, token: str) -> Callable[..., Any]:
        """Return the method ReadFiles of the instance that a token names; its responses come with their data beside them."""
        index = self._index(token)
        return self._any_files if index is None else self._files[index]

    def _index(self, token: str) -> int | None:
        name = token_instance(token)
        if len(self._stubs) == 1 or not name:
            return None
        with self._lock:
            if name not in self._known and time.monotonic() - self._looked > _FORGET_SECONDS:
                self._looked = time.monotonic()
                self._known |= self._look()
            return self._known.get(name)

    def _look(self) -> dict[str, int]:
        """Ask every address at the same time for its name."""
        asked = [stub.Ping.future(srm_pb2.PingRequest(), timeout=_PING_SECONDS) for stub in self._alone]
        found: dict[str, int] = {}
        for index, answer in enumerate(asked):
            try:
                found[answer.result().instance.partition(".")[0]] = index
            except grpc.RpcError:
                continue
        return found


def _read_files(channel: grpc.Channel) -> Callable[..., Any]:
    """Return the method without the generated code, which copies the data; see `mdm_wire.frame`."""
    method: Callable[..., Any] = channel.unary_stream(
        "/mdm.srm.v1.TransferService/ReadFiles",
        request_serializer=transfer_pb2.ReadFilesRequest.SerializeToString,
        response_deserializer=decode,
    )
    return method
