"""One site's dicom-srm: staging, reading staged files, registration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import grpc
from mdm.srm.v1 import registration_pb2, registration_pb2_grpc, srm_pb2, srm_pb2_grpc, transfer_pb2
from mdm_wire.errors import MdmError
from mdm_wire.retry import RetryPolicy
from mdm_wire.url import turl_token

from mdm_client.fetch.instance import Instances
from mdm_client.registration import RegistrationClient
from mdm_client.service import Service, Stream

_STATE_NAMES = {value: name.removeprefix("REGISTRATION_STATE_") for name, value in registration_pb2.RegistrationState.items()}


@dataclass(frozen=True)
class Want:
    """How files are wanted: pin and request times in seconds (0: the site's default), `levels` below directories (0: all)."""

    pin_seconds: int = 0
    description: str = ""
    levels: int = 1
    request_seconds: int = 0
    deferred_seconds: int = 0


class SrmClient:
    """Calls of `mdm.srm.v1` at one site. They raise MdmError, streams while they are iterated.

    A site may have several instances, each at an address of its own. Every one answers for every request; calls about a request go to
    the instance that its token names, to another one while that is away.
    """

    def __init__(self, site: str, channel: grpc.Channel, policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 - frozen
        self.place = f"srm {site}"
        self._service = Service(self.place, channel, policy)
        self.site = site
        #: Whether it streams many files at once (`read_files`); servers of before 0.3 do not.
        self.streams_files = True
        self._instances = Instances(channel)
        self._registration = registration_pb2_grpc.RegistrationServiceStub(channel)
        self.registry = RegistrationClient(self._service, self._registration)

    def ping(self) -> list[srm_pb2.PingResponse | MdmError]:
        """Return what each address of the site answers, in the order of the configuration."""
        return [self._service.attempt(stub.Ping, srm_pb2.PingRequest()) for stub in self._instances.each()]

    def prepare_to_get(self, surls: Sequence[str], want: Want = Want()) -> srm_pb2.PrepareToGetResponse:
        """Ask for at most 10,000 files to be staged and pinned; returns at once with a request token."""
        request = srm_pb2.PrepareToGetRequest(
            surls=surls,
            pin_seconds=want.pin_seconds,
            description=want.description,
            levels=want.levels,
            all_levels=not want.levels,
            request_seconds=want.request_seconds,
        )
        response: srm_pb2.PrepareToGetResponse = self._service.call(self._instances.any.PrepareToGet, request)
        return response

    def bring_online(self, surls: Sequence[str], want: Want = Want()) -> srm_pb2.BringOnlineResponse:
        """Ask for at most 10,000 files to be staged and pinned for later, perhaps not at once; returns with a request token."""
        request = srm_pb2.BringOnlineRequest(
            surls=surls,
            pin_seconds=want.pin_seconds,
            description=want.description,
            levels=want.levels,
            all_levels=not want.levels,
            request_seconds=want.request_seconds,
            deferred_seconds=want.deferred_seconds,
        )
        response: srm_pb2.BringOnlineResponse = self._service.call(self._instances.any.BringOnline, request)
        return response

    def status(self, token: str) -> srm_pb2.StatusOfGetRequestResponse:
        """Return a request as it is now."""
        request = srm_pb2.StatusOfGetRequestRequest(token=token)
        response: srm_pb2.StatusOfGetRequestResponse = self._service.call(self._of(token).StatusOfGetRequest, request)
        return response

    def watch(self, token: str, timeout: float | None = None) -> Stream:
        """Return the stream of a request's states, as WatchGetRequestResponse."""
        return Stream(self._of(token).WatchGetRequest(srm_pb2.WatchGetRequestRequest(token=token), timeout=timeout), self.place)

    def release(self, token: str, surls: Sequence[str] = ()) -> list[srm_pb2.FileStatus]:
        """Release files of a request, all of them unless some are named; without a token every pin that the caller has on the SURLs."""
        request = srm_pb2.ReleaseFilesRequest(token=token, surls=surls)
        return list(self._service.call(self._of(token).ReleaseFiles, request).files)

    def abort(self, token: str) -> "srm_pb2.StatusCode.ValueType":
        """End a request: what is queued is dropped, pins are released. Return its state."""
        state: srm_pb2.StatusCode.ValueType = self._service.call(
            self._of(token).AbortRequest, srm_pb2.AbortRequestRequest(token=token)
        ).status
        return state

    def abort_files(self, token: str, surls: Sequence[str]) -> list[srm_pb2.FileStatus]:
        """End files of a request; the others go on."""
        request = srm_pb2.AbortFilesRequest(token=token, surls=surls)
        return list(self._service.call(self._of(token).AbortFiles, request).files)

    def extend(self, token: str, surls: Sequence[str] = (), pin_seconds: int = 0) -> list[srm_pb2.FileStatus]:
        """Let pins of a request, all of them unless some are named, end so many seconds from now (0: the site's default)."""
        request = srm_pb2.ExtendFileLifeTimeRequest(token=token, surls=surls, pin_seconds=pin_seconds)
        return list(self._service.call(self._of(token).ExtendFileLifeTime, request).files)

    def suspend(self, token: str) -> "srm_pb2.StatusCode.ValueType":
        """Let what is not staged yet of a request wait. Return its state."""
        state: srm_pb2.StatusCode.ValueType = self._service.call(
            self._of(token).SuspendRequest, srm_pb2.SuspendRequestRequest(token=token)
        ).status
        return state

    def resume(self, token: str) -> "srm_pb2.StatusCode.ValueType":
        """Go on with a suspended request. Return its state."""
        state: srm_pb2.StatusCode.ValueType = self._service.call(
            self._of(token).ResumeRequest, srm_pb2.ResumeRequestRequest(token=token)
        ).status
        return state

    def requests(self, description: str = "") -> list[srm_pb2.RequestSummary]:
        """Return the caller's requests without their files, newest first: all, or those of a description; at most 1,000."""
        found = self._service.call(self._instances.any.GetRequestTokens, srm_pb2.GetRequestTokensRequest(description=description))
        summaries = srm_pb2.GetRequestSummaryRequest(tokens=[item.token for item in found.tokens])
        return list(self._service.call(self._instances.any.GetRequestSummary, summaries).summaries)

    def ls(
        self, surls: Sequence[str], levels: int = 1, *, full: bool = False, offset: int = 0, count: int = 0
    ) -> Iterator[srm_pb2.LsEntry]:
        """Yield what is below directories (`levels` 0: everything, -1: the directories themselves), and where its bytes are.

        `count` 0: all that there is, page after page.
        """
        while True:
            request = srm_pb2.LsRequest(surls=surls, levels=max(0, levels), all_levels=not levels, full=full, offset=offset, count=count)
            following = 0
            for response in Stream(self._instances.any.Ls(request, timeout=self._service.policy.call_seconds), self.place):
                yield from response.entries
                following = response.next_offset
            if count or not following:
                return
            offset = following

    def permissions(self, surls: Sequence[str]) -> list[srm_pb2.SurlPermission]:
        """Return what the caller may do with at most 10,000 files and directories."""
        return list(self._service.call(self._instances.any.CheckPermission, srm_pb2.CheckPermissionRequest(surls=surls)).permissions)

    def spaces(self, names: Sequence[str] = ()) -> list[srm_pb2.SpaceMetaData]:
        """Return the spools of the site's instances, all of them unless some are named."""
        return list(self._service.call(self._instances.any.GetSpaceMetaData, srm_pb2.GetSpaceMetaDataRequest(tokens=names)).spaces)

    def read(self, turl: str, offset: int = 0) -> Stream:
        """Return the stream of a staged file's ciphertext from `offset`, as ReadResponse."""
        stub = self._instances.transfer_of(turl_token(turl))
        return Stream(stub.Read(transfer_pb2.ReadRequest(turl=turl, offset=offset)), self.place)

    def read_files(self, token: str, offsets: Mapping[UUID, int], timeout: float | None = None) -> Stream:
        """Return the stream of files of a request, each from an offset, as ReadFilesResponse with the data beside it."""
        files = [transfer_pb2.FilePosition(guid=str(guid), offset=offset) for guid, offset in offsets.items()]
        request = transfer_pb2.ReadFilesRequest(token=token, files=files)
        return Stream(self._instances.files_of(token)(request, timeout=timeout), self.place)

    def _of(self, token: str) -> srm_pb2_grpc.SrmServiceStub:
        return self._instances.of(token)

    def register_studies(self, uids: Sequence[str]) -> list[registration_pb2.StudyResult]:
        """Queue every instance of at most 100 studies for registration; one result per study, in the order asked."""
        request = registration_pb2.RegisterStudiesRequest(study_instance_uids=uids)
        return list(self._service.call(self._registration.RegisterStudies, request).results)

    def registration_summary(self, uids: Sequence[str] = ()) -> dict[str, int]:
        """Return how many registrations of at most 100 studies (none: of the whole site) are in each state, such as `PUBLISHED`."""
        request = registration_pb2.GetRegistrationSummaryRequest(study_instance_uids=uids)
        response = self._service.call(self._registration.GetRegistrationSummary, request)
        return {_STATE_NAMES[count.state]: count.count for count in response.counts}

    def registrations(self, state: str = "UNSPECIFIED") -> Iterator[registration_pb2.Registration]:
        """Yield registrations in order of GUID, all or those in one state."""
        wanted = registration_pb2.RegistrationState.Value(f"REGISTRATION_STATE_{state}")

        def request(token: str) -> registration_pb2.ListRegistrationsRequest:
            return registration_pb2.ListRegistrationsRequest(state=wanted, page_token=token)

        for page in self._service.pages(self._registration.ListRegistrations, request):
            yield from page.registrations

    def conflicts(self) -> Iterator[registration_pb2.Conflict]:
        """Yield metadata entries for which instances state different values, in order of collection and key."""

        def request(token: str) -> registration_pb2.ListConflictsRequest:
            return registration_pb2.ListConflictsRequest(page_token=token)

        for page in self._service.pages(self._registration.ListConflicts, request):
            yield from page.conflicts
