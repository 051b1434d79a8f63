"""The registry follows the PACS: what is sent again, changed, moved, of another patient, or lost, on a real queue."""

import threading
from collections.abc import Callable, Sequence
from importlib import resources
from uuid import UUID

import psycopg
import pytest
from mdm_deid import Patient, PatientIdRule, Pseudonymiser
from mdm_dicom_srm.register.rules.model import State
from mdm_wire.errors import MdmError, Unavailable

from .conftest import SECRET, SERIES, Site, header

pytestmark = pytest.mark.integration

ROOT = "/biomed/hospital-a"
IMAGES, SERIES_PATH, STUDIES, PATIENTS = (f"{ROOT}/{name}" for name in ("images", "series", "studies", "patients"))
SOP = f"{SERIES}.1"
OTHER = {"PatientID": "RIGHT2", "PatientName": "Right^Person", "PatientSex": "F"}


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site whose profile keeps what the entries of studies say."""
    return make_site(profile="research")


def guid_of(generation: int = 0, number: int = 1) -> UUID:
    return Pseudonymiser(SECRET).guid(f"{SERIES}.{number}", generation)


def names(site: Site) -> set[str]:
    return {value["PatientName"] for value in (entry.values for entry in site.metadata.entries[PATIENTS].values())}


def grid(site: Site) -> dict[str, object]:
    """Everything that users can see."""
    return {
        "files": dict(sorted(site.catalog.files.items())),
        "directories": sorted(site.catalog.directories),
        "keys": dict(sorted(site.keys.keys.items())),
        "entries": {path: dict(sorted(entries.items())) for path, entries in sorted(site.metadata.entries.items()) if entries},
    }


def test_generation_0_has_the_guid_of_before_and_each_generation_another() -> None:
    pseudonymiser = Pseudonymiser(SECRET)
    assert pseudonymiser.guid(SOP, 0) == pseudonymiser.guid(SOP)
    assert len({pseudonymiser.guid(SOP, generation) for generation in range(4)}) == 4


def test_an_instance_that_is_sent_again_unchanged_costs_nothing(site: Site) -> None:
    site.enqueue(header())
    site.run()
    calls = [service.calls for service in (site.keys, site.metadata, site.catalog)]
    judged = site.judge.judged
    assert site.service().enqueue([header()]).queued == 0
    assert site.run() == 0
    assert site.judge.judged == judged
    assert [service.calls for service in (site.keys, site.metadata, site.catalog)] == calls


def test_a_correction_keeps_the_guid_and_reaches_metadata_name_and_size(site: Site) -> None:
    site.enqueue(header(KVP="120"))
    site.run()
    guid, before = guid_of(), site.catalog.files[guid_of()]
    corrected = header(KVP=None, InstanceNumber=7, PatientSex="F")
    site.enqueue(corrected)
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}
    after = site.catalog.files[guid]
    assert after.lfn == before.lfn.replace("/0001-", "/0007-")
    assert after.size == corrected.size != before.size
    values = site.metadata.entries[IMAGES][str(guid)].values
    assert (values["KVP"], values["InstanceNumber"], values["lfn"]) == (None, 7, after.lfn)
    assert [entry.values["PatientSex"] for entry in site.metadata.entries[STUDIES].values()] == ["F"]
    assert site.copies.forgotten == [guid]


def test_an_instance_moved_to_another_series_leaves_no_empty_series_behind(site: Site) -> None:
    site.enqueue(header())
    site.run()
    [old] = site.metadata.entries[SERIES_PATH]
    site.enqueue(header(SeriesInstanceUID=f"{SERIES}.99"))
    site.run()
    assert site.states() == {guid_of(): ("PUBLISHED", "")}
    [new] = site.metadata.entries[SERIES_PATH]
    assert new != old
    assert [path for path in site.catalog.directories if old in path] == []
    assert new in site.catalog.files[guid_of()].lfn


def test_an_instance_moved_to_another_study_is_guarded_as_that_study_is(site: Site) -> None:
    site.enqueue(header())
    site.run()
    site.enqueue(header(StudyInstanceUID="1.2.826.0.1.77.2"))
    site.run()
    acl_id = site.names.study_acl("1.2.826.0.1.77.2")
    assert site.states() == {guid_of(): ("PUBLISHED", "")}
    assert site.keys.keys == {guid_of(): acl_id}
    assert site.catalog.files[guid_of()].acl_id == acl_id
    assert len(site.metadata.entries[STUDIES]) == 1
    assert site.metadata.entries[IMAGES][str(guid_of())].acl_id == acl_id


def test_a_key_under_another_acl_that_was_not_ours_is_never_taken_over(site: Site) -> None:
    stranger = UUID(int=1)
    site.keys.keys[guid_of()] = stranger
    site.enqueue(header())
    site.run()
    assert site.states() == {guid_of(): ("RECEIVED", "KEY_GUARDED_OTHERWISE")}
    assert site.keys.keys == {guid_of(): stranger}


def correct_patient(site: Site) -> None:
    site.enqueue(header(PatientSex="M"))
    site.run()
    site.enqueue(header(**OTHER))


def check_corrected(site: Site) -> None:
    assert site.states() == {guid_of(0): ("REMOVED", ""), guid_of(1): ("PUBLISHED", "")}
    assert names(site) == {"Right^Person"}
    assert site.catalog.files.keys() == site.keys.keys.keys() == {guid_of(1)}
    assert site.metadata.entries[IMAGES].keys() == {str(guid_of(1))}
    patient = site.metadata.entries[IMAGES][str(guid_of(1))].values["patient"]
    assert site.catalog.files[guid_of(1)].lfn.split("/")[3] == patient
    assert {lfn.split("/")[3] for lfn in site.catalog.directories if lfn.count("/") > 2} == {patient}
    assert [entry.values["patient"] for entry in site.metadata.entries[STUDIES].values()] == [patient]
    assert [entry.values["PatientSex"] for entry in site.metadata.entries[STUDIES].values()] == ["F"]
    assert [entry.values["NumberOfSeriesRelatedInstances"] for entry in site.metadata.entries[SERIES_PATH].values()] == [1]
    assert guid_of(0) in site.copies.forgotten
    assert site.keys.dead == {guid_of(0)}


def test_a_correction_of_the_patient_ends_the_guid_and_all_of_the_wrong_patient_is_gone(site: Site) -> None:
    correct_patient(site)
    site.run()
    check_corrected(site)


@pytest.mark.parametrize("call", range(1, 26))
@pytest.mark.parametrize("moment", ["trouble", "after"])
def test_a_process_killed_anywhere_in_a_correction_leaves_it_to_be_completed(site: Site, call: int, moment: str) -> None:
    correct_patient(site)
    services = (site.keys, site.metadata, site.catalog)
    left = [call]

    def counting(original: Callable[[], None], kill: bool) -> Callable[[], None]:
        def count() -> None:
            left[0] -= kill
            if left[0] == 0 and kill:
                raise Killed
            original()

        return count

    for service in services:
        service.fail = counting(service.fail, moment == "trouble")  # type: ignore[method-assign]
        service.done = counting(service.done, moment == "after")  # type: ignore[method-assign]
    while left[0] > 0:
        try:
            batches = site.run()
        except Killed:
            batches = 0
        site.expire()
        if batches == 0 and left[0] > 0 and not site.store.claim(1, 0):
            break
        site.expire()
    site.expire()
    site.run()
    check_corrected(site)


def test_a_header_that_changes_while_it_is_worked_on_is_described_as_it_is_now(site: Site) -> None:
    site.enqueue(header())
    batch = site.store.claim(10, 60)
    assert batch is not None
    site.enqueue(header(InstanceNumber=5))
    assert site.store.claim(10, 60) is None, "one version at a time"
    site.pipeline().run(batch)
    assert site.states() == {guid_of(): ("RECEIVED", "")}
    site.run()
    assert site.states() == {guid_of(): ("PUBLISHED", "")}
    assert "/0005-" in site.catalog.files[guid_of()].lfn


def test_a_key_made_while_the_header_changed_is_destroyed_with_what_it_was_for(site: Site) -> None:
    site.enqueue(header())
    batch = site.store.claim(10, 60)
    assert batch is not None
    create = site.keys.create_keys

    def create_keys(guids: Sequence[UUID], acl_id: UUID) -> dict[UUID, MdmError | None]:
        site.enqueue(header(BurnedInAnnotation="YES"))
        return create(guids, acl_id)

    site.keys.create_keys = create_keys  # type: ignore[method-assign]
    site.pipeline().run(batch)
    site.run()
    assert site.states()[guid_of(1)] == ("QUARANTINED", "BURNED_IN_ANNOTATION")
    assert site.keys.keys == {}


def test_what_may_not_be_released_any_more_is_taken_back(site: Site) -> None:
    site.enqueue(header())
    site.run()
    site.enqueue(header(BurnedInAnnotation="YES"))
    site.run()
    assert site.states() == {guid_of(0): ("REMOVED", ""), guid_of(1): ("QUARANTINED", "BURNED_IN_ANNOTATION")}
    assert grid(site)["files"] == grid(site)["keys"] == grid(site)["entries"] == {}
    assert [path for path in site.catalog.directories if path.count("/") > 2] == []
    site.enqueue(header())
    site.run()
    assert site.states()[guid_of(1)] == ("PUBLISHED", "")


def test_a_file_that_is_being_described_anew_is_not_served(site: Site) -> None:
    site.enqueue(header())
    site.run()
    assert site.store.locators_of([guid_of()])[guid_of()] is not None
    site.enqueue(header(PatientSex="F"))
    assert site.store.locators_of([guid_of()]) == {guid_of(): None}
    site.run()
    assert site.store.locators_of([guid_of()])[guid_of()] is not None


def test_a_removal_is_tried_until_it_succeeds(site: Site) -> None:
    correct_patient(site)
    site.metadata.trouble = Unavailable("AWAY", "away")
    for _ in range(site.max_attempts + 2):
        site.run()
        site.expire()
    site.metadata.trouble = None
    assert site.states() == {guid_of(0): ("REMOVING", "AWAY"), guid_of(1): ("FAILED", "AWAY")}
    site.store.retry([guid_of(1)])
    site.run()
    check_corrected(site)


@pytest.mark.parametrize("instances", [1, 2, 5])
def test_a_study_corrected_one_instance_after_the_other_ends_under_the_right_patient(site: Site, instances: int) -> None:
    numbers = range(1, instances + 1)
    site.enqueue(*(header(number=number) for number in numbers))
    site.run()
    for number in numbers:
        site.enqueue(header(number=number, **OTHER))
        site.run()
        patients = {entry.values["patient"] for entry in site.metadata.entries[IMAGES].values()}
        assert len(patients) == 1, "never two patients in one study"
    site.run()
    published = {guid for guid, (state, _) in site.states().items() if state == "PUBLISHED"}
    assert published == site.catalog.files.keys() == {guid_of(1, number) for number in numbers}
    assert names(site) == {"Right^Person"}


def test_really_different_patients_in_one_study_are_held_back(site: Site) -> None:
    site.enqueue(header())
    site.run()
    site.enqueue(header(number=2, **OTHER))
    site.run()
    assert site.states() == {guid_of(): ("PUBLISHED", ""), guid_of(number=2): ("QUARANTINED", "PATIENT_CONFLICT")}
    assert names(site) == {"Secret^Name"}


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
    site.enqueue(header(number=2, **OTHER))
    batch = site.store.claim(10, 60)
    assert batch is not None
    study_uid = batch.jobs[0].locator.study_uid
    right = Patient("RIGHT2", "")
    assert site.shared.decide_patient(study_uid, {guid_of(number=2): right}) == Patient("SECRET77", "")
    site.enqueue(header(SeriesInstanceUID=f"{SERIES}.8", **OTHER))
    site.run()
    site.store.settle(batch.lease_id, {guid_of(number=2): "PATIENT_CONFLICT"}, State.QUARANTINED)
    site.run()
    assert site.states()[guid_of(number=2)] == ("PUBLISHED", "")
    assert names(site) == {"Right^Person"}


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


def lose_metadata(site: Site) -> None:
    site.metadata.entries.clear()
    site.metadata.acls.clear()
    site.metadata.collections.clear()


def lose_catalog(site: Site) -> None:
    site.catalog.files.clear()
    site.catalog.directories.clear()


@pytest.mark.parametrize("lose", [lose_metadata, lose_catalog])
def test_what_one_store_lost_is_put_back_on_request(site: Site, lose: Callable[[Site], None]) -> None:
    headers = [header(), header(number=2)]
    site.enqueue(*headers)
    site.run()
    before = grid(site)
    lose(site)
    site.enqueue(*headers)
    assert site.run() == 0, "not unasked"
    assert site.service().enqueue(headers, restore=True).queued == 2
    site.run()
    assert grid(site) == before


def test_an_instance_whose_key_was_destroyed_comes_back_under_a_new_guid(site: Site) -> None:
    site.enqueue(header(), header(number=2))
    site.run()
    site.keys.destroy([guid_of()])
    site.service().enqueue([header()], restore=True)
    site.run()
    assert site.states() == {
        guid_of(): ("REMOVED", ""),
        guid_of(1): ("PUBLISHED", ""),
        guid_of(number=2): ("PUBLISHED", ""),
    }
    assert site.catalog.files.keys() == site.keys.keys.keys() == {guid_of(1), guid_of(number=2)}
    assert [entry.values["NumberOfSeriesRelatedInstances"] for entry in site.metadata.entries[SERIES_PATH].values()] == [2]


def test_two_who_queue_the_same_instances_at_once_queue_them_once(site: Site) -> None:
    headers = [header(number=number) for number in range(1, 21)]
    queued: list[int] = []
    threads = [
        threading.Thread(target=lambda: queued.append(site.store.enqueue([site.names.candidate(item) for item in headers]).queued))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(queued) == 20


def test_registrations_of_an_earlier_version_are_followed_too(site: Site) -> None:
    site.enqueue(header())
    site.run()
    with site.pool.connection() as connection:
        connection.execute(
            """
            UPDATE registration SET digest = NULL, size = NULL, lfn = NULL, patient_token = NULL, patient_key = NULL, study_key = NULL,
                series_key = NULL, patient_statement = NULL, study_statement = NULL, series_statement = NULL
            """
        )
        for table in ("study", "statement", "shared_entry"):
            connection.execute(f"DELETE FROM {table}".encode())
    site.enqueue(header(number=2))
    site.run()
    assert [entry.values["NumberOfSeriesRelatedInstances"] for entry in site.metadata.entries[SERIES_PATH].values()] == [2]
    assert site.store.locators_of([guid_of()])[guid_of()] is not None
    site.enqueue(header(**OTHER))
    site.enqueue(header(number=2, **OTHER))
    site.run()
    assert site.catalog.files.keys() == {guid_of(1), guid_of(1, 2)}
    assert names(site) == {"Right^Person"}


def test_the_registrations_of_an_earlier_version_survive_the_migration(database) -> None:  # type: ignore[no-untyped-def]
    scripts = {path.name: path.read_text() for path in resources.files("mdm_dicom_srm.migrations").iterdir() if path.name.endswith(".sql")}
    before = sorted(name for name in scripts if name < "0012")
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        for name in before:
            connection.execute(scripts[name].encode())
        for number, (state, header) in enumerate([("PUBLISHED", None), ("FILTERED", None), ("QUARANTINED", b"h"), ("KEYED", b"h")]):
            connection.execute(
                "INSERT INTO registration (guid, study_token, series_token, state, locator, header) VALUES (%s, 's', 's', %s, 'l', %s)",
                (UUID(int=number), state, header),
            )
        connection.execute(scripts["0012_registry.sql"].encode())
        rows = connection.execute("SELECT guid = instance, generation, state, keyed FROM registration ORDER BY guid").fetchall()
    assert rows == [(True, 0, "PUBLISHED", True), (True, 0, "FILTERED", False), (True, 0, "QUARANTINED", False), (True, 0, "KEYED", True)]
