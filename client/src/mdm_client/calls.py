"""Calls to a service: deadlines, retries of what is safe to repeat, errors that name the place."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from mdm_wire.errors import Code, MdmError, TimedOut, Unauthenticated, Unavailable
from mdm_wire.status import REASON_HANDSHAKE_REFUSED, REASON_NO_SUCH_HOST, REASON_TOO_MANY_CALLS, from_rpc_error

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


@dataclass(frozen=True)
class Patience:
    """How long calls are tried: `call_seconds` for one attempt, `retry_seconds` for all of them while a service is away."""

    call_seconds: float = 30.0
    retry_seconds: float = 8.0


class Backoff:
    """Pauses that double, with jitter so that many clients do not return together."""

    def __init__(self, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE) -> None:
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


class Service:
    """A service as one client sees it: a channel, its place in messages, and how calls are repeated."""

    def __init__(self, place: str, channel: grpc.Channel, patience: Patience) -> None:
        self.place = place
        self.channel = channel
        self.patience = patience

    def call(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        """Return the response of a unary call, each attempt of which may take `timeout` seconds (else `patience.call_seconds`).

        While the service is away, or has too many calls of this caller, it is tried for at most `patience.retry_seconds`: repeated if the
        method declares that it is idempotent, else sent once, when the service answers; see `mdm_client.channel.UnaryMethod`.

        Raises:
            MdmError: what the service answered, its message beginning with the service's place.
        """
        seconds = timeout or self.patience.call_seconds
        if getattr(method, "is_idempotent", False):
            return self.repeat(lambda: method(request, timeout=seconds))
        return self.call_once(method, request, seconds)

    def call_once(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        """Return the response of a unary call that is carried out at most once and may take `timeout` seconds, None: any time.

        What a server refuses before it looks at the request, because of other calls of the same caller, is not carried out.

        Raises:
            MdmError: as `call`; where it is Unavailable the call may have been carried out.
        """
        once = getattr(method, "once", None)
        if once is None:  # a channel of somebody else's

            def attempt() -> Any:
                return method(request, timeout=timeout)

        else:

            def attempt() -> Any:
                return once(request, timeout, self.patience.retry_seconds)

        try:
            return self._repeat(attempt, is_busy)
        except (Unavailable, TimedOut) as failure:
            advice = f"{failure.message}; it may have been done: look before you repeat it"
            raise failure.saying(advice) from failure

    def wait(self, backoff: Backoff) -> None:
        """Pause before the next attempt."""
        time.sleep(backoff.pause())

    def repeat(self, attempt: Callable[[], Any]) -> Any:
        """Return what `attempt`, which is idempotent, returns; repeat it while the service is away or busy."""
        return self._repeat(attempt, _may_be_repeated, handshake=True)

    def _repeat(self, attempt: Callable[[], Any], is_worth: Callable[[MdmError], bool], handshake: bool = False) -> Any:
        give_up = time.monotonic() + self.patience.retry_seconds
        backoff = Backoff()
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self.place)
                # A server killed while it accepts looks like a refusal, once.
                refused = handshake and failure.reason == REASON_HANDSHAKE_REFUSED
                pause = backoff.pause()
                if not (is_worth(failure) or refused) or time.monotonic() + pause > give_up:
                    raise failure from error
                handshake = handshake and not refused
            time.sleep(pause)


def in_batches(items: list[Any], size: int) -> list[list[Any]]:
    """Return `items` cut into lists of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def is_busy(error: MdmError) -> bool:
    """Tell whether the server refused only because calls of the same caller are under way."""
    return error.reason == REASON_TOO_MANY_CALLS


def _may_be_repeated(error: MdmError) -> bool:
    return (isinstance(error, Unavailable) and not is_hopeless(error)) or is_busy(error)


def is_hopeless(error: MdmError) -> bool:
    """Return whether no call to the same service can succeed before somebody changes something: a certificate, or the configuration."""
    return isinstance(error, Unauthenticated) or error.reason == REASON_NO_SUCH_HOST


def is_passing(error: MdmError) -> bool:
    """Return whether the same call may succeed later without anyone doing anything."""
    return not is_hopeless(error) and error.code in (
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
        Code.ABORTED,
        Code.RESOURCE_EXHAUSTED,
    )
