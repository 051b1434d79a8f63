"""The curators' desk: kinds of images that wait, their pictures, and rules that are drawn on them, on a real database."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID, uuid4

import numpy as np
import pydicom
import pytest
from mdm.srm.v1 import curator_pb2 as pb
from mdm_deid import Profile
from mdm_deid.pixels.drawn import ImageKind
from mdm_deid.pixels.image import Box
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.pixels.text_line import NotLooked, TextLine
from mdm_dicom_srm.judgement import make_deidentifier
from mdm_dicom_srm.oversight.rpc.curator import CuratorServicer
from mdm_dicom_srm.oversight.rules import kind
from mdm_dicom_srm.oversight.rules.curation import CurationService
from mdm_dicom_srm.oversight.rules.desk import DeskService, Effects, Records
from mdm_dicom_srm.oversight.rules.drawn_rules import DrawnRules
from mdm_dicom_srm.oversight.rules.kind import KindNames
from mdm_dicom_srm.oversight.rules.picture import Instances
from mdm_dicom_srm.oversight.rules.site_judge import SiteJudge
from mdm_dicom_srm.oversight.rules.text import find_lines
from mdm_dicom_srm.oversight.store.kind import KindStore
from mdm_dicom_srm.oversight.store.pixel_rule import PixelRuleStore
from mdm_dicom_srm.oversight.store.quarantine import QuarantineStore
from mdm_dicom_srm.register.rules.assessor import PooledJudge
from mdm_dicom_srm.register.rules.model import Action
from mdm_dicom_srm.register.store.decision import DecisionStore
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage.sealing.processes import ProcessSealer
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from mdm_service.identity.caller import Caller, set_caller
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound, Unavailable
from PIL import Image

from .conftest import SECRET, STUDY, Site, guid_of, header, part10

pytestmark = pytest.mark.integration

CARLA = "CN=carla,O=MDM Local"
US = {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Manufacturer": "Acme", "ManufacturerModelName": "Sono 1"}
MADE = (make_deidentifier, Profile.shipped("basic"), SECRET, PixelRules(), True)


class Desk:
    """A site with a desk, whose judge follows the rules that are drawn at it."""

    def __init__(self, site: Site, sealer: ThreadSealer | ProcessSealer, drawn_rules: DrawnRules) -> None:
        self.site, self.drawn_rules, self.sealer = site, drawn_rules, sealer
        record, names, rules = RecordSealer(SECRET), KindNames(SECRET), Profile.shipped("basic").rules
        self.decisions = DecisionStore(site.pool, site.names)
        site.judge = SiteJudge(PooledJudge(sealer.judge, "rules", self.decisions.released), drawn_rules)  # type: ignore[assignment]
        quarantine = QuarantineStore(site.pool, record)
        self.rules = PixelRuleStore(site.pool, record)
        kinds = KindStore(site.pool, record, names, lambda header: kind.read(header, rules).kind)
        self.forgotten: list[UUID] = []
        effects = Effects(drawn_rules.refresh, self.forgotten.extend)
        records = Records(quarantine, kinds, names, self.rules)
        self.service = DeskService(records, Instances(site.pacs, sealer.perform), rules, partial(find_lines, _no_text), effects)
        self.curation = CurationService(quarantine, self.decisions, rules, names, lambda: None)
        self.servicer = CuratorServicer(self.curation, self.service)

    def picture(self, number: int = 1, **asked: object) -> tuple[np.ndarray, pb.GetQuarantinedPictureResponse]:
        request = pb.GetQuarantinedPictureRequest(guid=str(guid_of(number=number)), **asked)
        answer = self.servicer.GetQuarantinedPicture(request, None)
        return np.asarray(Image.open(io.BytesIO(answer.jpeg)).convert("L")), answer

    def draw(self, *boxes: tuple[int, int, int, int], number: int = 1, note: str = "", only: bool = False) -> pb.PixelRule:
        set_caller(Caller(CARLA))
        regions = [pb.Region(left=a, top=b, width=c, height=d) for a, b, c, d in boxes]
        return self.servicer.CreatePixelRule(
            pb.CreatePixelRuleRequest(guid=str(guid_of(number=number)), regions=regions, note=note, this_instance_only=only), None
        ).rule

    def refused(self, *boxes: tuple[int, int, int, int], number: int = 1, note: str = "") -> str:
        with pytest.raises(MdmError) as error:
            self.draw(*boxes, number=number, note=note)
        assert "SECRET" not in str(error.value).upper()
        return error.value.reason

    def retry(self, *numbers: int) -> None:
        self.curation.decide(Action.RETRIED, [guid_of(number=number) for number in numbers], CARLA, "")
        self.site.run()

    def state(self, number: int = 1) -> tuple[str, str]:
        return self.site.states()[guid_of(number=number)]


@pytest.fixture
def desk(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Iterator[Desk]:
    site = make_site()
    drawn_rules = DrawnRules(PixelRuleStore(site.pool, RecordSealer(SECRET)))
    if getattr(request, "param", "threads") == "processes":
        sealer: ThreadSealer | ProcessSealer = ProcessSealer(partial(*MADE), 1, 120.0, drawn_rules.drawn)
    else:
        sealer = ThreadSealer(partial(*MADE), 1, drawn_rules.drawn)
    yield Desk(site, sealer, drawn_rules)
    sealer.close()


@pytest.fixture
def waiting(desk: Desk) -> Desk:
    """Two images of one model, one of another, one that waits for another reason, and one that nothing suspects."""
    desk.site.enqueue(header(**US), header(number=2, **US), header(number=3, **US | {"ManufacturerModelName": "Sono 2"}))
    desk.site.enqueue(
        header(number=4, **US, BurnedInAnnotation="YES"), header(number=5, Manufacturer="Acme", ManufacturerModelName="Sono 1")
    )
    desk.site.run()
    return desk


def test_what_waits_is_listed_by_kind_and_reason(waiting: Desk) -> None:
    listed = waiting.servicer.ListQuarantinedKinds(pb.ListQuarantinedKindsRequest(), None).kinds
    assert sorted((item.kind.manufacturer, item.kind.model, item.reason, item.count) for item in listed) == [
        ("Acme", "Sono 1", "BURNED_IN_ANNOTATION", 1),
        ("Acme", "Sono 1", "ULTRASOUND", 2),
        ("Acme", "Sono 2", "ULTRASOUND", 1),
    ]
    [pair] = [item for item in listed if item.count == 2]
    assert (pair.kind.columns, pair.kind.rows, pair.kind.modality, pair.releasable) == (128, 128, "US", True)
    assert "SECRET77" not in str(listed) and STUDY not in str(listed)
    request = pb.ListQuarantinedInstancesRequest(kind=pair.kind.name, reason="ULTRASOUND")
    found = waiting.servicer.ListQuarantinedInstances(request, None).instances
    assert {item.guid for item in found} == {str(guid_of()), str(guid_of(number=2))}
    assert [
        item.reason for item in waiting.servicer.ListQuarantinedKinds(pb.ListQuarantinedKindsRequest(reason="ULTRASOUND"), None).kinds
    ] == ["ULTRASOUND"] * 2
    paged, token = [], ""
    while page := waiting.servicer.ListQuarantinedKinds(pb.ListQuarantinedKindsRequest(page_size=1, page_token=token), None):
        paged += page.kinds
        if not (token := page.next_page_token):
            break
    assert paged == list(listed)


def test_kinds_are_sealed_in_the_database(waiting: Desk) -> None:
    waiting.service.groups("", None, 0)
    waiting.draw((0, 0, 10, 10))
    with waiting.site.pool.connection() as connection:
        kept = connection.execute(
            "SELECT encode(facts, 'escape') FROM waiting_kind UNION ALL SELECT encode(content, 'escape') FROM pixel_rule"
        )
        rows = kept.fetchall()
    assert len(rows) == 5 and not any("Acme" in text or "Sono" in text for (text,) in rows)


def test_an_instance_whose_header_changes_is_counted_where_it_is_now(waiting: Desk) -> None:
    assert len(waiting.service.groups("", None, 0)) == 3
    waiting.site.enqueue(header(number=3, **US))
    waiting.site.run()
    assert sorted((item.reason, item.count) for item in waiting.service.groups("", None, 0)) == [
        ("BURNED_IN_ANNOTATION", 1),
        ("ULTRASOUND", 3),
    ]


def test_a_curator_sees_what_kind_it_is_and_all_that_is_suspected(waiting: Desk) -> None:
    shown = waiting.servicer.GetQuarantined(pb.GetQuarantinedRequest(guid=str(guid_of(number=4))), None)
    assert list(shown.suspicions) == ["BURNED_IN_ANNOTATION", "ULTRASOUND"]
    assert (shown.kind.model, shown.kind.rows) == ("Sono 1", 128)


@pytest.mark.parametrize("desk", ["threads", "processes"], indirect=True)
def test_a_picture_shows_the_image_and_how_it_would_leave(waiting: Desk) -> None:
    original, answer = waiting.picture()
    assert (answer.columns, answer.rows, answer.frames) == (*original.shape[::-1], 1)
    after, _ = waiting.picture(regions=[pb.Region(left=0, top=0, width=128, height=40)])
    # Where an image names no window the greys follow from what is in it, black regions included.
    assert after[2:36].mean() < 3 and np.corrcoef(after[48:].ravel(), original[48:].ravel())[0, 1] > 0.98
    unchanged, _ = waiting.picture(released=True)
    assert abs(unchanged.astype(float) - original).mean() < 3
    small, _ = waiting.picture(side=32)
    assert max(small.shape) == 32


@pytest.mark.parametrize("desk", ["threads", "processes"], indirect=True)
def test_a_drawn_rule_lets_all_alike_leave_blanked_and_nothing_else(waiting: Desk) -> None:
    made = waiting.draw((0, 0, 128, 40), note="line at the top")
    assert (made.name, made.subject, list(made.reasons), made.note) == ("desk-1", CARLA, ["ULTRASOUND"], "line at the top")
    waiting.retry(1, 2, 3, 4)
    assert [waiting.state(number) for number in (1, 2, 3, 5)] == [("PUBLISHED", "")] * 2 + [
        ("QUARANTINED", "ULTRASOUND"),
        ("PUBLISHED", ""),
    ]
    assert waiting.state(4) == ("QUARANTINED", "BURNED_IN_ANNOTATION"), "the rule does not answer this one"
    result = waiting.sealer.perform(_released_pixels, part10(**US)).result(60)
    assert result[:40].max() == 0 and result[40:].max() > 0
    untouched = waiting.sealer.perform(_released_pixels, part10(number=5, Manufacturer="Acme", ManufacturerModelName="Sono 1")).result(60)
    assert untouched[:40].max() > 0, "what nothing suspects keeps its pixels"


@pytest.mark.parametrize("desk", ["threads", "processes"], indirect=True)
def test_regions_add_up_and_equal_rules_are_one(waiting: Desk) -> None:
    waiting.service.groups("", None, 0)
    assert waiting.draw((0, 0, 128, 40)).name == waiting.draw((0, 0, 128, 40), (0, 0, 128, 40)).name
    assert waiting.draw((0, 100, 20, 28)).name == "desk-2"
    result = waiting.sealer.perform(_released_pixels, part10(**US)).result(60)
    assert result[:40].max() == 0 and result[100:, :20].max() == 0 and result[100:, 20:].max() > 0
    # Staged copies of what was ever seen to be of the kind are forgotten.
    assert set(waiting.forgotten) == {guid_of(), guid_of(number=2), guid_of(number=4)}


@pytest.mark.parametrize("desk", ["threads", "processes"], indirect=True)
def test_a_rule_for_one_image_lets_it_leave_blanked_and_none_of_its_kind(waiting: Desk) -> None:
    made = waiting.draw((0, 0, 128, 40), only=True)
    assert (made.name, made.guid, list(made.reasons)) == ("desk-1", str(guid_of()), ["ULTRASOUND"])
    waiting.retry(1, 2, 4)
    assert [waiting.state(number) for number in (1, 2)] == [("PUBLISHED", ""), ("QUARANTINED", "ULTRASOUND")]
    result = waiting.sealer.perform(_released_pixels, part10(**US)).result(60)
    assert result[:40].max() == 0 and result[40:].max() > 0
    assert set(waiting.forgotten) == {guid_of()}, "staged copies of the others are as they should be"
    assert waiting.draw((0, 0, 128, 40), number=2).guid == "", "a rule for the kind is another rule"
    waiting.retry(2)
    assert waiting.state(2) == ("PUBLISHED", "")
    waiting.servicer.EndPixelRule(pb.EndPixelRuleRequest(name="desk-1"), None)
    listed = waiting.servicer.ListPixelRules(pb.ListPixelRulesRequest(), None).rules
    assert [(rule.name, rule.guid) for rule in listed] == [("desk-2", ""), ("desk-1", str(guid_of()))]


def test_a_rule_that_ended_holds_images_back_again_and_stays_on_record(waiting: Desk) -> None:
    name = waiting.draw((0, 0, 128, 40)).name
    set_caller(Caller("CN=otto"))
    ended = waiting.servicer.EndPixelRule(pb.EndPixelRuleRequest(name=name), None).rule
    assert (ended.ended_by, ended.subject) == ("CN=otto", CARLA)
    set_caller(Caller(CARLA))
    assert waiting.servicer.EndPixelRule(pb.EndPixelRuleRequest(name=name), None).rule == ended, "ended once"
    waiting.retry(1)
    assert waiting.state() == ("QUARANTINED", "ULTRASOUND")
    assert waiting.draw((0, 0, 128, 40)).name == "desk-2", "what ended does not hold"
    listed = waiting.servicer.ListPixelRules(pb.ListPixelRulesRequest(), None).rules
    assert [(rule.name, rule.ended_by) for rule in listed] == [("desk-2", ""), ("desk-1", "CN=otto")]
    first = waiting.servicer.ListPixelRules(pb.ListPixelRulesRequest(page_size=1), None)
    rest = waiting.servicer.ListPixelRules(pb.ListPixelRulesRequest(page_token=first.next_page_token), None)
    assert [rule.name for rule in (*first.rules, *rest.rules)] == ["desk-2", "desk-1"]


def test_another_instance_judges_by_a_rule_that_was_made_just_now(make_site: Callable[..., Site]) -> None:
    site = make_site()
    both = [DrawnRules(PixelRuleStore(site.pool, RecordSealer(SECRET)), clock=lambda: 0.0) for _ in range(2)]
    sealers = [ThreadSealer(partial(*MADE), 1, drawn_rules.drawn) for drawn_rules in both]
    here = Desk(site, sealers[0], both[0])
    site.enqueue(header(**US))
    site.run()
    other_judge = SiteJudge(PooledJudge(sealers[1].judge, "rules", here.decisions.released), both[1])
    assert other_judge.rules == "rules"
    here.draw((0, 0, 128, 40))
    judged = other_judge.judge(part10(**US), None)
    assert (judged.outcome, judged.rules) == ("RELEASED", here.site.judge.rules)
    assert judged.rules != "rules"
    for sealer in sealers:
        sealer.close()


def test_a_judgement_made_before_a_rule_is_made_again(waiting: Desk) -> None:
    before = waiting.site.judge.rules
    waiting.site.enqueue(header(number=6, **US))
    waiting.draw((0, 0, 128, 40))
    assert waiting.site.judge.rules != before
    waiting.site.run()
    assert waiting.state(6) == ("PUBLISHED", ""), "it was queued under the rules of before"


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ((), "REGIONS_MALFORMED"),
        (((0, 0, 1, 1),) * 65, "REGIONS_MALFORMED"),
        (((0, 0, 0, 5),), "REGIONS_MALFORMED"),
        (((0, 0, 5, -1),), "REGIONS_MALFORMED"),
        (((-1, 0, 5, 5),), "REGIONS_MALFORMED"),
        (((0, 0, 129, 5),), "REGION_OUTSIDE"),
        (((0, 0, 5, 5), (120, 120, 8, 9)), "REGION_OUTSIDE"),
        (((2**31 - 1, 0, 2**31 - 1, 5),), "REGION_OUTSIDE"),
    ],
)
def test_regions_that_are_none_or_lie_outside_are_refused(waiting: Desk, boxes: tuple, reason: str) -> None:
    assert waiting.refused(*boxes) == reason
    if boxes:
        regions = [pb.Region(left=a, top=b, width=c, height=d) for a, b, c, d in boxes]
        with pytest.raises(Invalid) as error:
            waiting.picture(regions=regions)
        assert error.value.reason == reason
    assert waiting.rules.current() == []


def test_a_rule_needs_a_note_that_names_nobody_a_maker_and_a_suspicion(waiting: Desk) -> None:
    assert waiting.refused((0, 0, 5, 5), note="mr Secret's name") == "NOTE_IDENTIFIES"
    assert waiting.refused((0, 0, 5, 5), note="two\nlines") == "NOTE_MALFORMED"
    assert waiting.refused((0, 0, 5, 5), number=5) == "NOT_QUARANTINED", "it was published"
    waiting.site.enqueue(header(number=7, **US | {"Manufacturer": "", "ManufacturerModelName": ""}))
    waiting.site.enqueue(header(number=8, PatientID="OTHER5", PatientName="Other^Person"))
    waiting.site.run()
    assert waiting.refused((0, 0, 5, 5), number=7) == "MAKER_UNKNOWN"
    assert waiting.draw((0, 0, 5, 5), number=7, only=True).guid == str(guid_of(number=7)), "one image needs no maker"
    assert waiting.refused((0, 0, 5, 5), number=8) == "NOTHING_SUSPECTED"


@pytest.mark.parametrize("desk", ["threads", "processes"], indirect=True)
def test_an_image_that_cannot_be_blanked_gets_no_rule(desk: Desk) -> None:
    broken = pydicom.dcmread(io.BytesIO(part10("JPEG2000.dcm", **US)))
    broken.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f no image"])
    written = io.BytesIO()
    broken.save_as(written)
    from mdm_dicom_srm.pacs.header import header_of

    desk.site.enqueue(header_of(written.getvalue()))
    desk.site.run()
    assert desk.state() == ("QUARANTINED", "ULTRASOUND")
    assert desk.refused((0, 0, 5, 5)) == "NOT_BLANKABLE"
    with pytest.raises(FailedPrecondition, match="could not leave so") as error:
        desk.picture(regions=[pb.Region(width=5, height=5)])
    assert error.value.reason == "NOT_RELEASABLE"
    with pytest.raises(FailedPrecondition) as error:
        desk.picture()
    assert error.value.reason == "CANNOT_RENDER"


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("color-pl.dcm", 1),
        ("US1_UNCR.dcm", 1),
        ("examples_palette.dcm", 1),
        ("examples_ybr_color.dcm", 30),
        ("examples_rgb_color.dcm", 1),
        ("SC_rgb_jpeg_gdcm.dcm", 1),
        ("SC_rgb_rle_16bit.dcm", 1),
        ("emri_small_RLE.dcm", 10),
        ("JPEG-LL.dcm", 1),
    ],
)
def test_colour_palette_multi_frame_and_compressed_images_are_drawn_and_blanked_or_refused(desk: Desk, name: str, frame: int) -> None:
    try:
        made = header(name, **US)
    except OSError:
        pytest.skip(f"{name} is not among the samples")
    desk.site.enqueue(made)
    desk.site.run()
    assert desk.state() == ("QUARANTINED", "ULTRASOUND")
    box = pb.Region(left=0, top=0, width=40, height=30)
    try:
        original, answer = desk.picture(frame=frame)
        assert answer.frames >= frame and original.std() > 0
    except FailedPrecondition as error:
        assert error.reason == "CANNOT_RENDER", "no decoder is installed for it"
    try:
        desk.draw((0, 0, 40, 30))
    except FailedPrecondition as error:
        assert error.reason == "NOT_BLANKABLE"
        assert desk.rules.current() == []
        return
    after, _ = desk.picture(frame=frame, regions=[box])
    assert after[2:26, 2:36].max() < 12
    desk.retry(1)
    assert desk.state() == ("PUBLISHED", "")


def test_what_cannot_be_shown_is_one_clear_error(waiting: Desk) -> None:
    for asked, reason in (({"frame": 2}, "FRAME_UNKNOWN"), ({"frame": -1}, "FRAME_UNKNOWN"), ({"side": 4096}, "SIDE_OUT_OF_RANGE")):
        with pytest.raises(Invalid) as error:
            waiting.picture(**asked)
        assert error.value.reason == reason
    with pytest.raises(NotFound):
        waiting.picture(number=5)
    waiting.site.pacs.held.clear()
    with pytest.raises(NotFound) as gone:
        waiting.picture()
    assert gone.value.reason == "NOT_IN_PACS"
    waiting.site.pacs.away = True
    with pytest.raises(Unavailable):
        waiting.picture()


@pytest.mark.parametrize(
    "call",
    [
        lambda servicer: servicer.ListQuarantinedKinds(pb.ListQuarantinedKindsRequest(page_size=1001), None),
        lambda servicer: servicer.ListQuarantinedKinds(pb.ListQuarantinedKindsRequest(page_token="x:y"), None),
        lambda servicer: servicer.ListQuarantinedInstances(pb.ListQuarantinedInstancesRequest(kind="zz"), None),
        lambda servicer: servicer.GetQuarantinedPicture(pb.GetQuarantinedPictureRequest(guid="x"), None),
        lambda servicer: servicer.FindText(pb.FindTextRequest(guid="x"), None),
        lambda servicer: servicer.CreatePixelRule(pb.CreatePixelRuleRequest(guid="x"), None),
        lambda servicer: servicer.EndPixelRule(pb.EndPixelRuleRequest(name="desk-0"), None),
        lambda servicer: servicer.EndPixelRule(pb.EndPixelRuleRequest(name="desk-1; DROP"), None),
        lambda servicer: servicer.ListPixelRules(pb.ListPixelRulesRequest(page_token="-1"), None),
    ],
)
def test_malformed_requests_are_refused(desk: Desk, call: Callable[[CuratorServicer], object]) -> None:
    set_caller(Caller(CARLA))
    with pytest.raises(Invalid):
        call(desk.servicer)


def test_what_does_not_exist_is_not_found(desk: Desk) -> None:
    set_caller(Caller(CARLA))
    with pytest.raises(NotFound):
        desk.servicer.EndPixelRule(pb.EndPixelRuleRequest(name="desk-7"), None)
    with pytest.raises(NotFound):
        desk.servicer.GetQuarantinedPicture(pb.GetQuarantinedPictureRequest(guid=str(uuid4())), None)
    with pytest.raises(NotFound):
        desk.service.create_rule(uuid4(), [Box(0, 0, 1, 1)], CARLA, "")


def test_a_header_that_cannot_be_read_has_no_kind() -> None:
    assert kind.read(b"nonsense", ()).kind == ImageKind() == kind.read(None, ()).kind


def _released_pixels(deidentifier, data: bytes) -> np.ndarray:  # type: ignore[no-untyped-def]
    result = deidentifier.deidentify(data, None, frozenset())
    return pydicom.dcmread(io.BytesIO(b"".join(result.data))).pixel_array


def _no_text(_data: bytes, _frame: int) -> list[TextLine]:
    raise NotLooked("not_installed")
