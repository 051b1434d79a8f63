"""SiteService of mdm.srm.v1: messages to calls and back."""

from importlib.metadata import version

import grpc
from mdm.srm.v1 import registration_pb2, site_pb2_grpc
from mdm.srm.v1 import site_pb2 as pb
from mdm_wire.errors import Invalid

from mdm_dicom_srm.oversight.rpc.message import timestamp
from mdm_dicom_srm.oversight.rules.site import ForwarderStatus, SiteService, StateReason
from mdm_dicom_srm.register.rules.model import State

FULL_NAME = "mdm.srm.v1.SiteService"
_PREFIX = "REGISTRATION_STATE_"


class SiteServicer(site_pb2_grpc.SiteServiceServicer):
    """Serves operators of `site`."""

    def __init__(self, service: SiteService, site: str) -> None:
        self._service = service
        self._site = site
        self._version = version("mdm-dicom-srm")

    def GetSiteStatus(self, request: pb.GetSiteStatusRequest, context: grpc.ServicerContext) -> pb.GetSiteStatusResponse:
        """Report the site at a glance."""
        status = self._service.status()
        states = [
            pb.StateStatus(state=_out(item.state), count=item.count, oldest_time=timestamp(item.oldest), newest_time=timestamp(item.newest))
            for item in status.states
        ]
        spool = status.spool
        return pb.GetSiteStatusResponse(
            site=self._site,
            version=self._version,
            states=states,
            conflicts=status.conflicts,
            dependencies=[pb.DependencyStatus(name=item.name, up=not item.reason, reason=item.reason) for item in status.dependencies],
            forwarder=None if status.forwarder is None else _forwarder(status.forwarder),
            instances=[
                pb.InstanceStatus(
                    name=item.name, host=item.host, start_time=timestamp(item.started), beat_time=timestamp(item.beat), lost=item.lost
                )
                for item in status.instances
            ],
            spool=pb.SpoolStatus(quota=spool.quota, stored=spool.stored, pinned=spool.pinned, files=spool.files),
        )

    def ListReasons(self, request: pb.ListReasonsRequest, context: grpc.ServicerContext) -> pb.ListReasonsResponse:
        """Count by state and reason."""
        return pb.ListReasonsResponse(reasons=[_reason(item) for item in self._service.reasons([_in(value) for value in request.states])])

    def GetPolicy(self, request: pb.GetPolicyRequest, context: grpc.ServicerContext) -> pb.GetPolicyResponse:
        """Report what decides about images."""
        return pb.GetPolicyResponse(
            settings=[pb.PolicySetting(name=name, value=value) for name, value in self._service.policy.items()],
            filtered=[pb.ReasonCount(reason=reason, count=count) for reason, count in self._service.filtered()],
        )


def _forwarder(item: ForwarderStatus) -> pb.ForwarderStatus:
    return pb.ForwarderStatus(
        waiting=item.waiting,
        refused=[pb.ReasonCount(reason=reason, count=count) for reason, count in item.refused.items()],
        oldest_time=None if item.oldest is None else timestamp(item.oldest),
        report_time=timestamp(item.at),
    )


def _reason(item: StateReason) -> pb.StateReason:
    return pb.StateReason(
        state=_out(item.state),
        reason=item.reason,
        count=item.count,
        oldest_time=timestamp(item.oldest),
        newest_time=timestamp(item.newest),
        due_time=timestamp(item.due) if item.due else None,
        example_guid=str(item.example),
    )


def _in(value: registration_pb2.RegistrationState.ValueType) -> State:
    try:
        return State(registration_pb2.RegistrationState.Name(value).removeprefix(_PREFIX))
    except ValueError:
        raise Invalid("STATE_UNKNOWN", "No such state of a registration.", fields={"states": "unknown value"}) from None


def _out(state: State) -> registration_pb2.RegistrationState.ValueType:
    return registration_pb2.RegistrationState.Value(f"{_PREFIX}{state}")
