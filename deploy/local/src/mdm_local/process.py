"""Background processes: started detached, recognised later by pid and start time, ended by pid."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdm_site.error import SiteError

_STAT_STATE, _STAT_START = 0, 19  # fields 3 and 22 of /proc/PID/stat, counted after the command name (proc(5))


@dataclass(frozen=True)
class ProcessRecord:
    """A process that cannot be mistaken for another: its pid, its start time in clock ticks since boot, and which boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord | None":
        """Return the record of a living process, or None."""
        started = _start_time(pid)
        return None if started is None else cls(pid, started, _boot_id())

    def is_running(self) -> bool:
        """Tell whether exactly this process lives; a pid taken over by another process does not count."""
        return _start_time(self.pid) == self.started and _boot_id() == self.boot

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if exactly this process lives."""
        if self.is_running():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def spawn(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> ProcessRecord:
    """Start a detached process whose output is appended to `log`.

    Raises:
        SiteError: the program cannot be started.
    """
    arguments = [str(part) for part in command]
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawn(
            arguments[0],
            arguments,
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        raise SiteError(f"{arguments[0]}: cannot be started: {error.strerror}") from error
    record = ProcessRecord.of(pid)
    if record is None:
        raise SiteError(f"{arguments[0]}: ended at once; see {log}")
    return record


def end(records: Sequence[ProcessRecord], grace: float) -> list[ProcessRecord]:
    """End processes by SIGTERM, and after `grace` seconds by SIGKILL; return those that needed the latter."""
    for record in records:
        record.signal(signal.SIGTERM)
    stubborn = _wait(records, grace)
    for record in stubborn:
        record.signal(signal.SIGKILL)
    left = _wait(stubborn, 10)
    if left:
        raise SiteError(f"process {left[0].pid} does not end even by SIGKILL")
    return stubborn


def kill(record: ProcessRecord) -> None:
    """End a process by SIGKILL and wait until it is gone."""
    record.signal(signal.SIGKILL)
    if _wait([record], 10):
        raise SiteError(f"process {record.pid} does not end even by SIGKILL")


def _wait(records: Sequence[ProcessRecord], seconds: float) -> list[ProcessRecord]:
    deadline = time.monotonic() + seconds
    running = [record for record in records if record.is_running()]
    while running and time.monotonic() < deadline:
        time.sleep(0.03)
        running = [record for record in running if record.is_running()]
    return running


def _start_time(pid: int) -> int | None:
    """Return the start time of a process that is not a zombie; reap it if it is our own dead child."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[_STAT_STATE] in "ZX":
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        return None
    return int(fields[_STAT_START])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
