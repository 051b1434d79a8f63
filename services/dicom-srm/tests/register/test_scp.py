"""The Storage SCP as a PACS meets it: success means queued, everything else is a status."""

import io
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pydicom
import pytest
from mdm_dicom_srm.register.rpc import listener
from mdm_dicom_srm.register.rpc.storage_scp import StorageScp
from mdm_dicom_srm.register.rules.service import RegistrationService
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE

from .conftest import SERIES, FakePacs, Site, part10

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
CT, LITTLE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@pytest.fixture
def scp(site: Site) -> Iterator[StorageScp]:
    service = RegistrationService(site.store, site.shared, site.names, FakePacs(), lambda: None)
    listener = StorageScp(service, "127.0.0.1", 0, "MDM", ["ORTHANC"])
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
    """Send bytes as they are, which a well-behaved toolkit would not; return the response."""
    association = associate(scp)
    assert association.is_established
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CT, sop_uid
    request.Priority = 2
    request.DataSet = io.BytesIO(encoded)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
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


def test_an_unknown_transfer_syntax_is_not_negotiated(scp: StorageScp) -> None:
    association = associate(scp, syntax="1.2.3.4.5.6")
    assert not association.accepted_contexts


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
    assert works(scp)


def test_a_pdu_that_comes_in_drips_is_cut_off(scp: StorageScp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PDU_SECONDS", 0.5)
    with connect(scp) as connection:
        connection.sendall(announcing(200) + b"\0" * 10)
        assert ended(connection, 5)


def test_connections_that_say_nothing_are_few_and_short(scp: StorageScp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_PER_HOST", 4)
    monkeypatch.setattr(scp._ae, "_acse_timeout", 2)
    held = [connect(scp) for _ in range(40)]
    time.sleep(1)
    assert len(scp._server.active_associations) <= 4
    assert all(ended(connection, 5) for connection in held)
    for connection in held:
        connection.close()
    assert works(scp)
