"""The registry follows the PACS: what is sent again, changed, moved, or may not be released any more, on a real queue."""

import threading
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest
from mdm_deid import Pseudonymiser
from mdm_wire.errors import MdmError, Unavailable

from .conftest import IMAGES, OTHER_PATIENT, SECRET, SERIES, SERIES_PATH, STUDIES, Site, guid_of, header

pytestmark = pytest.mark.integration

SOP = f"{SERIES}.1"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site whose profile keeps what the entries of studies say."""
    return make_site(profile="research")


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
    assert after.size != before.size
    assert site.registrations.sizes_of([guid]) == {guid: after.size}
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
    site.enqueue(header(**OTHER_PATIENT))


def check_corrected(site: Site) -> None:
    assert site.states() == {guid_of(0): ("REMOVED", ""), guid_of(1): ("PUBLISHED", "")}
    assert site.patient_names() == {"Right^Person"}
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
        if batches == 0 and left[0] > 0 and not site.claim(1, 0):
            break
        site.expire()
    site.expire()
    site.run()
    check_corrected(site)


def test_a_header_that_changes_while_it_is_worked_on_is_described_as_it_is_now(site: Site) -> None:
    site.enqueue(header())
    batch = site.claim(10, 60)
    assert batch is not None
    site.enqueue(header(InstanceNumber=5))
    assert site.claim(10, 60) is None, "one version at a time"
    site.pipeline().run(batch)
    assert site.states() == {guid_of(): ("RECEIVED", "")}
    site.run()
    assert site.states() == {guid_of(): ("PUBLISHED", "")}
    assert "/0005-" in site.catalog.files[guid_of()].lfn


def test_a_key_made_while_the_header_changed_is_destroyed_with_what_it_was_for(site: Site) -> None:
    site.enqueue(header())
    batch = site.claim(10, 60)
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
    assert site.visible()["files"] == site.visible()["keys"] == site.visible()["entries"] == {}
    assert [path for path in site.catalog.directories if path.count("/") > 2] == []
    site.enqueue(header())
    site.run()
    assert site.states()[guid_of(1)] == ("PUBLISHED", "")


def test_a_file_that_is_being_described_anew_is_not_served(site: Site) -> None:
    site.enqueue(header())
    site.run()
    assert site.registrations.locators_of([guid_of()])[guid_of()] is not None
    site.enqueue(header(PatientSex="F"))
    assert site.registrations.locators_of([guid_of()]) == {guid_of(): None}
    site.run()
    assert site.registrations.locators_of([guid_of()])[guid_of()] is not None


def test_a_removal_is_tried_until_it_succeeds(site: Site) -> None:
    correct_patient(site)
    site.metadata.trouble = Unavailable("AWAY", "away")
    for _ in range(site.max_attempts + 2):
        site.run()
        site.expire()
    site.metadata.trouble = None
    assert site.states() == {guid_of(0): ("REMOVING", "AWAY"), guid_of(1): ("FAILED", "AWAY")}
    site.queue.retry([guid_of(1)], "CN=operator")
    site.run()
    check_corrected(site)


def test_two_who_queue_the_same_instances_at_once_queue_them_once(site: Site) -> None:
    headers = [header(number=number) for number in range(1, 21)]
    queued: list[int] = []
    threads = [
        threading.Thread(target=lambda: queued.append(len(site.queue.enqueue([site.names.candidate(item) for item in headers]))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(queued) == 20
