"""A study from the PACS to de-identified plaintext at the user, beside Orthanc's own per-instance anonymise and download.

Needs Orthanc with DICOMweb. Starts a local stack of its own, stores a synthetic study of CT images, waits until it is registered, then
measures in turn, several rounds: `mdm get` of the study's directory with an empty spool (keys, mutual TLS, encryption and decryption
included), and Orthanc's `/instances/{id}/anonymize` over plain HTTP with 1 and with 4 connections. Prints medians and the ratio.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.e2e.stack import Mdm, Stack, eventually

PATIENT = "BENCH-PATIENT"


def make_study(folder: Path, count: int, side: int = 512) -> list[Path]:
    """Write `count` CT images of side × side 16-bit pixels (0.5 MB at 512) of one series; return their paths."""
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    template.PatientID, template.PatientName = PATIENT, "BENCH^PATIENT"
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


def mdm_get(mdm: Mdm, stack: Stack, directory: str, count: int) -> float:
    """Return seconds of `mdm get` with nothing staged; the whole process, its start included."""
    stack.local("stop", "dicom-srm")
    for path in (stack.data_dir / "spool").rglob("*"):
        if path.is_file():
            path.unlink()
    stack.local("start", "dicom-srm")
    with tempfile.TemporaryDirectory() as target:
        started = time.perf_counter()
        result = mdm("alice", "get", directory, "-o", target)
        seconds = time.perf_counter() - started
        assert result.code == 0, result.err
        assert sum(1 for path in Path(target).rglob("*.dcm")) == count
    return seconds


def registered(mdm: Mdm, count: int) -> list[dict[str, Any]]:
    """Return the study's catalogued images once all are there."""
    sql = (
        'SELECT i.lfn FROM "/biomed/hospital-a/images" AS i JOIN "/biomed/hospital-a/patients" AS p ON i.patient = p.patient '
        f"WHERE p.PatientID = '{PATIENT}'"
    )
    return eventually(lambda: rows if len(rows := mdm.query("carol", sql)) == count else [], timeout=180, interval=0.5)


def measure(count: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Return seconds of each way, one value a round, taken in turn."""
    stack = Stack(folder / "stack")
    stack.local("up")
    try:
        if stack.pacs["kind"] != "orthanc":
            raise SystemExit("bench/end_to_end.py: needs Orthanc (Debian: orthanc, orthanc-dicomweb)")
        mdm = Mdm(stack, folder)
        (folder / "study").mkdir()
        started = time.perf_counter()
        stack.store(*make_study(folder / "study", count))
        rows = registered(mdm, count)
        assert len(rows) == count, "not registered"
        print(f"stored and registered: {count / (time.perf_counter() - started):.0f} images/s")
        directory = rows[0]["lfn"].rsplit("/", 1)[0]
        seconds: dict[str, list[float]] = {"mdm get": [], "orthanc x1": [], "orthanc x4": []}
        with orthanc(stack) as client:
            instances = client.get("/instances").json()
            for _ in range(rounds):
                seconds["mdm get"].append(mdm_get(mdm, stack, directory, count))
                seconds["orthanc x1"].append(anonymise_and_download(client, instances, 1))
                seconds["orthanc x4"].append(anonymise_and_download(client, instances, 4))
        return seconds
    finally:
        stack.local("down", "--purge", check=False)


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
