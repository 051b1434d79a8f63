"""Errors of the grid's clients as errors of this service."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm_wire.errors import Aborted, Conflict, Exhausted, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.status import from_item, translated

_KINDS: dict[grpc.StatusCode, type[MdmError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
}


def from_client(error: MdmError) -> MdmError:
    """Return the error that stands for a client's; what may pass by itself is Unavailable."""
    return _KINDS.get(error.code, Unavailable)(error.reason, error.message)


def from_item(status: ItemStatus) -> MdmError | None:
    """Return why an item of a batch failed, None if it succeeded."""
    error = from_item(status)
    return None if error is None else from_client(error)


@contextmanager
def calling(place: str) -> Iterator[None]:
    """Turn gRPC and client errors raised inside into MdmError."""
    try:
        with translated(place):
            yield
    except MdmError as error:
        raise from_client(error) from None
