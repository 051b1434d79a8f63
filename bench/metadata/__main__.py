"""Metadata beside hand-written SQL by psycopg on the same rows of the same database, in one run; a table in Markdown.

    python bench/metadata [--entries 1000000] [--loaded 100000] [--seconds 4]
    python bench/metadata --scale [--collections 100000] [--rows 10000000]

The service is a process of its own, reached over mutual TLS by gRPC from this one; psycopg asks PostgreSQL directly, without access rights.
Bulk load is measured with the first entries (--loaded); the others come by SQL, so that 1,000,000 take minutes.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from asking import ask
from filling import fill
from scaling import many_collections, many_rows
from stand import Report, Stand
from working import replicate, take


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--loaded", type=int, default=100_000, help="entries that go through the service")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    parser.add_argument("--scale", action="store_true", help="many collections and many rows instead")
    parser.add_argument("--collections", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends too
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.chmod(folder, 0o755)  # noqa: PTH101 - PostgreSQL runs as another user where this one is root
        stand, report = Stand(Path(folder), stack), Report()
        if arguments.scale:
            many_collections(stand, report, arguments.collections, arguments.seconds)
            many_rows(stand, report, arguments.rows)
        else:
            fill(stand, report, arguments.entries, arguments.loaded)
            ask(stand, report, arguments.entries, arguments.seconds)
            take(stand, report, arguments.seconds)
            replicate(stand, Stand(Path(folder), stack, "copy", stand), report, arguments.seconds)
    entries = "" if arguments.scale else f"{arguments.entries:,} entries; "
    print(f"\n{entries}{(time.perf_counter() - started) / 60:.1f} minutes; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
