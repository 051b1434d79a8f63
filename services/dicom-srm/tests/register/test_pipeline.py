"""From RECEIVED to PUBLISHED on a real queue: what is written where, and what each failure leads to."""

from collections.abc import Callable
from uuid import UUID

import pytest
from mdm_dicom_srm.register.rules.model import State
from mdm_dicom_srm.register.rules.port import File
from mdm_wire.errors import Forbidden, Invalid, Unavailable

from .conftest import SERIES, STUDY, Site, header

pytestmark = pytest.mark.integration

IMAGES, SERIES_PATH = "/biomed/hospital-a/images", "/biomed/hospital-a/series"
PATIENTS, STUDIES = "/biomed/hospital-a/patients", "/biomed/hospital-a/studies"
AWAY = Unavailable("AWAY", "away")


class Killed(BaseException):
    """The process ends here."""


def only(entries: dict) -> object:
    (entry,) = entries.values()
    return entry


def test_an_instance_is_keyed_described_and_published(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}
    acl_id = site.names.study_acl(STUDY)
    assert site.keys.keys == {guid: acl_id}
    image = site.metadata.entries[IMAGES][str(guid)]
    file = site.catalog.files[guid]
    assert image.acl_id == acl_id
    assert image.values["guid"] == str(guid)
    assert image.values["lfn"] == file.lfn
    assert (image.values["Modality"], image.values["Rows"], image.values["InstanceNumber"]) == ("CT", 128, 1)
    assert image.values["TransferSyntaxUID"] == "1.2.840.10008.1.2.1"
    assert image.values["PixelSpacing"] == "0.661468\\0.661468"
    assert file.surl == f"srm://hospital-a/{guid}"
    _, vo, place, patient, study, series, name = file.lfn.split("/")
    assert (vo, place, name) == ("biomed", "hospital-a", f"0001-{guid}.dcm")
    assert (image.values["patient"], image.values["study"], image.values["series"]) == (patient, study, series)


def test_the_study_directory_and_everything_of_the_study_share_one_acl(site: Site) -> None:
    site.enqueue(header(), header(number=2))
    site.run()
    acl_id = site.names.study_acl(STUDY)
    assert acl_id in site.keys.acls and acl_id in site.metadata.acls and acl_id in site.catalog.acls
    by_depth = {lfn.count("/"): directory.acl_id for lfn, directory in site.catalog.directories.items()}
    directory_acl = site.names.site_acl("directory")
    assert by_depth == {1: directory_acl, 2: directory_acl, 3: directory_acl, 4: acl_id, 5: None}
    for path in (STUDIES, SERIES_PATH, IMAGES):
        assert {entry.acl_id for entry in site.metadata.entries[path].values()} == {acl_id}


def test_only_the_patients_collection_identifies(site: Site) -> None:
    site.enqueue(header())
    site.run()
    patient = only(site.metadata.entries[PATIENTS])
    assert patient.values["PatientName"] == "Secret^Name"
    assert (patient.values["PatientID"], patient.values["PatientBirthDate"]) == ("SECRET77", "1960-01-02")
    assert patient.acl_id == site.names.site_acl("patients")
    assert [c.path for c in site.metadata.collections.values() if c.sensitive] == [PATIENTS]
    told = repr([site.catalog.files, site.catalog.directories, [site.metadata.entries[p] for p in (STUDIES, SERIES_PATH, IMAGES)]])
    assert [secret for secret in ("SECRET77", "Secret", "19600102", "1960-01-02", STUDY) if secret in told] == []


def test_the_database_holds_nothing_identifying_before_and_after(site: Site) -> None:
    site.enqueue(header(), header(number=2, Modality="SR"))
    for _ in range(2):
        dump = site.dump()
        assert [secret for secret in ("SECRET77", "Secret", "CompressedSamples", STUDY, SERIES) if secret in dump] == []
        site.run()


def test_the_header_is_removed_once_published(site: Site) -> None:
    site.enqueue(header())
    site.run()
    with site.pool.connection() as connection:
        assert connection.execute("SELECT header FROM registration").fetchall() == [(None,)]


def test_the_series_counts_its_instances_over_batches_and_repetitions(site: Site) -> None:
    site.enqueue(header(), header(number=2))
    site.run()
    site.enqueue(header(number=2), header(number=3))
    site.run()
    assert only(site.metadata.entries[SERIES_PATH]).values["NumberOfSeriesRelatedInstances"] == 3


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "QUARANTINED", "BURNED_IN_ANNOTATION"),
        ({"Modality": "SR"}, "QUARANTINED", "STRUCTURED_REPORT"),
        ({"StudyInstanceUID": None}, "QUARANTINED", "NO_STUDY_OR_SERIES_UID"),
        ({"SeriesInstanceUID": None}, "QUARANTINED", "NO_STUDY_OR_SERIES_UID"),
        ({"SOPClassUID": "1.2.3.4"}, "QUARANTINED", "UNKNOWN_SOP_CLASS"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "FILTERED", "MEDIA_DIRECTORY"),
    ],
)
def test_what_may_not_be_released_gets_no_key_and_says_why(site: Site, changes: dict, state: str, reason: str) -> None:
    guid, good = site.enqueue(header(**changes), header(number=2))
    site.run()
    assert site.states() == {guid: (state, reason), good: ("PUBLISHED", "")}
    assert guid not in site.keys.keys
    assert str(guid) not in site.metadata.entries[IMAGES]
    assert guid not in site.catalog.files


