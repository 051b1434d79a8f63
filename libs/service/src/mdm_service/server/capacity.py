"""How much of a server one caller may hold: how many calls at a time, and how long one may stand still.

A handler takes a thread for as long as its call lasts. gRPC lets a caller send headers without a request, or ask for a stream and
never read it; without limits a few such calls would keep everybody out.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from mdm_wire.errors import Exhausted

from mdm_service.identity.caller import Caller
from mdm_service.policy import DICOM_SRM

_LOOK_SECONDS = 1.0


class CallLimit:
    """Counts the calls under way by caller. A dicom-srm calls for many users, so it has no limit."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, caller: Caller) -> Iterator[None]:
        """Count a call until the block ends.

        Raises:
            Exhausted: the caller has as many calls under way as it may.
        """
        if caller.has_role(DICOM_SRM):
            yield
            return
        with self._lock:
            if self._held[caller.dn] >= self._calls:
                raise Exhausted("TOO_MANY_CALLS", f"At most {self._calls} calls at a time; wait until some have ended.")
            self._held[caller.dn] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[caller.dn] -= 1
                if not self._held[caller.dn]:
                    del self._held[caller.dn]


class StallWatch:
    """Cancels calls whose caller keeps the server waiting: for the request, or for taking the next part of an answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    @contextmanager
    def waiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Note that the call waits for its caller until the block ends."""
        self._waiting[context] = time.monotonic()
        try:
            yield
        finally:
            self._waiting.pop(context, None)

    def _watch(self) -> None:
        while not self._stopping.wait(min(_LOOK_SECONDS, self._seconds / 2)):
            too_early = time.monotonic() - self._seconds
            for context, since in self._waiting.copy().items():
                if since < too_early:
                    context.cancel()
