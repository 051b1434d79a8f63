"""Instances between their arrival and their registration: in memory, each is judged at once, and only its judgement stays."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.register.rules.model import Candidate, Version

_log = logging.getLogger(__name__)
#: What nobody has taken for so long is not asked for any more: the instance has changed since, or another process registers it.
_FORGOTTEN_SECONDS = 600.0


@dataclass(slots=True)
class _Arrival:
    since: float
    series_token: bytes
    size: int
    judgement: "Future[Judgement | None]" = field(default_factory=Future)


class Arrivals:
    """Bounds how many bytes of arrived instances wait to be judged, and hands their judgements to registration.

    Nothing here is durable: an instance of which a killed process knew the judgement is retrieved from the PACS and judged again.
    """

    def __init__(self, max_bytes: int = 256 << 20, seconds: float = 10.0) -> None:
        """Let an instance wait at most `seconds` for room among `max_bytes`."""
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._bytes = 0
        self._changed = threading.Condition()
        self._arrivals: dict[Version, _Arrival] = {}

    def expect(self, candidate: Candidate, size: int) -> bool:
        """Make room for an instance of `size` bytes that is about to be queued; False if there is none in time: it will be retrieved."""
        deadline = time.monotonic() + self._seconds
        with self._changed:
            # One that is larger than the bound is taken alone.
            while self._bytes and self._bytes + size > self._max_bytes:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return False
            if candidate.version in self._arrivals:
                return False
            self._arrivals[candidate.version] = _Arrival(time.monotonic(), candidate.series_token, size)
            self._bytes += size
            oldest, first = next(iter(self._arrivals.items()))
        if first.since < time.monotonic() - _FORGOTTEN_SECONDS:
            self.discard(oldest)
        return True

    def begin(self, version: Version, judge: "Callable[[], Future[Judgement]]") -> None:
        """Have an expected instance judged; its bytes count until that is done. Never raises."""
        try:
            future = judge()
        except Exception as error:
            _log.warning("an instance is judged later", extra={"error": type(error).__name__})
            self.discard(version)
            return
        future.add_done_callback(lambda done: self._finish(version, done))

    def _finish(self, version: Version, done: "Future[Judgement]") -> None:
        try:
            judgement = done.result()
        except (CancelledError, Exception):
            self.discard(version)
            return
        with self._changed:
            arrival = self._arrivals.get(version)
            if arrival is not None:
                self._resize(arrival, len(judgement.header))
        if arrival is not None:
            arrival.judgement.set_result(judgement)

    def discard(self, version: Version) -> None:
        """Forget an instance: it is known, or cannot be judged now."""
        with self._changed:
            arrival = self._arrivals.pop(version, None)
            if arrival is not None:
                self._resize(arrival, 0)
        if arrival is not None and not arrival.judgement.done():
            arrival.judgement.set_result(None)

    def take(self, version: Version, seconds: float) -> Judgement | None:
        """Return the judgement of an instance once it is there, and forget it; None if there is none in time."""
        with self._changed:
            arrival = self._arrivals.get(version)
        if arrival is None:
            return None
        try:
            return arrival.judgement.result(seconds)
        except NotInTime:
            return None
        finally:
            self.discard(version)

    def series(self) -> list[bytes]:
        """Return the tokens of the series of which there are instances here."""
        with self._changed:
            return list({arrival.series_token for arrival in self._arrivals.values()})

    def _resize(self, arrival: _Arrival, size: int) -> None:
        self._bytes += size - arrival.size
        arrival.size = size
        self._changed.notify_all()
