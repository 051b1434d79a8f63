"""A worker: one of several processes that serve one port, as it sees its supervisor."""

import contextlib
import os
import shutil
import socket
import threading
import time

READY = b"r"
ORPHAN_GRACE_SECONDS = 2.0
ORPHAN_SECONDS = 5.0  # after which a worker without its supervisor ends, whatever it is at
#: Where the library of metrics keeps the numbers of a process that is one of several; read when that library is imported.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Worker:
    """What a supervisor passes to a worker: its number, from 1; the port to share; a socket that ends with the supervisor."""

    def __init__(self, number: int, port: int, descriptor: int) -> None:
        self.number = number
        self.port = port
        self._descriptor = descriptor
        self._orphaned = threading.Event()

    @classmethod
    def parse(cls, text: str) -> "Worker":
        """Return the worker that `argument` wrote."""
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

    def tell_ready(self) -> None:
        """Report that calls are answered from now on."""
        try:
            os.write(self._descriptor, READY)
        except OSError:
            return  # the supervisor has died, which the watch sees too

    def leave(self) -> None:
        """Remove what a supervisor that was killed could not."""
        if self.is_orphaned and METRICS_VARIABLE in os.environ:
            shutil.rmtree(os.environ[METRICS_VARIABLE], ignore_errors=True)

    def _watch(self, stopping: threading.Event) -> None:
        with socket.socket(fileno=self._descriptor) as lifeline:
            with contextlib.suppress(OSError):  # which is the same as its end
                lifeline.recv(1)
            self._orphaned.set()
            stopping.set()
            time.sleep(ORPHAN_SECONDS)
            os._exit(1)
