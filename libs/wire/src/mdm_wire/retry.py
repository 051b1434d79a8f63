"""The rules that services and clients share: which calls may be retried, after which errors, with which pauses.

Staging, transfer and key creation add limits of their own. Which of the four questions a caller asks of an error:

| `is_unavailable` | should this idempotent call be retried within seconds? (`Retries.after`) |
| `is_busy` | may even a call that is not idempotent be retried? (`mdm_client.service`, transfer) |
| `is_transient` | is it worth keeping this file or request for a later attempt? (staging, transfer, reading of shares) |
| `needs_mending` | is every further call to this service in vain? (staging, download) |
"""

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

    False for an unknown method and for one that declares nothing.
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


def is_unavailable(error: MdmError) -> bool:
    """Return whether an idempotent call should be retried within seconds because the service is unreachable or busy.

    The call may have been carried out.
    """
    return (isinstance(error, Unavailable) and not needs_mending(error)) or is_busy(error)


def is_busy(error: MdmError) -> bool:
    """Return whether the server refused only because the same caller has too many calls running; it did not look at the request."""
    return error.reason == REASON_TOO_MANY_CALLS


def needs_mending(error: MdmError) -> bool:
    """Return whether every call to this service will fail until somebody changes a certificate or the configuration."""
    return isinstance(error, Unauthenticated) or error.reason == REASON_NO_SUCH_HOST


def is_refused_handshake(error: MdmError) -> bool:
    """Return whether TLS was refused. A server killed during the handshake causes this too, so callers tolerate it once."""
    return error.reason == REASON_HANDSHAKE_REFUSED


@dataclass(frozen=True)
class RetryPolicy:
    """How long calls are tried: `call_seconds` for one attempt, `retry_seconds` for all of them while a service is unavailable."""

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
        """Restart the time limit and begin with short pauses again."""
        self._backoff.reset()
        self._give_up = time.monotonic() + self._seconds
        self._handshakes = 0

    def pause(self) -> bool:
        """Pause before the next attempt and return True; return False at once if it would come too late."""
        pause = self._backoff.pause()
        if time.monotonic() + pause > self._give_up:
            return False
        self._sleep(pause)
        return True

    def after(self, failure: MdmError, is_worth: Callable[[MdmError], bool] = is_unavailable) -> None:
        """Pause before an idempotent call is retried after `failure`; the first refused TLS handshake is worth a retry too.

        Raises:
            MdmError: the failure, if another attempt is not worth it or would come too late.
        """
        self._handshakes += is_refused_handshake(failure)
        forgiven = is_refused_handshake(failure) and self._handshakes == 1
        if not (forgiven or is_worth(failure)) or not self.pause():
            raise failure
