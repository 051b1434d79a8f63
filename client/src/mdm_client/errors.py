"""Errors of the SDK, one class per kind of failure, made from what the services answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from mdm.common.v1.common_pb2 import ItemStatus

REASON_HANDSHAKE_REFUSED = "HANDSHAKE_REFUSED"
REASON_SERVER_NOT_TRUSTED = "SERVER_NOT_TRUSTED"
REASON_TOO_MANY_CALLS = "TOO_MANY_CALLS"
REASON_UNAVAILABLE = "UNAVAILABLE"


class MdmError(Exception):
    """A call or one item of it failed.

    `reason` is stable and for programs; `message` is one line for a person: what, where, what to do.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(self, code: grpc.StatusCode, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = " ".join(message.split())

    @classmethod
    def because(cls, reason: str, message: str) -> "MdmError":
        """Return an error of this class with the class's own status code."""
        return cls(cls.default_code, reason, message)

    def at(self, place: str) -> "MdmError":
        """Return the same error whose message begins with where it happened."""
        return type(self)(self.code, self.reason, f"{place}: {self.message}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code.name}, {self.reason}, {self.message!r})"


class NotFound(MdmError):
    """No such object, or not visible to this caller: the services do not tell which."""

    default_code = grpc.StatusCode.NOT_FOUND


class Forbidden(MdmError):
    """The caller is known and may not do this."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(MdmError):
    """The caller's certificate was refused, or the server's cannot be trusted."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class Invalid(MdmError):
    """The request, an argument or the configuration is wrong; repeating it cannot help."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class Conflict(MdmError):
    """Something else has that name or identifier already."""

    default_code = grpc.StatusCode.ALREADY_EXISTS


class Aborted(MdmError):
    """Another change came first; read again and repeat."""

    default_code = grpc.StatusCode.ABORTED


class Exhausted(MdmError):
    """A limit or quota is reached; repeat later or ask for less."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(MdmError):
    """The service cannot be reached now; safe to repeat."""

    default_code = grpc.StatusCode.UNAVAILABLE


class TimedOut(MdmError):
    """No answer before the deadline."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(MdmError):
    """The caller gave the call up."""

    default_code = grpc.StatusCode.CANCELLED


class Corrupt(MdmError):
    """Received data is not what its creator made: a failed authentication, a wrong size, a bad share."""

    default_code = grpc.StatusCode.DATA_LOSS


_CLASSES: dict[grpc.StatusCode, type[MdmError]] = {
    **{kind.default_code: kind for kind in MdmError.__subclasses__()},
    grpc.StatusCode.FAILED_PRECONDITION: Invalid,
    grpc.StatusCode.OUT_OF_RANGE: Invalid,
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

# How grpc-core (1.85, observed) words what goes wrong while it connects. A TLS 1.3 server judges the client's certificate
# after the client believes the handshake done, so a refusal arrives as a fresh connection that closes at once.
_CONNECTING = ("connections to all backends failing", "failed to connect to all addresses")
_CLOSED_AT_ONCE = ("Socket closed", "Connection reset", "Broken pipe", "ALERT")
_HANDSHAKE_UNFINISHED = "Handshake read failed"
_SERVER_NOT_TRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification")
_NOT_TLS = "WRONG_VERSION_NUMBER"
_NO_SUCH_HOST = "errors resolving"


def make_error(code: grpc.StatusCode, reason: str, message: str) -> MdmError:
    """Return an error of the class that belongs to `code`."""
    return _CLASSES.get(code, MdmError)(code, reason or code.name, message or code.name.lower().replace("_", " "))


def from_item(status: ItemStatus) -> MdmError | None:
    """Return the error that one item of a batch ended with, None if it succeeded."""
    if status.code == 0:
        return None
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return make_error(code, status.reason, status.message)


def from_rpc_error(error: grpc.RpcError, place: str = "") -> MdmError:
    """Return what a failed call means; `place` names the service for the person who reads it."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = (error.details() if isinstance(error, grpc.Call) else str(error)) or ""
    reason = _reason(error)
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        translated_error = _explain_unavailable(details)
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED and not reason:
        translated_error = TimedOut("DEADLINE_EXCEEDED", "no answer in time; try again")
    else:
        translated_error = make_error(code, reason, details)
    return translated_error.at(place) if place else translated_error


@contextmanager
def translated(place: str = "") -> Iterator[None]:
    """Turn a grpc.RpcError raised inside into a MdmError; use as context manager or decorator."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, place) from error


def _reason(error: grpc.RpcError) -> str:
    if not isinstance(error, grpc.Call):
        return ""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return ""
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""


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
    if _NO_SUCH_HOST in details:
        return Unavailable(REASON_UNAVAILABLE, "no such host; check the address in the configuration")
    return Unavailable(REASON_UNAVAILABLE, "cannot be reached; check that it is running, then try again")
