"""Errors of the grid's services, as registration judges them: final, or such as may pass by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

from mdm.common.v1.common_pb2 import ItemStatus
from mdm_wire import status
from mdm_wire.errors import Aborted, Conflict, Exhausted, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound, Unavailable

_OF_THE_REQUEST = (Invalid, NotFound, Conflict, Forbidden, Exhausted, Aborted, FailedPrecondition)


def judged(error: MdmError) -> MdmError:
    """Return the error if it is about what was asked; what is about the service itself may pass and is Unavailable."""
    return error if isinstance(error, _OF_THE_REQUEST) else Unavailable(error.reason, error.message)


def from_item(item: ItemStatus) -> MdmError | None:
    """Return why an item of a batch failed, None if it succeeded."""
    error = status.from_item(item)
    return None if error is None else judged(error)


@contextmanager
def calling(place: str) -> Iterator[None]:
    """Turn errors of a call inside, of gRPC and of the client, into judged ones."""
    try:
        with status.translated(place):
            yield
    except MdmError as error:
        raise judged(error) from None
