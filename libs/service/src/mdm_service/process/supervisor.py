"""A service as several processes: its workers, the supervisor that starts and replaces them, the port that they share.

The supervisor does not use gRPC and starts every worker as a new program instead of forking, because threads do not survive a fork.
"""

import contextlib
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.multiprocess import mark_process_dead

from mdm_service.settings import Address, ConfigurationError

READY = b"r"
ORPHAN_GRACE_SECONDS = 2.0
ORPHAN_SECONDS = 5.0  # after which a worker without its supervisor ends, whatever it is doing
#: Where prometheus_client keeps the metrics of a process that is one of several; it reads this when it is imported.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SETTLED_SECONDS = 10.0  # a worker that ends sooner has failed to start
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
MOST_FAILURES = 5  # one after the other, while no worker is settled
STOP_SECONDS = 25.0  # below the 30 s after which containers are killed
_log = logging.getLogger(__name__)


class Worker:
    """What a worker knows of its supervisor: its own number, from 1; the port to share; a socket that closes when the supervisor dies."""

    def __init__(self, number: int, port: int, descriptor: int) -> None:
        self.number = number
        self.port = port
        self._descriptor = descriptor
        self._orphaned = threading.Event()

    @classmethod
    def parse(cls, text: str) -> "Worker":
        """Return the worker that an `argument` describes."""
        number, port, descriptor = map(int, text.split(":"))
        return cls(number, port, descriptor)

    @property
    def argument(self) -> str:
        """The worker as an argument of the command line."""
        return f"{self.number}:{self.port}:{self._descriptor}"

    @property
    def is_orphaned(self) -> bool:
        """Whether the supervisor has died."""
        return self._orphaned.is_set()

    def watch(self, stopping: threading.Event) -> None:
        """Set `stopping` when the supervisor has died, and end the process soon after if it has not ended by itself."""
        os.set_inheritable(self._descriptor, False)
        threading.Thread(target=self._watch, args=(stopping,), name="supervisor-watch", daemon=True).start()

    def report_ready(self) -> None:
        """Report to the supervisor that this worker answers calls."""
        try:
            os.write(self._descriptor, READY)
        except OSError:
            return  # the supervisor has died, which the watch sees too

    def clean_up(self) -> None:
        """Remove the metrics that a killed supervisor has left."""
        if self.is_orphaned and METRICS_VARIABLE in os.environ:
            shutil.rmtree(os.environ[METRICS_VARIABLE], ignore_errors=True)

    def _watch(self, stopping: threading.Event) -> None:
        with socket.socket(fileno=self._descriptor) as lifeline:
            with contextlib.suppress(OSError):  # which means its end, too
                lifeline.recv(1)
            self._orphaned.set()
            stopping.set()
            time.sleep(ORPHAN_SECONDS)
            os._exit(1)


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
    """Keeps `count` workers of one program on one port. The first one starts alone, so that a fault is reported once.

    `command` starts the program; each worker gets `--as-worker` too. `directory` holds the workers' metrics, `registry` the metrics
    about the workers.
    """

    def __init__(self, command: Sequence[str], count: int, port: int, directory: Path, registry: CollectorRegistry) -> None:
        self._command = command
        self._count = count
        self._port = port
        self._directory = directory
        self._environment = {**os.environ, METRICS_VARIABLE: str(directory)}
        self._children: dict[int, _Child] = {}
        self._due = {1: 0.0}  # when to start which worker
        self._failures = 0
        self._code: int | None = None
        self._selector = selectors.DefaultSelector()
        self._serving = Gauge("mdm_workers", "Worker processes that answer calls.", registry=registry)
        self._starts = Counter("mdm_worker_starts_total", "Worker processes started, replacements included.", registry=registry)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then end every worker gracefully; return 0, or the exit code of a worker that cannot start."""
        with self._signals():
            try:
                while self._code is None:
                    self._start_due()
                    self._wait()
            finally:
                self._end()
        return self._code

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the service, also while it waits."""
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
        own, theirs = socket.socketpair()
        with theirs:
            argument = Worker(number, self._port, theirs.fileno()).argument
            process = subprocess.Popen(
                [*self._command, "--as-worker", argument], stdin=subprocess.DEVNULL, env=self._environment, pass_fds=(theirs.fileno(),)
            )
        self._starts.inc()
        self._children[number] = child = _Child(number, process, own)
        self._selector.register(own, selectors.EVENT_READ, child)

    def _wait(self) -> None:
        """Wait until a worker becomes ready or ends, a signal comes, or a worker is due to be started."""
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
        mark_process_dead(child.process.pid, str(self._directory))  # type: ignore[no-untyped-call]
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
        """End all workers at the same time, and kill those that do not end."""
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
    """Return whether a worker has reported, rather than ended."""
    try:
        return bool(lifeline.recv(1))
    except ConnectionError:
        return False


@dataclass(frozen=True)
class Reservation:
    """A port reserved for this process's workers until `close`; no connection ever reaches the sockets that reserve it."""

    port: int
    sockets: tuple[socket.socket, ...]

    def close(self) -> None:
        """Release the port."""
        for kept in self.sockets:
            kept.close()


def reserve(address: Address) -> Reservation:
    """Reserve the port of an address, any free one for port 0, for processes that ask to share it.

    Raises:
        ConfigurationError: another process listens there or has reserved it, or this machine does not have the address.
    """
    kept: list[socket.socket] = []
    port = address.port
    try:
        found = socket.getaddrinfo(address.host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in dict.fromkeys(found):
            kept.append(socket.socket(family, kind, protocol))
            _bind(kept[-1], (place[0], port, *place[2:]))
            port = int(kept[-1].getsockname()[1])
    except OSError as error:
        Reservation(port, tuple(kept)).close()
        raise ConfigurationError(f"listen: cannot listen on {address.host}:{address.port}: {error}") from error
    return Reservation(port, tuple(kept))


def _bind(kept: socket.socket, place: tuple[str | int, ...]) -> None:
    """Bind without sharing, then allow sharing: so the kernel itself refuses a second service at every moment.

    SO_REUSEADDR is set for the binding alone, where it ignores ended connections of an earlier process.
    """
    if kept.family == socket.AF_INET6:
        kept.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(place)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
