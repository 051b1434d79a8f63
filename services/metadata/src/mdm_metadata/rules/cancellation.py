"""Cancelling the work of a call whose caller has disconnected."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds between attempts to stop the work.
PAUSE_SECONDS = 0.1


class Cancellation:
    """Whether one call was cancelled: `set`, from any thread, when the caller has disconnected."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._stop: Callable[[], object] | None = None

    @property
    def is_set(self) -> bool:
        """Whether the caller no longer waits."""
        return self._set

    def set(self) -> None:
        """Record that the caller no longer waits, and stop the work; returns at once."""
        with self._lock:
            if self._set:
                return
            self._set = True
            if self._stop is not None:
                self._start()

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Call `stop` if this is set before the block ends, repeatedly, as one statement may follow another. Blocks do not nest."""
        with self._lock:
            self._stop = stop
            if self._set:
                self._start()
        try:
            yield
        finally:
            with self._lock:  # no `stop` runs after this
                self._stop = None

    def _start(self) -> None:
        threading.Thread(target=self._repeat, name="cancellation", daemon=True).start()

    def _repeat(self) -> None:
        while True:
            with self._lock:
                if self._stop is None:
                    return
                self._stop()
            time.sleep(PAUSE_SECONDS)
