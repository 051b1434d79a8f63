"""RegistrationService of mdm.srm.v1: messages to calls and back."""

import threading
import time
from collections.abc import Iterator
from uuid import UUID

import grpc
from mdm.common.v1 import common_pb2
from mdm.srm.v1 import registration_pb2 as pb
from mdm.srm.v1 import registration_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire import status
from mdm_wire.errors import Invalid, MdmError

from mdm_dicom_srm.register.rpc.scan import scan_to_proto, scope_from_proto, timestamp
from mdm_dicom_srm.register.rules.model import Queued, Registration, State
from mdm_dicom_srm.register.rules.scan import ENDED
from mdm_dicom_srm.register.rules.scanner import ScanService
from mdm_dicom_srm.register.rules.service import MAX_PAGE, RegistrationService

FULL_NAME = "mdm.srm.v1.RegistrationService"
_PREFIX = "REGISTRATION_STATE_"
_WATCHES, _WATCH_SECONDS, _POLL_SECONDS = 4, 60.0, 0.5


class RegistrationServicer(registration_pb2_grpc.RegistrationServiceServicer):
    """Serves operators."""

    def __init__(self, service: RegistrationService, scans: ScanService) -> None:
        self._service = service
        self._scans = scans
        self._watches = threading.BoundedSemaphore(_WATCHES)

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
        rules = {} if request.study_instance_uids else self._service.rules()
        return pb.GetRegistrationSummaryResponse(
            counts=counts, rules=[pb.RuleCount(rule=rule, count=count) for rule, count in rules.items()]
        )

    def ListRegistrations(self, request: pb.ListRegistrationsRequest, context: grpc.ServicerContext) -> pb.ListRegistrationsResponse:
        """List a page; the page token is the last GUID of the previous one."""
        after = _uuid(request.page_token, "page_token") if request.page_token else None
        studies = list(request.study_instance_uids)
        page = self._service.page(_state_in(request.state), after, request.page_size, studies, request.reason)
        return pb.ListRegistrationsResponse(
            registrations=[_registration(item) for item in page.registrations],
            next_page_token=str(page.next_after) if page.next_after else "",
        )

    def RetryRegistrations(self, request: pb.RetryRegistrationsRequest, context: grpc.ServicerContext) -> pb.RetryRegistrationsResponse:
        """Queue again."""
        guids = [_uuid(text, "guids") for text in request.guids]
        outcomes = self._service.retry(guids, current_caller().dn, published=request.published)
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

    def StartScan(self, request: pb.StartScanRequest, context: grpc.ServicerContext) -> pb.StartScanResponse:
        """Begin a scan."""
        scan_id = self._scans.start(scope_from_proto(request.scope), current_caller().dn, dry_run=request.dry_run)
        return pb.StartScanResponse(scan_id=str(scan_id))

    def WatchScan(self, request: pb.WatchScanRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchScanResponse]:
        """Report changes; while others watch already, report once, so that watches never take every thread of the server."""
        scan_id = _uuid(request.scan_id, "scan_id")
        ended = threading.Event()
        if not context.add_callback(ended.set):
            return
        scan = self._scans.get(scan_id)
        yield pb.WatchScanResponse(scan=scan_to_proto(scan))
        if not self._watches.acquire(blocking=False):
            return
        try:
            deadline = time.monotonic() + _WATCH_SECONDS
            while scan.state not in ENDED and time.monotonic() < deadline and not ended.wait(_POLL_SECONDS):
                before, scan = scan, self._scans.get(scan_id)
                if scan != before:
                    yield pb.WatchScanResponse(scan=scan_to_proto(scan))
        finally:
            self._watches.release()

    def ListScans(self, request: pb.ListScansRequest, context: grpc.ServicerContext) -> pb.ListScansResponse:
        """List the newest."""
        return pb.ListScansResponse(scans=[scan_to_proto(scan) for scan in self._scans.newest(request.page_size)])

    def CancelScan(self, request: pb.CancelScanRequest, context: grpc.ServicerContext) -> pb.CancelScanResponse:
        """End a scan."""
        self._scans.cancel(_uuid(request.scan_id, "scan_id"))
        return pb.CancelScanResponse()

    def Unregister(self, request: pb.UnregisterRequest, context: grpc.ServicerContext) -> pb.UnregisterResponse:
        """Queue removals."""
        by, note, dry_run = current_caller().dn, request.reason, request.dry_run
        if request.HasField("scope"):
            if request.guids or request.lfns or request.study_instance_uids:
                raise Invalid("SCOPE_AND_NAMES", "Give names or a scope, not both.")
            scan_id = self._scans.unregister_scope(scope_from_proto(request.scope), by, note, dry_run=dry_run)
            return pb.UnregisterResponse(scan_id=str(scan_id))
        guids = [_uuid(text, "guids") for text in request.guids]
        found = self._scans.unregister(guids, list(request.lfns), list(request.study_instance_uids), by, note, dry_run=dry_run)
        return pb.UnregisterResponse(results=[_unregistered(item) for item in found])


def _study(result: Queued | MdmError) -> pb.StudyResult:
    if isinstance(result, MdmError):
        return pb.StudyResult(status=status.failed(result))
    return pb.StudyResult(status=status.ok(), queued=result.queued, known=result.known)


def _unregistered(found: int | MdmError) -> pb.UnregisterResult:
    if isinstance(found, MdmError):
        return pb.UnregisterResult(status=status.failed(found))
    return pb.UnregisterResult(status=status.ok(), registrations=found)


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
        create_time=timestamp(item.created_at),
        modify_time=timestamp(item.modified_at),
        rule=item.rule,
    )


def _uuid(text: str, field: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("GUID_MALFORMED", "Not a GUID.", fields={field: "must be UUID text"}) from None