def test_patients_without_id_are_kept_apart_by_study(site: Site) -> None:
    site.enqueue(header(PatientID=""), header(number=2, PatientID=None, StudyInstanceUID="1.2.826.0.1.77.2"))
    site.run()
    assert {state for state, _ in site.states().values()} == {"PUBLISHED"}
    assert len(site.metadata.entries[PATIENTS]) == 2


def test_values_of_2000_characters_are_cut_not_refused(site: Site) -> None:
    (guid,) = site.enqueue(header(Manufacturer="M" * 2000, ImageType=["ORIGINAL", "X" * 2000], PatientName="N" * 2000))
    site.run()
    assert site.states()[guid] == ("PUBLISHED", "")
    assert all(len(str(value)) <= 1023 for value in site.metadata.entries[IMAGES][str(guid)].values.values())


def test_a_new_site_can_be_queried_before_its_first_image(site: Site) -> None:
    pipeline = site.pipeline()
    site.metadata.trouble = AWAY
    assert not pipeline.prepare_site()
    site.metadata.trouble = None
    assert pipeline.prepare_site()
    assert IMAGES in site.metadata.collections


@pytest.mark.parametrize("service", ["keys", "metadata", "catalog"])
def test_a_service_that_is_away_postpones_and_later_all_is_published(site: Site, service: str) -> None:
    guids = site.enqueue(header(), header(number=2))
    getattr(site, service).trouble = AWAY
    site.run()
    assert {reason for _, reason in site.states().values()} == {"AWAY"}
    assert site.catalog.files == {}
    assert site.run() == 0, "postponed registrations are not due at once"
    getattr(site, service).trouble = None
    site.expire()
    site.run()
    assert site.states() == dict.fromkeys(guids, ("PUBLISHED", ""))


@pytest.mark.parametrize("service", ["keys", "metadata", "catalog"])
@pytest.mark.parametrize("moment", ["trouble", "after"])
def test_a_process_killed_in_any_step_loses_and_doubles_nothing(site: Site, service: str, moment: str) -> None:
    guids = site.enqueue(header(), header(number=2))
    setattr(getattr(site, service), moment, Killed())
    with pytest.raises(Killed):
        site.run()
    assert site.run() == 0, "the dead worker's lease still holds"
    setattr(getattr(site, service), moment, None)
    site.expire()
    site.run()
    assert site.states() == dict.fromkeys(guids, ("PUBLISHED", ""))
    assert site.keys.keys.keys() == site.catalog.files.keys() == set(guids)
    assert only(site.metadata.entries[SERIES_PATH]).values["NumberOfSeriesRelatedInstances"] == 2


@pytest.mark.parametrize("reached", [State.KEYED, State.DESCRIBED, State.PUBLISHED])
def test_a_process_killed_between_a_step_and_its_record_repeats_the_step(site: Site, reached: State) -> None:
    guids = site.enqueue(header(), header(number=2))

    class DyingQueue:
        def __getattr__(self, name: str) -> Callable[..., object]:
            return getattr(site.queue, name)

        def advance(self, lease_id: UUID, done: list[UUID], state: State, files: dict[UUID, File]) -> set[UUID]:
            if state is reached:
                raise Killed
            return site.queue.advance(lease_id, done, state, files)

    batch = site.claim(100, 60)
    with pytest.raises(Killed):
        site.pipeline(DyingQueue()).run(batch)
    site.expire()
    site.run()
    assert site.states() == dict.fromkeys(guids, ("PUBLISHED", ""))
    assert only(site.metadata.entries[SERIES_PATH]).values["NumberOfSeriesRelatedInstances"] == 2


def test_one_item_that_can_never_succeed_does_not_stop_its_series(site: Site) -> None:
    bad, later, good = site.enqueue(header(), header(number=2), header(number=3))
    site.keys.refused = {bad: Invalid("GUID_BAD", "bad"), later: Forbidden("NOT_YET", "no")}
    site.run()
    assert site.states() == {bad: ("FAILED", "GUID_BAD"), later: ("RECEIVED", "NOT_YET"), good: ("PUBLISHED", "")}


def test_after_its_last_attempt_a_registration_has_failed_and_can_be_retried(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.catalog.trouble = AWAY
    for _ in range(site.max_attempts):
        site.run()
        site.expire()
    # Its key exists already and it is described; the failed step is what is retried.
    assert site.states() == {guid: ("FAILED", "AWAY")}
    site.catalog.trouble = None
    assert site.run() == 0
    assert site.queue.retry([guid], "CN=operator") == {guid: None}
    site.run()
    assert site.states() == {guid: ("PUBLISHED", "")}


def test_a_defect_postpones_the_batch_instead_of_stopping_the_worker(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.metadata.trouble = ZeroDivisionError()
    site.run()
    assert site.states() == {guid: ("RECEIVED", "INTERNAL")}


def test_a_worker_whose_lease_was_taken_over_changes_nothing_more(site: Site) -> None:
    (guid,) = site.enqueue(header())
    slow = site.claim(100, 60)
    site.expire()
    quick = site.claim(100, 60)
    assert slow is not None and quick is not None
    assert site.queue.advance(slow.lease_id, [guid], State.PUBLISHED) == set()
    site.queue.postpone(slow.lease_id, {guid: "X"}, 1)
    assert site.states() == {guid: ("RECEIVED", "")}
    assert site.queue.advance(quick.lease_id, [guid], State.KEYED) == {guid}
