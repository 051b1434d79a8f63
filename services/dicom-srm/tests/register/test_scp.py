"""The Storage SCP as a PACS meets it: success means queued, everything else is a status."""

import io
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mdm_dicom_srm.register.rpc import storage_scp
from mdm_dicom_srm.register.rpc.storage_scp import StorageScp, is_storage_class
from mdm_testing.process import eventually, require_program
from pydicom._uid_dict import UID_dictionary
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE

from .conftest import SERIES, Site, part10

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
CT, LITTLE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@pytest.fixture
def scp(site: Site) -> Iterator[StorageScp]:
    listener = StorageScp(site.service(), "127.0.0.1", 0, "MDM", ["ORTHANC"])
    listener.start()
    yield listener
    listener.stop()


def associate(scp: StorageScp, calling: str = "ORTHANC", called: str = "MDM", sop_class: str = CT, syntax: str = LITTLE) -> Any:
    ae = AE(calling)
    ae.add_requested_context(sop_class, syntax)
    return ae.associate("127.0.0.1", scp.port, ae_title=called)


def data_set(content: bytes) -> bytes:
    """The data set of a Part 10 file as it goes over DIMSE."""
    meta = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True).file_meta
    return content[132 + 12 + meta.FileMetaInformationGroupLength :]


def send(scp: StorageScp, encoded: bytes, sop_uid: str = f"{SERIES}.1") -> Any:
    """Send bytes in an association of their own; return the response."""
    association = associate(scp)
    assert association.is_established
    response = send_over(association, encoded, sop_uid=sop_uid)
    association.release()
    return response


