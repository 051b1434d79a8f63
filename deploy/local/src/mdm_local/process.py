"""Background processes: started detached, recognised later by pid and start time, ended by pid; and free ports for them."""

import os
import random
import signal
import socket
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdm_site.site import SiteError

# Below the usual range of outgoing connections (32768 to 60999), so that a stopped service's port is not taken by one.
_PORTS = range(20000, 32000)
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
        """Return whether exactly this process lives; another process with the same pid does not count."""
        return _start_time(self.pid) == self.started and _boot_id() == self.boot

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if exactly this process lives."""
        if self.is_running():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def spawn(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> ProcessRecord:
    """Start a detached process; append its output to `log`.

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
        raise SiteError(f"{arguments[0]}: exited at once; see {log}")
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
        raise SiteError(f"process {left[0].pid} did not end after SIGKILL")
    return stubborn


def kill(record: ProcessRecord) -> None:
    """End a process by SIGKILL and wait for its end."""
    record.signal(signal.SIGKILL)
    if _wait([record], 10):
        raise SiteError(f"process {record.pid} did not end after SIGKILL")


def is_port_free(port: int) -> bool:
    """Return whether a server could listen on the port, on loopback and on every interface."""
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104  Orthanc's DICOM server knows no other address
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def allocate_ports(names: Iterable[str], known: Mapping[str, int], in_use: Collection[str]) -> dict[str, int]:
    """Return a port for each name: the known one while it is free or its component runs, else a free one.

    Raises:
        SiteError: no free port was found.
    """
    chosen: dict[str, int] = {}
    for name in names:
        port = known.get(name)
        if port is None or not (name in in_use or is_port_free(port)):
            port = _find_port({*chosen.values(), *known.values()})
        chosen[name] = port
    return chosen


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


def _find_port(taken: Collection[int]) -> int:
    for port in random.sample(_PORTS, 2000):
        if port not in taken and is_port_free(port):
            return port
    raise SiteError(f"no free port between {_PORTS.start} and {_PORTS.stop - 1}")
