"""The PACS of a local stack, as real processes: what modalities store arrives at dicom-srm, whoever is down meanwhile."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mdm_forwarder.delivery import DeliveryQueue, Refusal
from mdm_local import component, process
from mdm_local.component import Launcher
from mdm_local.configuration import make_credentials
from mdm_local.layout import FORWARDER, LISTENERS, PACS, SCP, Layout
from mdm_local.pacs.kind import ARCHIVE, KINDS, ORTHANC, STUDY_ROOT_FIND, STUDY_ROOT_GET, StackPacs, of_kind
from mdm_site.pacs import MDM_AE_TITLE
from mdm_testing.process import eventually, require_program
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_role, evt
from pynetdicom import _config as pynetdicom_config

pytestmark = pytest.mark.integration


@dataclass
class Site:
    """A PACS that runs, and the place of dicom-srm's Storage SCP, at which nobody listens at first."""

    pacs: StackPacs
    scp_port: int
    received: list[str] = field(default_factory=list)
    asked: int = 0
    queue: Path = Path()
    status: int = 0

    def on_store(self, event: evt.Event) -> int:
        self.asked += 1
        if self.status:
            return self.status
        self.received.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def listen(self) -> Callable[[], None]:
        ae = AE(MDM_AE_TITLE)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context("1.2.840.10008.1.1")
        server = ae.start_server(("127.0.0.1", self.scp_port), block=False, evt_handlers=[(evt.EVT_C_STORE, self.on_store)])
        return server.shutdown


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    # dicom-srm's Storage SCP accepts every class, in the whole process that has one; the destination here accepts those it names.
    monkeypatch.setattr(pynetdicom_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    kind = request.param
    if kind == ORTHANC:
        require_program("Orthanc", "orthanc")
    layout = Layout(tmp_path)
    layout.make()
    make_credentials(layout, "MDM Local")
    ports = process.allocate_ports(LISTENERS, {}, ())
    pacs = of_kind(kind, ports, layout.secret("pacs-password"))
    launcher = Launcher(layout, ports, pacs)
    names = [PACS] if kind == ARCHIVE else [PACS, FORWARDER]
    running = [process.spawn(launcher.command(name), layout.log(name), launcher.environment()) for name in names]
    try:
        eventually(lambda: component.health_of_pacs(pacs) == component.SERVING)
        yield Site(pacs, ports[SCP], queue=layout.pacs / "forward.sqlite")
    finally:
        process.end(running, 10)


def test_an_image_stored_in_the_pacs_is_forwarded_at_once(site: Site) -> None:
    stop = site.listen()
    try:
        image = dcmread(get_testdata_file("CT_small.dcm"))
        _store(site, [image])
        eventually(lambda: site.received == [image.SOPInstanceUID])
    finally:
        stop()


def test_images_stored_while_dicom_srm_is_down_or_refuses_are_forwarded_later(site: Site) -> None:
    images = [dcmread(get_testdata_file(name)) for name in ("CT_small.dcm", "MR_small_jpeg_ls_lossless.dcm", "examples_ybr_color.dcm")]
    _store(site, images)
    time.sleep(1)
    site.status = 0xA700
    stop = site.listen()
    try:
        time.sleep(2)
        assert site.received == []
        site.status = 0
        eventually(lambda: set(site.received) == {image.SOPInstanceUID for image in images})
    finally:
        stop()


def test_what_is_refused_for_good_is_listed_and_not_sent_for_ever(site: Site) -> None:
    site.status = 0xC000
    stop = site.listen()
    try:
        _store(site, [dcmread(get_testdata_file("CT_small.dcm"))])
        eventually(lambda: bool(_refusals(site)))
        assert [refusal.reason for refusal in _refusals(site)] == ["DIMSE_0xC000"]
        asked = site.asked
        time.sleep(3)
        assert site.asked == asked
    finally:
        stop()


def test_a_private_class_that_nobody_negotiates_is_listed(site: Site) -> None:
    image = dcmread(get_testdata_file("CT_small.dcm"))
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"
    stop = site.listen()
    try:
        _store(site, [image])
        eventually(lambda: bool(_refusals(site)))
        assert [refusal.reason for refusal in _refusals(site)] == ["NOT_NEGOTIATED"]
    finally:
        stop()


def test_what_was_stored_comes_back_unchanged_by_c_get(site: Site) -> None:
    image = dcmread(get_testdata_file("CT_small.dcm"))
    _store(site, [image])
    answers = _get(site, image)
    assert [answer.PixelData for answer in answers] == [image.PixelData]
    assert answers[0].PatientName == image.PatientName


def test_a_study_is_found_by_c_find(site: Site) -> None:
    image = dcmread(get_testdata_file("CT_small.dcm"))
    _store(site, [image])
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = image.StudyInstanceUID
    query.SeriesInstanceUID = ""
    ae = AE("FINDSCU")
    ae.add_requested_context(STUDY_ROOT_FIND)
    association = ae.associate(site.pacs.host, site.pacs.port, ae_title=site.pacs.ae_title)
    assert association.is_established
    found = [identifier.SeriesInstanceUID for status, identifier in association.send_c_find(query, STUDY_ROOT_FIND) if identifier]
    association.release()
    assert found == [image.SeriesInstanceUID]


def test_a_calling_ae_title_that_is_not_listed_is_refused(site: Site) -> None:
    ae = AE("STRANGER")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2")
    association = ae.associate(site.pacs.host, site.pacs.port, ae_title=site.pacs.ae_title)
    refused = not association.is_established
    if not refused:
        association.abort()
    assert refused


def _refusals(site: Site) -> list[Refusal]:
    if not site.queue.is_file():
        return []
    queue = DeliveryQueue(site.queue)
    try:
        return queue.refusals()
    finally:
        queue.close()


def _store(site: Site, images: list[Dataset]) -> None:
    ae = AE("STORESCU")
    for image in images:
        ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = ae.associate(site.pacs.host, site.pacs.port, ae_title=site.pacs.ae_title)
    assert association.is_established
    assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    association.release()


def _get(site: Site, image: Dataset) -> list[Dataset]:
    received: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = image.StudyInstanceUID
    query.SeriesInstanceUID = image.SeriesInstanceUID
    query.SOPInstanceUID = image.SOPInstanceUID
    ae = AE(MDM_AE_TITLE)
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    roles = [build_role(image.SOPClassUID, scp_role=True)]
    association = ae.associate(
        site.pacs.host, site.pacs.port, ae_title=site.pacs.ae_title, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    assert association.is_established
    for _ in association.send_c_get(query, STUDY_ROOT_GET):
        pass
    association.release()
    return received
