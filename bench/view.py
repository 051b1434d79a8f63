"""A CT series in the viewer's gateway, beside Orthanc's own DICOMweb; the list of many studies; memory.

Needs Orthanc with DICOMweb. Starts a local stack of its own, and the reference, an Orthanc at its best (`data_path/reference.py`). Both
get what OHIF asks, identity encoding, over connections kept open, bodies received into a buffer: the study, its series, the metadata of
the series, one frame, then all frames over six connections, as a browser has. Orthanc sends what it stores, on one machine, in
plaintext; the gateway has each image retrieved, de-identified, encrypted, sent and decrypted first.

- `Orthanc, whole headers` is its default; `Orthanc, Extrapolate` its documented way to answer faster, from its index and a few images
  (`SeriesMetadata`), which is what `gateway`, asked as OHIF asks it, does too: headers that records may answer;
- `gateway, whole headers` is asked as programs ask it; `gateway, again` is the first series once more, out of the gateway's memory.

Each way of ours has studies of its own in each round. A round with few slices warms everything up. Prints medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from data_path import reference
from mdm_client import Client
from mdm_client.config import ClientConfig
from mdm_client.metadata.client import Entry
from mdm_testing import machine
from mdm_testing.kept_connection import KeptConnection
from mdm_testing.local_stack import LocalStack
from mdm_testing.stack import Mdm, Stack
from mdm_testing.study import Study, make_study
from mdm_testing.supply import ImageSupply
from mdm_testing.viewer import Running, viewer
from mdm_wire.tls import TlsFiles

CONNECTIONS = 6
FRAMES = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
WARM_UP = 12
EXTRAPOLATE = {"SeriesMetadata": "Extrapolate", "StudiesMetadata": "Extrapolate"}
STEPS = ("metadata", "first frame", "last frame")


def look(connect: Callable[[], KeptConnection], root: str, study: str) -> dict[str, float]:
    """Return the seconds, from the first request on, until the metadata, the first and the last frame are there."""
    json_headers, first = {"Accept": "application/dicom+json"}, connect()
    began = time.perf_counter()
    seconds = {}

    def get(path: str) -> Any:
        return first.ask("GET", f"{root}{path}", headers=json_headers)

    get(f"/studies?StudyInstanceUID={study}")
    series = get(f"/studies/{study}/series")[0]["0020000E"]["Value"][0]
    headers = get(f"/studies/{study}/series/{series}/metadata")
    seconds["metadata"] = time.perf_counter() - began
    ordered = sorted(headers, key=lambda header: header["00200013"]["Value"][0])
    paths = [f"{root}/studies/{study}/series/{series}/instances/{header['00080018']['Value'][0]}/frames/1" for header in ordered]
    first.receive("GET", paths[0], headers=FRAMES)
    seconds["first frame"] = time.perf_counter() - began

    def frames(connection: KeptConnection, part: list[str]) -> int:
        return min(connection.receive("GET", path, headers=FRAMES) for path in part)

    parts = [paths[1 + start :: CONNECTIONS] for start in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        sizes = list(pool.map(frames, [first, *(connect() for _ in range(CONNECTIONS - 1))], parts))
    seconds["last frame"] = time.perf_counter() - began
    assert min(sizes) > 500_000
    return seconds


def peak_memory(pid: int) -> float:
    """Return the most memory that a process had, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1000


def fill(stack: Stack, folder: Path, count: int) -> None:
    """Write records of `count` studies with a series each, as dicom-srm does, under the list of a study that alice may read."""
    config = ClientConfig.load(stack.client_config("alice"))
    pki = config.tls.certificate.parent
    service = replace(config, tls=TlsFiles(pki / "dicom-srm.crt", pki / "dicom-srm.key", config.tls.ca))
    acl = Mdm(stack, folder).query("alice", 'SELECT entry_acl FROM "/biomed/hospital-a/studies" LIMIT 1')[0]["entry_acl"]
    with Client(service) as client:
        for start in range(0, count, 500):
            studies, series = [], []
            for number in range(start, min(start + 500, count)):
                uid, patient = f"2.25.{uuid4().int}", f"P{number:016d}"
                links = {"patient": patient, "study": uid, "lfn": f"/biomed/hospital-a/{patient}/{uid}"}
                day = f"{2000 + number % 20}-0{1 + number % 9}-1{number % 9}"
                studies.append(Entry(uid, {**links, "StudyDate": day, "PatientSex": "FM"[number % 2]}, acl))
                described = {"series": f"{uid}.1", "Modality": ("CT", "MR", "CR")[number % 3], "NumberOfSeriesRelatedInstances": 100}
                series.append(Entry(f"{uid}.1", {**links, **described}, acl))
            for name, entries in (("studies", studies), ("series", series)):
                errors = [error for error in client.metadata.entries.upsert(f"/biomed/hospital-a/{name}", entries) if error]
                assert not errors, errors[0]


