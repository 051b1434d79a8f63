"""Quarantine as curators meet it: groups, what an instance is, decisions and what follows from them, on a real database."""

from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID, uuid4

import pytest
from mdm.srm.v1 import curator_pb2 as pb
from mdm_deid import Patient, Profile
from mdm_deid.outcome import Outcome, Result
from mdm_deid.pixels.rule import PixelRules
from mdm_dicom_srm.judgement import RELEASABLE, Judgement, judge, make_deidentifier
from mdm_dicom_srm.oversight.rpc.curator import CuratorServicer
from mdm_dicom_srm.oversight.rules import content
from mdm_dicom_srm.oversight.rules.curation import CurationService
from mdm_dicom_srm.oversight.rules.desk import DeskService
from mdm_dicom_srm.oversight.rules.kind import KindNames
from mdm_dicom_srm.oversight.store.quarantine import QuarantineStore
from mdm_dicom_srm.register.rules.assessor import PooledJudge
from mdm_dicom_srm.register.rules.model import Action
from mdm_dicom_srm.register.store.decision import DecisionStore
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from mdm_service.identity.caller import Caller, set_caller
from mdm_wire.errors import Invalid, NotFound

from .conftest import SECRET, SERIES, STUDY, Site, guid_of, header, part10

pytestmark = pytest.mark.integration

CARLA = "CN=carla,O=MDM Local"
# What is tested here does not reach it.
NO_DESK: DeskService = None  # type: ignore[assignment]
ULTRASOUND = {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}


@pytest.fixture
def decisions(site: Site) -> DecisionStore:
    return DecisionStore(site.pool, site.names)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Iterator[Site]:
    """A site whose judge knows what curators released, as in production."""
    site = make_site()
    sealer = ThreadSealer(partial(make_deidentifier, Profile.shipped("basic"), SECRET, PixelRules(), True))
    site.judge = PooledJudge(sealer.judge, "rules", DecisionStore(site.pool, site.names).released)  # type: ignore[assignment]
    yield site
    sealer.close()


@pytest.fixture
def service(site: Site, decisions: DecisionStore) -> CurationService:
    return CurationService(
        QuarantineStore(site.pool, RecordSealer(SECRET)), decisions, Profile.shipped("basic").rules, KindNames(SECRET), lambda: None
    )


def state(site: Site, guid: UUID) -> tuple[str, str]:
    return site.states()[guid]


def released(service: CurationService, *guids: UUID) -> list[str]:
    return [error.reason if error else "" for error in service.decide(Action.RELEASED, guids, CARLA, "").values()]


def test_what_waits_is_listed_by_series_and_reason_without_identity(site: Site, service: CurationService) -> None:
    site.enqueue(header(**ULTRASOUND), header(number=2, **ULTRASOUND), header(number=3, BurnedInAnnotation="YES"), header(number=4))
    site.enqueue(header(number=5, SeriesInstanceUID=f"{STUDY}.2", **ULTRASOUND))
    site.run()
    groups = service.groups("", None, 0)
    assert sorted((group.reason, group.count) for group in groups) == [("BURNED_IN_ANNOTATION", 1), ("ULTRASOUND", 1), ("ULTRASOUND", 2)]
    assert [group.reason for group in service.groups("BURNED_IN_ANNOTATION", None, 0)] == ["BURNED_IN_ANNOTATION"]
    paged, after = [], None
    while page := service.groups("", after, 1):
        paged += page
        after = (page[-1].series_token, page[-1].reason)
    assert paged == groups
    pair = next(group for group in groups if group.count == 2)
    assert {item.guid for item in service.waiting(pair.series_token, pair.reason, None, 0)} == {guid_of(), guid_of(number=2)}
    first, second = service.waiting(pair.series_token, pair.reason, None, 0)
    assert service.waiting(pair.series_token, "", first.guid, 0) == [second]
    message = CuratorServicer(service, NO_DESK).ListQuarantine(pb.ListQuarantineRequest(), None)
    assert "SECRET77" not in str(message) and STUDY not in str(message)
    assert all(group.releasable for group in message.groups)


