"""A study from the PACS to de-identified plaintext at the user, beside Orthanc's own per-instance anonymise and download.

Needs Orthanc with DICOMweb. Starts a local stack of its own. Each round has studies of its own, synthetic CT images of one series that
nobody has fetched before: one for the SDK in this process, one for the command `mdm get`, its start included. Both fetch by directory:
keys, mutual TLS, encryption and decryption included. In the same round, on the first study, Orthanc's `/instances/{id}/anonymize` over
plain HTTP with 1 and with 4 connections kept open in this process. Prints medians and the ratio to the better of Orthanc's two.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import numpy
import pydicom
from mdm_client import Client, make_plan, parse_name
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

sys.path.insert(0, str(Path(__file__).parent.parent))
from mdm_testing.wait import eventually

from tests.e2e.local_stack import LocalStack
from tests.e2e.stack import Mdm, Stack

WAYS = ("mdm SDK", "mdm get", "orthanc x1", "orthanc x4")


def make_study(folder: Path, count: int, patient: str, side: int = 512) -> list[Path]:
    """Write `count` CT images of side × side 16-bit pixels (0.5 MB at 512) of one series; return their paths."""
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    template.PatientID, template.PatientName = patient, "BENCH^PATIENT"
    template.StudyInstanceUID, template.SeriesInstanceUID = generate_uid(), generate_uid()
    template.Rows = template.Columns = side
    template.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    noise = numpy.random.default_rng(1)
    paths = []
    for number in range(1, count + 1):
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        template.InstanceNumber = number
        template.PixelData = noise.integers(0, 4096, side * side, dtype=numpy.uint16).tobytes()
        paths.append(folder / f"{number}.dcm")
        template.save_as(paths[-1], enforce_file_format=True)
    return paths


def orthanc(stack: Stack) -> httpx.Client:
    """Return an HTTP client for the stack's Orthanc."""
    pacs = stack.pacs
    credentials = json.loads(Path(pacs["http_credentials_file"]).read_text())
    root = pacs["dicomweb"].rsplit("/dicom-web", 1)[0]
    return httpx.Client(base_url=root, auth=(credentials["username"], credentials["password"]), timeout=60)


def anonymise_and_download(client: httpx.Client, instances: list[str], connections: int) -> float:
    """Return seconds for Orthanc to anonymise and deliver every instance."""
    body = json.dumps({"Force": True})

    def one(identifier: str) -> int:
        return len(client.post(f"/instances/{identifier}/anonymize", content=body).raise_for_status().content)

    started = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        sizes = list(pool.map(one, instances))
    assert all(sizes)
    return time.perf_counter() - started


def by_command(mdm: Mdm, directory: str, count: int) -> float:
    """Return seconds of `mdm get`: the whole process, its start included."""
    with tempfile.TemporaryDirectory() as target:
        started = time.perf_counter()
        result = mdm("alice", "get", directory, "-o", target)
        seconds = time.perf_counter() - started
        assert result.code == 0, result.err
        assert sum(1 for _ in Path(target).rglob("*.dcm")) == count
    return seconds


def by_sdk(client: Client, directory: str, count: int) -> float:
    """Return seconds for the SDK, its channels open like those of Orthanc's client."""
    with tempfile.TemporaryDirectory() as target:
        started = time.perf_counter()
        plan = make_plan(client.catalog, [parse_name(directory)])
        with closing(client.download(plan.files, Path(target)).results()) as results:
            sizes = [result.size for result in results if result.error is None]
        seconds = time.perf_counter() - started
        assert len(sizes) == count
    return seconds


def store(stack: Stack, mdm: Mdm, folder: Path, count: int) -> str:
    """Store a new study and return its directory in the catalog once all of it is registered."""
    patient = f"BENCH-{time.monotonic_ns()}"
    with tempfile.TemporaryDirectory(dir=folder) as files:
        stack.store(*make_study(Path(files), count, patient))
    sql = (
        'SELECT i.lfn FROM "/biomed/hospital-a/images" AS i JOIN "/biomed/hospital-a/patients" AS p ON i.patient = p.patient '
        f"WHERE p.PatientID = '{patient}'"
    )
    rows = eventually(lambda: found if len(found := mdm.query("carol", sql)) == count else [], timeout=180, interval=0.5)
    assert rows, "not registered"
    return str(rows[0]["lfn"]).rsplit("/", 1)[0]


def measure(count: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Return seconds of each way, one value a round, taken in turn."""
    stack = LocalStack(folder / "stack")
    stack.up()
    try:
        if stack.pacs["kind"] != "orthanc":
            raise SystemExit("bench/end_to_end.py: needs Orthanc (Debian: orthanc, orthanc-dicomweb)")
        mdm = Mdm(stack, folder)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        with orthanc(stack) as pacs, closing(Client.load(stack.client_config("alice"))) as client:
            for _ in range(rounds + 1):  # the first warms every side up
                before = set(pacs.get("/instances").json())
                first = store(stack, mdm, folder, count)
                instances = sorted(set(pacs.get("/instances").json()) - before)
                second = store(stack, mdm, folder, count)
                values = (
                    by_sdk(client, first, count),
                    by_command(mdm, second, count),
                    anonymise_and_download(pacs, instances, 1),
                    anonymise_and_download(pacs, instances, 4),
                )
                for name, value in zip(WAYS, values, strict=True):
                    seconds[name].append(value)
        return {name: values[1:] for name, values in seconds.items()}
    finally:
        stack.down()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(arguments.count, arguments.rounds, Path(folder))
    rates = {name: arguments.count / statistics.median(values) for name, values in seconds.items()}
    best = max(rates["orthanc x1"], rates["orthanc x4"])
    print(f"\n{arguments.count} CT images of 0.5 MB, median of {arguments.rounds} rounds\n")
    print(f"{'way':12} {'images/s':>9} {'of the best Orthanc':>20}")
    for name, rate in rates.items():
        print(f"{name:12} {rate:9.0f} {rate / best:20.2f}")


if __name__ == "__main__":
    main()
