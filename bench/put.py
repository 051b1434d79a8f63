"""Putting a result of 1 GB beside a plain upload with boto3 to the same SeaweedFS.

The reference sends the plaintext by boto3's own `upload_file`, as `aws s3 cp` does: multipart, as it comes (parts of 8 MB, ten at a time)
and as dicom-srm does (16 MB, four at a time); the faster one counts.

Ours is `mdm_client.result.put` on a local stack whose space for results is a bucket of the same server: a key on three keystores,
encryption, gRPC over mutual TLS, checksums at both ends, the multipart upload, catalog and metadata. `ours, on a disk` has the space in
a directory instead, beside `copy and fsync` of the same file. Each way in turn, several times; the first round warms up and does
not count. Prints medians with their range, and the processor seconds of the client's and dicom-srm's processes.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

from boto3.s3.transfer import TransferConfig
from mdm_client.client import Client
from mdm_client.name_syntax import Name
from mdm_client.result.put import LocalResult, put
from mdm_testing import machine
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import eventually
from mdm_testing.seaweed import BUCKET, Seaweed, running_seaweed

PART = 16 * 1024 * 1024
REFERENCES = {
    "boto3, as it comes": TransferConfig(),
    "boto3, 4 x 16 MB": TransferConfig(multipart_chunksize=PART, max_concurrency=4),
}
DIRECTORY = "/biomed/hospital-a/results"
TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process and its ended children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def copy(source: Path, destination: Path) -> None:
    """Copy a file, and have it on disk."""
    with source.open("rb") as reader, destination.open("wb") as writer:
        while block := reader.read(1 << 20):
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())


def use_bucket(stack: LocalStack, server: Seaweed) -> None:
    """Have the stack keep results in a bucket from now on."""
    path = stack.service_config("dicom-srm")
    text = path.read_text()
    directory = next(line for line in text.splitlines() if line.startswith("directory") and "results" in line)
    section = "\n".join(
        (
            "[results.s3]",
            f'bucket = "{BUCKET}"',
            f'endpoint = "{server.endpoint}"',
            f'access_key_file = "{server.access_key_file}"',
            f'secret_key_file = "{server.secret_key_file}"',
            f"part_bytes = {PART}",
            "",
        )
    )
    path.write_text(text.replace(directory + "\n", "") + "\n" + section)
    stack.stop("dicom-srm")
    stack.start("dicom-srm")


def ours(client: Client, server: int, source: Path) -> Callable[[], tuple[float, str]]:
    """Return what puts the file, removes it, and returns the seconds of putting and the processor's; `server` is dicom-srm's process."""

    def run() -> tuple[float, str]:
        before, own, began = processor_seconds(server), time.process_time(), time.perf_counter()
        [result] = put(client, "", [LocalResult(source, f"{DIRECTORY}/{uuid4()}")])
        took = time.perf_counter() - began
        used = f"processor s: client {time.process_time() - own:.1f}, dicom-srm {processor_seconds(server) - before:.1f}"
        assert result.error is None and result.published and result.guid, result
        assert client.results().remove([result.guid]) == [None]
        return took, used

    return run


def timed(work: Callable[[], object]) -> Callable[[], tuple[float, str]]:
    """Return what does work and returns its seconds."""

    def run() -> tuple[float, str]:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began, ""

    return run


def measure(ways: dict[str, Callable[[], tuple[float, str]]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way in each round but the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            took, used = way()
            if number:
                seconds[name].append(took)
                print(f"  round {number}  {name:<22} {took:6.2f} s  {used}", flush=True)
    return seconds


def report(seconds: dict[str, list[float]], size: int, reference: str) -> None:
    """Print rates and ratios to the reference."""
    base = statistics.median(seconds[reference])
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(
            f"{name:<22} {size / middle / 1e6:7.0f} MB/s ({size / max(found) / 1e6:.0f}-{size / min(found) / 1e6:.0f})  {base / middle:.2f}"
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    size = options.megabytes * 1_000_000
    print(machine.state(), machine.load(), sep="\n")
    with tempfile.TemporaryDirectory(prefix="mdm-bench-") as name:
        folder = Path(name)
        source = folder / "result.bin"
        source.write_bytes(os.urandom(1_000_000) * options.megabytes)
        stack = LocalStack(folder / "stack")
        try:
            stack.up()
            (folder / "s3").mkdir()
            with running_seaweed(folder / "s3") as server, Client.load(stack.client_config("alice")) as client:
                eventually(lambda: not isinstance(client.catalog.stat([Name(lfn=DIRECTORY)])[0], Exception))
                disk = {
                    "copy and fsync": timed(partial(copy, source, folder / "copy")),
                    "ours, on a disk": ours(client, stack.pid("dicom-srm"), source),
                }
                report(measure(disk, options.rounds), size, "copy and fsync")
                use_bucket(stack, server)
                s3 = server.client()
                bucket = {"ours, in the bucket": ours(client, stack.pid("dicom-srm"), source)}
                for reference, config in REFERENCES.items():
                    bucket[reference] = timed(partial(s3.upload_file, str(source), BUCKET, "reference", Config=config))
                seconds = measure(bucket, options.rounds)
                report(seconds, size, min(REFERENCES, key=lambda name: statistics.median(seconds[name])))
        finally:
            stack.down()
    print(machine.load())


if __name__ == "__main__":
    main()
