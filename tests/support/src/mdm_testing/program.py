"""Programs under test: started, waited for, ended."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mdm_testing.wait import eventually

START_SECONDS = 60.0
_END_SECONDS = 30.0


def start(
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
        kill(process)
        written = log.read_text(errors="replace")[-2000:]
        raise AssertionError(f"{command[0]}: {error}\n{written}") if isinstance(error, AssertionError) else error from error
    return process


def end(process: subprocess.Popen[bytes]) -> int:
    """End a program by SIGTERM and return its exit code.

    Raises:
        subprocess.TimeoutExpired: it did not end, and has been killed.
    """
    process.terminate()
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        kill(process)
        raise


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a program as a crash would."""
    process.kill()
    process.wait()


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, ready: Callable[[], object], *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program (see `start`) until the block ends."""
    process = start(command, log, ready, environment=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            end(process)
