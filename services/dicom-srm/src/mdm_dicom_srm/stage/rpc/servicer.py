"""SrmService: protobuf to staging and back."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version

import grpc
from mdm.srm.v1 import srm_pb2 as pb
from mdm.srm.v1 import srm_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire.url import TURL_SCHEME

from mdm_dicom_srm.stage.rpc.message import (
    Messages,
    code,
    entry_to_proto,
    kind_to_proto,
    moment,
    permission_to_proto,
    space_to_proto,
    summary_to_proto,
    wish_from_proto,
)
from mdm_dicom_srm.stage.rules.control import RequestControl
from mdm_dicom_srm.stage.rules.listing import Extent, Listing
from mdm_dicom_srm.stage.rules.model import Kind
from mdm_dicom_srm.stage.rules.service import StagingService
from mdm_dicom_srm.stage.rules.space import Spaces


@dataclass(frozen=True, slots=True)
class SrmRules:
    """The use cases behind `SrmService`."""

    service: StagingService
    control: RequestControl
    listing: Listing
    spaces: Spaces


class SrmServicer(srm_pb2_grpc.SrmServiceServicer):
    """Answers for one instance of a site; the rules decide."""

    def __init__(self, rules: SrmRules, authority: str, site: str, instance: str) -> None:
        self._service = rules.service
        self._control = rules.control
        self._listing = rules.listing
        self._spaces = rules.spaces
        self._site = site
        self._instance = instance
        self._messages = Messages(authority)
        self._version = version("mdm-dicom-srm")

    def Ping(self, request: pb.PingRequest, context: grpc.ServicerContext) -> pb.PingResponse:
        """See the proto, as for each method."""
        return pb.PingResponse(version=self._version, site=self._site, instance=self._instance)

    def GetTransferProtocols(
        self, request: pb.GetTransferProtocolsRequest, context: grpc.ServicerContext
    ) -> pb.GetTransferProtocolsResponse:
        return pb.GetTransferProtocolsResponse(protocols=[TURL_SCHEME])

    def PrepareToGet(self, request: pb.PrepareToGetRequest, context: grpc.ServicerContext) -> pb.PrepareToGetResponse:
        token, status = self._service.prepare(current_caller().subject, wish_from_proto(request, Kind.GET))
        return pb.PrepareToGetResponse(token=token, status=code(status.state), files=self._messages.files_of(status, token))

    def BringOnline(self, request: pb.BringOnlineRequest, context: grpc.ServicerContext) -> pb.BringOnlineResponse:
        wish = replace(wish_from_proto(request, Kind.BRING_ONLINE), deferred_seconds=request.deferred_seconds)
        token, status = self._service.prepare(current_caller().subject, wish)
        return pb.BringOnlineResponse(token=token, status=code(status.state), files=self._messages.files_of(status, token))

    def StatusOfGetRequest(self, request: pb.StatusOfGetRequestRequest, context: grpc.ServicerContext) -> pb.StatusOfGetRequestResponse:
        status = self._service.status(current_caller().subject, request.token)
        estimate = self._service.estimate(status)
        return pb.StatusOfGetRequestResponse(
            status=code(status.state),
            files=self._messages.files_of(status, request.token),
            kind=kind_to_proto(status.kind),
            pin_seconds=status.pin_seconds,
            remaining_seconds=max(0, round(status.deadline - status.now)) if status.pending else 0,
            estimated_wait_seconds=None if estimate is None else round(estimate),
        )

    def WatchGetRequest(self, request: pb.WatchGetRequestRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchGetRequestResponse]:
        disconnected = threading.Event()
        if not context.add_callback(disconnected.set):
            return
        for status in self._service.watch(current_caller().subject, request.token, disconnected):
            yield pb.WatchGetRequestResponse(status=code(status.state), files=self._messages.files_of(status, request.token))

    def ReleaseFiles(self, request: pb.ReleaseFilesRequest, context: grpc.ServicerContext) -> pb.ReleaseFilesResponse:
        files = self._control.release(current_caller().subject, request.token, list(request.surls))
        return pb.ReleaseFilesResponse(files=self._messages.files(files))

    def AbortRequest(self, request: pb.AbortRequestRequest, context: grpc.ServicerContext) -> pb.AbortRequestResponse:
        return pb.AbortRequestResponse(status=code(self._control.abort(current_caller().subject, request.token)))

    def AbortFiles(self, request: pb.AbortFilesRequest, context: grpc.ServicerContext) -> pb.AbortFilesResponse:
        files = self._control.abort_files(current_caller().subject, request.token, list(request.surls))
        return pb.AbortFilesResponse(files=self._messages.files(files))

    def ExtendFileLifeTime(self, request: pb.ExtendFileLifeTimeRequest, context: grpc.ServicerContext) -> pb.ExtendFileLifeTimeResponse:
        now, files = self._control.extend(current_caller().subject, request.token, list(request.surls), request.pin_seconds)
        return pb.ExtendFileLifeTimeResponse(files=self._messages.files(files, now))

    def SuspendRequest(self, request: pb.SuspendRequestRequest, context: grpc.ServicerContext) -> pb.SuspendRequestResponse:
        return pb.SuspendRequestResponse(status=code(self._control.suspend(current_caller().subject, request.token)))

    def ResumeRequest(self, request: pb.ResumeRequestRequest, context: grpc.ServicerContext) -> pb.ResumeRequestResponse:
        return pb.ResumeRequestResponse(status=code(self._control.resume(current_caller().subject, request.token)))

    def GetRequestSummary(self, request: pb.GetRequestSummaryRequest, context: grpc.ServicerContext) -> pb.GetRequestSummaryResponse:
        found = self._control.summaries(current_caller().subject, list(request.tokens))
        return pb.GetRequestSummaryResponse(summaries=map(summary_to_proto, request.tokens, found))

    def GetRequestTokens(self, request: pb.GetRequestTokensRequest, context: grpc.ServicerContext) -> pb.GetRequestTokensResponse:
        found = self._control.tokens(current_caller().subject, request.description)
        return pb.GetRequestTokensResponse(tokens=(pb.RequestToken(token=item.token, create_time=moment(item.created)) for item in found))

    def Ls(self, request: pb.LsRequest, context: grpc.ServicerContext) -> Iterator[pb.LsResponse]:
        extent = Extent(None if request.all_levels else request.levels, request.offset, request.count).check()
        more = threading.Event()
        for batch in self._listing.entries(current_caller().subject, list(request.surls), extent, more.set):
            if not context.is_active():
                return
            yield pb.LsResponse(entries=(entry_to_proto(item, request.full) for item in batch))
        if more.is_set():
            yield pb.LsResponse(status=pb.STATUS_CODE_TOO_MANY_RESULTS, next_offset=extent.offset + extent.count)

    def CheckPermission(self, request: pb.CheckPermissionRequest, context: grpc.ServicerContext) -> pb.CheckPermissionResponse:
        found = self._listing.permissions(current_caller().subject, list(request.surls))
        return pb.CheckPermissionResponse(permissions=map(permission_to_proto, request.surls, found))

    def GetSpaceTokens(self, request: pb.GetSpaceTokensRequest, context: grpc.ServicerContext) -> pb.GetSpaceTokensResponse:
        return pb.GetSpaceTokensResponse(tokens=[space.instance for space in self._spaces.all()])

    def GetSpaceMetaData(self, request: pb.GetSpaceMetaDataRequest, context: grpc.ServicerContext) -> pb.GetSpaceMetaDataResponse:
        found = self._spaces.named(list(request.tokens))
        return pb.GetSpaceMetaDataResponse(spaces=(space_to_proto(name, space) for name, space in found.items()))
