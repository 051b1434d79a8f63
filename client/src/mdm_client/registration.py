"""A site's registrations, for its operators: scans of the PACS, removal, listings."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mdm.srm.v1 import registration_pb2 as pb
from mdm.srm.v1 import registration_pb2_grpc
from mdm_wire.batch import MAX_STUDIES, in_batches
from mdm_wire.errors import MdmError, TimedOut, Unavailable
from mdm_wire.status import from_item

from mdm_client.service import Service, Stream

_PAUSE_SECONDS = 1.0
_WATCH_SECONDS = 90.0
_UNREGISTER_SECONDS = 600.0
_ENDED = ("DONE", "CANCELLED", "FAILED")


@dataclass(frozen=True)
class Scan:
    """A scan: `state` is LISTING, INSPECTING, DONE, CANCELLED or FAILED, `action` REGISTER or UNREGISTER; `counts` are of instances."""

    id: str
    action: str
    state: str
    dry_run: bool
    requested_by: str
    reason: str
    studies: int
    inspected: int
    failed_studies: int
    counts: dict[str, int]
    created: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in _ENDED


class RegistrationClient:
    """Calls of `mdm.srm.v1.RegistrationService` beside those that register a study; operators only. They raise MdmError."""

    def __init__(self, service: Service, stub: registration_pb2_grpc.RegistrationServiceStub) -> None:
        self._service = service
        self._stub = stub

    def start_scan(self, scope: pb.Scope, *, dry_run: bool = False) -> str:
        """Begin to look at every study of a scope; return the scan's id at once."""
        response = self._service.call(self._stub.StartScan, pb.StartScanRequest(scope=scope, dry_run=dry_run))
        return str(response.scan_id)

    def watch_scan(self, scan_id: str) -> Iterator[Scan]:
        """Yield how far a scan is whenever that changes, until it has ended; a site that restarts meanwhile is waited for."""
        last: Scan | None = None
        retries = self._service.retries()
        while last is None or not last.ended:
            try:
                call = self._stub.WatchScan(pb.WatchScanRequest(scan_id=scan_id), timeout=_WATCH_SECONDS)
                for response in Stream(call, self._service.place):
                    scan = _scan(response.scan)
                    if scan != last:
                        last = scan
                        yield scan
                    retries.progress()
            except (Unavailable, TimedOut):
                if not retries.pause():
                    raise
            if last is None or not last.ended:
                time.sleep(_PAUSE_SECONDS)

    def scans(self) -> list[Scan]:
        """Return the scans that were started last, at most 100, the newest first."""
        return [_scan(item) for item in self._service.call(self._stub.ListScans, pb.ListScansRequest()).scans]

    def cancel_scan(self, scan_id: str) -> None:
        """End a scan; what it has found so far stays."""
        self._service.call(self._stub.CancelScan, pb.CancelScanRequest(scan_id=scan_id))

    def unregister(
        self, guids: Sequence[str], lfns: Sequence[str], study_uids: Sequence[str], reason: str = "", *, dry_run: bool = False
    ) -> list[int | MdmError]:
        """Have files, directories and studies, at most 1,000 together, removed; return how many images each is, or why not."""
        request = pb.UnregisterRequest(guids=guids, lfns=lfns, study_instance_uids=study_uids, reason=reason, dry_run=dry_run)
        results = self._service.call(self._stub.Unregister, request, timeout=_UNREGISTER_SECONDS).results
        return [from_item(item.status) or item.registrations for item in results]

    def unregister_scope(self, scope: pb.Scope, reason: str = "", *, dry_run: bool = False) -> str:
        """Have everything of a scope removed that is registered; return the id of the scan that does it."""
        response = self._service.call(self._stub.Unregister, pb.UnregisterRequest(scope=scope, reason=reason, dry_run=dry_run))
        return str(response.scan_id)

    def left_out(self) -> dict[str, int]:
        """Return how many images each rule of the site policy leaves out."""
        response = self._service.call(self._stub.GetRegistrationSummary, pb.GetRegistrationSummaryRequest())
        return {item.rule: item.count for item in response.rules}

    def registrations(self, state: str = "UNSPECIFIED", study_uids: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Yield registrations, all or those in a state and of some studies, in order of GUID for each hundred studies."""
        wanted = pb.RegistrationState.Value(f"REGISTRATION_STATE_{state}")
        for batch in in_batches(list(study_uids), MAX_STUDIES) if study_uids else [[]]:

            def request(token: str, batch: Sequence[str] = batch) -> pb.ListRegistrationsRequest:
                return pb.ListRegistrationsRequest(state=wanted, study_instance_uids=batch, page_token=token)

            for page in self._service.pages(self._stub.ListRegistrations, request):
                yield from map(_registration, page.registrations)


def _registration(item: pb.Registration) -> dict[str, Any]:
    return {
        "guid": item.guid,
        "state": pb.RegistrationState.Name(item.state).removeprefix("REGISTRATION_STATE_").lower(),
        "reason": item.reason,
        "rule": item.rule,
        "attempts": item.attempts,
        "created": item.create_time.ToJsonString(),
        "modified": item.modify_time.ToJsonString(),
    }


def _scan(item: pb.Scan) -> Scan:
    counts = {field.name: getattr(item.counts, field.name) for field in pb.ScanCounts.DESCRIPTOR.fields}
    return Scan(
        id=item.scan_id,
        action=pb.ScanAction.Name(item.action).removeprefix("SCAN_ACTION_"),
        state=pb.ScanState.Name(item.state).removeprefix("SCAN_STATE_"),
        dry_run=item.dry_run,
        requested_by=item.requested_by,
        reason=item.reason,
        studies=item.studies,
        inspected=item.inspected,
        failed_studies=item.failed_studies,
        counts={name: count for name, count in counts.items() if count},
        created=item.create_time.ToJsonString(),
    )
