"""What operators ask of registration, and the queue's own promises."""

import threading
from uuid import UUID, uuid4

import pytest
from mdm.srm.v1 import registration_pb2 as pb
from mdm_deid import Patient
from mdm_dicom_srm.metrics import watch_registrations
from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.register.rpc.servicer import RegistrationServicer
from mdm_dicom_srm.register.rules.model import Queued, State
from mdm_dicom_srm.register.rules.service import RegistrationService
from mdm_dicom_srm.register.store.registration import RegistrationStore, RowSealer
from mdm_dicom_srm.register.worker import Workers
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_service.identity.caller import Caller, set_caller
from mdm_wire.errors import FailedPrecondition, Invalid, NotFound, Unavailable
from prometheus_client import generate_latest

from .conftest import SERIES, STUDY, FakePacs, Site, guid_of, header

pytestmark = pytest.mark.integration


@pytest.fixture
def pacs() -> FakePacs:
    return FakePacs({STUDY: [header(number=n) for n in range(1, 121)]})


@pytest.fixture
def service(site: Site, pacs: FakePacs) -> RegistrationService:
    return site.service(pacs)


def test_registering_a_study_queues_all_its_instances_once(service: RegistrationService) -> None:
    assert service.register_study(STUDY) == Queued(120, 0)
    assert service.register_study(STUDY) == Queued(0, 120)


def test_a_study_that_fails_does_not_stop_the_others(service: RegistrationService, site: Site) -> None:
    bad, unknown, good = service.register_studies(["no uid'; --", "1.2.3", STUDY])
    assert isinstance(bad, Invalid) and isinstance(unknown, NotFound)
    assert good == Queued(120, 0)


def test_a_pacs_that_is_away_is_told(service: RegistrationService, pacs: FakePacs) -> None:
    pacs.away = True
    (result,) = service.register_studies([STUDY])
    assert isinstance(result, Unavailable)


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_1_to_100_studies(service: RegistrationService, count: int) -> None:
    with pytest.raises(Invalid):
        service.register_studies([STUDY] * count)


def test_a_failed_registration_is_queued_again_when_it_is_sent_again(service: RegistrationService, site: Site) -> None:
    (guid,) = site.enqueue(header())
    with site.pool.connection() as connection:
        connection.execute("UPDATE registration SET state = 'FAILED', reason = 'X'")
    assert service.enqueue([header()]) == Queued(1, 0)
    assert site.states() == {guid: ("RECEIVED", "")}


def test_registrations_are_listed_page_by_page_and_counted(service: RegistrationService, site: Site) -> None:
    service.register_study(STUDY)
    servicer = RegistrationServicer(service, site.scans())
    guids: list[str] = []
    token = ""
    while True:
        request = pb.ListRegistrationsRequest(state=pb.REGISTRATION_STATE_RECEIVED, page_size=50, page_token=token)
        page = servicer.ListRegistrations(request, None)
        guids += [item.guid for item in page.registrations]
        token = page.next_page_token
        if not token:
            break
    assert len(guids) == 120 and guids == sorted(guids)
    (count,) = servicer.GetRegistrationSummary(pb.GetRegistrationSummaryRequest(), None).counts
    assert (count.state, count.count) == (pb.REGISTRATION_STATE_RECEIVED, 120)
    assert not servicer.ListRegistrations(pb.ListRegistrationsRequest(state=pb.REGISTRATION_STATE_FAILED), None).registrations


def test_registrations_of_some_studies_are_counted_apart(service: RegistrationService, site: Site) -> None:
    service.register_study(STUDY)
    site.enqueue(header(StudyInstanceUID="1.2.99", SOPInstanceUID="1.2.99.1"))

    def counted(*studies: str) -> list[int]:
        summary = RegistrationServicer(service, site.scans()).GetRegistrationSummary(
            pb.GetRegistrationSummaryRequest(study_instance_uids=studies), None
        )
        return [count.count for count in summary.counts]

    assert (counted("1.2.99"), counted(STUDY, "1.2.99"), counted("1.2.3"), counted()) == ([1], [121], [], [121])
    with pytest.raises(Invalid):
        counted(*[STUDY] * 101)


