"""TransferService: streams staged ciphertext."""

import os
from collections.abc import Iterator

import grpc
from mdm.srm.v1 import transfer_pb2, transfer_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire.errors import Invalid
from mdm_wire.url import parse_turl

from mdm_dicom_srm.stage.rules.service import StagingService

# Measured: streamed messages of this size are fastest with gRPC Python.
CHUNK_SIZE = 256 * 1024


class TransferServicer(transfer_pb2_grpc.TransferServiceServicer):
    """Reads from the spool. The pin is checked once, at the start; a file that is open can be read to its end."""

    def __init__(self, service: StagingService) -> None:
        self._service = service

    def Read(self, request: transfer_pb2.ReadRequest, context: grpc.ServicerContext) -> Iterator[transfer_pb2.ReadResponse]:
        """See the proto."""
        token, guid = parse_turl(self._service.authority, request.turl)
        file, data = self._service.open(current_caller().dn, token, guid)
        with data:
            if not 0 <= request.offset <= file.size:
                raise Invalid("BAD_OFFSET", f"The file has {file.size} bytes.", fields={"offset": "outside the file"})
            descriptor, position = data.fileno(), request.offset
            # Equal chunks near the best size: a small rest would cost a message of its own.
            rest = file.size - position
            size = -(-rest // max(1, round(rest / CHUNK_SIZE)))
            while context.is_active() and (chunk := os.pread(descriptor, size, position)):
                position += len(chunk)
                yield transfer_pb2.ReadResponse(data=chunk)
