"""System calls of running processes, counted by strace: how many of each kind, and how many bytes they moved."""

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mdm_testing.process import eventually, require_program

# Calls that move bytes or touch files. What waits (futex, poll, sleep) depends on the machine's load and is not looked at.
_FILES = ("read", "write", "pread64", "pwrite64", "readv", "writev", "copy_file_range", "sendfile")
_SOCKETS = ("recvfrom", "sendto", "recvmsg", "sendmsg", "splice")
_OTHERS = (
    "openat",
    "rename",
    "renameat2",
    "unlink",
    "unlinkat",
    "fsync",
    "fdatasync",
    "newfstatat",
    "fstat",
    "statx",
    "ftruncate",
    "mkdir",
)
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed).* = (-?\d+)(?: .*)?$")
_ATTACH_SECONDS = 60


@dataclass
class Calls:
    """Calls of a part by name, and the bytes that those on files and on sockets moved."""

    count: Counter[str] = field(default_factory=Counter)
    file_bytes: int = 0
    socket_bytes: int = 0

    @property
    def total(self) -> int:
        """All calls."""
        return self.count.total()


@contextmanager
def traced(parts: Mapping[str, list[int]], folder: Path) -> Iterator[dict[str, Calls]]:
    """Trace processes, those that they start included, within a block; afterwards the dictionary has the calls of each part.

    Raises:
        AssertionError: they cannot be traced, as where a kernel forbids it.
    """
    program = require_program("strace", "strace")
    names = ",".join((*_FILES, *_SOCKETS, *_OTHERS))
    calls: dict[str, Calls] = {}
    running: dict[str, tuple[subprocess.Popen[bytes], Path, Path]] = {}
    try:
        for number, (part, pids) in enumerate(parts.items()):
            output, log = folder / f"trace-{number}", folder / f"trace-{number}.log"
            command = [program, "-f", "-qqq", "-s", "0", "-e", f"trace={names}", "-e", "signal=none", "-o", str(output)]
            with log.open("wb") as errors:
                process = subprocess.Popen([*command, *(part for pid in pids for part in ("-p", str(pid)))], stderr=errors)
            running[part] = process, output, log
        for part, (process, _, log) in running.items():
            eventually(partial(_attached, process, parts[part]), _ATTACH_SECONDS)
            assert process.poll() is None, log.read_text()
        yield calls
    finally:
        for process, _, _ in running.values():
            process.send_signal(signal.SIGINT)
        for process, _, _ in running.values():
            process.wait(60)
    calls |= {part: _counted(output) for part, (_, output, _) in running.items()}


def _attached(process: "subprocess.Popen[bytes]", pids: list[int]) -> bool:
    """Return whether every thread is traced, or tracing has ended."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/status")]
    return process.poll() is not None or all("TracerPid:\t0\n" not in _text(task) for task in tasks)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
        return ""


def _counted(output: Path) -> Calls:
    calls = Calls()
    with output.open(errors="replace") as lines:
        for line in lines:
            if found := _LINE.match(line):
                name, result = found[2], max(0, int(found[3]))
                calls.count[name] += 1
                calls.file_bytes += result if name in _FILES else 0
                calls.socket_bytes += result if name in _SOCKETS else 0
    return calls
