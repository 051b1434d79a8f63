"""What processes have used, read from /proc: processor time, bytes and calls of reading and writing, waits."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What processes have used until now; two are subtracted.

    `processor` is in seconds, children that have ended and were waited for included. `read`, `written`, `reads` and `writes` are bytes
    and calls of read and write on files and pipes; the kernel counts sockets there only where a program reads and writes them as files.
    `waits` are voluntary context switches of the threads that exist.
    """

    processor: float = 0.0
    read: int = 0
    written: int = 0
    reads: int = 0
    writes: int = 0
    waits: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))


def tree(pid: int) -> list[int]:
    """Return a process and those below it that exist."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        try:
            children = [file.read_text().split() for file in Path(f"/proc/{parent}/task").glob("*/children")]
        except (FileNotFoundError, ProcessLookupError):  # ended in between
            continue
        found.append(parent)
        waiting += [int(child) for line in children for child in line]
    return found


def of_processes(pids: Iterable[int]) -> Usage:
    """Return what processes have used; those that do not exist count nothing."""
    total = Usage()
    for pid in pids:
        try:
            total += _of_process(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def of_parts(parts: Mapping[str, int]) -> dict[str, Usage]:
    """Return what each part has used, with all processes below the one that is named."""
    return {name: of_processes(tree(pid)) for name, pid in parts.items()}


def difference(after: Mapping[str, Usage], before: Mapping[str, Usage]) -> dict[str, Usage]:
    """Return what each part has used in between."""
    return {name: used - before.get(name, Usage()) for name, used in after.items()}


def _of_process(pid: int) -> Usage:
    folder = Path(f"/proc/{pid}")
    times = [int(field) for field in (folder / "stat").read_text().rpartition(")")[2].split()[11:15]]
    io = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
    return Usage(
        sum(times) / _TICKS, int(io["rchar"]), int(io["wchar"]), int(io["syscr"]), int(io["syscw"]), sum(map(_waits, folder.glob("task/*")))
    )


def _waits(task: Path) -> int:
    try:
        lines = (task / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
