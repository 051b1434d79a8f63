"""The registry follows a real Orthanc whose studies are modified, merged, split, moved and deleted through its REST API (case 16)."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from mdm_deid import Pseudonymiser
from mdm_dicom_srm.pacs.alternatives import Fallback
from mdm_dicom_srm.pacs.c_get import CGet
from mdm_dicom_srm.pacs.dicomweb import DicomWeb
from mdm_dicom_srm.pacs.dimse import AssociationPool, Peer
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.pacs_set import PacsSet
from mdm_dicom_srm.pacs.port import Scope
from mdm_dicom_srm.pacs.wado_rs import WadoRs
from mdm_dicom_srm.register.rules.scan import Counts
from mdm_wire.errors import Unavailable

from ..pacs.conftest import RunningPacs, run_orthanc
from .conftest import SECRET, SERIES, STUDY, Site, guid_of, part10

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <.*ocket:pytest.PytestUnraisableExceptionWarning"),
]
SECOND = "1.2.826.0.1.77.2"


@dataclass
class Orthanc:
    """Orthanc, as its administrator has it."""

    running: RunningPacs

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, self.running.url + path, json=body, trust_env=False, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def store(self, content: bytes) -> None:
        httpx.post(f"{self.running.url}/instances", content=content, trust_env=False).raise_for_status()

    def find(self, level: str, **query: str) -> str:
        [found] = self.ask("POST", "/tools/find", {"Level": level, "Query": query})
        return str(found)

    def correct(self, patient_id: str, **replace: str) -> None:
        """Replace values of a patient in place: instances keep their UIDs."""
        found = self.find("Patient", PatientID=patient_id)
        keep = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
        # Without KeepSource, Orthanc would delete what it has just overwritten.
        body = {"Replace": replace, "Keep": keep, "Force": True, "KeepSource": True, "Synchronous": True}
        self.ask("POST", f"/patients/{found}/modify", body)
        if replace["PatientID"] != patient_id:
            self.ask("DELETE", f"/patients/{found}")

    def uids(self) -> list[str]:
        return [self.ask("GET", f"/instances/{found}/simplified-tags")["SOPInstanceUID"] for found in self.ask("GET", "/instances")]

    def empty(self) -> None:
        for found in self.ask("GET", "/patients"):
            self.ask("DELETE", f"/patients/{found}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPacs]:
    # As in a hospital that corrects: what comes again replaces what was there.
    with run_orthanc(tmp_path_factory.mktemp("orthanc"), [], OverwriteInstances=True) as found:
        yield found


@pytest.fixture(params=["wado-rs", "c-get"])
def orthanc(request: pytest.FixtureRequest, running: RunningPacs, site: Site) -> Iterator[Orthanc]:
    """Orthanc with a study of three images, all registered by a scan."""
    pool = AssociationPool(Peer("127.0.0.1", running.port, "ORTHANC", "MDM", 20, idle_seconds=2))
    way = WadoRs(DicomWeb(running.dicomweb_url)) if request.param == "wado-rs" else CGet(pool)
    site.pacs = PacsSet({"orthanc": Fallback([way])})  # type: ignore[assignment]
    found = Orthanc(running)
    found.empty()
    for number in (1, 2, 3):
        found.store(part10(number=number, StudyDescription="CT HEAD"))
    assert site.scan() == Counts(listed=3, new=3)
    assert site.catalog.files.keys() == {guid_of(number=number) for number in (1, 2, 3)}
    yield found
    if isinstance(way, WadoRs):
        way.close()
    pool.close()


def settle(site: Site) -> Counts:
    """Scan until nothing changes any more; return what the first scan found."""
    counts = site.scan()
    for _ in range(4):
        site.expire()
        site.run()
        site.scan()
    return counts


def files_match(site: Site, orthanc: Orthanc) -> None:
    """Every instance of the PACS is visible once, with a key and a record, and nothing else is."""
    live = {guid for guid, (state, _) in site.states().items() if state == "PUBLISHED"}
    assert site.catalog.files.keys() == site.keys.keys.keys() == live
    assert set(site.metadata.entries["/biomed/hospital-a/images"]) == {str(guid) for guid in live}
    assert len(live) == len(orthanc.uids())
    assert site.scan() == Counts(listed=len(live), equal=len(live))


def test_demographics_that_are_corrected_keep_guids(site: Site, orthanc: Orthanc) -> None:
    before = set(site.catalog.files)
    orthanc.correct("SECRET77", PatientID="SECRET77", PatientName="Corrected^Name", PatientBirthDate="19610102")
    assert settle(site).changed == 3
    assert set(site.catalog.files) == before and site.patient_names() == {"Corrected^Name"}
    files_match(site, orthanc)


def test_a_study_moved_to_another_patient_gets_other_guids_and_the_old_keys_die(site: Site, orthanc: Orthanc) -> None:
    before = set(site.catalog.files)
    orthanc.correct("SECRET77", PatientID="RIGHT2", PatientName="Right^Person")
    assert settle(site).changed == 3
    assert before.isdisjoint(site.catalog.files) and before == site.keys.dead
    assert site.patient_names() == {"Right^Person"}
    files_match(site, orthanc)


def test_a_series_split_off_into_a_new_study_is_followed(site: Site, orthanc: Orthanc) -> None:
    orthanc.store(part10(number=9, SeriesInstanceUID=f"{SERIES}.9", SOPInstanceUID=f"{SERIES}.9.1"))
    site.scan()
    series = orthanc.find("Series", SeriesInstanceUID=f"{SERIES}.9")
    body = {"Series": [series], "Replace": {}, "Remove": [], "KeepSource": False, "Synchronous": True}
    orthanc.ask("POST", f"/studies/{orthanc.find('Study', StudyInstanceUID=STUDY)}/split", body)
    settle(site)
    assert len({file.lfn.split("/")[4] for file in site.catalog.files.values()}) == 2, "two studies"
    assert len(site.patient_names()) == 1
    files_match(site, orthanc)


def test_studies_that_are_merged_are_followed(site: Site, orthanc: Orthanc) -> None:
    other = {"StudyInstanceUID": SECOND, "SeriesInstanceUID": f"{SECOND}.1", "PatientID": "OTHER3", "PatientName": "Other^Name"}
    for number in (1, 2):
        orthanc.store(part10(number=number, SOPInstanceUID=f"{SECOND}.1.{number}", **other))
    site.scan()
    assert len(site.patient_names()) == 2
    body = {"Resources": [orthanc.find("Study", StudyInstanceUID=SECOND)], "KeepSource": False, "Synchronous": True}
    orthanc.ask("POST", f"/studies/{orthanc.find('Study', StudyInstanceUID=STUDY)}/merge", body)
    settle(site)
    assert len({file.lfn.split("/")[4] for file in site.catalog.files.values()}) == 1, "one study"
    assert site.patient_names() == {"Secret^Name"}
    files_match(site, orthanc)


def test_what_is_deleted_is_removed_after_it_was_looked_for_twice(site: Site, orthanc: Orthanc) -> None:
    instance = orthanc.find("Instance", SOPInstanceUID=f"{SERIES}.2")
    orthanc.ask("DELETE", f"/instances/{instance}")
    assert site.scan() == Counts(listed=2, equal=2, missing=1)
    assert site.scan().listed == 2
    assert guid_of(number=2) in site.keys.dead
    orthanc.empty()
    settle(site)
    assert not site.catalog.files and not site.keys.keys and not site.patient_names()
    orthanc.store(part10(number=2))
    settle(site)
    assert list(site.catalog.files) == [Pseudonymiser(SECRET).guid(f"{SERIES}.2", 1)]


@pytest.mark.parametrize(
    ("scope", "new"),
    [
        (Scope(patient_ids=("SECRET77",)), 3),
        (Scope(series_uids=(SERIES,)), 3),
        (Scope(accession_numbers=("none",)), 0),
        (Scope(modalities=("MR",)), 0),
    ],
)
def test_scopes_are_asked_of_the_pacs(site: Site, orthanc: Orthanc, scope: Scope, new: int) -> None:
    assert site.scan(scope, dry_run=True).listed == new


def test_the_case_of_a_patient_corrected_by_sending_again_is_the_same_by_scan(site: Site, orthanc: Orthanc) -> None:
    orthanc.empty()
    settle(site)
    wrong = {"StudyInstanceUID": "1.2.16", "SeriesInstanceUID": "1.2.16.1", "PatientID": "WRONG-1", "PatientName": "Falsch^Person"}
    right = {**wrong, "PatientID": "RIGHT-2", "PatientName": "Richtig^Person", "PatientSex": "F", "StudyDescription": "CT NECK"}
    orthanc.store(part10(number=16, **wrong))
    settle(site)
    assert site.patient_names() == {"Falsch^Person"}
    orthanc.empty()
    corrected = part10(number=16, **right)
    assert pydicom.dcmread(io.BytesIO(corrected)).PatientID == "RIGHT-2" and header_of(corrected).sop_uid == f"{SERIES}.16"
    orthanc.store(corrected)
    settle(site)
    assert site.patient_names() == {"Richtig^Person"}
    files_match(site, orthanc)


def test_orthanc_stopped_removes_nothing(tmp_path: Path, site: Site, orthanc: Orthanc) -> None:
    before = site.visible()
    dead = WadoRs(DicomWeb("http://127.0.0.1:9/dicom-web", timeout=1))
    site.pacs = PacsSet({"orthanc": Fallback([dead])})  # type: ignore[assignment]
    with pytest.raises(Unavailable):
        site.scan()
    dead.close()
    assert site.visible() == before
