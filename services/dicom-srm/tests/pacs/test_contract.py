"""One contract for every way to a PACS, run against real ones."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import date

import pydicom
import pytest
from mdm_deid.encoding.header import Header
from mdm_dicom_srm.pacs.alternatives import Fallback
from mdm_dicom_srm.pacs.c_get import CGet
from mdm_dicom_srm.pacs.c_move import CMove, MoveDestination
from mdm_dicom_srm.pacs.dicomweb import DicomWeb
from mdm_dicom_srm.pacs.dimse import AssociationPool, Peer
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.pacs_set import PacsSet
from mdm_dicom_srm.pacs.port import LISTED, NOT_IN_PACS, InstanceLocator, MissingInstance, Pacs, RetrievedInstance, Scope
from mdm_dicom_srm.pacs.wado_rs import WadoRs
from mdm_testing.process import free_port
from mdm_wire.errors import Unavailable

from .conftest import Image, Receiver, RunningPacs
from .scripted import ScriptedPacs

pytestmark = [
    pytest.mark.integration,
    # pynetdicom drops the socket of a connection that fails without closing it; CPython closes it at once.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <.*ocket:pytest.PytestUnraisableExceptionWarning"),
]


WAYS = [
    "wado-rs on Orthanc",
    "c-get on Orthanc",
    "c-move on Orthanc",
    "c-get on dcmqrscp",
    "c-move on dcmqrscp",
    "c-get on qrscp",
    "c-move on qrscp",
    "c-get on a small PACS",
    "c-move on a small PACS",
    "fallback to c-get",
    "a set of PACS",
]
#: The fixture of each PACS but Orthanc.
ON = {"dcmqrscp": "dcmtk", " qrscp": "qrscp", "small PACS": "small_pacs"}


def pool(running: RunningPacs, timeout: float = 20) -> AssociationPool:
    return AssociationPool(Peer("127.0.0.1", running.port, running.ae_title, "MDM", timeout, idle_seconds=2))


@pytest.fixture(params=WAYS)
def pacs(request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[Pacs]:
    way = request.param
    running: RunningPacs = request.getfixturevalue(next((name for word, name in ON.items() if way.endswith(word)), "orthanc"))
    associations = pool(running)
    if way.startswith("c-move"):
        yield CMove(associations, receiver.destination)
    elif way.startswith("c-get"):
        yield CGet(associations)
    elif way.startswith("wado-rs"):
        yield WadoRs(DicomWeb(running.dicomweb_url))
    elif way.startswith("fallback"):
        yield Fallback([WadoRs(DicomWeb(f"http://127.0.0.1:{free_port()}/dicom-web")), CGet(associations)])
    else:
        other = ScriptedPacs("OTHER", [])
        with other:
            here = AssociationPool(Peer("127.0.0.1", other.port, "OTHER", "MDM", 20))
            yield PacsSet({"other": Fallback([CGet(here)]), "orthanc": Fallback([CGet(associations)])})
            here.close()
    associations.close()


def retrieved(pacs: Pacs, wanted: Sequence[InstanceLocator]) -> dict[str, bytes]:
    items = list(pacs.retrieve(wanted))
    assert len({item.sop_uid for item in items}) == len(items), "each comes once"
    return {item.sop_uid: item.part10 for item in items if isinstance(item, RetrievedInstance)}


EXPLICIT, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"


def locator(image: Image) -> InstanceLocator:
    return InstanceLocator(image.study_uid, image.series_uid, image.sop_uid)


def pixels(part10: bytes) -> bytes:
    return pydicom.dcmread(io.BytesIO(part10)).PixelData


@pytest.fixture
def sendable(request: pytest.FixtureRequest, images: list[Image]) -> list[Image]:
    """What the PACS is able to send: dcmqrscp nothing that is compressed, qrscp by C-GET no JPEG."""
    way = request.node.callspec.params["pacs"]
    syntaxes = (EXPLICIT,) if "dcmqrscp" in way else (EXPLICIT, RLE) if way == "c-get on qrscp" else ()
    return [image for image in images if not syntaxes or image.transfer_syntax in syntaxes]


def test_a_whole_study_arrives_each_instance_once_and_untranscoded(pacs: Pacs, images: list[Image], sendable: list[Image]) -> None:
    items = {item.sop_uid: item for item in pacs.retrieve([locator(image) for image in images])}
    assert items.keys() == {image.sop_uid for image in images}
    for image in sendable:
        got = items.pop(image.sop_uid).part10
        assert pydicom.dcmread(io.BytesIO(got)).file_meta.TransferSyntaxUID == image.transfer_syntax
        assert header_of(got).sop_uid == image.sop_uid
        assert pixels(got) == pixels(image.part10)
    assert all(item == MissingInstance(sop_uid, "PACS_NOT_DELIVERED") for sop_uid, item in items.items())


def test_one_instance_of_a_series_arrives_alone(pacs: Pacs, images: list[Image]) -> None:
    assert [instance.sop_uid for instance in pacs.retrieve([locator(images[2])])] == [images[2].sop_uid]


def test_of_what_the_pacs_does_not_have_it_says_so(pacs: Pacs, images: list[Image]) -> None:
    absent = [
        InstanceLocator(images[0].study_uid, images[0].series_uid, "1.2.3.4"),
        InstanceLocator(images[0].study_uid, "1.2.3.5", "1.2.3.6"),
        InstanceLocator("1.2.3.7", "1.2.3.8", "1.2.3.9"),
    ]
    found = {item.sop_uid: item for item in pacs.retrieve([*absent, locator(images[0])])}
    assert found.pop(images[0].sop_uid).part10
    assert found == {uid: MissingInstance(uid, NOT_IN_PACS) for uid in ("1.2.3.4", "1.2.3.6", "1.2.3.9")}


def test_headers_of_a_study_come_without_pixel_data(pacs: Pacs, images: list[Image], sendable: list[Image]) -> None:
    headers: list[Header] = []
    with nullcontext() if sendable == images else pytest.raises(Unavailable):
        for header, _ in pacs.headers(images[0].study_uid):
            headers.append(header)
    assert sorted(header.sop_uid for header in headers) == sorted(image.sop_uid for image in sendable)
    assert all(header.study_uid == images[0].study_uid for header in headers)
    assert max(len(header.part10) for header in headers) < 40_000


def test_headers_of_an_unknown_study_are_none(pacs: Pacs) -> None:
    assert list(pacs.headers("1.2.3.4.5")) == []


def test_ping_returns_when_the_pacs_answers(pacs: Pacs) -> None:
    pacs.ping()


SCOPES = [
    (Scope(), True),
    (Scope(study_uids=("1.2.826.0.1.99.1", "1.2.3")), True),
    (Scope(study_uids=("1.2.3",)), False),
    (Scope(series_uids=("1.2.826.0.1.99.1.2",)), True),
    (Scope(series_uids=("1.2.826.0.1.99.1.2",), study_uids=("1.2.3",)), False),
    (Scope(patient_ids=("P0", "P1")), True),
    (Scope(patient_ids=("P*",)), False),
    (Scope(patient_ids=("P1",), accession_numbers=("A9",)), False),
    (Scope(accession_numbers=("A1",)), True),
    (Scope(modalities=("CT", "MG")), True),
    (Scope(modalities=("MG",)), False),
    (Scope(since=date(2004, 1, 19), until=date(2004, 1, 19)), True),
    (Scope(since=date(2004, 1, 20)), False),
    (Scope(until=date(2004, 1, 18)), False),
    (Scope(patient_ids=("P1",), since=date(2004, 1, 1), modalities=("CT",)), True),
]


@pytest.mark.parametrize(("scope", "found"), SCOPES, ids=[str(n) for n in range(len(SCOPES))])
def test_a_scope_gives_the_studies_that_meet_all_its_conditions(pacs: Pacs, images: list[Image], scope: Scope, found: bool) -> None:
    assert list(pacs.studies(scope)) == [images[0].study_uid] * found


def test_a_listing_has_every_instance_with_the_attributes_that_its_file_has(pacs: Pacs, images: list[Image]) -> None:
    listed = {item.locator.sop_uid: item for item in pacs.listing(images[0].study_uid)}
    assert listed.keys() == {image.sop_uid for image in images}
    for image in images:
        item, file = listed[image.sop_uid], pydicom.dcmread(io.BytesIO(image.part10))
        assert (item.locator.study_uid, item.locator.series_uid) == (image.study_uid, image.series_uid)
        assert item.sop_class_uid == (file.SOPClassUID if item.sop_class_uid else ""), "dcmqrscp does not return it"
        assert item.attributes.keys() == set(LISTED)
        # What the standard demands of a query service; of the others a PACS may return nothing.
        for keyword in ("PatientID", "PatientName", "StudyDate", "AccessionNumber", "Modality", "SeriesNumber", "InstanceNumber"):
            assert item.attributes[keyword] == str(file.get(keyword, "") or "").rstrip("^ "), keyword


def test_a_listing_of_an_unknown_study_is_empty(pacs: Pacs) -> None:
    assert list(pacs.listing("1.2.3.4.5")) == []


def test_every_way_to_one_pacs_lists_alike(orthanc: RunningPacs, images: list[Image]) -> None:
    ways: list[Pacs] = [WadoRs(DicomWeb(orthanc.dicomweb_url)), CGet(associations := pool(orthanc))]
    first, second = ({item.locator: item for item in way.listing(images[0].study_uid)} for way in ways)
    assert first == second
    assert len(first) == len(images)
    associations.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A listener that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def adapters(port: int) -> list[Callable[[], Pacs]]:
    return [
        lambda: WadoRs(DicomWeb(f"http://127.0.0.1:{port}/dicom-web", timeout=1)),
        lambda: CGet(pool(RunningPacs("X", port), timeout=1)),
        lambda: CMove(pool(RunningPacs("X", port), timeout=1), MoveDestination("MDM")),
    ]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["wado-rs", "c-get", "c-move"])
def test_a_pacs_that_is_down_is_unavailable(kind: int) -> None:
    pacs = adapters(free_port())[kind]()
    wanted = [InstanceLocator("1.2", "1.3", "1.4")]
    for call in (pacs.ping, lambda: list(pacs.retrieve(wanted)), lambda: list(pacs.headers("1.2")), lambda: list(pacs.listing("1.2"))):
        with pytest.raises(Unavailable) as caught:
            call()
        assert "1.2" not in caught.value.message


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["wado-rs", "c-get", "c-move"])
def test_a_pacs_that_never_answers_is_unavailable_in_time(kind: int, silent_port: int) -> None:
    pacs = adapters(silent_port)[kind]()
    start = time.monotonic()
    with pytest.raises(Unavailable):
        list(pacs.retrieve([InstanceLocator("1.2", "1.3", "1.4")]))
    assert time.monotonic() - start < 5


def test_several_threads_share_one_adapter(pacs: Pacs, sendable: list[Image]) -> None:
    got: list[str] = []
    wanted = [locator(image) for image in sendable]
    threads = [threading.Thread(target=lambda: got.extend(retrieved(pacs, wanted))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted([image.sop_uid for image in sendable] * 3)
