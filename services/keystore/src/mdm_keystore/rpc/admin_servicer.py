"""KeystoreAdminService over gRPC: messages to model and back."""

from collections.abc import Sequence
from uuid import UUID

import grpc
from mdm.keystore.v1 import admin_pb2, admin_pb2_grpc
from mdm_crypto.audit import ChainedEntry
from mdm_service.identity.caller import current_caller
from mdm_wire.errors import Invalid

from mdm_keystore.peer import message
from mdm_keystore.peer.message import uuid_from_proto
from mdm_keystore.rules.audit import MAX_PAGE, AuditTrail
from mdm_keystore.rules.resharing.job import JobControl
from mdm_keystore.rules.resharing.model import Job, Kind
from mdm_keystore.rules.rewrapping import Rewrapping

FULL_NAME = "mdm.keystore.v1.KeystoreAdminService"
_KINDS = {kind.value: kind for kind in Kind}


class AdminServicer(admin_pb2_grpc.KeystoreAdminServiceServicer):
    """Converts messages of operators and calls the rules."""

    def __init__(self, jobs: JobControl, rewrapping: Rewrapping, trail: AuditTrail) -> None:
        self._jobs = jobs
        self._rewrapping = rewrapping
        self._trail = trail

    def BeginResharing(self, request: admin_pb2.BeginResharingRequest, context: grpc.ServicerContext) -> admin_pb2.BeginResharingResponse:
        """Begin a job."""
        if request.kind not in _KINDS:
            raise Invalid("RESHARING_INVALID", "Unknown kind of job: it must refresh, repair or reshare.", fields={"kind": "unknown"})
        job = self._jobs.begin(
            current_caller(), uuid_from_proto(request.id), _KINDS[request.kind], request.threshold, request.total, tuple(request.lost)
        )
        return admin_pb2.BeginResharingResponse(resharing=_job_to_proto(job))

    def GetResharing(self, request: admin_pb2.GetResharingRequest, context: grpc.ServicerContext) -> admin_pb2.GetResharingResponse:
        """Show a job."""
        return admin_pb2.GetResharingResponse(resharing=_job_to_proto(*self._jobs.get(uuid_from_proto(request.id) if request.id else None)))

    def CancelResharing(
        self, request: admin_pb2.CancelResharingRequest, context: grpc.ServicerContext
    ) -> admin_pb2.CancelResharingResponse:
        """Stop a job."""
        return admin_pb2.CancelResharingResponse(resharing=_job_to_proto(self._jobs.cancel(current_caller(), uuid_from_proto(request.id))))

    def RewrapShares(self, request: admin_pb2.RewrapSharesRequest, context: grpc.ServicerContext) -> admin_pb2.RewrapSharesResponse:
        """Seal shares anew."""
        self._trail.rewrap()
        done = self._rewrapping.rewrap(current_caller())
        return admin_pb2.RewrapSharesResponse(rewrapped=done.rewrapped, remaining=done.remaining, unreadable=done.unreadable)

    def ListAuditEntries(
        self, request: admin_pb2.ListAuditEntriesRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListAuditEntriesResponse:
        """Show the audit chain."""
        if request.after_seq >= 1 << 63:
            raise Invalid("PAGE_TOKEN_WRONG", "No entry has such a number.", fields={"after_seq": "out of range"})
        entries, head = self._trail.page(request.after_seq, _page_size(request.page_size))
        return admin_pb2.ListAuditEntriesResponse(entries=[_entry_to_proto(entry) for entry in entries], head=message.head_to_proto(head))

    def ListWitnessedHeads(
        self, request: admin_pb2.ListWitnessedHeadsRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListWitnessedHeadsResponse:
        """Show the countersigned heads of others; the token is the number of the last head of the page before."""
        limit = _page_size(request.page_size)
        if len(request.page_token) > 18 or not (request.page_token or "0").isdecimal():
            raise Invalid("PAGE_TOKEN_WRONG", "The page token is not one that this service returned.", fields={"page_token": "malformed"})
        found = self._trail.witnessed(min(request.share_index, 32), int(request.page_token or "0"), limit)
        heads = [message.witnessed_head_to_proto(head) for _, head in found]
        token = str(found[-1][0]) if len(found) == limit else ""
        return admin_pb2.ListWitnessedHeadsResponse(heads=heads, next_page_token=token)


def _page_size(asked: int) -> int:
    if not 0 <= asked <= MAX_PAGE:
        raise Invalid("PAGE_SIZE_WRONG", f"A page has 1 to {MAX_PAGE} items.", fields={"page_size": "out of range"})
    return asked or MAX_PAGE


def _job_to_proto(job: Job, failures: Sequence[tuple[UUID, str]] = ()) -> admin_pb2.Resharing:
    message = admin_pb2.Resharing(
        id=str(job.id),
        kind=admin_pb2.ResharingKind.ValueType(job.kind),
        state=admin_pb2.ResharingState.ValueType(job.state),
        threshold=job.threshold,
        total=job.total,
        lost=job.lost,
        begun_by=job.begun_by,
        keys_done=job.keys_done,
        keys_failed=job.keys_failed,
        message=job.message,
        failures=[admin_pb2.ResharingFailure(guid=str(guid), reason=reason) for guid, reason in failures],
    )
    message.begin_time.FromDatetime(job.begin_time)
    if job.end_time is not None:
        message.end_time.FromDatetime(job.end_time)
    return message


def _entry_to_proto(chained: ChainedEntry) -> admin_pb2.AuditEntry:
    entry = chained.entry
    message = admin_pb2.AuditEntry(
        seq=chained.seq, who=entry.who, action=entry.action, guid=str(entry.guid), outcome=entry.outcome, hash=chained.hash
    )
    message.time.FromDatetime(entry.time)
    return message
