"""Which calls may be sent again, after which errors, how long and with which pauses: the one definition for services and clients."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from mdm_wire.errors import Code, MdmError, Unauthenticated, Unavailable
from mdm_wire.status import REASON_HANDSHAKE_REFUSED, REASON_NO_SUCH_HOST, REASON_TOO_MANY_CALLS

_TRANSIENT = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.RESOURCE_EXHAUSTED)


@cache
def is_idempotent(method: str) -> bool:
    """Return whether the method of a full name (`/package.Service/Method`) declares that sending it twice does no more than once.

    An unknown method, and one that declares nothing, is not.
    """
    service, _, name = method.removeprefix("/").partition("/")
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
    except KeyError:
        return False
    return bool(found.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN)


def is_transient(error: MdmError) -> bool:
    """Return whether the same call may succeed later without anyone doing anything."""
    return error.code in _TRANSIENT and not needs_mending(error)


def is_away(error: MdmError) -> bool:
    """Return whether the service did not take the call, so that an idempotent one is sent again within seconds: it is away, or busy."""
    return (isinstance(error, Unavailable) and not needs_mending(error)) or is_busy(error)


def is_busy(error: MdmError) -> bool:
    """Return whether the server refused only because calls of the same caller are under way; it did not look at the request."""
    return error.reason == REASON_TOO_MANY_CALLS


def needs_mending(error: MdmError) -> bool:
    """Return whether no call to the same service can succeed before somebody changes something: a certificate, or the configuration."""
    return isinstance(error, Unauthenticated) or error.reason == REASON_NO_SUCH_HOST


def is_refused_handshake(error: MdmError) -> bool:
    """Return whether TLS was refused. A server killed while it accepts looks like that, once."""
    return error.reason == REASON_HANDSHAKE_REFUSED


@dataclass(frozen=True)
class RetryPolicy:
    """How long calls are tried: `call_seconds` for one attempt, `retry_seconds` for all of them while a service is away."""

    call_seconds: float = 30.0
    retry_seconds: float = 8.0


class Backoff:
    """Pauses in seconds that double from `first` to `longest`, with jitter so that many clients do not return together."""

    def __init__(self, first: float = 0.1, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """Return the next pause in seconds."""
        pause = self._next * random.uniform(0.7, 1.3)  # noqa: S311 - jitter needs no secrecy
        self._next = min(self._next * 2, self._longest)
        return pause

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._next = self._first


class Retries:
    """The attempts of one operation: pauses between them, for at most `seconds` since the last progress."""

    def __init__(self, seconds: float, backoff: Backoff | None = None, sleep: Callable[[float], object] = time.sleep) -> None:
        self._seconds = seconds
        self._backoff = backoff or Backoff()
        self._sleep = sleep
        self._give_up = time.monotonic() + seconds
        self._handshakes = 0

    def progress(self) -> None:
        """Count the time, and the pauses, from now."""
        self._backoff.reset()
        self._give_up = time.monotonic() + self._seconds
        self._handshakes = 0

    def pause(self) -> bool:
        """Pause before the next attempt and return True; False, at once, where it would come too late."""
        pause = self._backoff.pause()
        if time.monotonic() + pause > self._give_up:
            return False
        self._sleep(pause)
        return True

    def after(self, failure: MdmError, is_worth: Callable[[MdmError], bool] = is_away) -> None:
        """Pause before the attempt that follows a failure of an idempotent one; one refused TLS handshake counts as being away.

        Raises:
            MdmError: the failure, where another attempt is not worth it or comes too late.
        """
        self._handshakes += is_refused_handshake(failure)
        forgiven = is_refused_handshake(failure) and self._handshakes == 1
        if not (forgiven or is_worth(failure)) or not self.pause():
            raise failure