def send_over(association: Any, encoded: bytes, sop_class: str = CT, sop_uid: str = f"{SERIES}.1") -> Any:
    """Send bytes as they are, which a well-behaved toolkit would not; return the response."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_uid
    request.Priority = 2
    request.DataSet = io.BytesIO(encoded)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return response


def test_success_means_durably_queued_and_a_duplicate_is_success(scp: StorageScp, site: Site) -> None:
    encoded = data_set(part10())
    assert send(scp, encoded).Status == 0x0000
    assert [state for state, _ in site.states().values()] == ["RECEIVED"]
    assert send(scp, encoded).Status == 0x0000
    assert len(site.states()) == 1
    assert "SECRET77" not in site.dump()


def test_pixel_data_are_not_kept(scp: StorageScp, site: Site) -> None:
    send(scp, data_set(part10()))
    with site.pool.connection() as connection:
        (size,) = connection.execute("SELECT octet_length(header) FROM registration").fetchone()
    assert size < 8_000


@pytest.mark.parametrize(
    ("encoded", "status"),
    [
        (b"this is not DICOM at all, by no means", 0xC000),
        (data_set(part10())[:5000], 0xC000),
        (data_set(part10())[:-1000], 0xC000),
        (data_set(part10(SOPInstanceUID=None)), 0xA900),
        (data_set(part10(number=2)), 0xA900),
    ],
    ids=["not DICOM", "cut in the header", "cut in the pixels", "no SOP Instance UID", "another SOP Instance UID"],
)
def test_what_cannot_be_understood_is_refused_with_its_status(scp: StorageScp, site: Site, encoded: bytes, status: int) -> None:
    response = send(scp, encoded)
    assert response.Status == status
    assert "SECRET" not in (response.ErrorComment or "")
    assert site.states() == {}
    assert send(scp, data_set(part10())).Status == 0x0000, "the next instance is welcome"


def test_an_instance_without_study_uid_is_kept_for_a_person(scp: StorageScp, site: Site) -> None:
    assert send(scp, data_set(part10(StudyInstanceUID=None))).Status == 0x0000
    site.run()
    assert list(site.states().values()) == [("QUARANTINED", "NO_STUDY_OR_SERIES_UID")]


def test_when_the_queue_is_away_the_pacs_is_told_to_send_again(scp: StorageScp, site: Site) -> None:
    site.pool.close()
    assert send(scp, data_set(part10())).Status == 0xA700


@pytest.mark.parametrize(("calling", "called"), [("STRANGER", "MDM"), ("ORTHANC", "OTHER")])
def test_a_stranger_is_rejected(scp: StorageScp, calling: str, called: str) -> None:
    association = associate(scp, calling=calling, called=called)
    assert association.is_rejected
    assert isinstance(association.acceptor.primitive, A_ASSOCIATE)


def test_compressed_syntaxes_are_accepted_as_they_are(scp: StorageScp, site: Site) -> None:
    image = pydicom.dcmread(io.BytesIO(part10("JPEG-lossy.dcm")))
    association = associate(scp, sop_class=image.SOPClassUID, syntax=image.file_meta.TransferSyntaxUID)
    assert association.send_c_store(image).Status == 0x0000
    association.release()
    assert len(site.states()) == 1


def connect(scp: StorageScp) -> socket.socket:
    return socket.create_connection(("127.0.0.1", scp.port), 5)


def ended(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side closes within `seconds`."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def works(scp: StorageScp) -> bool:
    """Whether an association can be had."""
    association = associate(scp)
    established = bool(association.is_established)
    if established:
        association.release()
    return established


def announcing(size: int) -> bytes:
    """The beginning of an A-ASSOCIATE-RQ of `size` bytes."""
    return struct.pack(">BBL", 1, 0, size)


def test_a_pdu_of_gigabytes_is_refused_before_it_is_read(scp: StorageScp) -> None:
    with connect(scp) as connection:
        connection.sendall(announcing(0xFFFF_FFF0))
        assert ended(connection, 5)
    eventually(lambda: works(scp))


def test_a_pdu_that_comes_in_drips_is_cut_off(scp: StorageScp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_scp, "PDU_SECONDS", 0.5)
    with connect(scp) as connection:
        connection.sendall(announcing(200) + b"\0" * 10)
        assert ended(connection, 5)


def test_connections_that_say_nothing_are_few_and_short(scp: StorageScp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_scp, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(scp._ae, "_acse_timeout", 2)
    held = [connect(scp) for _ in range(40)]
    eventually(lambda: len(scp._server.active_associations) <= 4)
    assert all(ended(connection, 5) for connection in held)
    for connection in held:
        connection.close()
    eventually(lambda: works(scp))


# Retired, private, young and rare classes; what becomes of them is registration's business.
CLASSES = {
    "1.2.840.10008.5.1.4.1.1.5": ("PUBLISHED", ""),  # Nuclear Medicine (retired)
    "1.2.840.10008.5.1.4.1.1.3": ("QUARANTINED", "ULTRASOUND"),  # Ultrasound Multi-frame (retired)
    "1.2.840.10008.5.1.4.1.1.12.3": ("PUBLISHED", ""),  # X-Ray Angiographic Bi-Plane (retired)
    "1.2.840.10008.5.1.4.1.1.77.1": ("PUBLISHED", ""),  # VL Image (retired trial)
    "1.2.840.10008.5.1.4.1.1.129": ("PUBLISHED", ""),  # Standalone PET Curve (retired)
    "1.2.840.10008.5.1.4.34.1": ("PUBLISHED", ""),  # RT Beams Delivery Instruction (trial)
    "1.2.840.10008.5.1.4.38.1": ("PUBLISHED", ""),  # Hanging Protocol
    "1.2.840.10008.5.1.4.1.1.66.7": ("PUBLISHED", ""),  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.9.8.1": ("PUBLISHED", ""),  # Body Position Waveform
    "1.2.840.10008.5.1.4.1.1.999.9": ("QUARANTINED", "UNKNOWN_SOP_CLASS"),  # of an edition to come
    "1.3.12.2.1107.5.9.1": ("QUARANTINED", "UNKNOWN_SOP_CLASS"),  # Siemens CSA Non-Image
    "1.2.840.113619.4.2": ("QUARANTINED", "UNKNOWN_SOP_CLASS"),  # GE DICOM MR
    "1.2.3.04.5": ("QUARANTINED", "UNKNOWN_SOP_CLASS"),  # not a UID: a component begins with 0
    "1." + "2" * 62: ("QUARANTINED", "UNKNOWN_SOP_CLASS"),
}


# What dcmtk 3.6.7 sends at all: it refuses private classes by itself.
DCMTK = (
    "1.2.840.10008.5.1.4.1.1.5",
    "1.2.840.10008.5.1.4.1.1.3",
    "1.2.840.10008.5.1.4.1.1.12.3",
    "1.2.840.10008.5.1.4.34.1",
    "1.2.840.10008.5.1.4.38.1",
)


@pytest.mark.parametrize("sop_class", CLASSES)
def test_an_instance_of_any_class_is_taken_and_its_registration_says_what_became_of_it(scp: StorageScp, site: Site, sop_class: str) -> None:
    association = associate(scp, sop_class=sop_class)
    response = send_over(association, data_set(part10(SOPClassUID=sop_class)), sop_class)
    association.release()
    assert response.Status == 0x0000
    site.run()
    assert list(site.states().values()) == [CLASSES[sop_class]]


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.3.4.5.6", "1.2.840.10008.1.2.4.94"])
def test_an_instance_in_an_unknown_transfer_syntax_is_kept_with_its_reason(scp: StorageScp, site: Site, syntax: str) -> None:
    association = associate(scp, syntax=syntax)
    assert send_over(association, data_set(part10())).Status == 0x0000
    association.release()
    site.run()
    assert list(site.states().values()) == [("FAILED", "UNKNOWN_TRANSFER_SYNTAX")]


def test_bytes_in_an_unknown_transfer_syntax_that_nobody_can_walk_are_kept_by_their_name(scp: StorageScp, site: Site) -> None:
    association = associate(scp, syntax="1.2.3.4.5.6")
    assert send_over(association, b"\x78\x9c no data set that anybody here can read").Status == 0x0000
    association.release()
    site.run()
    assert list(site.states().values()) == [("FAILED", "UNKNOWN_TRANSFER_SYNTAX")]


def test_of_several_transfer_syntaxes_one_that_can_be_read_is_taken(scp: StorageScp) -> None:
    ae = AE("ORTHANC")
    ae.add_requested_context("1.3.12.2.1107.5.9.1", ["1.2.3.4.5.6", LITTLE])
    association = ae.associate("127.0.0.1", scp.port, ae_title="MDM")
    assert [context.transfer_syntax for context in association.accepted_contexts] == [[LITTLE]]
    association.release()


def test_a_sender_of_more_classes_than_an_association_can_name_gets_them_all_accepted(scp: StorageScp) -> None:
    offered = [uid for uid in UID_dictionary if is_storage_class(uid)] + [f"1.2.3.4.{number}" for number in range(100)]
    assert len(offered) > 256
    for start in range(0, len(offered), 128):
        ae = AE("ORTHANC")
        for uid in offered[start : start + 128]:
            ae.add_requested_context(uid, LITTLE)
        association = ae.associate("127.0.0.1", scp.port, ae_title="MDM")
        assert association.rejected_contexts == []
        association.release()


SERVICES = {
    "C-FIND": "1.2.840.10008.5.1.4.1.2.2.1",
    "storage commitment": "1.2.840.10008.1.20.1",
    "performed procedure step": "1.2.840.10008.3.1.2.3.3",
}


@pytest.mark.parametrize("uid", SERVICES.values(), ids=SERVICES)
def test_what_is_no_storage_is_not_negotiated(scp: StorageScp, uid: str) -> None:
    assert not associate(scp, sop_class=uid).accepted_contexts


def test_storing_under_a_class_that_is_no_storage_is_refused(scp: StorageScp, site: Site) -> None:
    verification = "1.2.840.10008.1.1"
    association = associate(scp, sop_class=verification)
    assert association.send_c_echo().Status == 0x0000
    assert send_over(association, data_set(part10()), verification).Status == 0x0122
    association.release()
    association = associate(scp)
    assert send_over(association, data_set(part10()), verification).Status == 0x0122
    association.release()
    assert site.states() == {}


def test_dcmtk_sends_retired_and_rare_classes(scp: StorageScp, site: Site, tmp_path: Path) -> None:
    storescu = require_program("storescu", "dcmtk")
    classes = [sop_class for sop_class in CLASSES if sop_class in DCMTK]
    for number, sop_class in enumerate(classes):
        image = pydicom.dcmread(io.BytesIO(part10(number=number, SOPClassUID=sop_class)))
        image.file_meta.MediaStorageSOPClassUID = sop_class
        image.save_as(tmp_path / f"{number}.dcm")
    command = [storescu, "-R", "-aet", "ORTHANC", "-aec", "MDM", "127.0.0.1", str(scp.port), *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(site.states()) == len(classes)
