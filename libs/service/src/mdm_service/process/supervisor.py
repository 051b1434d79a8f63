"""The parent of a service's workers: starts them, replaces one that dies, ends them.

It makes no gRPC call, and starts every worker as a program of its own: nothing of one process's threads reaches another.
"""

import logging
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from mdm_service.process.worker import METRICS_VARIABLE, Worker

SETTLED_SECONDS = 10.0  # a worker that ends sooner has failed to start
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
MOST_FAILURES = 5  # one after the other, while no worker is settled
STOP_SECONDS = 25.0  # below the 30 s after which containers are killed
_log = logging.getLogger(__name__)


@dataclass
class _Child:
    """A worker's process; its lifeline is readable when it has become ready and when it has ended."""

    number: int
    process: subprocess.Popen[bytes]
    lifeline: socket.socket
    started: float = field(default_factory=time.monotonic)
    ready: bool = False

    @property
    def is_settled(self) -> bool:
        return self.ready and time.monotonic() - self.started >= SETTLED_SECONDS


class Supervisor:
    """Keeps `count` workers of one program on one port. The first one starts alone, so that what is wrong is said once.

    `command` starts the program; each worker gets `--as-worker` beside it. `directory` takes the workers' numbers for metrics, `registry`
    those about the workers.
    """

    def __init__(self, command: Sequence[str], count: int, port: int, directory: Path, registry: CollectorRegistry) -> None:
        self._command = command
        self._count = count
        self._port = port
        self._environment = {**os.environ, METRICS_VARIABLE: str(directory)}
        self._children: dict[int, _Child] = {}
        self._due = {1: 0.0}  # when to start which worker
        self._failures = 0
        self._code: int | None = None
        self._selector = selectors.DefaultSelector()
        self._serving = Gauge("mdm_workers", "Worker processes that answer calls.", registry=registry)
        self._starts = Counter("mdm_worker_starts_total", "Worker processes started, replacements included.", registry=registry)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then end every worker gracefully. Return the exit code: 0, or why it was given up."""
        with self._signals():
            try:
                while self._code is None:
                    self._start_due()
                    self._look()
            finally:
                self._end()
        return self._code

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the service; one wakes a wait, too."""
        wake, woken = socket.socketpair()
        with wake, woken:
            for end in (wake, woken):
                end.setblocking(False)
            self._selector.register(woken, selectors.EVENT_READ)
            before = signal.set_wakeup_fd(wake.fileno())
            handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(before)
                self._selector.close()

    def _stop(self, *_: object) -> None:
        self._code = 0 if self._code is None else self._code

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, when in self._due.items() if when <= now]:
            del self._due[number]
            self._start(number)

    def _start(self, number: int) -> None:
        own, childs = socket.socketpair()
        with childs:
            argument = Worker(number, self._port, childs.fileno()).argument
            process = subprocess.Popen(
                [*self._command, "--as-worker", argument], stdin=subprocess.DEVNULL, env=self._environment, pass_fds=(childs.fileno(),)
            )
        self._starts.inc()
        self._children[number] = child = _Child(number, process, own)
        self._selector.register(own, selectors.EVENT_READ, child)

    def _look(self) -> None:
        """Wait until a worker becomes ready or ends, a signal comes, or a worker is to be started."""
        pause = max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None
        for key, _ in self._selector.select(pause):
            child = key.data
            if child is None:
                continue  # a signal, whose handler has run
            if _received(child.lifeline):
                self._became_ready(child)
            else:
                self._ended(child)
        self._serving.set(sum(child.ready for child in self._children.values()))

    def _became_ready(self, child: _Child) -> None:
        child.ready = True
        _log.info("worker serves", extra={"worker": child.number, "pid": child.process.pid})
        self._due |= {number: 0.0 for number in range(1, self._count + 1) if number not in self._children and number not in self._due}

    def _ended(self, child: _Child) -> None:
        self._forget(child)
        code = child.process.wait()
        self._failures = 0 if child.is_settled else self._failures + 1
        pause = min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE) if self._failures else 0.0
        is_first = not self._due and not self._children and not child.ready
        _log.error("worker ended", extra={"worker": child.number, "pid": child.process.pid, "code": code, "restart_in_seconds": pause})
        settled = any(other.is_settled for other in self._children.values())
        if is_first or (self._failures >= MOST_FAILURES and not settled):
            self._code = code if code > 0 else 1
        self._due[child.number] = time.monotonic() + pause

    def _forget(self, child: _Child) -> None:
        self._selector.unregister(child.lifeline)
        child.lifeline.close()
        del self._children[child.number]

    def _end(self) -> None:
        """Have all workers end at the same time, and kill those that do not."""
        _log.info("stopping")
        for child in self._children.values():
            child.process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for child in list(self._children.values()):
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("worker had to be killed", extra={"worker": child.number})
                child.process.kill()
                child.process.wait()
            self._forget(child)


def _received(lifeline: socket.socket) -> bool:
    """Return whether a worker has said something, rather than ended."""
    try:
        return bool(lifeline.recv(1))
    except ConnectionError:
        return False
