"""The reference: an Orthanc of its own, configured for speed, and a client that costs as little as Python allows.

Its configuration: compression of storage and of HTTP off, connections kept for a minute, a storage cache that holds everything, no
metrics, a worker thread for each processor. Bodies are asked for as identity, and received by `readinto` into one buffer for each
connection; nothing is written to a file. The fastest documented way is looked for in each run: `/instances/{id}/anonymize` over 1, 2 and
4 connections, `/series/{id}/anonymize` and `/tools/bulk-anonymize`, whose result is then downloaded by WADO-RS; archives are compressed,
which is slower than all of them by a factor.
"""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdm_local.pacs.kind import find_dicomweb_plugin, find_orthanc
from mdm_testing.kept_connection import KeptConnection
from mdm_testing.process import free_port, running_process
from mdm_testing.supply import storescu

AE_TITLE = "ORTHANC"
DICOM = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
_USER, _PASSWORD = "bench", "bench"


@dataclass(frozen=True)
class Series:
    """A series in an Orthanc: Orthanc's identifiers of its images, of itself, and its UIDs."""

    instances: list[str]
    identifier: str
    study_uid: str
    series_uid: str

    @property
    def wado(self) -> str:
        """The path of the series by WADO-RS."""
        return f"/dicom-web/studies/{self.study_uid}/series/{self.series_uid}"

    def wado_of(self, image_uid: str) -> str:
        """Return the path of an image by WADO-RS."""
        return f"{self.wado}/instances/{image_uid}"


class Orthanc:
    """A running Orthanc."""

    def __init__(self, process: subprocess.Popen[bytes], http_port: int, dicom_port: int) -> None:
        self.pid, self.http_port, self._dicom_port = process.pid, http_port, dicom_port

    def connect(self) -> KeptConnection:
        """Return a new connection."""
        return KeptConnection.of_user(self.http_port, _USER, _PASSWORD)

    @property
    def account(self) -> tuple[str, str]:
        """Name and password for HTTP."""
        return _USER, _PASSWORD

    def store(self, folder: Path) -> None:
        """Store a folder's files by one storescu."""
        storescu(self._dicom_port, AE_TITLE, folder)

    def put(self, folder: Path) -> None:
        """Store a folder's files over HTTP."""
        connection = self.connect()
        connection.put(sorted(folder.iterdir()))
        connection.close()

    def series(self, series_uid: str) -> Series:
        """Return a series that is stored."""
        connection = self.connect()
        [found] = connection.ask("POST", "/tools/find", {"Level": "Series", "Query": {"SeriesInstanceUID": series_uid}, "Expand": True})
        study = connection.ask("GET", f"/studies/{found['ParentStudy']}")["MainDicomTags"]["StudyInstanceUID"]
        connection.close()
        return Series(found["Instances"], found["ID"], study, series_uid)


@contextmanager
def running(folder: Path, *, closed: bool = True, **dicom_web: str) -> Iterator[Orthanc]:
    """Run an Orthanc in a folder until the block ends; `dicom_web` are settings of its DICOMweb plugin.

    One that is not `closed` asks nobody for a name and password: a browser has none.
    """
    program, plugin = find_orthanc(), find_dicomweb_plugin()
    if program is None or plugin is None:
        raise SystemExit("needs Orthanc with DICOMweb (Debian: orthanc, orthanc-dicomweb)")
    http_port, dicom_port = free_port(), free_port()
    configuration = folder / "reference.json"
    settings = _configuration(folder / "reference", plugin, http_port, dicom_port, dicom_web)
    configuration.write_text(json.dumps({**settings, "AuthenticationEnabled": closed}))

    def answers() -> bool:
        try:
            return bool(KeptConnection.of_user(http_port, _USER, _PASSWORD).ask("GET", "/system"))
        except OSError:
            return False

    with running_process([program, configuration], folder / "reference.log", answers) as process:
        yield Orthanc(process, http_port, dicom_port)


def _configuration(storage: Path, plugin: Path, http_port: int, dicom_port: int, dicom_web: Mapping[str, str]) -> dict[str, Any]:
    return {
        "StorageDirectory": str(storage),
        "IndexDirectory": str(storage),
        "Plugins": [str(plugin)],
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": AE_TITLE,
        "RemoteAccessAllowed": False,
        "DicomAlwaysAllowStore": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {_USER: _PASSWORD},
        "HttpCompressionEnabled": False,
        "StorageCompression": False,
        "KeepAlive": True,
        "KeepAliveTimeout": 60,
        "TcpNoDelay": True,
        "MaximumStorageCacheSize": 4096,
        "MetricsEnabled": False,
        "ConcurrentJobs": os.cpu_count(),
        "MaximumPduLength": 131072,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False, **dicom_web},
    }


def ways(orthanc: Orthanc, series: Series, count: int, *, whole: bool) -> dict[str, Callable[[], int]]:
    """Return Orthanc's ways to anonymise the first images of a series, or the `whole` series too, and to deliver them.

    Each returns how many bytes came.
    """
    some = replace(series, instances=series.instances[:count])
    found = {f"each image, {number} connection{'s'[: number > 1]}": _by_instance(orthanc, some, number) for number in (1, 2, 4)}
    if whole:
        found["series, then WADO-RS"] = lambda: _by_series(orthanc, series)
        found["bulk-anonymize, then WADO-RS"] = lambda: _by_bulk(orthanc, series)
    return found


def _by_instance(orthanc: Orthanc, series: Series, connections: int) -> Callable[[], int]:
    def action() -> int:
        kept = [orthanc.connect() for _ in range(connections)]
        parts = [series.instances[start::connections] for start in range(connections)]
        return in_threads([_anonymise(connection, part) for connection, part in zip(kept, parts, strict=True)])

    return action


def _anonymise(connection: KeptConnection, instances: Sequence[str]) -> Callable[[], int]:
    def action() -> int:
        return sum(connection.receive("POST", f"/instances/{identifier}/anonymize", "{}") for identifier in instances)

    return action


def _by_series(orthanc: Orthanc, series: Series) -> int:
    connection = orthanc.connect()
    made = connection.ask("POST", f"/series/{series.identifier}/anonymize", {"Synchronous": True})
    return _download_and_remove(connection, made["ID"])


def _by_bulk(orthanc: Orthanc, series: Series) -> int:
    connection = orthanc.connect()
    made = connection.ask("POST", "/tools/bulk-anonymize", {"Synchronous": True, "Resources": series.instances})
    [identifier] = [item["ID"] for item in made["Resources"] if item["Type"] == "Series"]
    return _download_and_remove(connection, identifier)


def _download_and_remove(connection: KeptConnection, identifier: str) -> int:
    made = connection.ask("GET", f"/series/{identifier}")
    study = connection.ask("GET", f"/studies/{made['ParentStudy']}")["MainDicomTags"]["StudyInstanceUID"]
    size = connection.receive("GET", f"/dicom-web/studies/{study}/series/{made['MainDicomTags']['SeriesInstanceUID']}", headers=DICOM)
    connection.ask("DELETE", f"/series/{identifier}")
    return size


def in_threads(actions: Sequence[Callable[[], int]]) -> int:
    """Run actions at the same time; return the sum of what they return."""
    results: list[int] = []
    threads = [threading.Thread(target=lambda action=action: results.append(action())) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(actions), "a connection failed"
    return sum(results)
