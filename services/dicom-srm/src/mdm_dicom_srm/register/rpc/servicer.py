"""RegistrationService of mdm.srm.v1: messages to calls and back."""

from datetime import datetime
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from mdm.common.v1 import common_pb2
from mdm.srm.v1 import registration_pb2 as pb
from mdm.srm.v1 import registration_pb2_grpc
from mdm_wire import status
from mdm_wire.errors import Invalid, MdmError

from mdm_dicom_srm.register.rules.model import Queued, Registration, State
from mdm_dicom_srm.register.rules.service import MAX_PAGE, RegistrationService

FULL_NAME = "mdm.srm.v1.RegistrationService"
_PREFIX = "REGISTRATION_STATE_"


class RegistrationServicer(registration_pb2_grpc.RegistrationServiceServicer):
    """Serves operators."""

    def __init__(self, service: RegistrationService) -> None:
        self._service = service

    def RegisterStudies(self, request: pb.RegisterStudiesRequest, context: grpc.ServicerContext) -> pb.RegisterStudiesResponse:
        """Queue what the PACS holds of each study."""
        return pb.RegisterStudiesResponse(
            results=[_study(result) for result in self._service.register_studies(list(request.study_instance_uids))]
        )

    def GetRegistrationSummary(
        self, request: pb.GetRegistrationSummaryRequest, context: grpc.ServicerContext
    ) -> pb.GetRegistrationSummaryResponse:
        """Count by state."""
        summary = self._service.summary(list(request.study_instance_uids))
        counts = [pb.StateCount(state=_state_out(state), count=count) for state, count in summary.items()]
        return pb.GetRegistrationSummaryResponse(counts=counts)

    def ListRegistrations(self, request: pb.ListRegistrationsRequest, context: grpc.ServicerContext) -> pb.ListRegistrationsResponse:
        """List a page; the page token is the last GUID of the previous one."""
        after = _uuid(request.page_token, "page_token") if request.page_token else None
        page = self._service.page(_state_in(request.state), after, request.page_size)
        return pb.ListRegistrationsResponse(
            registrations=[_registration(item) for item in page.registrations],
            next_page_token=str(page.next_after) if page.next_after else "",
        )

    def RetryRegistrations(self, request: pb.RetryRegistrationsRequest, context: grpc.ServicerContext) -> pb.RetryRegistrationsResponse:
        """Queue again."""
        guids = [_uuid(text, "guids") for text in request.guids]
        outcomes = self._service.retry(guids, published=request.published)
        return pb.RetryRegistrationsResponse(statuses=[_status(outcomes[guid]) for guid in guids])

    def ListConflicts(self, request: pb.ListConflictsRequest, context: grpc.ServicerContext) -> pb.ListConflictsResponse:
        """List a page; the page token is the last collection and key of the previous one."""
        collection, _, key = request.page_token.partition(":")
        found = self._service.conflicts((collection, key) if request.page_token else None, request.page_size)
        full = len(found) == (request.page_size or MAX_PAGE)
        return pb.ListConflictsResponse(
            conflicts=[pb.Conflict(collection=item.collection, key=item.key, attributes=item.attributes) for item in found],
            next_page_token=f"{found[-1].collection}:{found[-1].key}" if full else "",
        )


def _study(result: Queued | MdmError) -> pb.StudyResult:
    if isinstance(result, MdmError):
        return pb.StudyResult(status=status.failed(result))
    return pb.StudyResult(status=status.ok(), queued=result.queued, known=result.known)


def _status(error: MdmError | None) -> common_pb2.ItemStatus:
    return status.ok() if error is None else status.failed(error)


def _state_in(value: pb.RegistrationState.ValueType) -> State | None:
    if value == pb.REGISTRATION_STATE_UNSPECIFIED:
        return None
    try:
        return State(pb.RegistrationState.Name(value).removeprefix(_PREFIX))
    except ValueError:
        raise Invalid("STATE_UNKNOWN", "No such state of a registration.", fields={"state": "unknown value"}) from None


def _state_out(state: State) -> pb.RegistrationState.ValueType:
    return pb.RegistrationState.Value(f"{_PREFIX}{state}")


def _registration(item: Registration) -> pb.Registration:
    return pb.Registration(
        guid=str(item.guid),
        state=_state_out(item.state),
        reason=item.reason,
        attempts=item.attempts,
        create_time=_timestamp(item.created_at),
        modify_time=_timestamp(item.modified_at),
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _uuid(text: str, field: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("GUID_MALFORMED", "Not a GUID.", fields={field: "must be UUID text"}) from None
