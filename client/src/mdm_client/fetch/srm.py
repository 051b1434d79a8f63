"""One site's dicom-srm: staging, reading staged files, registration."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from mdm.srm.v1 import (
    registration_pb2,
    registration_pb2_grpc,
    srm_pb2,
    srm_pb2_grpc,
    transfer_pb2,
    transfer_pb2_grpc,
)
from mdm_wire.retry import RetryPolicy

from mdm_client.service import Service

_STATE_NAMES = {value: name.removeprefix("REGISTRATION_STATE_") for name, value in registration_pb2.RegistrationState.items()}


class SrmClient:
    """Calls of `mdm.srm.v1` at one site. The streams raise grpc.RpcError; everything else MdmError."""

    def __init__(self, site: str, channel: grpc.Channel, policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 - frozen
        self.place = f"srm {site}"
        self._service = Service(self.place, channel, policy)
        self.site = site
        self._srm = srm_pb2_grpc.SrmServiceStub(channel)
        self._transfer = transfer_pb2_grpc.TransferServiceStub(channel)
        self._registration = registration_pb2_grpc.RegistrationServiceStub(channel)

    def ping(self) -> tuple[str, str]:
        """Return the site's name and its software version."""
        response = self._service.call(self._srm.Ping, srm_pb2.PingRequest())
        return response.site, response.version

    def prepare_to_get(self, surls: Sequence[str], pin_seconds: int = 0) -> srm_pb2.PrepareToGetResponse:
        """Ask for at most 10,000 files to be staged and pinned; returns at once with a request token."""
        request = srm_pb2.PrepareToGetRequest(surls=surls, pin_seconds=pin_seconds)
        response: srm_pb2.PrepareToGetResponse = self._service.call(self._srm.PrepareToGet, request)
        return response

    def watch(self, token: str, timeout: float | None = None) -> Any:
        """Return the stream of a request's states: a call that can be iterated and cancelled."""
        return self._srm.WatchGetRequest(srm_pb2.WatchGetRequestRequest(token=token), timeout=timeout)

    def release(self, token: str, surls: Sequence[str] = ()) -> None:
        """Release files of a request, all of them unless named."""
        self._service.call(self._srm.ReleaseFiles, srm_pb2.ReleaseFilesRequest(token=token, surls=surls))

    def abort(self, token: str) -> None:
        """End a request: what is queued is dropped, pins are released."""
        self._service.call(self._srm.AbortRequest, srm_pb2.AbortRequestRequest(token=token))

    def read(self, turl: str, offset: int = 0) -> Any:
        """Return the stream of a staged file's ciphertext from `offset`: a call that can be iterated and cancelled."""
        return self._transfer.Read(transfer_pb2.ReadRequest(turl=turl, offset=offset))

    def register_studies(self, uids: Sequence[str]) -> list[registration_pb2.StudyResult]:
        """Queue every instance of at most 100 studies for registration; one result per study, in the order asked."""
        request = registration_pb2.RegisterStudiesRequest(study_instance_uids=uids)
        return list(self._service.call(self._registration.RegisterStudies, request).results)

    def registration_summary(self, uids: Sequence[str] = ()) -> dict[str, int]:
        """Return how many registrations of at most 100 studies, or without any of the site, are in each state that occurs.

        States are named `RECEIVED`, `PUBLISHED`, ….
        """
        request = registration_pb2.GetRegistrationSummaryRequest(study_instance_uids=uids)
        response = self._service.call(self._registration.GetRegistrationSummary, request)
        return {_STATE_NAMES[count.state]: count.count for count in response.counts}

    def registrations(self, state: str = "UNSPECIFIED") -> Iterator[registration_pb2.Registration]:
        """Yield registrations in order of GUID, those in one state if it is given."""
        wanted = registration_pb2.RegistrationState.Value(f"REGISTRATION_STATE_{state}")

        def request(token: str) -> registration_pb2.ListRegistrationsRequest:
            return registration_pb2.ListRegistrationsRequest(state=wanted, page_token=token)

        for page in self._service.pages(self._registration.ListRegistrations, request):
            yield from page.registrations

    def conflicts(self) -> Iterator[registration_pb2.Conflict]:
        """Yield metadata entries of which instances state different values, in order of collection and key."""

        def request(token: str) -> registration_pb2.ListConflictsRequest:
            return registration_pb2.ListConflictsRequest(page_token=token)

        for page in self._service.pages(self._registration.ListConflicts, request):
            yield from page.conflicts
