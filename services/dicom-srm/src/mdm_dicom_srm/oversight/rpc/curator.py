"""CuratorService of mdm.srm.v1: messages to calls and back."""

from collections.abc import Sequence

import grpc
from mdm.common.v1 import common_pb2
from mdm.srm.v1 import curator_pb2 as pb
from mdm_service.identity.caller import current_caller
from mdm_wire import status

from mdm_dicom_srm.judgement import RELEASABLE
from mdm_dicom_srm.oversight.rpc import message
from mdm_dicom_srm.oversight.rpc.desk import DeskCalls, kind
from mdm_dicom_srm.oversight.rules.curation import CurationService
from mdm_dicom_srm.oversight.rules.desk import DeskService
from mdm_dicom_srm.oversight.rules.model import Group
from mdm_dicom_srm.register.rules.model import Action, Decision

FULL_NAME = "mdm.srm.v1.CuratorService"
_PREFIX = "DECISION_ACTION_"


class CuratorServicer(DeskCalls):
    """Serves curators."""

    def __init__(self, service: CurationService, desk: DeskService) -> None:
        super().__init__(desk)
        self._service = service

    def ListQuarantine(self, request: pb.ListQuarantineRequest, context: grpc.ServicerContext) -> pb.ListQuarantineResponse:
        """List a page; the page token is series and reason of the last group."""
        found = self._service.groups(request.reason, message.group_key(request.page_token), request.page_size)
        last = f"{found[-1].series_token.hex()}:{found[-1].reason}" if message.is_full(found, request.page_size) else ""
        return pb.ListQuarantineResponse(groups=[_group(item) for item in found], next_page_token=last)

    def ListQuarantinedInstances(
        self, request: pb.ListQuarantinedInstancesRequest, context: grpc.ServicerContext
    ) -> pb.ListQuarantinedInstancesResponse:
        """List a page, of a series or a kind; the page token is the last GUID."""
        after = message.uuid(request.page_token, "page_token") if request.page_token else None
        if request.kind:
            found = self.desk.waiting(message.digits(request.kind, "kind"), request.reason, after, request.page_size)
        else:
            found = self._service.waiting(message.digits(request.series, "series"), request.reason, after, request.page_size)
        last = str(found[-1].guid) if message.is_full(found, request.page_size) else ""
        return pb.ListQuarantinedInstancesResponse(instances=[message.waiting(item) for item in found], next_page_token=last)

    def GetQuarantined(self, request: pb.GetQuarantinedRequest, context: grpc.ServicerContext) -> pb.GetQuarantinedResponse:
        """Show an instance."""
        shown = self._service.show(message.uuid(request.guid, "guid"))
        locator = shown.held.locator
        return pb.GetQuarantinedResponse(
            instance=message.waiting(shown.held.waiting),
            series=shown.held.series_token.hex(),
            releasable=shown.held.waiting.reason in RELEASABLE,
            study_instance_uid=locator.study_uid,
            series_instance_uid=locator.series_uid,
            sop_instance_uid=locator.sop_uid,
            elements=[message.element(item) for item in shown.elements],
            suspicious=[message.element(item) for item in shown.suspicious],
            kind=kind(shown.kind_name, shown.kind),
            suspicions=sorted(shown.suspicions),
        )

    def ReleaseQuarantined(self, request: pb.ReleaseQuarantinedRequest, context: grpc.ServicerContext) -> pb.ReleaseQuarantinedResponse:
        """Release instances."""
        return pb.ReleaseQuarantinedResponse(statuses=self._decide(Action.RELEASED, request.guids, request.note))

    def DropQuarantined(self, request: pb.DropQuarantinedRequest, context: grpc.ServicerContext) -> pb.DropQuarantinedResponse:
        """Leave instances out."""
        return pb.DropQuarantinedResponse(statuses=self._decide(Action.DROPPED, request.guids, request.note))

    def RetryQuarantined(self, request: pb.RetryQuarantinedRequest, context: grpc.ServicerContext) -> pb.RetryQuarantinedResponse:
        """Have instances judged again."""
        return pb.RetryQuarantinedResponse(statuses=self._decide(Action.RETRIED, request.guids, request.note))

    def ListDecisions(self, request: pb.ListDecisionsRequest, context: grpc.ServicerContext) -> pb.ListDecisionsResponse:
        """List a page; the page token is the last number."""
        guid = message.uuid(request.guid, "guid") if request.guid else None
        found = self._service.made(guid, message.number(request.page_token), request.page_size)
        last = str(found[-1][0]) if message.is_full(found, request.page_size) else ""
        return pb.ListDecisionsResponse(decisions=[_decision(item) for _, item in found], next_page_token=last)

    def _decide(self, action: Action, texts: Sequence[str], note: str) -> list[common_pb2.ItemStatus]:
        guids = [message.uuid(text, "guids") for text in texts]
        outcomes = self._service.decide(action, guids, current_caller().dn, note)
        return [status.ok() if (error := outcomes[guid]) is None else status.failed(error) for guid in guids]


def _group(item: Group) -> pb.QuarantineGroup:
    return pb.QuarantineGroup(
        series=item.series_token.hex(),
        reason=item.reason,
        count=item.count,
        oldest_time=message.timestamp(item.oldest),
        newest_time=message.timestamp(item.newest),
        example_guid=str(item.example),
        releasable=item.reason in RELEASABLE,
    )


def _decision(item: Decision) -> pb.Decision:
    return pb.Decision(
        time=message.timestamp(item.at),
        subject=item.subject,
        action=pb.DecisionAction.Value(f"{_PREFIX}{item.action}"),
        guid=str(item.guid),
        reason=item.reason,
        note=item.note,
    )