def test_a_curator_sees_what_an_instance_is_and_why_it_waits(site: Site, service: CurationService) -> None:
    site.enqueue(header(BurnedInAnnotation="YES", StudyDescription="HEAD", StudyDate="20210317"))
    site.run()
    shown = CuratorServicer(service, NO_DESK).GetQuarantined(pb.GetQuarantinedRequest(guid=str(guid_of())), None)
    values = {element.keyword: element.value for element in shown.elements}
    assert values | {"PatientName": "Secret^Name", "PatientID": "SECRET77", "StudyDate": "20210317", "StudyDescription": "HEAD"} == values
    assert (shown.study_instance_uid, shown.series_instance_uid, shown.sop_instance_uid) == (STUDY, SERIES, f"{SERIES}.1")
    assert [(item.tag, item.keyword, item.value) for item in shown.suspicious] == [("(0028,0301)", "BurnedInAnnotation", "YES")]
    assert shown.instance.reason == "BURNED_IN_ANNOTATION" and shown.releasable


def test_a_patient_in_a_foreign_study_and_what_the_self_check_found_are_named(site: Site, service: CurationService) -> None:
    site.enqueue(header())
    site.enqueue(header(number=2, PatientID="OTHER5", PatientName="Other^Person"))
    site.run()
    assert [element.keyword for element in service.show(guid_of(number=2)).suspicious] == ["PatientID", "PatientName"]

    class Leaking:
        def deidentify(self, part10: bytes, patient: Patient | None, released: frozenset[str]) -> Result:
            return Result(Outcome.QUARANTINED, "self_check", found=(0x00080070,))

    judgement = Judgement.from_bytes(judge(Leaking(), b"", None).to_bytes())
    [found] = content.suspicious(content.read(header(Manufacturer="Secret").part10), judgement.reason, judgement, ())
    assert (found.keyword, found.value) == ("Manufacturer", "Secret")
    assert Judgement.from_bytes(b'["QUARANTINED", "ULTRASOUND", "rules", null]\n').found == (), "as earlier versions kept it"


def test_what_is_released_is_published_and_stays_so_when_it_is_judged_again(site: Site, service: CurationService) -> None:
    site.enqueue(header(**ULTRASOUND))
    site.run()
    assert state(site, guid_of()) == ("QUARANTINED", "ULTRASOUND")
    assert released(service, guid_of()) == [""]
    site.run()
    assert state(site, guid_of()) == ("PUBLISHED", "")
    assert site.registrations.locators_of([guid_of()])[guid_of()].released  # type: ignore[union-attr]
    # Registered again, and judged by later rules: it holds.
    site.judge.rules = "later rules"
    assert site.service().register_study(STUDY).queued == 1
    site.run()
    assert state(site, guid_of()) == ("PUBLISHED", "")


def test_what_is_released_for_one_reason_is_held_back_for_another(site: Site, service: CurationService) -> None:
    site.enqueue(header(BurnedInAnnotation="YES", **ULTRASOUND))
    site.run()
    assert state(site, guid_of()) == ("QUARANTINED", "BURNED_IN_ANNOTATION")
    released(service, guid_of())
    site.run()
    assert state(site, guid_of()) == ("QUARANTINED", "ULTRASOUND")
    released(service, guid_of())
    site.run()
    assert state(site, guid_of()) == ("PUBLISHED", ""), "both reasons were settled"


def test_a_release_does_not_hold_for_another_header_or_instance(site: Site, service: CurationService) -> None:
    site.enqueue(header(**ULTRASOUND), header(number=2, **ULTRASOUND))
    site.run()
    released(service, guid_of())
    site.run()
    assert state(site, guid_of(number=2)) == ("QUARANTINED", "ULTRASOUND")
    site.enqueue(header(StudyDescription="ANOTHER", **ULTRASOUND))
    site.run()
    assert "PUBLISHED" not in {state(site, guid_of())[0], state(site, guid_of(1))[0]}
    assert state(site, guid_of(1)) == ("QUARANTINED", "ULTRASOUND")


