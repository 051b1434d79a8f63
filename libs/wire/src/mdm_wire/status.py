"""Errors as gRPC statuses: that of a call with google.rpc details, and that of one item of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from mdm.common.v1.common_pb2 import ItemStatus

from mdm_wire.errors import Code, MdmError, TimedOut, Unauthenticated, Unavailable, make_error

ERROR_DOMAIN = "mdm"
REASON_HANDSHAKE_REFUSED = "HANDSHAKE_REFUSED"
REASON_NO_SUCH_HOST = "NO_SUCH_HOST"
REASON_SERVER_NOT_TRUSTED = "SERVER_NOT_TRUSTED"
REASON_TOO_MANY_CALLS = "TOO_MANY_CALLS"
REASON_UNAVAILABLE = "UNAVAILABLE"

# How grpc-core (1.85, observed) words what goes wrong while it connects. A TLS 1.3 server judges the client's certificate
# after the client believes the handshake done, so a refusal arrives as a fresh connection that closes at once.
_CONNECTING = ("connections to all backends failing", "failed to connect to all addresses")
_CLOSED_AT_ONCE = ("Socket closed", "Connection reset", "Broken pipe", "ALERT")
_HANDSHAKE_UNFINISHED = "Handshake read failed"
_SERVER_NOT_TRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification")
_NOT_TLS = "WRONG_VERSION_NUMBER"
_NOT_RESOLVED = "errors resolving"
# What the resolver says of a name that does not exist; anything else, such as that no DNS server answers, may pass.
_NO_SUCH_HOST = ("Domain name not found", "Name or service not known", "nodename nor servname provided")


def ok() -> ItemStatus:
    """Return the status of an item that succeeded."""
    return ItemStatus()


def failed(error: MdmError) -> ItemStatus:
    """Return the status of an item that failed with `error`."""
    return ItemStatus(code=int(error.code), reason=error.reason, message=error.message)


def to_item(error: MdmError | None) -> ItemStatus:
    """Return the status of one item of a batch: its error, or success."""
    return ok() if error is None else failed(error)


def from_item(status: ItemStatus) -> MdmError | None:
    """Return the error in the status of one item of a batch, None if it succeeded."""
    if status.code == 0:
        return None
    return make_error(_code(status.code), status.reason, _one_line(status.message))


def to_status(error: MdmError) -> status_pb2.Status:
    """Return the status of a call that failed with `error`, its reason as ErrorInfo and its fields as BadRequest."""
    status = status_pb2.Status(code=int(error.code), message=error.message)
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN))
    if error.fields:
        violations = [error_details_pb2.BadRequest.FieldViolation(field=name, description=text) for name, text in error.fields.items()]
        _add(status, error_details_pb2.BadRequest(field_violations=violations))
    return status


def from_rpc_error(error: grpc.RpcError, place: str = "") -> MdmError:
    """Return the error of a failed call; `place` names the service in its message."""
    code = Code(error.code().value[0]) if isinstance(error, grpc.Call) else Code.UNKNOWN
    details = (error.details() if isinstance(error, grpc.Call) else str(error)) or ""
    reason, fields = _details(error)
    if code is Code.UNAVAILABLE and not reason:
        found = _explain_unavailable(details)
    elif code is Code.DEADLINE_EXCEEDED and not reason:
        found = TimedOut("DEADLINE_EXCEEDED", "no answer in time; try again")
    else:
        found = make_error(code, reason, _one_line(details))
    found.fields = fields
    return found.at(place) if place else found


@contextmanager
def translated(place: str = "") -> Iterator[None]:
    """Turn a grpc.RpcError raised inside into an MdmError; use as context manager or decorator."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, place) from error


def _details(error: grpc.RpcError) -> tuple[str, dict[str, str]]:
    """Return the reason and the fields in a status, empty where it has none."""
    if not isinstance(error, grpc.Call):
        return "", {}
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return "", {}
    reason, fields = "", {}
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            reason = str(info.reason)
        elif detail.Unpack(request):
            fields = {violation.field: violation.description for violation in request.field_violations}
    return reason, fields


def _code(number: int) -> Code:
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def _add(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _explain_unavailable(details: str) -> MdmError:
    if any(word in details for word in _SERVER_NOT_TRUSTED):
        return Unauthenticated(
            REASON_SERVER_NOT_TRUSTED,
            "the server's certificate is not one this client trusts; check `ca` and the address in the configuration",
        )
    if _NOT_TLS in details:
        return Unauthenticated(REASON_SERVER_NOT_TRUSTED, "the server does not speak TLS; check the address in the configuration")
    connecting = any(word in details for word in _CONNECTING) and _HANDSHAKE_UNFINISHED not in details
    if connecting and any(word in details for word in _CLOSED_AT_ONCE):
        return Unauthenticated(
            REASON_HANDSHAKE_REFUSED,
            "the server refused this certificate in the TLS handshake: it is expired or from an authority the server "
            "does not trust; check `certificate` in the configuration",
        )
    if _NOT_RESOLVED in details:
        reason = REASON_NO_SUCH_HOST if any(word in details for word in _NO_SUCH_HOST) else REASON_UNAVAILABLE
        return Unavailable(reason, "no such host; check the address in the configuration")
    return Unavailable(REASON_UNAVAILABLE, "cannot be reached; check that it is running, then try again")
