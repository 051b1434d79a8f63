"""A real Orthanc and a small PACS of another make on free ports of the loopback interface, with the same study."""

import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest
from mdm_dicom_srm import dicom_log
from mdm_testing.port import free_port
from pydicom.data import get_testdata_file
from pydicom.multival import MultiValue
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin") or ""
PLUGIN = next((str(p) for d in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc") for p in Path(d).glob("libOrthancDicomWeb.so*")), "")

dicom_log.silence()


@dataclass(frozen=True)
class RunningPacs:
    """Where a PACS under test listens."""

    ae_title: str
    port: int
    dicomweb_url: str = ""


@dataclass(frozen=True)
class Image:
    """An instance stored in a PACS, as bytes of its Part 10 file."""

    study_uid: str
    series_uid: str
    sop_uid: str
    transfer_syntax: str
    part10: bytes


def make_images(count: int = 6) -> list[Image]:
    """One study: a CT series, and a series of other classes with compressed and multi-frame instances."""
    study, ct, other = "1.2.826.0.1.99.1", "1.2.826.0.1.99.1.1", "1.2.826.0.1.99.1.2"
    images = [make_image("CT_small.dcm", study, ct, f"{ct}.{n}") for n in range(count)]
    for number, name in enumerate(("MR_small.dcm", "examples_jpeg2k.dcm", "examples_ybr_color.dcm", "JPEG-lossy.dcm", "MR_small_RLE.dcm")):
        images.append(make_image(name, study, other, f"{other}.{number}"))
    return images


def make_image(name: str, study_uid: str, series_uid: str, sop_uid: str) -> Image:
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = study_uid, series_uid, sop_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = sop_uid
    dataset.PatientID = "P1"  # Orthanc keeps a study of two patients as two studies
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return Image(study_uid, series_uid, sop_uid, str(dataset.file_meta.TransferSyntaxUID), buffer.getvalue())


@pytest.fixture(scope="session")
def images() -> list[Image]:
    return make_images()


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory, images: list[Image]) -> Iterator[RunningPacs]:
    if not ORTHANC or not PLUGIN:
        pytest.fail("Orthanc and its DICOMweb plugin are needed: apt-get install orthanc orthanc-dicomweb")
    home, http, dicom = tmp_path_factory.mktemp("orthanc"), free_port(), free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(home / "db"),
        "IndexDirectory": str(home / "db"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowFind": True,
        "DicomModalities": {"mdm": {"AET": "MDM", "Host": "127.0.0.1", "Port": 1, "AllowGet": True, "AllowFind": True}},
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (home / "orthanc.json").write_text(json.dumps(configuration))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(home / "orthanc.json")], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{http}"
        _wait(lambda: httpx.get(f"{url}/system", trust_env=False).status_code == 200, process)
        for image in images:
            httpx.post(f"{url}/instances", content=image.part10, trust_env=False).raise_for_status()
        yield RunningPacs("ORTHANC", dicom, f"{url}/dicom-web")
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def small_pacs(images: list[Image]) -> Iterator[RunningPacs]:
    """A C-FIND and C-GET provider of another make, in this process: it skips unknown UIDs where Orthanc refuses them."""
    stored = {image.sop_uid: pydicom.dcmread(io.BytesIO(image.part10)) for image in images}

    def matches(identifier: pydicom.Dataset) -> list[pydicom.Dataset]:
        keys = {name: _values(identifier.get(name)) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
        return [item for item in stored.values() if all(not wanted or item.get(name) in wanted for name, wanted in keys.items())]

    def find(event: evt.Event) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        level = {"SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[event.identifier.QueryRetrieveLevel]
        for item in {found[level].value: found for found in matches(event.identifier)}.values():
            answer = pydicom.Dataset()
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
                if name in event.identifier:
                    setattr(answer, name, item[name].value)
            yield 0xFF00, answer

    def get(event: evt.Event) -> Iterator[object]:
        found = matches(event.identifier)
        yield len(found)
        for item in found:
            yield 0xFF00, item

    ae = AE("SMALL")
    ae.supported_contexts = [
        build_context(StudyRootQueryRetrieveInformationModelFind),
        build_context(StudyRootQueryRetrieveInformationModelGet),
        build_context(Verification),
    ]
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get)])
    yield RunningPacs("SMALL", server.server_address[1])
    server.shutdown()


def _values(value: object) -> set[str]:
    return {str(item) for item in value if item} if isinstance(value, MultiValue) else {str(value)} - {"", "None"}


def _wait(ready, process: subprocess.Popen[bytes], seconds: float = 30) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the PACS ended while starting"
        try:
            if ready():
                return
        except (httpx.HTTPError, OSError):
            pass
        time.sleep(0.1)
    pytest.fail("the PACS did not start in time")
