"""The error tree of services and clients: each kind has the code that crosses the network."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Self, TypeAlias

#: What a person reads of a file that does not exist, and of one that the caller may not know of: the two look alike.
NO_SUCH_FILE = "no such file, or not for you"


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
    a name, an original identifier or a key. `fields` maps fields of the request to what is wrong with each. An error whose `code` has no
    class of its own carries it.
    """

    code: Code = Code.UNKNOWN

    def __init__(self, reason: str, message: str, *, fields: Mapping[str, str] | None = None, code: Code | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = dict(fields or {})
        if code is not None:
            self.code = code

    def __init_subclass__(cls, code: Code | None = None) -> None:
        cls.code = code or cls.code

    def at(self, place: str) -> Self:
        """Return the same error with a message that begins with where it happened."""
        return self.saying(f"{place}: {self.message}")

    def saying(self, message: str) -> Self:
        """Return the same error with another message."""
        return type(self)(self.reason, message, fields=self.fields, code=self.code)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code.name}, {self.reason}, {self.message!r})"


class Cancelled(MdmError, code=Code.CANCELLED):
    """The caller cancelled the call; nothing was done."""

    def __init__(
        self, reason: str = "CALLER_GONE", message: str = "The call was cancelled, or its deadline passed.", **further: Any
    ) -> None:
        super().__init__(reason, message, **further)


class Invalid(MdmError, code=Code.INVALID_ARGUMENT):
    """The request, an argument or the configuration is wrong; repeating it cannot help."""


class TimedOut(MdmError, code=Code.DEADLINE_EXCEEDED):
    """No answer before the deadline."""


class NotFound(MdmError, code=Code.NOT_FOUND):
    """The object does not exist, or the caller may not know that it does."""


class Conflict(MdmError, code=Code.ALREADY_EXISTS):
    """The object exists already, with other content."""


class Forbidden(MdmError, code=Code.PERMISSION_DENIED):
    """The caller may know of the object but not do this."""


class Exhausted(MdmError, code=Code.RESOURCE_EXHAUSTED):
    """A quota, a limit or the disk is full; repeat later or ask for less."""


class FailedPrecondition(MdmError, code=Code.FAILED_PRECONDITION):
    """The state of the object does not allow it."""


class Aborted(MdmError, code=Code.ABORTED):
    """Somebody else has changed the object meanwhile; read it again and retry."""


class Unavailable(MdmError, code=Code.UNAVAILABLE):
    """Something that the call depends on does not answer; safe to retry."""


class Corrupt(MdmError, code=Code.DATA_LOSS):
    """Received data are damaged or altered: a failed authentication, a wrong size, a bad share."""


class Unauthenticated(MdmError, code=Code.UNAUTHENTICATED):
    """The caller's certificate was refused, or the server's cannot be trusted."""


#: Why an item of a batch failed; None where it succeeded.
Failure: TypeAlias = MdmError | None

_KINDS: dict[Code, type[MdmError]] = {**{kind.code: kind for kind in MdmError.__subclasses__()}, Code.OUT_OF_RANGE: Invalid}


def make_error(code: Code, reason: str, message: str) -> MdmError:
    """Return an error of the class for `code`, or an MdmError with this code if there is no class."""
    kind = _KINDS.get(code, MdmError)
    return kind(reason or code.name, message or code.name.lower().replace("_", " "), code=code)
