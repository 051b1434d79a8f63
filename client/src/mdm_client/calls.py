"""Calls to a service: deadlines, retries of what is safe to repeat, errors that name the place."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from mdm_wire.errors import MdmError, Unavailable
from mdm_wire.status import REASON_HANDSHAKE_REFUSED, REASON_TOO_MANY_CALLS, from_rpc_error

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

    def call(self, method: Callable[..., Any], request: Any) -> Any:
        """Return the response of a unary call that is safe to repeat.

        It is repeated while the service is away or has too many calls of this caller, for at most `patience.retry_seconds`.

        Raises:
            MdmError: what the service answered, its message beginning with the service's place.
        """
        return self.repeat(lambda: method(request, timeout=self.patience.call_seconds))

    def wait(self, backoff: Backoff) -> None:
        """Pause before the next attempt."""
        time.sleep(backoff.pause())

    def repeat(self, attempt: Callable[[], Any]) -> Any:
        """Return what `attempt` returns, repeating it as `call` does."""
        give_up = time.monotonic() + self.patience.retry_seconds
        backoff = Backoff()
        refused_before = False
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self.place)
                # A server killed while it accepts looks like a refusal, once.
                refused_once = failure.reason == REASON_HANDSHAKE_REFUSED and not refused_before
                pause = backoff.pause()
                if not (isinstance(failure, Unavailable) or is_busy(failure) or refused_once) or time.monotonic() + pause > give_up:
                    raise failure from error
                refused_before = refused_before or refused_once
            time.sleep(pause)


def in_batches(items: list[Any], size: int) -> list[list[Any]]:
    """Return `items` cut into lists of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def is_busy(error: MdmError) -> bool:
    """Tell whether the server refused only because calls of the same caller are under way."""
    return error.reason == REASON_TOO_MANY_CALLS


def is_passing(error: MdmError) -> bool:
    """Tell whether the same call may succeed later without anyone doing anything."""
    return error.code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
