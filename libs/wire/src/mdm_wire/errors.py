"""The error tree of services and clients: each kind has the code that crosses the network."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Self


class Code(IntEnum):
    """google.rpc.Code, by gRPC's names and numbers (google/rpc/code.proto)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class MdmError(Exception):
    """A foreseen failure of a call, or of one item of it.

    `reason` is a stable upper-case code for programs. `message` is one line for a person (what, where, what to do) that never holds
    a name, an original identifier or a key. `fields` maps fields of the request to what is wrong with each. A kind that has no class
    of its own carries its `code`.
    """

    code: Code = Code.UNKNOWN

    def __init__(self, reason: str, message: str, *, fields: Mapping[str, str] | None = None, code: Code | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = dict(fields or {})
        if code is not None:
            self.code = code

    def at(self, place: str) -> Self:
        """Return the same error with a message that begins with where it happened."""
        return self.saying(f"{place}: {self.message}")

    def saying(self, message: str) -> Self:
        """Return the same error with another message."""
        return type(self)(self.reason, message, fields=self.fields, code=self.code)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code.name}, {self.reason}, {self.message!r})"


class Cancelled(MdmError):
    """The caller gave the call up; nothing was done."""

    code = Code.CANCELLED

    def __init__(
        self,
        reason: str = "CALLER_GONE",
        message: str = "The call was cancelled, or its deadline passed.",
        *,
        fields: Mapping[str, str] | None = None,
        code: Code | None = None,
    ) -> None:
        super().__init__(reason, message, fields=fields, code=code)


class Invalid(MdmError):
    """The request, an argument or the configuration is wrong; repeating it cannot help."""

    code = Code.INVALID_ARGUMENT


class TimedOut(MdmError):
    """No answer before the deadline."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(MdmError):
    """There is no such thing, or the caller may not know that there is."""

    code = Code.NOT_FOUND


class Conflict(MdmError):
    """It exists already with other content."""

    code = Code.ALREADY_EXISTS


class Forbidden(MdmError):
    """The caller may know of it but not do this."""

    code = Code.PERMISSION_DENIED


class Exhausted(MdmError):
    """A quota, a limit or the disk is full; repeat later or ask for less."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(MdmError):
    """The state of the object does not allow it."""

    code = Code.FAILED_PRECONDITION


class Aborted(MdmError):
    """Somebody else changed it meanwhile; read again and retry."""

    code = Code.ABORTED


class Unavailable(MdmError):
    """A part this depends on is away; safe to retry."""

    code = Code.UNAVAILABLE


class Corrupt(MdmError):
    """Received data are not what their creator made: a failed authentication, a wrong size, a bad share."""

    code = Code.DATA_LOSS


class Unauthenticated(MdmError):
    """The caller's certificate was refused, or the server's cannot be trusted."""

    code = Code.UNAUTHENTICATED


_KINDS: dict[Code, type[MdmError]] = {**{kind.code: kind for kind in MdmError.__subclasses__()}, Code.OUT_OF_RANGE: Invalid}


def make_error(code: Code, reason: str, message: str) -> MdmError:
    """Return an error of the class that belongs to `code`, or one without a class of its own that carries the code."""
    kind = _KINDS.get(code, MdmError)
    return kind(reason or code.name, message or code.name.lower().replace("_", " "), code=code)
