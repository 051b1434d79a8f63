"""Calls of grid services: which errors are final and which may pass, outcomes of batches, ACLs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm_service.access.acl import Acl
from mdm_wire import status
from mdm_wire.errors import Aborted, Conflict, Exhausted, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound, Unavailable

R = TypeVar("R")
_ABOUT_THE_REQUEST = (Invalid, NotFound, Conflict, Forbidden, Exhausted, Aborted, FailedPrecondition)


def classified(error: MdmError) -> MdmError:
    """Return an error that is about the request as it is; one that is about the service may pass, and becomes Unavailable."""
    return error if isinstance(error, _ABOUT_THE_REQUEST) else Unavailable(error.reason, error.message)


@contextmanager
def calling(place: str) -> Iterator[None]:
    """Classify the errors of a call, those of gRPC and of the client."""
    try:
        with status.translated(place):
            yield
    except MdmError as error:
        raise classified(error) from None


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


def refuse_acls(errors: Iterable[MdmError | None]) -> None:
    """Raise the first error of creating ACLs, if any.

    An ACL of ours that exists already has been changed since by a grant and is left as it is. One of another owner is an error:
    what is put under it would be the owner's to read.
    """
    for error in errors:
        if error is not None and error.reason != "ACL_EXISTS":
            raise error


class GridService:
    """Calls of one grid service, named `place` in errors, and its ACLs."""

    def __init__(self, place: str, channel: grpc.Channel, timeout: float) -> None:
        self._place = place
        self._timeout = timeout
        self._acls = acl_pb2_grpc.AclServiceStub(channel)

    def call(self, method: Callable[..., R], request: Message) -> R:
        """Return the response of a method of a stub.

        Raises:
            MdmError: the call failed; classified.
        """
        with calling(self._place):
            return method(request, timeout=self._timeout)

    def ensure_acls(self, acls: Sequence[Acl]) -> None:
        """Create the ACLs that are missing; see `AclHolder`."""
        response = self.call(self._acls.CreateAcls, acl_pb2.CreateAclsRequest(acls=to_messages(acls)))
        refuse_acls(outcomes(response.statuses))


def outcomes(statuses: Iterable[ItemStatus]) -> list[MdmError | None]:
    """Return why each item of a batch failed, None where it succeeded."""
    errors = (status.from_item(item) for item in statuses)
    return [None if error is None else classified(error) for error in errors]


def refuse_but(errors: Iterable[MdmError | None], accepted: type[MdmError] | tuple[type[MdmError], ...]) -> None:
    """Raise the first error that is not of a kind accepted, if any."""
    for error in errors:
        if error is not None and not isinstance(error, accepted):
            raise error
