"""Outcome of one item of a batch, as protobuf."""

from mdm.common.v1 import common_pb2
from mdm_wire.errors import MdmError


def ok() -> common_pb2.ItemStatus:
    """Return the status of an item that succeeded."""
    return common_pb2.ItemStatus()


def failed(error: MdmError) -> common_pb2.ItemStatus:
    """Return the status of an item that failed with `error`."""
    return common_pb2.ItemStatus(code=error.code, reason=error.reason, message=error.message)
