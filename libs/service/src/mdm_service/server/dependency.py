"""Whether what a service depends on answers: shown by gRPC health under the dependency's name, as a metric, and in the log."""

import logging
import threading
from collections.abc import Callable

from mdm_wire.errors import MdmError
from prometheus_client import Gauge

_log = logging.getLogger(__name__)
_SECONDS = 30.0
_UP = Gauge("mdm_dependency_up", "Whether a dependency answered when it was last asked: 1 or 0.", ("dependency",), multiprocess_mode="min")


class DependencyWatch:
    """Asks a dependency from time to time, in a thread of its own. The service itself stays healthy whatever the answer."""

    def __init__(self, name: str, ask: Callable[[], object], tell: Callable[[str, bool], None], seconds: float = _SECONDS) -> None:
        """`ask` raises where the dependency does not answer; `tell` is given the name and whether it does."""
        self._name, self._ask, self._tell, self._seconds = name, ask, tell, seconds
        self._up: bool | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        """Begin to ask. Until the first answer the dependency counts as away."""
        self._tell(self._name, False)
        self._thread.start()

    def stop(self) -> None:
        """End; an answer that is outstanding is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            reason = self._reason()
            if not self._stopped.is_set():
                self._note(not reason, reason)
            self._stopped.wait(self._seconds)

    def _reason(self) -> str:
        """Return why the dependency does not answer, nothing if it does."""
        try:
            self._ask()
        except MdmError as error:
            return error.reason
        except Exception as error:
            return type(error).__name__
        return ""

    def _note(self, up: bool, reason: str) -> None:
        _UP.labels(self._name).set(up)
        self._tell(self._name, up)
        if up is not self._up:
            if not up:
                _log.warning("a dependency does not answer", extra={"dependency": self._name, "reason": reason})
            elif self._up is not None:
                _log.info("a dependency answers again", extra={"dependency": self._name})
        self._up = up
