"""The environment of the measurements: PostgreSQL, metadata services as processes, clients of both, and a report."""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from mdm_client.metadata.client import MetadataClient
from mdm_client.metadata.collections import Attribute
from mdm_local.postgres import PostgresServer
from mdm_site.file import to_toml
from mdm_site.pki import DevelopmentCa
from mdm_testing.process import free_port
from mdm_testing.server import configuration
from mdm_wire.channel import open_channel
from mdm_wire.retry import RetryPolicy

POLICY = RetryPolicy(call_seconds=600, retry_seconds=60)
FILLERS = 32
MODALITIES = ("CT", "MR", "US", "CR", "PT", "NM", "XA", "MG")
ATTRIBUTES = (
    Attribute("guid", "varchar", 64, indexed=True),
    Attribute("study", "varchar", 64, indexed=True),
    Attribute("modality", "varchar", 16, indexed=True),
    Attribute("rows", "int", indexed=True),
    Attribute("thickness", "float", unit="mm"),
    Attribute("day", "date"),
    Attribute("state", "varchar", 16, indexed=True),
    Attribute("comment", "text"),
    *(Attribute(f"filler{n}", ("int", "float", "text", "bool")[n % 4]) for n in range(FILLERS)),
)


class Environment:
    """A metadata service and its database; with `origin`, a copy of that one's `/published` on the same PostgreSQL."""

    def __init__(self, folder: Path, stack: ExitStack, name: str = "metadata", origin: "Environment | None" = None) -> None:
        self._stack = stack
        self._pki = DevelopmentCa(folder / "pki") if origin is None else origin._pki
        if origin is None:
            self._server = PostgresServer(folder / "postgres", durable=True)
            self._server.start()
            stack.callback(self._server.stop)
        else:
            self._server = origin._server
        self.conninfo = self._server.create_database(f"bench_{name}")
        self._user = self._pki.issue(self._pki.subject("bench"))
        self.port = free_port()
        config = folder / f"{name}.toml"
        config.write_text(self._configuration(name, origin))
        self._config = config
        self.process = self._serve("--migrate", "--config", str(config))
        self.metadata = MetadataClient(self.channel(), POLICY)
        self.collections = self.metadata.collections
        self.entries = self.metadata.entries

    def _configuration(self, name: str, origin: "Environment | None") -> str:
        copy = self._pki.subject("copy")
        sections: dict[str, Any] = {"feed": {"subscribers": [{"subject": copy, "subtrees": ["/published"]}]}}
        if origin is not None:
            sections = {"replicas": [{"origin": "bench", "addresses": [f"127.0.0.1:{origin.port}"], "subtrees": ["/published"]}]}
        sections |= {"threads": 64, "root": {"owner": self._pki.subject("bench")}, "query": {"statement_seconds": 300}}
        return to_toml(configuration(self._pki, name, self.conninfo, port=self.port, roles={"peer.metadata": [copy]}, **sections))

    def _serve(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mdm_metadata", "serve", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process

    def by_workers(self, count: int) -> int:
        """Serve the same database by several processes on another port, which is returned."""
        port = free_port()
        config = self._config.with_name("workers.toml")
        config.write_text(self._config.read_text().replace(f"port = {self.port}", f"port = {port}"))
        self._serve("--workers", str(count), "--config", str(config))
        return port

    def channel(self, port: int | None = None) -> Any:
        """Return a connection of its own to the service, or to the one at another port."""
        return self._stack.enter_context(_closing(open_channel([f"127.0.0.1:{port or self.port}"], self._user)))

    def connection(self) -> psycopg.Connection:
        """Return a connection to the database."""
        return self._stack.enter_context(psycopg.connect(self.conninfo, autocommit=True))

    def memory(self) -> float:
        """Return the memory of the service's process in MB."""
        return memory_of(self.process.pid)


@contextmanager
def _closing(channel: Any) -> Iterator[Any]:
    try:
        yield channel
    finally:
        channel.close()


def memory_of(process: int | str) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1_024


def values_of(number: int) -> dict[str, Any]:
    """Return the values of an image."""
    fillers: dict[str, Any] = {}
    for n in range(FILLERS):
        fillers[f"filler{n}"] = (number + n, number / (n + 1), f"text {number % 97}", n % 3 == 0)[n % 4]
    return {
        "guid": f"g{number:08}",
        "study": f"s{number // 100:06}",
        "modality": MODALITIES[number % 8],
        "rows": number % 2_048,
        "thickness": number % 50 / 10,
        "day": f"20{number % 20:02}-01-{number % 28 + 1:02}",
        "state": "new",
        "comment": f"image number {number}",
        **fillers,
    }


def slots(connection: psycopg.Connection, path: str = "/images") -> tuple[int, dict[str, str]]:
    """Return the number of a collection, and the stored names of its attributes."""
    row = connection.execute("SELECT id FROM collection WHERE path = %s", (path,)).fetchone()
    assert row is not None
    return row[0], dict(connection.execute("SELECT name, slot FROM attribute WHERE collection_id = %s", row).fetchall())


def median(action: Callable[[], int], seconds: float) -> tuple[float, int]:
    """Return the median time of a call in seconds, and its rows."""
    times, rows, end = [], 0, time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        rows = action()
        times.append(time.perf_counter() - started)
    return statistics.median(times), rows


def rate(make: Callable[[], Callable[[], object]], clients: int, seconds: float) -> float:
    """Return calls a second of `clients` clients, each with its own action."""
    counts = [0] * clients
    stop = threading.Event()

    def work(index: int, action: Callable[[], object]) -> None:
        while not stop.is_set():
            action()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index, make())) for index in range(clients)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - started)


class Report:
    """A table in Markdown, printed as it grows."""

    def __init__(self) -> None:
        print("| | service | psycopg | ratio |\n|---|---|---|---|", flush=True)

    def row(self, name: str, ours: str, raw: str = "", ratio: str = "") -> None:
        """Print a row."""
        print(f"| {name} | {ours} | {raw} | {ratio} |", flush=True)

    def rates(self, name: str, unit: str, ours: float, raw: float) -> None:
        """Print a row of two rates."""
        self.row(name, f"{ours:,.0f} {unit}", f"{raw:,.0f} {unit}", f"{ours / raw:.2f} × its rate")

    def times(self, name: str, ours: float, raw: float) -> None:
        """Print a row of two times in seconds."""
        self.row(name, f"{ours * 1_000:.2f} ms", f"{raw * 1_000:.2f} ms", f"{ours / raw:.1f} × its time")
