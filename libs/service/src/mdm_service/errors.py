"""The error tree: what can go wrong, each kind with the gRPC code a caller sees."""

from collections.abc import Mapping
from typing import ClassVar


class MdmError(Exception):
    """A foreseen failure that is told to the caller.

    `reason` is a stable upper-case code for programs, `message` one line for a person (what, where, what to do) that never holds
    a name, an original identifier or a key. `fields` maps request fields to what is wrong with each. `code` is a google.rpc.Code.
    """

    code: ClassVar[int] = 2

    def __init__(self, reason: str, message: str, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = dict(fields or {})


class Cancelled(MdmError):
    """The caller has gone, so nobody is told; nothing was done."""

    code = 1

    def __init__(self) -> None:
        super().__init__("CALLER_GONE", "The call was cancelled, or its deadline passed.")


class Invalid(MdmError):
    """The request itself is wrong; repeating it will not help."""

    code = 3


class NotFound(MdmError):
    """There is no such thing, or the caller may not know that there is."""

    code = 5


class Conflict(MdmError):
    """It exists already with other content."""

    code = 6


class Forbidden(MdmError):
    """The caller may know of it but not do this."""

    code = 7


class Exhausted(MdmError):
    """A quota, a limit or the disk is full."""

    code = 8


class FailedPrecondition(MdmError):
    """The state of the object does not allow it."""

    code = 9


class Aborted(MdmError):
    """Somebody else changed it meanwhile; read again and retry."""

    code = 10


class Unavailable(MdmError):
    """A part this depends on is away; safe to retry."""

    code = 14


class Unauthenticated(MdmError):
    """The certificate is not acceptable."""

    code = 16


class ConfigurationError(Exception):
    """The configuration cannot be used; the message names file, key and remedy."""
