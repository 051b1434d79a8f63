"""Metadata beside hand-written SQL by psycopg on the same rows of the same database, in one run.

    python bench/metadata.py [--entries 1000000] [--seconds 4]

The service is a process of its own, reached over mutual TLS by gRPC from this one; psycopg asks PostgreSQL directly, without access rights.
"""

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from mdm_client.calls import Patience
from mdm_client.channel import TlsFiles, open_channel
from mdm_client.collections import Attribute, Collection, CollectionsClient, Entry
from mdm_client.errors import ClientError
from mdm_client.metadata import MetadataClient
from mdm_local.postgres import PostgresServer
from mdm_site.pki import DevelopmentCa
from rich.console import Console
from rich.table import Table

PATIENCE = Patience(call_seconds=600)
FILLERS = 32


class Stand:
    """A PostgreSQL, a metadata service, and clients of both."""

    def __init__(self, folder: Path, stack: ExitStack, name: str = "metadata", origin: "Stand | None" = None) -> None:
        self._stack = stack
        self._pki = DevelopmentCa(folder / "pki") if origin is None else origin._pki
        if origin is None:
            self._server = PostgresServer(folder / "postgres", durable=True)
            self._server.start()
            stack.callback(self._server.stop)
        else:
            self._server = origin._server
        self.conninfo = self._server.create_database(f"bench_{name}")
        own = self._pki.issue(self._pki.subject(name))
        self._user = self._pki.issue(self._pki.subject("bench"))
        config = folder / f"{name}.toml"
        config.write_text(
            f"""threads = 48
            [listen]
            host = "127.0.0.1"
            port = 0
            [tls]
            certificate = "{own.certificate}"
            key = "{own.key}"
            ca = "{own.ca}"
            [[trust.ca]]
            certificate = "{own.ca}"
            namespaces = ["{self._pki.namespace}"]
            [database]
            conninfo = "{self.conninfo}"
            [root]
            owner = "{self._pki.subject("bench")}"
            [query]
            statement_seconds = 300
            [roles]
            "peer.metadata" = ["{self._pki.subject("copy")}"]
            """
        )
        feed = f"""[[feed.subscribers]]
            subject = "{self._pki.subject("copy")}"
            subtrees = ["/published"]
            """
        if origin is not None:
            feed = f"""[[replicas]]
            origin = "bench"
            addresses = ["127.0.0.1:{origin.port}"]
            subtrees = ["/published"]
            """
        self.port = _free_port()
        config.write_text(config.read_text().replace("port = 0", f"port = {self.port}") + feed)
        command = [sys.executable, "-m", "mdm_metadata", "serve", "--migrate", "--config", str(config)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        self.collections = CollectionsClient(self.channel(), PATIENCE)
        self.metadata = MetadataClient(self.channel(), PATIENCE)

    def channel(self) -> Any:
        files = TlsFiles(Path(self._user.certificate), Path(self._user.key), Path(self._user.ca))
        return self._stack.enter_context(_closing(open_channel([f"127.0.0.1:{self.port}"], files)))

    def connection(self) -> psycopg.Connection:
        return self._stack.enter_context(psycopg.connect(self.conninfo, autocommit=True))


@contextmanager
def _closing(channel: Any) -> Iterator[Any]:
    try:
        yield channel
    finally:
        channel.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
MODALITIES = ("CT", "MR", "US", "CR", "PT", "NM", "XA", "MG")


def values_of(number: int) -> dict[str, Any]:
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


def fill(stand: Stand, entries: int) -> float:
    """Load everything through the service; return entries a second."""
    error = stand.collections.create([Collection("/images", ATTRIBUTES), Collection("/studies", ATTRIBUTES[1:2] + ATTRIBUTES[7:8])])
    assert error == [None, None], error
    started = time.perf_counter()

    def load(start: int) -> None:
        batch = [Entry(f"e{n:08}", values_of(n)) for n in range(start, min(start + 1_000, entries))]
        assert not any(stand.collections.upsert("/images", batch))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(load, range(0, entries, 1_000)))
    rate = entries / (time.perf_counter() - started)
    studies = [Entry(f"s{n:06}", {"study": f"s{n:06}", "comment": f"study {n}"}) for n in range(entries // 100 + 1)]
    assert not any(stand.collections.upsert("/studies", studies))
    return rate


def median(act: Callable[[], int], seconds: float) -> tuple[float, int]:
    """Return the median time of a call in seconds, and its rows."""
    times, rows, end = [], 0, time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        rows = act()
        times.append(time.perf_counter() - started)
    return statistics.median(times), rows


def slots(connection: psycopg.Connection) -> tuple[int, int, dict[str, str]]:
    """Return the numbers of both collections and the stored names of the images' attributes."""
    numbers = dict(connection.execute("SELECT path, id FROM collection").fetchall())
    found = dict(connection.execute("SELECT name, slot FROM attribute WHERE collection_id = %s", (numbers["/images"],)).fetchall())
    return numbers["/images"], numbers["/studies"], found


def queries(stand: Stand, connection: psycopg.Connection, entries: int) -> list[tuple[str, Callable[[], int], Callable[[], int]]]:
    """Return what is measured: name, through the service, by psycopg."""
    images, studies, slot = slots(connection)
    choose = random.Random(7)

    def ask(sql: Callable[[], str]) -> Callable[[], int]:
        return lambda: sum(len(batch) for batch in stand.metadata.query(sql()).batches())

    def raw(sql: str, parameters: Callable[[], tuple[Any, ...]] = lambda: ()) -> Callable[[], int]:
        return lambda: len(connection.execute(sql.encode(), parameters()).fetchall())

    def text(name: str, alias: str = "entry") -> str:
        return f"({alias}.attributes->>'{slot[name]}') COLLATE \"C\""

    five = f"{text('guid')}, {text('modality')}, (attributes->>'{slot['rows']}')::bigint, (attributes->>'{slot['thickness']}')::float8, key"
    here = f"FROM entry WHERE collection_id = {images}"
    any_number = lambda: choose.randrange(entries)  # noqa: E731
    columns = "guid, modality, rows, thickness, entry"
    joined = f"""SELECT {text("guid", "i")}, s.key FROM entry AS i
        JOIN entry AS s ON s.collection_id = {studies} AND s.key = {text("study", "i")}
        WHERE i.collection_id = {images} AND {text("study", "i")} = %s"""
    our_join = 'SELECT i.guid, s.entry FROM "/images" i JOIN "/studies" s ON s.entry = i.study WHERE i.study = '
    return [
        (
            "one row by an indexed attribute",
            ask(lambda: f"""SELECT {columns} FROM "/images" WHERE guid = 'g{any_number():08}' LIMIT 1"""),
            raw(f"SELECT {five} {here} AND {text('guid')} = %s LIMIT 1", lambda: (f"g{any_number():08}",)),
        ),
        (
            "100 rows by an indexed attribute",
            ask(lambda: f"""SELECT {columns} FROM "/images" WHERE study = 's{any_number() // 100:06}' LIMIT 100"""),
            raw(f"SELECT {five} {here} AND {text('study')} = %s LIMIT 100", lambda: (f"s{any_number() // 100:06}",)),
        ),
        (
            "scan without an index",
            ask(lambda: """SELECT COUNT(*) FROM "/images" WHERE comment LIKE '%99'"""),
            raw(f"SELECT count(*) {here} AND {text('comment')} LIKE '%%99'", lambda: ()),
        ),
        (
            "join of images and their study",
            ask(lambda: f"{our_join}'s0000{any_number() // 100 % 100:02}'"),
            raw(joined, lambda: (f"s0000{any_number() // 100 % 100:02}",)),
        ),
        (
            "count and mean by modality",
            ask(lambda: 'SELECT modality, COUNT(*), AVG(rows) FROM "/images" GROUP BY modality'),
            raw(f"SELECT {text('modality')}, count(*), avg((attributes->>'{slot['rows']}')::bigint) {here} GROUP BY 1"),
        ),
    ]


def stream(stand: Stand, connection: psycopg.Connection) -> tuple[float, float]:
    """Return rows a second of 100,000 rows of five attributes: service, server-side cursor."""
    _, _, slot = slots(connection)
    started, rows = time.perf_counter(), 0
    for batch in stand.metadata.query('SELECT guid, modality, rows, thickness, entry FROM "/images" LIMIT 100000').batches():
        rows += len(batch)
    ours = rows / (time.perf_counter() - started)
    started, rows = time.perf_counter(), 0
    sql = ", ".join(f"attributes->>'{slot[name]}'" for name in ("guid", "modality")) + f", (attributes->>'{slot['rows']}')::bigint"
    sql += f", (attributes->>'{slot['thickness']}')::float8, key"
    with connection.transaction(), connection.cursor(name="stream") as cursor:
        cursor.itersize = 1_000
        cursor.execute(f"SELECT {sql} FROM entry WHERE collection_id = {slots(connection)[0]} LIMIT 100000".encode())
        for _ in cursor:
            rows += 1
    return ours, rows / (time.perf_counter() - started)


def rate(make: Callable[[], Callable[[], object]], clients: int, seconds: float) -> float:
    """Return calls a second of so many clients, each with an act of its own."""
    counts = [0] * clients
    stop = threading.Event()

    def work(index: int, act: Callable[[], object]) -> None:
        while not stop.is_set():
            act()
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


def _asking(stand: Stand, sql: str) -> Callable[[], object]:
    client = MetadataClient(stand.channel(), PATIENCE)
    return lambda: list(client.query(sql))


def _asking_raw(stand: Stand, sql: str) -> Callable[[], object]:
    own = stand.connection()
    return lambda: own.execute(sql.encode(), ("e00000007",)).fetchall()


def _taking(stand: Stand, sql: str) -> Callable[[], object]:
    client = CollectionsClient(stand.channel(), PATIENCE)
    return lambda: client.change(sql)


def takes(stand: Stand, connection: psycopg.Connection, seconds: float) -> tuple[float, float]:
    """Return jobs a second that 4 clients take: atomically through the service; by select, then update if still free, in psycopg."""
    images, _, slot = slots(connection)
    take = """UPDATE "/images" SET state = 'taken' WHERE state = 'new' LIMIT 1 RETURNING entry"""
    ours = rate(lambda: _taking(stand, take), 4, seconds)
    state = f"(attributes->>'{slot['state']}') COLLATE \"C\""
    done = [0]

    def make() -> Callable[[], object]:
        own = stand.connection()

        def act() -> None:
            found = own.execute(f"SELECT key FROM entry WHERE collection_id = {images} AND {state} = 'new' LIMIT 1".encode()).fetchone()
            changed = own.execute(
                f'UPDATE entry SET attributes = attributes || \'{{"{slot["state"]}": "raw"}}\''
                f" WHERE collection_id = {images} AND key = %s AND {state} = 'new'".encode(),
                found,
            )
            done[0] += changed.rowcount

        return act

    started = time.perf_counter()
    rate(make, 4, seconds)
    return ours, done[0] / (time.perf_counter() - started)


def many_collections(stand: Stand, count: int, seconds: float) -> tuple[float, float, float]:
    """Return collections made a second, and the median time of a lookup before and after there are `count`."""
    lookup = """SELECT modality, rows FROM "/images" WHERE entry = 'e00000007' LIMIT 1"""
    before, _ = median(lambda: len(list(stand.metadata.query(lookup))), seconds)
    started = time.perf_counter()
    assert stand.collections.create([Collection("/many")]) == [None]
    for start in range(0, count, 1_000):
        made = stand.collections.create([Collection(f"/many/c{n:06}", ATTRIBUTES[:2]) for n in range(start, start + 1_000)])
        assert not any(made)
    made_rate = count / (time.perf_counter() - started)
    after, _ = median(lambda: len(list(stand.metadata.query(lookup))), seconds)
    return made_rate, before, after


def replica_lag(stand: Stand, copy: Stand, seconds: float) -> tuple[float, float, float]:
    """Return entries a second that two clients write at the origin, the median time until one is at the copy, and the longest."""
    assert stand.collections.create([Collection("/published"), Collection("/published/images", ATTRIBUTES)]) == [None, None]
    stop = threading.Event()
    written = [0, 0]

    def write(index: int) -> None:
        client = CollectionsClient(stand.channel(), PATIENCE)
        while not stop.is_set():
            batch = [Entry(f"w{index}-{n:06}", values_of(n)) for n in range(written[index], written[index] + 100)]
            assert not any(client.upsert("/published/images", batch))
            written[index] += 100

    def is_there(key: str) -> bool:
        try:
            return bool(list(copy.metadata.query(f"""SELECT entry FROM "/published/images" WHERE entry = '{key}'""")))
        except ClientError:
            return False

    writers = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    started = time.perf_counter()
    for writer in writers:
        writer.start()
    lags: list[float] = []
    while time.perf_counter() < started + max(seconds, 5):
        key = f"probe{len(lags)}"
        assert not any(stand.collections.upsert("/published/images", [Entry(key, {"rows": 1})]))
        stored = time.perf_counter()
        while not is_there(key):
            time.sleep(0.02)
        lags.append(time.perf_counter() - stored)
    stop.set()
    for writer in writers:
        writer.join()
    return sum(written) / (time.perf_counter() - started), statistics.median(lags), max(lags)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--collections", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends too
    table = Table(
        "measured", "metadata service", "psycopg", "ratio", title=f"{arguments.entries:,} entries of {len(ATTRIBUTES)} attributes"
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stand = Stand(Path(folder), stack)
        table.add_row("bulk load", f"{fill(stand, arguments.entries):,.0f} entries/s", "", "")
        connection = stand.connection()
        connection.execute("VACUUM ANALYZE entry")
        for name, ours, raw in queries(stand, connection, arguments.entries):
            (mine, rows), (theirs, expected) = median(ours, arguments.seconds), median(raw, arguments.seconds)
            assert rows == expected, (name, rows, expected)
            table.add_row(f"{name} ({rows})", f"{mine * 1_000:.2f} ms", f"{theirs * 1_000:.2f} ms", f"{mine / theirs:.1f} × its time")
        mine, theirs = stream(stand, connection)
        table.add_row("streaming 100,000 rows", f"{mine:,.0f} rows/s", f"{theirs:,.0f} rows/s", f"{mine / theirs:.2f} × its rate")
        lookup = """SELECT modality, rows FROM "/images" WHERE entry = 'e00000007' LIMIT 1"""
        images, _, slot = slots(connection)
        chosen = f"attributes->>'{slot['modality']}', attributes->>'{slot['rows']}'"
        raw_lookup = f"SELECT {chosen} FROM entry WHERE collection_id = {images} AND key = %s"
        for clients in (1, 8, 32):
            mine = rate(lambda: _asking(stand, lookup), clients, arguments.seconds)
            theirs = rate(
                lambda: _asking_raw(stand, raw_lookup),
                clients,
                arguments.seconds,
            )
            table.add_row(
                f"one row, two attributes, {clients} clients",
                f"{mine:,.0f} queries/s",
                f"{theirs:,.0f} queries/s",
                f"{mine / theirs:.2f} × its rate",
            )
        mine, theirs = takes(stand, connection, arguments.seconds)
        made, before, after = many_collections(stand, arguments.collections, arguments.seconds)
        table.add_row(f"making {arguments.collections:,} collections", f"{made:,.0f} a second", "", "")
        ratio = f"{after / before:.2f} × the time before"
        table.add_row(f"one row, with {arguments.collections:,} collections more", f"{after * 1_000:.2f} ms", "", ratio)
        copy = Stand(Path(folder), stack, "copy", stand)
        written, typical, longest = replica_lag(stand, copy, arguments.seconds)
        table.add_row(
            "replica, while entries are written", f"{written:,.0f} entries/s", "", f"{typical:.2f} s behind, at most {longest:.2f} s"
        )
        table.add_row(
            "takes of 4 clients; select, then update", f"{mine:,.0f} jobs/s", f"{theirs:,.0f} jobs/s", f"{mine / theirs:.2f} × its rate"
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
