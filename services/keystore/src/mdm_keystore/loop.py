"""Work that a thread does again and again until the service stops."""

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Loop:
    """Calls `work` every `interval` seconds, or sooner when woken, in a thread of its own until stopped.

    Work that returns something true is called again at once. Work that fails is tried again in the next round.
    """

    def __init__(self, name: str, work: Callable[[], int | None], interval: float) -> None:
        self._name = name
        self._work = work
        self._interval = interval
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Have the next round begin now."""
        self._woken.set()

    def stop(self) -> None:
        """End the loop and wait for a round that runs."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._round():
                self._woken.wait(self._interval)
                self._woken.clear()

    def _round(self) -> bool:
        try:
            return bool(self._work())
        except Exception as error:
            # Whatever went wrong (usually the database is away), the next round tries again.
            _log.warning("%s failed", self._name, extra={"error": type(error).__name__})
            return False
