"""ResultService: protobuf to the rules of results and back."""

from collections.abc import Iterator
from uuid import UUID

import grpc
from mdm.srm.v1 import result_pb2 as pb
from mdm.srm.v1 import result_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire import status
from mdm_wire.batch import check_batch
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.url import canonical_uuid, parse_turl, turl

from mdm_dicom_srm.result.rules.model import MAX_FILES, NewResult, Record, State
from mdm_dicom_srm.result.rules.service import ResultService

FULL_NAME = "mdm.srm.v1.ResultService"


class ResultServicer(result_pb2_grpc.ResultServiceServicer):
    """Answers for one instance of a site; TURLs name its authority."""

    def __init__(self, service: ResultService, authority: str) -> None:
        self._service = service
        self._authority = authority

    def PrepareToPut(self, request: pb.PrepareToPutRequest, context: grpc.ServicerContext) -> pb.PrepareToPutResponse:
        """See the proto, as for each method."""
        check_batch(request.results, MAX_FILES)
        wanted = [_from_proto(item) for item in request.results]
        token, answers = self._service.prepare(current_caller(), wanted, request.group, private=request.private)
        files = []
        for item, answer in zip(request.results, answers, strict=True):
            message = self._status(token, answer, 0) if isinstance(answer, Record) else _failure(item.guid, answer)
            message.lfn = item.lfn
            if isinstance(answer, Record):
                message.acl.id = str(answer.about.access.id)
                message.acl.entries.update(answer.about.access.entries)
            files.append(message)
        return pb.PrepareToPutResponse(token=token, files=files, service=self._service.service)

    def Write(self, request_iterator: Iterator[pb.WriteRequest], context: grpc.ServicerContext) -> pb.WriteResponse:
        first = next(request_iterator, None)
        if first is None:
            raise Invalid("BAD_TURL", "A stream begins with the TURL.", fields={"turl": "missing"})
        token, guid = parse_turl(self._authority, first.turl)

        def parts() -> Iterator[bytes]:
            if first.data:
                yield first.data
            for request in request_iterator:
                yield request.data

        received = self._service.write(current_caller().dn, token, guid, first.offset, _until_broken(parts()))
        return pb.WriteResponse(received=received)

    def StatusOfPutRequest(self, request: pb.StatusOfPutRequestRequest, context: grpc.ServicerContext) -> pb.StatusOfPutRequestResponse:
        found = self._service.status(current_caller().dn, request.token)
        return pb.StatusOfPutRequestResponse(files=(self._status(request.token, record, received) for record, received in found))

    def PutDone(self, request: pb.PutDoneRequest, context: grpc.ServicerContext) -> pb.PutDoneResponse:
        check_batch(request.files, MAX_FILES)
        written = [(_guid(item.guid), item.sha256, item.plain_sha256) for item in request.files]
        answers = self._service.done(current_caller().dn, request.token, written)
        return pb.PutDoneResponse(
            files=(
                self._status(request.token, answer, answer.size) if isinstance(answer, Record) else _failure(item.guid, answer)
                for item, answer in zip(request.files, answers, strict=True)
            )
        )

    def AbortPut(self, request: pb.AbortPutRequest, context: grpc.ServicerContext) -> pb.AbortPutResponse:
        guids = [_guid(text) for text in check_batch(request.guids, MAX_FILES)]
        return pb.AbortPutResponse(withdrawn=self._service.withdraw(current_caller().dn, request.token, guids))

    def Rm(self, request: pb.RmRequest, context: grpc.ServicerContext) -> pb.RmResponse:
        guids = [_guid(text) for text in check_batch(request.guids, MAX_FILES)]
        return pb.RmResponse(statuses=map(status.to_item, self._service.remove(current_caller(), guids)))

    def _status(self, token: str, record: Record, received: int) -> pb.PutStatus:
        message = pb.PutStatus(
            guid=str(record.guid),
            lfn=record.about.lfn,
            status=status.ok(),
            state=pb.ResultState.Value(f"RESULT_STATE_{record.state}"),
            turl=turl(self._authority, token, record.guid),
            size=record.size,
            received=received,
        )
        if record.state is State.UPLOADING:
            message.expire_time.seconds = int(record.expires)
        return message


def _until_broken(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what arrives; a connection that breaks ends the file here for now, as what has arrived stays."""
    try:
        yield from parts
    except grpc.RpcError:
        return


def _failure(guid: str, error: MdmError) -> pb.PutStatus:
    return pb.PutStatus(guid=guid[:36], status=status.failed(error))


def _from_proto(message: pb.NewResult) -> NewResult:
    derived = tuple(dict.fromkeys(_guid(text) for text in message.derived_from))
    return NewResult(message.lfn, _guid(message.guid), message.size, derived, dict(message.attributes))


def _guid(text: str) -> UUID:
    found = canonical_uuid(text)
    if found is None:
        raise Invalid("BAD_GUID", "A GUID is a UUID in canonical lower-case text.", fields={"guid": "malformed"})
    return found