def list_studies(running: Running, count: int) -> dict[str, float]:
    """Return the seconds of lists out of many studies."""
    asked: dict[str, dict[str, Any]] = {
        "page of 101": {"limit": 101},
        "last page of 101": {"limit": 101, "offset": count - 101},
        "modality and sex, 101": {"ModalitiesInStudy": "MR", "PatientSex": "F", "limit": 101},
        "all": {},
    }
    seconds = {}
    for name, parameters in asked.items():
        began = time.perf_counter()
        found = running.http.get(f"{running.root}/studies", params=parameters).json()
        seconds[name] = time.perf_counter() - began
        assert len(found) >= (101 if parameters else count), (name, len(found))
    for name in ("search", "counts"):
        began = time.perf_counter()
        running.http.post(f"{running.origin}/api/{name}", json={"name": "Modality", "filters": {"PatientSex": ["F"]}}).raise_for_status()
        seconds[f"find page: {name}"] = time.perf_counter() - began
    return seconds


class Bench:
    """The stack, and both references, which have one study once and for all."""

    def __init__(self, stack: LocalStack, references: dict[str, reference.Orthanc], folder: Path, slices: int) -> None:
        self._stack, self._folder, self._references = stack, folder, references
        self._supply = ImageSupply(stack, folder)
        self._studies = {count: Study.new() for count in (slices, WARM_UP)}
        for count, study in self._studies.items():
            with tempfile.TemporaryDirectory() as images:
                make_study(Path(images), study, count)
                for orthanc in references.values():
                    orthanc.put(Path(images))

    def round(self, count: int) -> dict[str, dict[str, float]]:
        """Return the seconds of each way, each of ours for a new study, and the gateway's peak memory."""
        found = {}
        for name, orthanc in self._references.items():
            found[name] = look(orthanc.connect, "/dicom-web", orthanc.series(self._studies[count].series).study_uid)
        first, second = (self.registered(count) for _ in range(2))
        with viewer(self._stack, "alice", self._folder) as running:
            found["gateway"] = look(connections(running), "/viewer-web", first)
            found["gateway, again"] = look(connections(running), "/viewer-web", first)
            found["gateway, whole headers"] = look(connections(running), "/dicom-web", second)
            found["memory"] = {"MB": peak_memory(running.process.pid)}
        return found

    def stored(self, count: int) -> str:
        """Return the Study Instance UID of the references' study of `count` images."""
        orthanc = next(iter(self._references.values()))
        return orthanc.series(self._studies[count].series).study_uid

    def registered(self, count: int) -> str:
        """Register a new study of `count` images; return the released Study Instance UID of a new study."""
        study = Study.new()
        with tempfile.TemporaryDirectory() as images:
            self._supply.put(make_study(Path(images), study, count))
            self._supply.register(Path(images), count)
        return self._supply.names(study)[0].rsplit("/", 3)[1]


def connections(running: Running) -> Callable[[], KeptConnection]:
    """Return what opens connections to a gateway."""
    port, token = int(running.origin.rsplit(":", 1)[1]), str(running.http.headers["Authorization"])
    return lambda: KeptConnection(port, token)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300, help="images of the series, 0.5 MB each")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--studies", type=int, default=10_000, help="studies in the list")
    options = parser.parse_args()
    begin = machine.state()
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        (folder / "extrapolating").mkdir()
        references = {
            "Orthanc, whole headers": opened.enter_context(reference.running(folder)),
            "Orthanc, Extrapolate": opened.enter_context(reference.running(folder / "extrapolating", **EXTRAPOLATE)),
        }
        stack = LocalStack(folder / "stack")
        opened.callback(stack.down)
        stack.up()
        bench = Bench(stack, references, folder, options.slices)
        bench.round(WARM_UP)
        rounds = [bench.round(options.slices) for _ in range(options.rounds)]
        print(f"{begin}\n{options.slices} slices of 0.5 MB, medians of {options.rounds} rounds, seconds since the study was opened\n")
        print("| | " + " | ".join(STEPS) + " |\n" + "|---" * (len(STEPS) + 1) + "|")
        for server in (name for name in rounds[0] if name != "memory"):
            times = [f"{statistics.median(found[server][step] for found in rounds):.3f}" for step in STEPS]
            print(f"| {server} | " + " | ".join(times) + " |")
        print(f"\npeak memory of mdm view: {max(found['memory']['MB'] for found in rounds):.0f} MB")
        fill(stack, folder, options.studies)
        with psycopg.connect(stack.database("metadata"), autocommit=True) as database:
            database.execute("ANALYZE")  # as autovacuum does within a minute
        with viewer(stack, "alice", folder) as running:
            print(f"\nlists out of {options.studies:,} studies, seconds")
            for what, seconds in list_studies(running, options.studies).items():
                print(f"  {what:<24}{seconds:8.3f}")
    print(f"load {machine.load()} at the end")


if __name__ == "__main__":
    main()