def test_what_staging_reads_is_released_only_with_the_header_that_was_looked_at(
    site: Site, service: CurationService, decisions: DecisionStore
) -> None:
    site.enqueue(header(**ULTRASOUND))
    site.run()
    released(service, guid_of())
    assert decisions.released(part10(**ULTRASOUND)) == {"ULTRASOUND"}
    assert decisions.released(part10(StudyDescription="ANOTHER", **ULTRASOUND)) == frozenset()
    assert decisions.released(part10(number=2, **ULTRASOUND)) == frozenset()
    assert decisions.released(b"not DICOM") == frozenset()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "STRUCTURED_REPORT"),
        ({"RecognizableVisualFeatures": "YES"}, "RECOGNIZABLE_VISUAL_FEATURES"),
        ({"SOPClassUID": "1.2.3.4"}, "UNKNOWN_SOP_CLASS"),
        ({"Modality": "DOC"}, "ENCAPSULATED_DOCUMENT"),
    ],
)
def test_only_a_suspicion_about_pixels_can_be_released(
    site: Site, service: CurationService, changes: dict[str, object], reason: str
) -> None:
    site.enqueue(header(**changes))
    site.run()
    assert state(site, guid_of()) == ("QUARANTINED", reason)
    assert reason not in RELEASABLE
    assert released(service, guid_of()) == ["REASON_NOT_RELEASABLE"]
    assert state(site, guid_of()) == ("QUARANTINED", reason)
    assert service.made(None, None, 0) == []


def test_what_staging_held_back_is_retried_before_it_can_be_released(site: Site, service: CurationService) -> None:
    site.enqueue(header())
    site.run()
    site.queue.hold_back(guid_of(), Outcome.QUARANTINED, "ULTRASOUND")
    held = guid_of(1)
    assert service.show(held).elements == () and service.show(held).held.locator.study_uid == STUDY
    assert released(service, held) == ["HEADER_NOT_KEPT"]
    assert service.decide(Action.RETRIED, [held], CARLA, "") == {held: None}
    site.run()
    assert state(site, held) == ("PUBLISHED", "")


def test_a_dropped_instance_is_left_out_until_it_changes(site: Site, service: CurationService) -> None:
    site.enqueue(header(**ULTRASOUND))
    site.run()
    assert service.decide(Action.DROPPED, [guid_of()], CARLA, "an advertisement") == {guid_of(): None}
    assert state(site, guid_of()) == ("FILTERED", "CURATOR_DROPPED")
    assert "SECRET77" not in site.dump()
    with site.pool.connection() as connection:
        assert connection.execute("SELECT header, judgement FROM registration").fetchone() == (None, None)
    site.enqueue(header(**ULTRASOUND))
    site.run()
    assert state(site, guid_of()) == ("FILTERED", "CURATOR_DROPPED"), "sent again, it is equal"
    site.enqueue(header())
    site.run()
    assert state(site, guid_of()) == ("PUBLISHED", "")


def test_every_decision_is_kept_with_who_made_it(site: Site, service: CurationService) -> None:
    site.enqueue(header(**ULTRASOUND), header(number=2, BurnedInAnnotation="YES"))
    site.run()
    set_caller(Caller(CARLA))
    servicer = CuratorServicer(service, NO_DESK)
    servicer.ReleaseQuarantined(pb.ReleaseQuarantinedRequest(guids=[str(guid_of())], note="no text in it"), None)
    site.queue.retry([guid_of(number=2)], "CN=operator")
    servicer.DropQuarantined(pb.DropQuarantinedRequest(guids=[str(guid_of(number=2))]), None)
    listed = list(servicer.ListDecisions(pb.ListDecisionsRequest(), None).decisions)
    assert [(item.subject, item.action, item.guid, item.reason, item.note) for item in listed] == [
        ("CN=operator", pb.DECISION_ACTION_RETRIED, str(guid_of(number=2)), "BURNED_IN_ANNOTATION", ""),
        (CARLA, pb.DECISION_ACTION_RELEASED, str(guid_of()), "ULTRASOUND", "no text in it"),
    ], "it was queued already when it was to be dropped"
    [mine] = servicer.ListDecisions(pb.ListDecisionsRequest(guid=str(guid_of())), None).decisions
    assert mine.guid == str(guid_of())
    page = servicer.ListDecisions(pb.ListDecisionsRequest(page_size=1), None)
    rest = servicer.ListDecisions(pb.ListDecisionsRequest(page_size=1, page_token=page.next_page_token), None)
    assert [*page.decisions, *rest.decisions] == listed


