"""Serving a mount until it is unmounted or a signal comes; in every case the directory is an ordinary one afterwards."""

import ctypes
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mdm_wire.errors import MdmError, Unavailable

from mdm_client.mount.place import held, mounted_kind, unmount

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STEP_SECONDS = 0.1
_END_SECONDS = 10.0


@dataclass(frozen=True)
class Served:
    """mfusepy's operations, the event that the kernel has them, and what gives everybody who waits for a file an error."""

    operations: object
    mounted: threading.Event
    cancel: Callable[[], None]


def serve(directory: Path, served: Served, ready: Callable[[], None]) -> None:
    """Mount on a directory and serve until it is unmounted, or SIGTERM, SIGINT or SIGHUP comes. Call it in the main thread.

    `ready` is called once the directory can be read.

    Raises:
        MdmError: as `held`. Unavailable: MOUNT_FAILED.
    """
    stop = threading.Event()
    before = {number: signal.signal(number, lambda _number, _frame: stop.set()) for number in _SIGNALS}
    try:
        with held(directory) as place:
            loop = _Loop(served.operations, place)
            loop.start()
            try:
                while loop.is_alive() and not served.mounted.is_set() and not stop.is_set():
                    served.mounted.wait(_STEP_SECONDS)
                if served.mounted.is_set() and not stop.is_set():
                    ready()
                while loop.is_alive() and not stop.is_set():
                    stop.wait(_STEP_SECONDS)
            finally:
                served.cancel()
                _end(loop, place)
            if loop.failed and not stop.is_set():
                raise Unavailable("MOUNT_FAILED", f"{directory}: cannot be mounted: {loop.failed}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Loop(threading.Thread):
    """libfuse's loop. Not in the main thread, which takes signals while this one is in C."""

    def __init__(self, operations: object, place: Path) -> None:
        super().__init__(name="fuse", daemon=True)
        self._operations = operations
        self._place = place
        self.failed = ""

    def run(self) -> None:
        import mfusepy

        _silence(mfusepy)
        logging.getLogger("fuse").setLevel(logging.CRITICAL + 1)
        try:
            mfusepy.FUSE(
                self._operations,
                str(self._place),
                foreground=True,
                fsname="mdm",
                subtype="mdm",
                ro=True,
                nosuid=True,
                nodev=True,
                noexec=True,
                noatime=True,
                default_permissions=True,
                auto_unmount=True,
                # A size is true once the file was opened: the kernel asks each time.
                attr_timeout=0,
                entry_timeout=1,
                negative_timeout=0,
            )
        except (RuntimeError, OSError) as error:
            self.failed = f"libfuse ended with {error}"


_LOG_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_nothing = _LOG_FUNCTION(lambda _level, _form, _values: None)


def _silence(mfusepy: ModuleType) -> None:
    """Keep libfuse from writing to the terminal: it warns of a number of threads that nobody gave. What went wrong is in its exit code."""
    with suppress(AttributeError):
        mfusepy._libfuse.fuse_set_log_func(_nothing)


def _end(loop: _Loop, place: Path) -> None:
    """Unmount, and wait for the loop; a mount that is only beginning is waited for, so that none is left.

    The loop goes on while a program has a file open: it is left then, and ends with the process.
    """
    unmounted = 0
    for _ in range(int(_END_SECONDS / _STEP_SECONDS)):
        if mounted_kind(place):
            with suppress(MdmError):
                unmounted = unmount(place)
        loop.join(_STEP_SECONDS * 5 if unmounted else _STEP_SECONDS)
        if not loop.is_alive() or unmounted:
            return