@pytest.mark.parametrize(
    "request_",
    [pb.ListRegistrationsRequest(page_size=1001), pb.ListRegistrationsRequest(page_token="x"), pb.ListRegistrationsRequest(state=99)],
)
def test_a_malformed_listing_is_refused(service: RegistrationService, request_: pb.ListRegistrationsRequest, site: Site) -> None:
    with pytest.raises(Invalid):
        RegistrationServicer(service, site.scans()).ListRegistrations(request_, None)


def test_only_failed_and_quarantined_registrations_are_retried(service: RegistrationService, site: Site) -> None:
    under_way, quarantined = site.enqueue(header(), header(number=2, BurnedInAnnotation="YES"))
    site.run()
    absent = uuid4()
    outcomes = service.retry([under_way, quarantined, absent], "CN=operator")
    assert isinstance(outcomes[under_way], FailedPrecondition)
    assert outcomes[quarantined] is None
    assert isinstance(outcomes[absent], NotFound)


def test_a_study_that_is_registered_again_puts_back_what_was_lost(pacs: FakePacs, service: RegistrationService, site: Site) -> None:
    pacs.held[STUDY] = [header(), header(number=2)]
    assert service.register_study(STUDY) == Queued(2, 0)
    assert service.register_study(STUDY) == Queued(0, 2), "what is under way is left alone"
    site.run()
    before = dict(site.metadata.entries["/biomed/hospital-a/images"])
    site.metadata.entries.clear()
    assert service.register_study(STUDY) == Queued(2, 0)
    site.run()
    assert site.metadata.entries["/biomed/hospital-a/images"] == before
    assert {state for state, _ in site.states().values()} == {"PUBLISHED"}


def test_published_registrations_are_retried_where_that_is_asked_for(pacs: FakePacs, service: RegistrationService, site: Site) -> None:
    first, second = site.enqueue(header(), header(number=2))
    site.run()
    files = dict(site.catalog.files)
    site.catalog.files.clear()
    refused = service.retry([first], "CN=operator")[first]
    assert refused is not None and refused.reason == "REGISTRATION_NOT_RETRIABLE"
    pacs.held[STUDY] = [header()]
    outcomes = service.retry([first, second], "CN=operator", published=True)
    assert outcomes[first] is None
    gone = outcomes[second]
    assert gone is not None and gone.reason == "NOT_IN_PACS"
    pacs.away = True
    away = service.retry([second], "CN=operator", published=True)[second]
    assert away is not None and away.reason == "PACS_UNAVAILABLE"
    site.run()
    assert site.catalog.files == {first: files[first]}
    request_ = pb.RetryRegistrationsRequest(guids=[str(second)], published=True)
    set_caller(Caller("CN=operator"))
    assert RegistrationServicer(service, site.scans()).RetryRegistrations(request_, None).statuses[0].reason == "PACS_UNAVAILABLE"


def test_conflicts_are_listed_page_by_page_without_values(service: RegistrationService, site: Site) -> None:
    for number in (1, 2, 3):
        study = f"{STUDY}.{number}"
        names = [f"{SERIES}.{number}.{n}" for n in (1, 2)]
        site.enqueue(
            *(
                header(
                    number=10 * number + n, StudyInstanceUID=study, SeriesInstanceUID=uid, PatientName=f"Name^{n}", PatientID=f"P{number}"
                )
                for n, uid in enumerate(names)
            )
        )
    site.run()
    servicer = RegistrationServicer(service, site.scans())
    first = servicer.ListConflicts(pb.ListConflictsRequest(page_size=2), None)
    rest = servicer.ListConflicts(pb.ListConflictsRequest(page_size=2, page_token=first.next_page_token), None)
    found = [*first.conflicts, *rest.conflicts]
    assert [(item.collection, list(item.attributes)) for item in found] == [("patients", ["PatientName"])] * 3
    assert rest.next_page_token == ""
    assert "Name" not in repr([item.key for item in found])
    with pytest.raises(Invalid):
        service.conflicts(None, 1001)