def test_what_does_not_wait_is_not_shown_and_not_decided_about(site: Site, service: CurationService) -> None:
    site.enqueue(header(), header(number=2, **ULTRASOUND))
    site.run()
    absent = uuid4()
    for guid in (guid_of(), absent):
        with pytest.raises(NotFound):
            service.show(guid)
    assert released(service, guid_of(), guid_of(number=2), absent) == ["NOT_QUARANTINED", "", "NOT_QUARANTINED"]
    assert released(service, guid_of(number=2)) == ["NOT_QUARANTINED"], "it is being registered"
    assert len(service.made(None, None, 0)) == 1


def test_an_instance_that_changed_since_it_was_looked_at_is_not_decided_about(site: Site, decisions: DecisionStore) -> None:
    site.enqueue(header(**ULTRASOUND))
    site.run()
    assert decisions.decide(Action.RELEASED, {guid_of(): b"another digest"}, CARLA, "") == set()
    assert state(site, guid_of()) == ("QUARANTINED", "ULTRASOUND")
    assert decisions.page(None, None, 10) == []


@pytest.mark.parametrize("note", ["mr Secret again", "id secret77 seen", "two\nlines", "x" * 501, f"study {STUDY}"])
def test_a_note_that_identifies_or_is_no_line_is_refused(site: Site, service: CurationService, note: str) -> None:
    site.enqueue(header(**ULTRASOUND))
    site.run()
    for action in Action:
        with pytest.raises(Invalid) as refused:
            service.decide(action, [guid_of()], CARLA, note)
        assert "SECRET" not in str(refused.value).upper()
    assert state(site, guid_of()) == ("QUARANTINED", "ULTRASOUND")
    assert service.decide(Action.RELEASED, [guid_of()], CARLA, "nothing secretive in it") == {guid_of(): None}


@pytest.mark.parametrize(
    "call",
    [
        lambda servicer: servicer.ListQuarantine(pb.ListQuarantineRequest(page_size=1001), None),
        lambda servicer: servicer.ListQuarantine(pb.ListQuarantineRequest(page_size=-1), None),
        lambda servicer: servicer.ListQuarantine(pb.ListQuarantineRequest(page_token="x:y"), None),
        lambda servicer: servicer.ListQuarantinedInstances(pb.ListQuarantinedInstancesRequest(series="zz"), None),
        lambda servicer: servicer.ListQuarantinedInstances(pb.ListQuarantinedInstancesRequest(series="00", page_token="x"), None),
        lambda servicer: servicer.GetQuarantined(pb.GetQuarantinedRequest(guid="../etc"), None),
        lambda servicer: servicer.ReleaseQuarantined(pb.ReleaseQuarantinedRequest(), None),
        lambda servicer: servicer.ReleaseQuarantined(pb.ReleaseQuarantinedRequest(guids=["x"]), None),
        lambda servicer: servicer.DropQuarantined(pb.DropQuarantinedRequest(guids=[str(uuid4())] * 1001), None),
        lambda servicer: servicer.ListDecisions(pb.ListDecisionsRequest(page_token="1; DROP TABLE decision"), None),
        lambda servicer: servicer.ListDecisions(pb.ListDecisionsRequest(page_token="٣"), None),
        lambda servicer: servicer.ListDecisions(pb.ListDecisionsRequest(guid="x"), None),
    ],
)
def test_malformed_requests_are_refused(service: CurationService, call: Callable[[CuratorServicer], object]) -> None:
    set_caller(Caller(CARLA))
    with pytest.raises(Invalid):
        call(CuratorServicer(service, NO_DESK))
