"""ACLs of one grid service."""

from collections.abc import Iterable, Sequence

import grpc
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm_service.access.acl import Acl
from mdm_wire.errors import MdmError

from mdm_dicom_srm.grid.error import calling, from_item


def to_messages(acls: Sequence[Acl]) -> list[acl_pb2.Acl]:
    """Return ACLs as messages; an empty owner means the caller."""
    return [
        acl_pb2.Acl(
            id=str(acl.id),
            owner=acl.owner,
            entries=[acl_pb2.AclEntry(principal=entry.principal, permissions=int(entry.permissions)) for entry in acl.entries],
        )
        for acl in acls
    ]


def refuse(errors: Iterable[MdmError | None]) -> None:
    """Raise the first error, if any.

    An ACL of ours that exists already has been changed since by a grant and is left as it is. One of another owner is an error:
    what is put under it would be the owner's to read.
    """
    for error in errors:
        if error is not None and error.reason != "ACL_EXISTS":
            raise error


class GrpcAcls:
    """AclService on a channel."""

    def __init__(self, place: str, channel: grpc.Channel, timeout: float) -> None:
        self.place = place
        self.timeout = timeout
        self._stub = acl_pb2_grpc.AclServiceStub(channel)

    def ensure_acls(self, acls: Sequence[Acl]) -> None:
        """Create the ACLs that are missing; see `register.port.AclHolder`."""
        with calling(self.place):
            response = self._stub.CreateAcls(acl_pb2.CreateAclsRequest(acls=to_messages(acls)), timeout=self.timeout)
        refuse(outcomes(response.statuses))


def outcomes(statuses: Iterable[ItemStatus]) -> list[MdmError | None]:
    """Return one outcome for each item."""
    return [from_item(status) for status in statuses]


def refuse_but(errors: Iterable[MdmError | None], accepted: type[MdmError] | tuple[type[MdmError], ...]) -> None:
    """Raise the first error that is not of a kind accepted, if any."""
    for error in errors:
        if error is not None and not isinstance(error, accepted):
            raise error
