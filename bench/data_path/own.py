"""Ours as in production: a local stack with profile `research`, self-check, mutual TLS, keys from keystores; the SDK and the command."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mdm_client import Client, make_plan, parse_name
from mdm_testing import usage
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import BIN
from mdm_testing.stack import Mdm
from mdm_testing.supply import ImageSupply

USER = "alice"
_GET_SECONDS = 600


class Own:
    """A running stack, with images supplied by the measurement."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self._stack, self._mdm = stack, Mdm(stack, folder)
        self.supply = ImageSupply(stack, folder)
        self._parts = self._processes()

    def client(self) -> Client:
        """Return a new client of the user."""
        return Client.load(self._stack.client_config(USER))

    def by_command(self, directory: str, count: int) -> float:
        """Return seconds of `mdm get` of a directory: the whole process, its start included."""
        with tempfile.TemporaryDirectory() as target:
            started = time.perf_counter()
            result = self._mdm(USER, "get", directory, "-o", target, timeout=_GET_SECONDS)
            seconds = time.perf_counter() - started
            assert result.code == 0, result.err
            assert sum(1 for _ in Path(target).rglob("*.dcm")) == count
        return seconds

    def by_callers(self, directory: str, callers: int, count: int) -> float:
        """Return seconds until each of so many client processes, which have started and asked the catalog before, has all files."""
        config = self._stack.client_config(USER)
        with tempfile.TemporaryDirectory() as target:
            program = [sys.executable, str(Path(__file__).with_name("caller.py")), str(config), directory, str(count)]
            commands = [[*program, f"{target}/{number}"] for number in range(callers)]
            return together([subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands])

    def used(self) -> dict[str, usage.Usage]:
        """Return what each part of the stack has used."""
        return usage.of_parts(self._parts)

    def _processes(self) -> dict[str, int]:
        data_dir = self._stack.service_config("catalog").parents[1]
        command = [str(BIN / "mdm-local"), "status", "--json", "--data-dir", str(data_dir)]
        status = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        services = {name: service["pid"] for name, service in status["services"].items()}
        parts = {**services, "PostgreSQL": status["postgres"]["pid"], "PACS": status["pacs"]["pid"]}
        return {name: int(pid) for name, pid in parts.items() if pid}


def together(processes: "list[subprocess.Popen[str]]") -> float:
    """Let processes that have written a line go on at the same time; return seconds until the last one has written another."""
    for process in processes:
        assert process.stdout and process.stdout.readline(), "a caller did not start"
    started = time.perf_counter()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout and process.stdout.readline(), "a caller failed"
    seconds = time.perf_counter() - started
    for process in processes:
        process.communicate(timeout=60)
    return seconds


def by_sdk(client: Client, name: str, count: int) -> float:
    """Return seconds of the SDK in this process, whose channels are open: a name, or a directory's, to files in another."""
    with tempfile.TemporaryDirectory() as target:
        started = time.perf_counter()
        fetch(client, name, Path(target), count)
        return time.perf_counter() - started


def fetch(client: Client, name: str, target: Path, count: int) -> None:
    """Fetch what has a name, so many files, into a directory."""
    plan = make_plan(client.catalog, [parse_name(name)])
    with closing(client.download(plan.files, target).results()) as results:
        fetched = sum(result.error is None for result in results)
    assert fetched == count, f"{fetched} of {count}"


@contextmanager
def running(folder: Path) -> Iterator[Own]:
    """Run a stack in a folder until the block ends."""
    stack = LocalStack(folder / "stack")
    stack.up()
    try:
        yield Own(stack, folder)
    finally:
        stack.down()
