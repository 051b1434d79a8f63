"""One of the instances that serve a site: its heartbeat, its end, and what it hears from the others."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from mdm_service.settings import ConfigurationError
from mdm_wire.errors import Unavailable

from mdm_dicom_srm.stage.rules.port import Beat, Instances, SiteStore, Usage, Welcome
from mdm_dicom_srm.stage.rules.request import Missing, Requests

_log = logging.getLogger(__name__)
_BEAT_SECONDS = 1.0
_LISTEN_SECONDS = 0.2


class Instance:
    """Keeps the row of this instance alive, declares others lost that are silent, and does what others ask of it.

    After an absence of the database nobody is declared lost before this instance has beaten as long as another may be silent.
    """

    def __init__(
        self,
        instances: Instances,
        site: SiteStore,
        requests: Requests,
        usage: Callable[[], Usage],
        submit: Callable[[Missing], None],
        forget: Callable[[Sequence[UUID]], None],
        found: Callable[[], Sequence[UUID]],
        lost_seconds: float,
    ) -> None:
        self._instances = instances
        self._site = site
        self._requests = requests
        self._usage = usage
        self._submit = submit
        self._forget = forget
        self._found = found
        self._lost_seconds = lost_seconds
        self._beating_since: float | None = None
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, pause), name=f"stage-{name}", daemon=True)
            for name, work, pause in (("beat", self.beat, _BEAT_SECONDS), ("listen", self.listen, _LISTEN_SECONDS))
        ]

    def register(self) -> None:
        """Take the name, and remove copies that were recalled while this instance was away; a new one removes all that it finds.

        Raises:
            ConfigurationError: an instance of the same name is serving on another machine.
        """
        deadline = time.monotonic() + self._lost_seconds + _BEAT_SECONDS
        while (welcome := self._instances.register(self._lost_seconds)) is Welcome.REFUSED:
            if time.monotonic() > deadline:
                message = f"instance: {self._instances.name} is serving on another machine; give each instance its own name"
                raise ConfigurationError(message)
            time.sleep(_BEAT_SECONDS)
        if welcome is Welcome.NEW:
            self._forget(self._found())
        self._obey()

    def start(self) -> None:
        """Begin to beat and to listen."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; the row stays, so that the next process of this name goes on with what this one leaves."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def forget(self, guids: Sequence[UUID]) -> None:
        """Have staged copies removed everywhere, those of this instance included.

        Raises:
            Unavailable: an instance that is serving has not removed its copies yet; ask again.
        """
        if not guids:
            return
        self._forget(guids)
        self._instances.recall(guids)
        deadline = time.monotonic() + self._lost_seconds + _BEAT_SECONDS
        while self._instances.outstanding(guids):
            if time.monotonic() > deadline or self._stopped.wait(_LISTEN_SECONDS / 2):
                raise Unavailable("COPIES_OUTSTANDING", "Another instance has not removed its staged copies yet.")

    def beat(self) -> None:
        """Say that this instance is alive; declare lost who is not."""
        began = time.monotonic()
        try:
            found = self._instances.beat(self._usage())
        except Exception:
            self._beating_since = None
            raise
        if found is Beat.REPLACED:
            _log.error("another process has this instance's name; this one ends", extra={"instance": self._instances.name})
            os.kill(os.getpid(), signal.SIGTERM)
            self._stopped.set()
            return
        if found is Beat.LOST:
            _log.warning("this instance was silent for too long; its requests have ended", extra={"instance": self._instances.name})
            self._submit(self._requests.look_again_at_all())
        self._beating_since = began if self._beating_since is None else self._beating_since
        if began - self._beating_since >= self._lost_seconds:
            for name in self._instances.lose(self._lost_seconds):
                _log.warning("an instance is lost; its requests have ended", extra={"instance": name})

    def listen(self) -> None:
        """Do what other instances ask: look at requests again, remove copies."""
        self._obey()
        for digest in self._site.notices():
            self._submit(self._requests.look_again(digest))

    def _obey(self) -> None:
        recalled = self._instances.recalled()
        if recalled:
            self._forget(recalled)
            self._instances.obeyed(recalled)

    def _repeat(self, work: Callable[[], None], pause: float) -> None:
        failed = False
        while not self._stopped.wait(pause):
            try:
                work()
                failed = False
            except Exception as error:
                if not failed:
                    _log.warning("instances do not hear of each other: %s", type(error).__name__)
                failed = True
