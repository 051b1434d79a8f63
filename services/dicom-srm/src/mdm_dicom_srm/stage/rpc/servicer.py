"""SrmService: protobuf to staging and back."""

import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import version

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from mdm.srm.v1 import srm_pb2, srm_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire.url import turl

from mdm_dicom_srm.stage.rules.model import PROTOCOL, StagedFile, State
from mdm_dicom_srm.stage.rules.service import StagingService

#: What a person reads; programs read the status and, first in the explanation, the reason.
_EXPLANATIONS = {
    State.INVALID_PATH: "no such file, or not for you",
    State.INVALID_REQUEST: "the SURL is given twice",
    State.NO_FREE_SPACE: "the spool is full of pinned files; release some or try again later",
    State.FILE_LIFETIME_EXPIRED: "the pin has expired; ask for the file again",
    State.FILE_LOST: "the image is not there any more",
    State.FILE_UNAVAILABLE: "cannot be staged now; try again later",
    State.FAILURE: "the image may not be released",
    State.INTERNAL_ERROR: "a defect of the service; its log has more under this code",
}


class SrmServicer(srm_pb2_grpc.SrmServiceServicer):
    """Answers for `site`; the rules are in `StagingService`."""

    def __init__(self, service: StagingService, site: str) -> None:
        self._service = service
        self._site = site
        self._version = version("mdm-dicom-srm")

    def Ping(self, request: srm_pb2.PingRequest, context: grpc.ServicerContext) -> srm_pb2.PingResponse:
        """See the proto."""
        return srm_pb2.PingResponse(version=self._version, site=self._site)

    def GetTransferProtocols(
        self,
        request: srm_pb2.GetTransferProtocolsRequest,
        context: grpc.ServicerContext,
    ) -> srm_pb2.GetTransferProtocolsResponse:
        """See the proto."""
        return srm_pb2.GetTransferProtocolsResponse(protocols=[PROTOCOL])

    def PrepareToGet(
        self,
        request: srm_pb2.PrepareToGetRequest,
        context: grpc.ServicerContext,
    ) -> srm_pb2.PrepareToGetResponse:
        """See the proto."""
        token, view = self._service.prepare(current_caller().dn, list(request.surls), request.pin_seconds)
        return srm_pb2.PrepareToGetResponse(token=token, status=_code(view.state), files=self._files(view.files, token))

    def StatusOfGetRequest(
        self,
        request: srm_pb2.StatusOfGetRequestRequest,
        context: grpc.ServicerContext,
    ) -> srm_pb2.StatusOfGetRequestResponse:
        """See the proto."""
        view = self._service.status(current_caller().dn, request.token)
        return srm_pb2.StatusOfGetRequestResponse(status=_code(view.state), files=self._files(view.files, request.token))

    def WatchGetRequest(
        self, request: srm_pb2.WatchGetRequestRequest, context: grpc.ServicerContext
    ) -> Iterator[srm_pb2.WatchGetRequestResponse]:
        """See the proto."""
        gone = threading.Event()
        if not context.add_callback(gone.set):
            return
        for view in self._service.watch(current_caller().dn, request.token, gone):
            yield srm_pb2.WatchGetRequestResponse(status=_code(view.state), files=self._files(view.files, request.token))

    def ReleaseFiles(
        self,
        request: srm_pb2.ReleaseFilesRequest,
        context: grpc.ServicerContext,
    ) -> srm_pb2.ReleaseFilesResponse:
        """See the proto."""
        files = self._service.release(current_caller().dn, request.token, list(request.surls))
        return srm_pb2.ReleaseFilesResponse(files=self._files(files, request.token))

    def AbortRequest(
        self,
        request: srm_pb2.AbortRequestRequest,
        context: grpc.ServicerContext,
    ) -> srm_pb2.AbortRequestResponse:
        """See the proto."""
        return srm_pb2.AbortRequestResponse(status=_code(self._service.abort(current_caller().dn, request.token)))

    def _files(self, files: Iterable[StagedFile], token: str) -> Iterator[srm_pb2.FileStatus]:
        for file in files:
            status = srm_pb2.FileStatus(surl=file.surl, status=_code(file.state), guid=str(file.guid) if file.guid else "")
            if file.state is State.FILE_PINNED and file.guid is not None:
                status.turl = turl(self._service.authority, token, file.guid)
                status.size = file.size
                status.pin_expire_time.CopyFrom(Timestamp(seconds=int(file.pin_until)))
            elif file.state in _EXPLANATIONS:
                status.explanation = f"{file.reason or file.state}: {_EXPLANATIONS[file.state]}"
            yield status


def _code(state: State) -> srm_pb2.StatusCode.ValueType:
    return srm_pb2.StatusCode.Value(f"STATUS_CODE_{state}")
