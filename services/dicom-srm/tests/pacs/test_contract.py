"""One contract for every way to a PACS, run against real ones."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pydicom
import pytest
from mdm_dicom_srm.pacs.c_get import CGet
from mdm_dicom_srm.pacs.fallback import Fallback
from mdm_dicom_srm.pacs.part10 import header_of
from mdm_dicom_srm.pacs.port import InstanceLocator, Pacs
from mdm_dicom_srm.pacs.wado_rs import WadoRs
from mdm_testing.port import free_port
from mdm_wire.errors import Unavailable

from .conftest import Image, RunningPacs

pytestmark = [
    pytest.mark.integration,
    # pynetdicom drops the socket of a connection that fails without closing it; CPython closes it at once.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(params=["wado-rs on Orthanc", "c-get on Orthanc", "c-get on a small PACS", "fallback to c-get"])
def pacs(request: pytest.FixtureRequest) -> Pacs:
    running: RunningPacs = request.getfixturevalue("small_pacs" if "small" in request.param else "orthanc")
    c_get = CGet("127.0.0.1", running.port, ae_title=running.ae_title, calling_ae_title="MDM", timeout=20)
    if request.param.startswith("c-get"):
        return c_get
    if request.param.startswith("fallback"):
        return Fallback([WadoRs(f"http://127.0.0.1:{free_port()}/dicom-web"), c_get])
    return WadoRs(running.dicomweb_url)


def locator(image: Image) -> InstanceLocator:
    return InstanceLocator(image.study_uid, image.series_uid, image.sop_uid)


def pixels(part10: bytes) -> bytes:
    return pydicom.dcmread(io.BytesIO(part10)).PixelData


def test_a_whole_study_arrives_each_instance_once_and_untranscoded(pacs: Pacs, images: list[Image]) -> None:
    got = {instance.sop_uid: instance.part10 for instance in pacs.retrieve([locator(image) for image in images])}
    assert got.keys() == {image.sop_uid for image in images}
    for image in images:
        header = header_of(got[image.sop_uid])
        assert (header.transfer_syntax, header.sop_uid, header.has_pixels) == (image.transfer_syntax, image.sop_uid, True)
        assert pixels(got[image.sop_uid]) == pixels(image.part10)


def test_one_instance_of_a_series_arrives_alone(pacs: Pacs, images: list[Image]) -> None:
    assert [instance.sop_uid for instance in pacs.retrieve([locator(images[2])])] == [images[2].sop_uid]


def test_what_the_pacs_does_not_have_is_not_yielded(pacs: Pacs, images: list[Image]) -> None:
    absent = [
        InstanceLocator(images[0].study_uid, images[0].series_uid, "1.2.3.4"),
        InstanceLocator(images[0].study_uid, "1.2.3.5", "1.2.3.6"),
        InstanceLocator("1.2.3.7", "1.2.3.8", "1.2.3.9"),
    ]
    asked = [*absent, locator(images[0])]
    assert [instance.sop_uid for instance in pacs.retrieve(asked)] == [images[0].sop_uid]


def test_headers_of_a_study_come_without_pixel_data(pacs: Pacs, images: list[Image]) -> None:
    headers = {header.sop_uid: header for header in pacs.headers(images[0].study_uid)}
    assert headers.keys() == {image.sop_uid for image in images}
    assert all(header.study_uid == images[0].study_uid and header.has_pixels for header in headers.values())
    assert max(len(header.part10) for header in headers.values()) < 40_000


def test_headers_of_an_unknown_study_are_none(pacs: Pacs) -> None:
    assert list(pacs.headers("1.2.3.4.5")) == []


def test_ping_returns_when_the_pacs_answers(pacs: Pacs) -> None:
    pacs.ping()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A listener that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def adapters(port: int) -> list[Callable[[], Pacs]]:
    return [
        lambda: WadoRs(f"http://127.0.0.1:{port}/dicom-web", timeout=1),
        lambda: CGet("127.0.0.1", port, ae_title="X", calling_ae_title="MDM", timeout=1),
    ]


@pytest.mark.parametrize("kind", [0, 1], ids=["wado-rs", "c-get"])
def test_a_pacs_that_is_down_is_unavailable(kind: int) -> None:
    pacs = adapters(free_port())[kind]()
    wanted = [InstanceLocator("1.2", "1.3", "1.4")]
    for call in (pacs.ping, lambda: list(pacs.retrieve(wanted)), lambda: list(pacs.headers("1.2"))):
        with pytest.raises(Unavailable) as caught:
            call()
        assert "1.2" not in caught.value.message


@pytest.mark.parametrize("kind", [0, 1], ids=["wado-rs", "c-get"])
def test_a_pacs_that_never_answers_is_unavailable_in_time(kind: int, silent_port: int) -> None:
    pacs = adapters(silent_port)[kind]()
    start = time.monotonic()
    with pytest.raises(Unavailable):
        list(pacs.retrieve([InstanceLocator("1.2", "1.3", "1.4")]))
    assert time.monotonic() - start < 5


def test_several_threads_share_one_adapter(pacs: Pacs, images: list[Image]) -> None:
    got: list[str] = []
    wanted = [locator(image) for image in images]
    threads = [threading.Thread(target=lambda: got.extend(i.sop_uid for i in pacs.retrieve(wanted))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted([image.sop_uid for image in images] * 3)
