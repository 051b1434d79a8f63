"""Programs under test: found on this machine, given ports, started, waited for, ended."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from mdm_local.process import is_port_free

T = TypeVar("T")

#: Where the commands of this environment are.
BIN = Path(sys.executable).parent
START_SECONDS = 60.0
_END_SECONDS = 30.0
# Below the ports of outgoing connections (from 32768) and beside those of mdm-local (from 20000): nobody takes one unasked.
_RANGE = range(12000, 20000)
_reservations: list[socket.socket] = []
_ANYTHING_TRUE: Any = object()


def find_program(name: str) -> str | None:
    """Return the path of a program that this machine's distribution installs, or None.

    Servers are in /usr/sbin, which a user's PATH may lack; pynetdicom's commands, which have dcmtk's names, are passed over.
    """
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(folder for folder in folders if Path(folder) != BIN))


def require_program(name: str, package: str) -> str:
    """Return the path of a program; where it is missing, skip the test, or fail it where every component is required (in CI)."""
    found = find_program(name)
    if found is None:
        missing = f"{name} (Debian package {package}) is not installed"
        if os.environ.get("MDM_REQUIRE_ALL") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def require_fuse() -> None:
    """Skip the test where the kernel mounts nothing for a program, or fail it where every component is required (in CI)."""
    require_program("fusermount3", "fuse3")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing = "/dev/fuse is not there, or not for this user"
        if os.environ.get("MDM_REQUIRE_ALL") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


def free_port() -> int:
    """Return a port that is free and that no other call returns, in any process of this machine, while this process lives.

    Prefer port 0 where a server can report the port that it got; this is for ports that two sides have to know beforehand.
    """
    for port in random.sample(_RANGE, len(_RANGE)):
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reservation.bind(f"\0mdm-testing-port-{port}")  # an abstract name: one holder, and it ends with the process
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        if is_port_free(port):
            return port
    raise RuntimeError(f"no free port between {_RANGE.start} and {_RANGE.stop - 1}")


def eventually(
    probe: Callable[[], T],
    timeout: float = 120.0,
    *,
    wanted: Any = _ANYTHING_TRUE,
    ignored: tuple[type[Exception], ...] = (),
    interval: float = 0.05,
) -> T:
    """Return the first answer of `probe` that is true, or equals `wanted` if that is given.

    An exception of a type in `ignored` counts as another answer. The timeout, in seconds, only bounds a failure: it is to be longer
    than a busy machine takes, since a success does not wait for it.

    Raises:
        AssertionError: no such answer came in time; it shows the last one.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer: Any
        try:
            answer = probe()
        except ignored as error:
            answer = error
        else:
            if answer if wanted is _ANYTHING_TRUE else answer == wanted:
                return answer  # type: ignore[no-any-return]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s; at last: {answer!r}")
        time.sleep(interval)


def start_process(
    command: Sequence[str | Path], log: Path, ready: Callable[[], object], *, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program whose output is appended to `log`, and return it when `ready()` is true.

    Raises:
        AssertionError: it ended before, or was not ready in time, and has been killed; shows what it wrote.
    """
    with log.open("ab") as output:
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, env=environment)

    def settled() -> bool:
        return process.poll() is not None or bool(ready())

    try:
        eventually(settled, START_SECONDS)
        assert process.poll() is None, f"ended with {process.returncode}"
    except BaseException as error:
        kill_process(process)
        written = log.read_text(errors="replace")[-2000:]
        raise AssertionError(f"{command[0]}: {error}\n{written}") if isinstance(error, AssertionError) else error from error
    return process


def end_process(process: subprocess.Popen[bytes]) -> int:
    """End a program by SIGTERM and return its exit code.

    Raises:
        subprocess.TimeoutExpired: it did not end, and has been killed.
    """
    process.terminate()
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        kill_process(process)
        raise


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """End a program as a crash would."""
    process.kill()
    process.wait()


@contextmanager
def running_process(
    command: Sequence[str | Path], log: Path, ready: Callable[[], object], *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program (see `start_process`) until the block ends."""
    process = start_process(command, log, ready, environment=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            end_process(process)
