"""The catalog beside raw psycopg that does the same to the same tables of the same PostgreSQL, in one run.

Starts a durable PostgreSQL and a catalog as a process of its own; everything goes over gRPC and mutual TLS through the SDK. Raw is one
process on a Unix socket, at its best: it knows directories by their ids, asks about rights one ACL look-up per file and nothing else,
registers by COPY into a temporary table and INSERT … SELECT, has statements prepared, and lists by a cursor with the better of two sizes
of what it fetches at once. The database is filled in steps (--fill), and everything is measured again at each:

- register: --register files in batches of 5,000, each with a SHA-256, a size and a replica, 500 to a directory;
- resolve: 10,000 LFNs from all over the tree, in one call, with the check of `r` and of `x` on every directory above;
- stat: one file per call, from 1, 8 and 32 threads, and calls that ask for nothing, which is what gRPC and TLS cost;
- list: one directory of --wide entries, and the peak memory of server and client; find: one name in 10,000 of the same directory;
- rename, du and grant: of the directory that holds everything.

Prints medians of --rounds rounds in turn, and ours to raw; registering and resolving once before warms both up.

Run: python bench/catalog.py [--fill 100000] [--wide 200000] [--register 50000] [--rounds 2]; larger: --fill 100000,10000000
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import psycopg
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc as pb_grpc
from mdm_client.acl import grant
from mdm_client.catalog.client import CatalogClient
from mdm_client.catalog.model import Search
from mdm_client.name_syntax import Name
from mdm_local.postgres import PostgresServer
from mdm_site.file import to_toml
from mdm_site.pki import DevelopmentCa
from mdm_testing import machine
from mdm_testing.process import free_port, running_process
from mdm_testing.server import answering, configuration
from mdm_wire.channel import open_channel

PER_DIRECTORY = 500
BATCH = 5_000
RESOLVED = 10_000
STATS = 2_000
READ = 4

FILL = """
INSERT INTO entry (parent_id, name, kind, guid, size, sha256, acl_id)
SELECT %(parent)s, 'f' || lpad(n::text, 7, '0'), 2, gen_random_uuid(), n, sha256(n::text::bytea), %(acl)s
FROM generate_series(1, %(count)s) n
"""
FILL_REPLICAS = """
INSERT INTO replica (entry_id, surl, status, host) SELECT id, 'srm://site/' || guid, 1, 'site' FROM entry WHERE parent_id = %s
"""
RAW_RESOLVE = """
SELECT w.n, e.guid, r.surl, e.size FROM unnest(%b::bigint[], %b::text[]) WITH ORDINALITY AS w (parent_id, name, n)
JOIN LATERAL (SELECT * FROM entry WHERE entry.parent_id = w.parent_id AND entry.name = w.name LIMIT 1) e ON true
JOIN replica r ON r.entry_id = e.id AND r.status = 1
JOIN acl_entry a ON a.acl_id = e.acl_id AND a.principal = %s AND a.permissions & 4 = 4
"""
RAW_TABLE = "CREATE TEMP TABLE given (parent_id bigint, name text, guid uuid, size bigint, sha256 bytea) ON COMMIT DROP"
RAW_STAT = """
SELECT e.*, a.owner, p.permissions FROM entry e JOIN acl a ON a.id = e.acl_id
JOIN acl_entry p ON p.acl_id = e.acl_id AND p.principal = %s WHERE e.parent_id = %s AND e.name = %s
"""
RAW_LIST = "SELECT e.*, a.owner FROM entry e JOIN acl a ON a.id = e.acl_id WHERE e.parent_id = %s ORDER BY e.name"


class Bench:
    """A running catalog with a user's client, and a raw connection to its database."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.random = Random(1)
        postgres = PostgresServer(folder / "postgres")
        postgres.start()
        stack.callback(postgres.stop)
        self.conninfo = postgres.create_database("catalog")
        pki = DevelopmentCa(folder / "pki")
        self.user = pki.subject("user")
        self.port = free_port()
        # One user may have half of the threads under way, and here all 32 clients are one user.
        sections = {"threads": 64, "database": {"pool_max": 32}, "root": {"owner": self.user}}
        config = folder / "catalog.toml"
        config.write_text(to_toml(configuration(pki, "catalog", self.conninfo, port=self.port, **sections)))
        program = Path(sys.executable).parent / "mdm-catalog"
        files = pki.issue(self.user)
        command, answers = [program, "serve", "--migrate", "--config", config], answering(f"127.0.0.1:{self.port}", files)
        self.server = stack.enter_context(running_process(command, folder / "log", answers))
        self.channels = [stack.enter_context(open_channel([f"127.0.0.1:{self.port}"], files)) for _ in range(4)]
        self.client = CatalogClient(self.channels[0])
        self.raw = stack.enter_context(psycopg.connect(self.conninfo, autocommit=True))
        self.acl = str(uuid.uuid4())
        entry = acl_pb2.AclEntry(principal=f"dn:{self.user}", permissions=255)
        acl_pb2_grpc.AclServiceStub(self.channels[0]).CreateAcls(
            acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=self.acl, entries=[entry])])
        )
        assert self.client.changes.make_directories(["/bench"], acl_id=self.acl) == [None]
        self.directories: list[tuple[int, str]] = []

    def make(self, names: list[str]) -> list[tuple[int, str]]:
        """Make directories; return their ids and paths."""
        lfns = [f"/bench/{name}" for name in names]
        for start in range(0, len(lfns), BATCH):
            assert not any(self.client.changes.make_directories(lfns[start : start + BATCH], parents=True))
        with self.raw.cursor() as cursor:
            cursor.execute(
                "SELECT e.id, p.name || '/' || e.name FROM entry e JOIN entry p ON p.id = e.parent_id WHERE e.kind = 1 AND p.name <> ''"
            )
            ids = {f"/bench/{path}": number for number, path in cursor}
        return [(ids[lfn], lfn) for lfn in lfns]

    def fill(self, total: int) -> None:
        """Bring the number of files to about `total`, all readable."""
        present = len(self.directories)
        wanted = total // PER_DIRECTORY
        self.directories += self.make([f"{number // 500:05}/{number:07}" for number in range(present, wanted)])
        for start in range(present, wanted, 200):
            with self.raw.transaction():
                for directory, _ in self.directories[start : start + 200]:
                    self.raw.execute(FILL, {"parent": directory, "acl": self.acl, "count": PER_DIRECTORY})
                    self.raw.execute(FILL_REPLICAS, (directory,))
        self.raw.execute("VACUUM ANALYZE entry, replica, directory_content")

    def sample(self, count: int) -> list[tuple[int, str, str]]:
        """Return files from all directories: the directory's id, its path, the name."""
        chosen = (self.random.choice(self.directories) for _ in range(count))
        return [(number, lfn, f"f{self.random.randint(1, PER_DIRECTORY):07}") for number, lfn in chosen]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def peak(pid: int) -> Iterator[Callable[[], float]]:
    """Give the peak memory of a process within the block, in MB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")

    def read() -> float:
        [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1000

    yield read


def new_files(directories: list[str], count: int) -> list[pb.NewFile]:
    files = []
    for number in range(count):
        guid = str(uuid.uuid4())
        lfn = f"{directories[number // PER_DIRECTORY]}/f{number % PER_DIRECTORY + 1:07}"
        files.append(pb.NewFile(lfn=lfn, guid=guid, size=number, sha256=b"d" * 32, replicas=[pb.Replica(surl=f"srm://site/{guid}")]))
    return files


def register(bench: Bench, count: int) -> tuple[float, float]:
    """Return files per second of the catalog and of raw psycopg, each into directories of its own."""
    mark = uuid.uuid4().hex[:8]
    made = bench.make([f"r{mark}/{side}{number:05}" for side in "ab" for number in range(-(-count // PER_DIRECTORY))])
    ours, raws = made[: len(made) // 2], made[len(made) // 2 :]
    files = new_files([lfn for _, lfn in ours], count)
    stub = pb_grpc.CatalogServiceStub(bench.channels[0])

    def through_catalog() -> None:
        for start in range(0, count, BATCH):
            statuses = stub.RegisterFiles(pb.RegisterFilesRequest(files=files[start : start + BATCH])).statuses
            assert not any(status.code for status in statuses)

    rows = [(raws[n // PER_DIRECTORY][0], f"f{n % PER_DIRECTORY + 1:07}", uuid.uuid4(), n, b"d" * 32) for n in range(count)]

    def raw() -> None:
        with bench.raw.cursor() as cursor:
            for start in range(0, count, BATCH):
                with bench.raw.transaction():
                    cursor.execute(
                        "CREATE TEMP TABLE given (parent_id bigint, name text, guid uuid, size bigint, sha256 bytea) ON COMMIT DROP"
                    )
                    with cursor.copy("COPY given FROM STDIN (FORMAT BINARY)") as copy:
                        copy.set_types(["int8", "text", "uuid", "int8", "bytea"])
                        for row in rows[start : start + BATCH]:
                            copy.write_row(row)
                    cursor.execute(
                        "WITH made AS (INSERT INTO entry (parent_id, name, kind, guid, size, sha256, acl_id)"
                        " SELECT parent_id, name, 2, guid, size, sha256, %s FROM given RETURNING id, guid)"
                        " INSERT INTO replica (entry_id, surl, status, host) SELECT id, 'srm://site/' || guid, 1, 'site' FROM made",
                        (bench.acl,),
                    )

    return count / seconds(through_catalog), count / seconds(raw)


def resolve(bench: Bench) -> tuple[float, float]:
    """Return seconds for 10,000 LFNs."""
    chosen = bench.sample(RESOLVED)
    names = [Name(lfn=f"{lfn}/{name}") for _, lfn, name in chosen]

    def through_catalog() -> None:
        assert all(hasattr(found, "surls") and found.surls for found in bench.client.resolve(names))

    def raw() -> None:
        parents, found = [item[0] for item in chosen], [item[2] for item in chosen]
        with bench.raw.cursor(binary=True) as cursor:
            assert len(cursor.execute(RAW_RESOLVE, (parents, found, f"dn:{bench.user}")).fetchall()) == RESOLVED

    return seconds(through_catalog), seconds(raw)


def stat(bench: Bench, threads: int) -> tuple[float, float, float]:
    """Return calls per second from `threads` threads: of stat, of the same by raw psycopg, and of empty calls."""
    chosen = bench.sample(STATS)
    parts = [chosen[start::threads] for start in range(threads)]

    def through_catalog(number: int) -> None:
        client = CatalogClient(bench.channels[number % len(bench.channels)])
        for _, lfn, name in parts[number]:
            client.stat([Name(lfn=f"{lfn}/{name}")])

    def empty(number: int) -> None:
        stub = pb_grpc.CatalogServiceStub(bench.channels[number % len(bench.channels)])
        for _ in parts[number]:
            stub.Stat(pb.StatRequest())

    connections = [psycopg.connect(bench.conninfo, autocommit=True) for _ in range(threads)]

    def raw(number: int) -> None:
        for parent, _, name in parts[number]:
            assert connections[number].execute(RAW_STAT, (f"dn:{bench.user}", parent, name)).fetchone()

    with ThreadPoolExecutor(threads) as executor:
        works = (through_catalog, raw, empty)
        rates = [STATS / seconds(lambda work=work: list(executor.map(work, range(threads)))) for work in works]
    for connection in connections:
        connection.close()
    return rates[0], rates[1], rates[2]


def wide(bench: Bench, count: int) -> tuple[int, str]:
    """Make one directory with that many files; return its id and path."""
    [(number, lfn)] = bench.make(["wide/all"])
    bench.raw.execute(FILL, {"parent": number, "acl": bench.acl, "count": count})
    bench.raw.execute("VACUUM ANALYZE entry")
    return number, lfn


def listing(bench: Bench, number: int, lfn: str, count: int) -> tuple[float, float, float, float]:
    """Return entries per second of the catalog and of raw psycopg, and peak MB of the server and of this client."""
    with peak(bench.server.pid) as server, peak(os.getpid()) as client:
        ours = count / seconds(lambda: _count(bench.client.list_entries(lfn), count))
        memory = server(), client()

    def raw(size: int) -> None:
        with psycopg.connect(bench.conninfo) as connection, connection.cursor("listing", binary=True) as cursor:
            cursor.itersize = size
            _count(cursor.execute(RAW_LIST, (number,)), count)

    best = min(seconds(lambda size=size: raw(size)) for size in (1_000, 10_000))
    return ours, count / best, *memory


def _count(items: Iterator[object], expected: int) -> None:
    assert sum(1 for _ in items) == expected


def of_the_whole(bench: Bench) -> dict[str, float]:
    """Return milliseconds of operations on the directory that holds everything."""
    top = Name(lfn="/bench")
    works: dict[str, Callable[[], object]] = {
        "rename and back": lambda: bench.client.changes.rename([(top, "/b"), (Name(lfn="/b"), "/bench")]),
        "du": lambda: bench.client.usage("/bench"),
        "grant": lambda: bench.client.acls.modify_subtree(top, [grant("authenticated", READ)]),
        "acl get": lambda: bench.client.acls.of_subtree(top),
    }
    return {name: 1000 * seconds(work) for name, work in works.items()}


def measure(bench: Bench, arguments: argparse.Namespace, wide_directory: tuple[int, str]) -> None:
    """Print a table of everything at the present size."""
    rows = bench.raw.execute("SELECT count(*) FILTER (WHERE kind = 2), count(*) FILTER (WHERE kind = 1) FROM entry").fetchone()
    print(f"\n{rows[0]:,} files in {rows[1]:,} directories in the database")
    print(f"{'':28} {'catalog':>12} {'raw':>12}  ours to raw")

    def show(name: str, unit: str, pairs: list[tuple[float, float]], more_is_better: bool) -> None:
        ours, raw = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:28} {ours:>12,.2f} {raw:>12,.2f}  {ours / raw:.2f} {unit}{'' if more_is_better else ' (less is better)'}", flush=True)

    rounds = range(arguments.rounds)
    register(bench, BATCH)
    resolve(bench)
    show("register", "files/s", [register(bench, arguments.register) for _ in rounds], True)
    show("resolve 10,000", "s", [resolve(bench) for _ in rounds], False)
    for threads in (1, 8, 32):
        stats = [stat(bench, threads) for _ in rounds]
        show(f"stat, {threads} clients", "calls/s", [item[:2] for item in stats], True)
        print(f"{'  a call that asks for nothing':28} {statistics.median(item[2] for item in stats):>12,.0f} calls/s")
    lists = [listing(bench, *wide_directory, arguments.wide) for _ in rounds]
    show(f"list {arguments.wide:,}", "entries/s", [item[:2] for item in lists], True)
    print(f"{'  peak memory':28} server {max(item[2] for item in lists):.0f} MB, client {max(item[3] for item in lists):.0f} MB")
    finding = [
        seconds(lambda: _count(bench.client.find(wide_directory[1], Search(name="f0*7777")), arguments.wide // 10_000)) for _ in rounds
    ]
    print(f"{f'find in {arguments.wide:,}':28} {statistics.median(finding):>12.2f} s")
    whole = [of_the_whole(bench) for _ in rounds]
    print(
        "of everything, ms: " + ", ".join(f"{name} {statistics.median(item[name] for item in whole):.0f}" for name in whole[0]), flush=True
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fill", default="100000", help="numbers of files at which to measure, rising")
    parser.add_argument("--wide", type=int, default=200_000, help="entries of the directory that is listed")
    parser.add_argument("--register", type=int, default=50_000, help="files to register in a round")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    print(machine.state(), flush=True)
    with tempfile.TemporaryDirectory(prefix="mdm-bench-") as folder, ExitStack() as stack:
        os.chmod(folder, 0o755)  # noqa: PTH101 - PostgreSQL runs as another user where this one is root
        bench = Bench(Path(folder), stack)
        wide_directory = wide(bench, arguments.wide)
        for total in (int(text) for text in arguments.fill.split(",")):
            print(f"filled to {total:,} in {seconds(lambda total=total: bench.fill(total)):.0f} s", flush=True)
            measure(bench, arguments, wide_directory)
    print(f"load {machine.load()} at the end")


if __name__ == "__main__":
    main()
