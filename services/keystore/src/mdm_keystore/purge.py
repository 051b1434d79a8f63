"""The loop that removes pending keys whose time is over."""

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class PurgeLoop:
    """Calls `purge` every `interval` seconds in a thread of its own until stopped; a failed round is retried in the next."""

    def __init__(self, purge: Callable[[], int], interval: float) -> None:
        self._purge = purge
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="purge", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop and wait for a round that runs."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                removed = self._purge()
            except Exception as error:
                # Whatever went wrong (usually the database is away), the next round tries again.
                _log.warning("purge failed", extra={"error": type(error).__name__})
            else:
                if removed:
                    _log.info("expired pending keys removed", extra={"keys": removed})
