"""Looks after results in the background: what waits is published, what is abandoned removed."""

import logging
import threading
import time
from collections.abc import Callable

from mdm_wire.errors import MdmError

from mdm_dicom_srm.result.rules.publication import Publisher

_log = logging.getLogger(__name__)
_TICK_SECONDS = 5.0


class Housekeeping:
    """Prepares the site for results, then ticks; sweeps every `sweep_seconds`.

    Every instance of the site does: each step may be repeated.
    """

    def __init__(self, publisher: Publisher, ensure_place: Callable[[], None], sweep_seconds: float) -> None:
        self._publisher = publisher
        self._ensure_place = ensure_place
        self._sweep_seconds = sweep_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is under way is broken off with the process."""
        self._stopped.set()

    def _run(self) -> None:
        swept = time.monotonic()
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = _TICK_SECONDS
            try:
                self._ensure_place()
                self._publisher.tick()
                if time.monotonic() - swept >= self._sweep_seconds:
                    swept = time.monotonic()
                    self._publisher.sweep()
            except MdmError as error:
                _log.warning("results wait", extra={"reason": error.reason})
            except Exception as error:
                _log.error("housekeeping of results failed: %s", type(error).__name__)
