"""File keys, asked of the keystores before they are needed: while a request is still being written down, and while the PACS answers."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

from mdm_dicom_srm.stage.rules.port import Clock, KeySource

#: What was asked for together; the answer has a key of each file, or why it is not given.
Asked = Future[Mapping[UUID, bytes | Exception]]

_BATCH = 200
# A key that was asked for beforehand and not taken is forgotten after this time: its file was staged elsewhere, or not at all.
_KEPT_SECONDS = 20.0
# Keys that are asked for beforehand: the first of a request, which nothing else can hide the wait for.
_FIRST = 32
_MOST = 1024


@dataclass(frozen=True, slots=True)
class _Expected:
    asked: Asked
    since: float


class KeyFetch:
    """Fetches keys in threads of its own. Thread-safe; keys are in memory only, and only until they are taken."""

    def __init__(self, source: KeySource, threads: int, clock: Clock = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="stage-keys")
        self._lock = threading.Lock()
        self._expected: dict[UUID, _Expected] = {}  # in the order asked

    def close(self) -> None:
        """End."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def expect(self, guids: Iterable[UUID]) -> None:
        """Begin to fetch the keys of files that will be staged soon, the first few of them; returns at once."""
        now = self._clock()
        self.forget_old()
        with self._lock:
            room = min(_FIRST, _MOST - len(self._expected))
            new = list(dict.fromkeys(guid for guid in guids if guid not in self._expected))[: max(0, room)]
            if new:
                self._expected |= dict.fromkeys(new, _Expected(self._threads.submit(self._source.get_keys, new), now))

    def forget_old(self) -> None:
        """Forget keys that nobody has taken; to be called from time to time."""
        now = self._clock()
        with self._lock:
            for guid, expected in list(self._expected.items()):
                if now - expected.since < _KEPT_SECONDS:
                    return
                del self._expected[guid]

    def ask(self, guids: Sequence[UUID]) -> dict[UUID, Asked]:
        """Begin to fetch keys, those that are expected excepted; the first do not wait for the last."""
        now = self._clock()
        with self._lock:
            taken = {guid: self._expected.pop(guid) for guid in guids if guid in self._expected}
        asked = {guid: expected.asked for guid, expected in taken.items() if now - expected.since < _KEPT_SECONDS}
        rest = [guid for guid in guids if guid not in asked]
        for start in range(0, len(rest), _BATCH):
            batch = rest[start : start + _BATCH]
            asked |= dict.fromkeys(batch, self._threads.submit(self._source.get_keys, batch))
        return asked
