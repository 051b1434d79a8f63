"""Orthanc, dcmtk's dcmqrscp, pynetdicom's qrscp and a small PACS of our own on free ports of this machine, with the same study."""

import io
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest
from mdm_deid.encoding.header import Header
from mdm_dicom_srm.pacs.c_move import MoveDestination
from mdm_dicom_srm.pacs.dimse import silence_dicom
from mdm_dicom_srm.register.rpc.storage_scp import StorageScp
from mdm_testing.process import free_port
from pydicom.data import get_testdata_file
from pynetdicom import AE

from .scripted import ScriptedPacs

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin") or ""
PLUGIN = next((str(p) for d in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc") for p in Path(d).glob("libOrthancDicomWeb.so*")), "")

DCMQRSCP, DCMQRIDX = (shutil.which(name, path="/usr/bin:/usr/local/bin") or "" for name in ("dcmqrscp", "dcmqridx"))

silence_dicom()


@dataclass(frozen=True)
class RunningPacs:
    """Where a PACS under test listens."""

    ae_title: str
    port: int
    dicomweb_url: str = ""
    url: str = ""


class Registry:
    """Stands for registration: notes what the Storage SCP has queued, and for which PACS."""

    def __init__(self) -> None:
        self.queued: list[tuple[str, str]] = []

    def enqueue(self, headers: Sequence[Header], *, pacs: str = "", calling_ae: str = "") -> None:
        self.queued.extend((header.sop_uid, pacs) for header in headers)


@dataclass(frozen=True)
class Receiver:
    """Our Storage SCP, where C-MOVE sends to."""

    scp: StorageScp
    destination: MoveDestination
    registry: Registry


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
    dataset.PatientName, dataset.StudyDate, dataset.AccessionNumber = "Müller^Ann^^^", "20040119", "A1"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyDescription = "19600101", "F", "Kopf, nüchtern"
    dataset.SeriesNumber, dataset.Modality = int(series_uid[-1]), "CT" if series_uid.endswith(".1") else "OT"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return Image(study_uid, series_uid, sop_uid, str(dataset.file_meta.TransferSyntaxUID), buffer.getvalue())


@pytest.fixture(scope="session")
def images() -> list[Image]:
    return make_images()


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    registry, destination = Registry(), MoveDestination("MDM")
    pacs_of = {"ORTHANC": "orthanc", "DCMTK": "dcmtk", "QRSCP": "qrscp", "SMALL": "small"}
    scp = StorageScp(registry, "127.0.0.1", 0, "MDM", [], pacs_of=pacs_of, destination=destination)  # type: ignore[arg-type]
    scp.start()
    yield Receiver(scp, destination, registry)
    scp.stop()


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory, images: list[Image], receiver: Receiver) -> Iterator[RunningPacs]:
    with run_orthanc(tmp_path_factory.mktemp("orthanc"), images, move_port=receiver.scp.port) as running:
        yield running


@contextmanager
def run_orthanc(home: Path, images: list[Image], *, move_port: int = 1, **changes: object) -> Iterator[RunningPacs]:
    if not ORTHANC or not PLUGIN:
        pytest.fail("Orthanc and its DICOMweb plugin are needed: apt-get install orthanc orthanc-dicomweb")
    http, dicom = free_port(), free_port()
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
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"mdm": {"AET": "MDM", "Host": "127.0.0.1", "Port": move_port, "AllowGet": True, "AllowFind": True}},
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    } | changes
    (home / "orthanc.json").write_text(json.dumps(configuration))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(home / "orthanc.json")], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{http}"
        _wait(lambda: httpx.get(f"{url}/system", trust_env=False).status_code == 200, process)
        for image in images:
            httpx.post(f"{url}/instances", content=image.part10, trust_env=False).raise_for_status()
        yield RunningPacs("ORTHANC", dicom, f"{url}/dicom-web", url)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def dcmtk(tmp_path_factory: pytest.TempPathFactory, images: list[Image], receiver: Receiver) -> Iterator[RunningPacs]:
    """dcmtk's dcmqrscp, which accepts and proposes uncompressed transfer syntaxes only: compressed images it cannot send."""
    if not DCMQRSCP:
        pytest.fail("dcmqrscp is needed: apt-get install dcmtk")
    home, port = tmp_path_factory.mktemp("dcmtk"), free_port()
    (home / "db").mkdir()
    files = []
    for number, image in enumerate(images):
        files.append(home / "db" / f"{number}.dcm")
        files[-1].write_bytes(image.part10)
    subprocess.run([DCMQRIDX, home / "db", *files], check=True, capture_output=True)
    (home / "cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nmdm = (MDM, 127.0.0.1, {receiver.scp.port})\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMTK {home / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([DCMQRSCP, "-c", str(home / "cfg"), "-v"], stdout=log, stderr=log)
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None, process)
        yield RunningPacs("DCMTK", port)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def qrscp(tmp_path_factory: pytest.TempPathFactory, images: list[Image], receiver: Receiver) -> Iterator[RunningPacs]:
    """pynetdicom's qrscp, an archive that knows nothing of our adapters."""
    home, port = tmp_path_factory.mktemp("qrscp"), free_port()
    (home / "instances").mkdir()
    (home / "qrscp.ini").write_text(
        f"[DEFAULT]\nae_title: QRSCP\nport: {port}\nmax_pdu: 16382\nacse_timeout: 30\ndimse_timeout: 30\nnetwork_timeout: 30\n"
        f"bind_address: 127.0.0.1\ninstance_location: {home / 'instances'}\ndatabase_location: {home / 'instances.sqlite'}\n"
        f"log_identifier: False\n[MDM]\naddress: 127.0.0.1\nport: {receiver.scp.port}\n"
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pynetdicom", "qrscp", "-c", home / "qrscp.ini"], stdout=log, stderr=log, cwd=home
        )
    try:
        _wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None, process)
        for image in images:
            store_as_it_is(port, "QRSCP", image)
        yield RunningPacs("QRSCP", port)
    finally:
        process.terminate()
        process.wait(20)


def store_as_it_is(port: int, ae_title: str, image: Image) -> None:
    """Store an instance in the one transfer syntax that it has, so that the PACS keeps it so."""
    dataset, entity = pydicom.dcmread(io.BytesIO(image.part10)), AE()
    entity.add_requested_context(dataset.SOPClassUID, image.transfer_syntax)
    association = entity.associate("127.0.0.1", port, ae_title=ae_title)
    assert association.is_established
    assert association.send_c_store(dataset).Status == 0
    association.release()


@pytest.fixture(scope="session")
def small_pacs(images: list[Image], receiver: Receiver) -> Iterator[RunningPacs]:
    """A provider of another make, in this process: it skips unknown UIDs where Orthanc refuses them."""
    with ScriptedPacs("SMALL", [image.part10 for image in images], receiver.scp.port) as small:
        yield RunningPacs("SMALL", small.port)


def _wait(ready, process: subprocess.Popen[bytes], seconds: float = 180) -> None:  # type: ignore[no-untyped-def]
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
