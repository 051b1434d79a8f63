"""Metadata beside hand-written SQL by psycopg on the same rows of the same database, in one run; a table in Markdown.

    python bench/metadata [--entries 200000] [--loaded 50000] [--seconds 2]
    python bench/metadata --scale [--collections 100000] [--rows 10000000]

The service is a process of its own, reached over mutual TLS by gRPC from this one; psycopg asks PostgreSQL directly, over a Unix socket,
without access rights, at its best: statements prepared, COPY by two connections, jobs taken by one statement that skips locked rows, rows
streamed by the best of three cursors. Times are medians, in which the first calls, that warm up, count little.
Bulk load is measured with the first entries (--loaded); the others come by SQL, so that 1,000,000 take minutes, too.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from change import replicate, take
from environment import Environment, Report
from load import load
from mdm_testing import machine
from query import ask
from scale import many_collections, many_rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--loaded", type=int, default=50_000, help="entries that go through the service")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--scale", action="store_true", help="many collections and many rows instead")
    parser.add_argument("--collections", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that started processes end too
    started = time.perf_counter()
    print(machine.state() + "\n", flush=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.chmod(folder, 0o755)  # noqa: PTH101 - PostgreSQL runs as another user where this one is root
        environment, report = Environment(Path(folder), stack), Report()
        if arguments.scale:
            many_collections(environment, report, arguments.collections, arguments.seconds)
            many_rows(environment, report, arguments.rows)
        else:
            load(environment, report, arguments.entries, arguments.loaded)
            ask(environment, report, arguments.entries, arguments.seconds)
            take(environment, report, arguments.seconds)
            replicate(environment, Environment(Path(folder), stack, "copy", environment), report, arguments.seconds)
    entries = "" if arguments.scale else f"{arguments.entries:,} entries; "
    print(f"\n{entries}{(time.perf_counter() - started) / 60:.1f} minutes; load {machine.load()}")


if __name__ == "__main__":
    main()
