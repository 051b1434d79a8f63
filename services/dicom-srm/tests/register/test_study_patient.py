"""A study is of one patient: corrected, in conflict, or spelled in several ways."""

import threading
from collections.abc import Callable

import pytest
from mdm_deid import Patient, PatientIdRule
from mdm_dicom_srm.register.rules.model import State

from .conftest import IMAGES, OTHER_PATIENT, SERIES, STUDIES, Site, guid_of, header

pytestmark = pytest.mark.integration


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site whose profile keeps what the entries of studies say."""
    return make_site(profile="research")


@pytest.mark.parametrize("instances", [1, 2, 5])
def test_a_study_corrected_one_instance_after_the_other_ends_under_the_right_patient(site: Site, instances: int) -> None:
    numbers = range(1, instances + 1)
    site.enqueue(*(header(number=number) for number in numbers))
    site.run()
    for number in numbers:
        site.enqueue(header(number=number, **OTHER_PATIENT))
        site.run()
        patients = {entry.values["patient"] for entry in site.metadata.entries[IMAGES].values()}
        assert len(patients) == 1, "never two patients in one study"
    site.run()
    published = {guid for guid, (state, _) in site.states().items() if state == "PUBLISHED"}
    assert published == site.catalog.files.keys() == {guid_of(1, number) for number in numbers}
    assert site.patient_names() == {"Right^Person"}


def test_really_different_patients_in_one_study_are_held_back(site: Site) -> None:
    site.enqueue(header())
    site.run()
    site.enqueue(header(number=2, **OTHER_PATIENT))
    site.run()
    assert site.states() == {guid_of(): ("PUBLISHED", ""), guid_of(number=2): ("QUARANTINED", "PATIENT_CONFLICT")}
    assert site.patient_names() == {"Secret^Name"}


def test_of_two_who_arrive_first_at_once_one_decides_of_whom_the_study_is(site: Site) -> None:
    headers = [header(number=number, SeriesInstanceUID=f"{SERIES}.{number}", PatientID=f"P{number}") for number in range(1, 5)]
    threads = [threading.Thread(target=site.enqueue, args=(item,)) for item in headers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.run()
    states = [state for state, _ in site.states().values()]
    assert sorted(states) == ["PUBLISHED", "QUARANTINED", "QUARANTINED", "QUARANTINED"]
    assert {reason for state, reason in site.states().values() if state == "QUARANTINED"} == {"PATIENT_CONFLICT"}


def test_a_conflict_with_a_patient_who_is_not_the_studys_any_more_is_looked_at_again(site: Site) -> None:
    """While one worker compares, another one finds that no instance of that patient is left."""
    site.enqueue(header(SeriesInstanceUID=f"{SERIES}.8"))
    site.run()
    site.enqueue(header(number=2, **OTHER_PATIENT))
    batch = site.claim(10, 60)
    assert batch is not None
    study_uid = batch.jobs[0].locator.study_uid
    right = Patient("RIGHT2", "")
    assert site.shared.decide_patient(study_uid, {guid_of(number=2): right}) == Patient("SECRET77", "")
    site.enqueue(header(SeriesInstanceUID=f"{SERIES}.8", **OTHER_PATIENT))
    site.run()
    site.queue.settle(batch.lease_id, {guid_of(number=2): "PATIENT_CONFLICT"}, State.QUARANTINED)
    site.run()
    assert site.states()[guid_of(number=2)] == ("PUBLISHED", "")
    assert site.patient_names() == {"Right^Person"}


def test_one_study_is_of_one_patient_whatever_issuer_zeros_blanks_and_case_say(site: Site) -> None:
    ids = [{"PatientID": "00ab12", "IssuerOfPatientID": "JMS"}, {"PatientID": "00AB12"}, {"PatientID": "AB 12"}, {"PatientID": ""}]
    for number, said in enumerate(ids, 1):
        site.enqueue(header(number=number, SeriesInstanceUID=f"{SERIES}.{number}", **said))
        site.run()
    assert {state for state, _ in site.states().values()} == {"PUBLISHED"}
    assert len({entry.values["patient"] for entry in site.metadata.entries[IMAGES].values()}) == 1
    assert len({entry.values["StudyDate"] for entry in site.metadata.entries[STUDIES].values()}) == 1


def test_the_site_says_how_patient_ids_are_compared(make_site: Callable[..., Site]) -> None:
    site = make_site(PatientIdRule(in_study=frozenset()), profile="research")
    site.enqueue(header(PatientID="0012"))
    site.run()
    site.enqueue(header(number=2, PatientID="12"))
    site.run()
    assert site.states()[guid_of(number=2)] == ("QUARANTINED", "PATIENT_CONFLICT")
