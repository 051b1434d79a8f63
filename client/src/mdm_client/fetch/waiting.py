"""Waiting for a site: until when, and unless it is given up."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mdm_wire.errors import Cancelled

from mdm_client.service import Stream


class Clock:
    """The time since the last progress, and its limit in seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._last = time.monotonic()

    def tick(self) -> None:
        self._last = time.monotonic()

    def remaining(self) -> float:
        """Return the seconds until the limit, negative beyond."""
        return self._last + self.limit - time.monotonic()


class Cancellation:
    """Stops calls in other threads."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._calls: dict[int, Stream] = {}

    def stop(self) -> None:
        """Cancel the calls that run, and all that start later."""
        self._stopped.set()
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.cancel()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def check(self) -> None:
        """Raise Cancelled after `stop`."""
        if self._stopped.is_set():
            raise Cancelled("CANCELLED", "given up on request")

    def wait(self, seconds: float) -> None:
        """Pause, until `stop` at most."""
        self._stopped.wait(seconds)

    @contextmanager
    def cancelling(self, call: Stream) -> Iterator[None]:
        """Let `stop` cancel `call` while the block runs."""
        with self._lock:
            self._calls[id(call)] = call
        if self._stopped.is_set():
            call.cancel()
        try:
            yield
        finally:
            with self._lock:
                del self._calls[id(call)]