def test_an_instance_is_bound_to_the_pacs_that_it_came_from_and_an_equal_one_of_another_changes_nothing(site: Site) -> None:
    service = site.service()
    assert service.enqueue([header()], pacs="main") == Queued(1, 0)
    site.run()
    assert service.enqueue([header()], pacs="cardio") == Queued(0, 1)
    assert site.run() == 0
    (located,) = site.registrations.locators_of([guid_of()]).values()
    assert located is not None and located.locator.pacs == "main"


def test_a_locator_that_was_sealed_before_there_were_several_pacs_names_none() -> None:
    sealer = RecordSealer(bytes(32))
    sealed = sealer.seal(UUID(int=1), "locator", b'["1.2", "1.3", "1.4"]')
    assert RowSealer(sealer).open_locator(UUID(int=1), sealed) == InstanceLocator("1.2", "1.3", "1.4", "")


def test_locators_are_given_for_published_instances_and_not_for_quarantined_ones(site: Site) -> None:
    published, quarantined = site.enqueue(header(), header(number=2, BurnedInAnnotation="YES"))
    site.run()
    locators = site.registrations.locators_of([published, quarantined, uuid4()])
    assert locators.keys() == {published}
    located = locators[published]
    assert located is not None and (located.locator.study_uid, located.locator.sop_uid) == (STUDY, f"{SERIES}.1")
    assert located.patient == Patient("SECRET77", "")


@pytest.mark.parametrize(("state", "given"), [("RECEIVED", False), ("KEYED", False), ("DESCRIBED", True), ("FAILED", False)])
def test_a_locator_is_given_as_soon_as_the_catalog_may_have_the_name(site: Site, state: str, given: bool) -> None:
    (guid,) = site.enqueue(header())
    with site.pool.connection() as connection:
        connection.execute("UPDATE registration SET state = %s WHERE guid = %s", (state, guid))
    assert (guid in site.registrations.locators_of([guid])) is given


def test_another_site_secret_opens_nothing(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    other = RegistrationStore(site.pool, RecordSealer(bytes(32)))
    with pytest.raises(FailedPrecondition):
        other.locators_of([guid])


def test_no_two_workers_hold_the_same_series(site: Site) -> None:
    site.enqueue(*(header(number=n) for n in range(1, 7)))
    site.enqueue(header(number=9, SeriesInstanceUID="1.2.826.0.1.77.1.2"))
    first, second, third = (site.claim(2, 60) for _ in range(3))
    assert first is not None and second is not None and third is None
    assert first.series_token != second.series_token


def test_workers_publish_everything_and_stop(site: Site) -> None:
    workers = Workers(site.queue, site.pipeline(), count=3, batch=10, lease_seconds=3)
    service = site.service(wake=workers.wake)
    workers.start()
    headers = [header(number=n, SeriesInstanceUID=f"{SERIES}.{n % 4}") for n in range(1, 41)]
    threads = [threading.Thread(target=service.enqueue, args=(headers[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        for _ in range(100):
            if [state for state, _ in site.states().values()] == ["PUBLISHED"] * 40:
                break
            threading.Event().wait(0.1)
    finally:
        workers.stop()
    assert len(site.catalog.files) == 40
    counts = [entry.values["NumberOfSeriesRelatedInstances"] for entry in site.metadata.entries["/biomed/hospital-a/series"].values()]
    assert counts == [10] * 4
    assert all(isinstance(guid, UUID) for guid in site.catalog.files)


def test_registrations_are_counted_by_state_for_monitoring(site: Site) -> None:
    counts = {State.PUBLISHED: 3}
    stop = watch_registrations(State, lambda: counts)
    try:
        text = generate_latest().decode()
        assert 'mdm_registrations{state="PUBLISHED"} 3.0' in text
        assert 'mdm_registrations{state="QUARANTINED"} 0.0' in text
        counts.clear()
        assert 'mdm_registrations{state="PUBLISHED"} 0.0' in generate_latest().decode()
    finally:
        stop()


def test_metrics_are_served_even_where_registrations_cannot_be_counted(site: Site) -> None:
    def fail() -> dict[State, int]:
        raise RuntimeError("the database is away")

    stop = watch_registrations(State, fail)
    try:
        assert "mdm_registrations{" not in generate_latest().decode()
    finally:
        stop()
