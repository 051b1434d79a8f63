"""TransferService: staged ciphertext from the spool."""

import os
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import grpc
from mdm.srm.v1 import transfer_pb2 as pb
from mdm.srm.v1 import transfer_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire.batch import MAX_SURLS
from mdm_wire.errors import Invalid
from mdm_wire.url import canonical_uuid, parse_turl

from mdm_dicom_srm.stage.rpc.file_stream import FileStream
from mdm_dicom_srm.stage.rpc.message import Messages
from mdm_dicom_srm.stage.rules.service import StagingService

SERVICE = "mdm.srm.v1.TransferService"
# Measured: of `Read`, streamed messages of this size are fastest with gRPC Python.
CHUNK_SIZE = 256 * 1024


class TransferServicer(transfer_pb2_grpc.TransferServiceServicer):
    """Streams staged ciphertext.

    The pin is checked once, at the start: an open file can be read to its end. The right to read is checked before each chunk; see
    `Rechecker`.
    """

    def __init__(self, service: StagingService, authority: str) -> None:
        self._service = service
        self._authority = authority
        self._messages = Messages(authority)

    def add_to(self, server: grpc.Server) -> None:
        """Register the methods; responses of ReadFiles are encoded already, see `mdm_wire.frame`."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Read": grpc.unary_stream_rpc_method_handler(
                self.Read, request_deserializer=pb.ReadRequest.FromString, response_serializer=pb.ReadResponse.SerializeToString
            ),
            "ReadFiles": grpc.unary_stream_rpc_method_handler(self.ReadFiles, request_deserializer=pb.ReadFilesRequest.FromString),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def Read(self, request: pb.ReadRequest, context: grpc.ServicerContext) -> Iterator[pb.ReadResponse]:
        """See the proto, as for each method."""
        token, guid = parse_turl(self._authority, request.turl)
        reading = self._service.reading(current_caller().subject, token)
        file, data = reading.open(guid)
        with data:
            if not 0 <= request.offset <= file.size:
                raise Invalid("BAD_OFFSET", f"The file has {file.size} bytes.", fields={"offset": "outside the file"})
            descriptor, position = data.fileno(), request.offset
            # Equal chunks near the best size: a small rest would cost a message of its own.
            rest = file.size - position
            size = -(-rest // max(1, round(rest / CHUNK_SIZE)))
            while context.is_active() and (chunk := os.pread(descriptor, size, position)):
                position += len(chunk)
                reading.check(guid)
                yield pb.ReadResponse(data=chunk)

    def ReadFiles(self, request: pb.ReadFilesRequest, context: grpc.ServicerContext) -> Iterator[bytes]:  # type: ignore[override]
        offsets = offsets_from_proto(request)
        disconnected = threading.Event()
        if not context.add_callback(disconnected.set):
            return
        reading = self._service.reading(current_caller().subject, request.token)
        stream = FileStream(reading, self._messages, request.token, offsets)
        yield from stream.unknown()
        for now, files in self._service.follow(reading, offsets, disconnected):
            yield from stream.messages(files, now)


def offsets_from_proto(request: pb.ReadFilesRequest) -> dict[UUID, int]:
    """Return where to begin in which file.

    Raises:
        Invalid: too many files, one given twice, or something else than a GUID.
    """
    if len(request.files) > MAX_SURLS:
        raise Invalid("BAD_BATCH", f"Ask for at most {MAX_SURLS} files at a time.", fields={"files": "too many"})
    found: dict[UUID, int] = {}
    for file in request.files:
        guid = canonical_uuid(file.guid)
        if guid is None or guid in found:
            raise Invalid("BAD_FILES", "Name each file once, by its GUID.", fields={"files": "no GUID" if guid is None else "given twice"})
        found[guid] = file.offset
    return found
