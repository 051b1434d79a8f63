"""A site as its operators see it: counts by state and reason, failures, retries, policy."""

from collections.abc import Iterator, Sequence

from mdm.srm.v1 import registration_pb2, registration_pb2_grpc, site_pb2_grpc
from mdm.srm.v1 import site_pb2 as pb
from mdm_wire.errors import MdmError

from mdm_client.service import Service

_PREFIX = "REGISTRATION_STATE_"
_BATCH = 1_000
#: The names of states by their number in messages, in the order of registration.
STATES = {value: name.removeprefix(_PREFIX) for name, value in registration_pb2.RegistrationState.items() if value}


class SiteClient:
    """Calls of operators at one site. They raise MdmError, listings while they are iterated."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._site = site_pb2_grpc.SiteServiceStub(service.channel)
        self._registration = registration_pb2_grpc.RegistrationServiceStub(service.channel)

    def status(self) -> pb.GetSiteStatusResponse:
        """Return the site at a glance."""
        response: pb.GetSiteStatusResponse = self._service.call(self._site.GetSiteStatus, pb.GetSiteStatusRequest())
        return response

    def reasons(self, states: Sequence[str] = ()) -> list[pb.StateReason]:
        """Return registrations by state and reason, those in some states, such as `FAILED`, if given."""
        wanted = [registration_pb2.RegistrationState.Value(f"{_PREFIX}{state}") for state in states]
        return list(self._service.call(self._site.ListReasons, pb.ListReasonsRequest(states=wanted)).reasons)

    def policy(self) -> pb.GetPolicyResponse:
        """Return what decides about images, and what it leaves out."""
        response: pb.GetPolicyResponse = self._service.call(self._site.GetPolicy, pb.GetPolicyRequest())
        return response

    def registrations(self, state: str = "UNSPECIFIED", reason: str = "") -> Iterator[registration_pb2.Registration]:
        """Yield registrations in order of GUID, those in one state and for one reason if given."""
        wanted = registration_pb2.RegistrationState.Value(f"{_PREFIX}{state}")

        def request(token: str) -> registration_pb2.ListRegistrationsRequest:
            return registration_pb2.ListRegistrationsRequest(state=wanted, reason=reason, page_token=token)

        for page in self._service.pages(self._registration.ListRegistrations, request):
            yield from page.registrations

    def retry(self, guids: Sequence[str], published: bool = False) -> list[MdmError | None]:
        """Queue failed and quarantined registrations again, with `published` those that are published, too; see `Service.errors`."""
        return self._service.errors(
            self._registration.RetryRegistrations,
            guids,
            lambda batch: registration_pb2.RetryRegistrationsRequest(guids=batch, published=published),
            _BATCH,
        )
