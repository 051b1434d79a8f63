"""What follows from text in pixels: policies, what is kept, and what a curator may settle, on a real database."""

import io
import os
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pydicom
import pytest
from mdm_deid import Profile
from mdm_deid.pixels.image import Box
from mdm_deid.pixels.rule import PixelRules
from mdm_deid.pixels.text_line import NotLooked, TextLine
from mdm_deid.pixels.text_worker import TextFinder, is_installed
from mdm_dicom_srm.judgement import make_deidentifier
from mdm_dicom_srm.oversight.rules.drawn_rules import DrawnRules
from mdm_dicom_srm.oversight.rules.site_judge import SiteJudge
from mdm_dicom_srm.oversight.rules.text import TextJudge, TextPolicy, TextRecords, find_lines
from mdm_dicom_srm.oversight.store.found_text import FoundTextStore
from mdm_dicom_srm.oversight.store.pixel_rule import PixelRuleStore
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.register.rules.assessor import PooledJudge
from mdm_dicom_srm.register.rules.model import Action
from mdm_dicom_srm.register.store.decision import DecisionStore
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from mdm_wire.errors import FailedPrecondition, Invalid, Unavailable

from .conftest import SECRET, Site, guid_of, header, part10

pytestmark = pytest.mark.integration

US = {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}
LINE = TextLine(Box(10, 20, 60, 32), "SECRET NAME", 0.9)


class Looked:
    """A site whose images are looked at by a detector that finds what it is given."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.lines: list[TextLine] | NotLooked = [LINE]
        self.looked = 0
        self.texts = FoundTextStore(site.pool, site.names)
        self.decisions = DecisionStore(site.pool, site.names)
        self.drawn_rules = DrawnRules(PixelRuleStore(site.pool, RecordSealer(SECRET)), self.texts.rule)
        self.sealer = ThreadSealer(
            partial(make_deidentifier, Profile.shipped("basic"), SECRET, PixelRules(), True), 1, self.drawn_rules.drawn
        )
        self.inner = SiteJudge(PooledJudge(self.sealer.judge, "rules", self.decisions.released), self.drawn_rules)

    def find(self, _data: bytes, frame: int) -> list[TextLine]:
        assert frame == 0
        self.looked += 1
        if isinstance(self.lines, NotLooked):
            raise self.lines
        return self.lines

    def follow(self, name: str, *modalities: str) -> TextJudge:
        records = TextRecords(self.texts, self.decisions.released, Profile.shipped("basic").rules)
        judge = TextJudge(self.inner, TextPolicy(name, frozenset(modalities)), self.find, records)
        self.site.judge = judge  # type: ignore[assignment]
        return judge

    def arrive(self, **changes: object) -> tuple[str, str]:
        """Have an image arrive as by the Storage SCP, and do what is to be done; return its state."""
        self.site.enqueue(header(**changes))
        return self.work()

    def work(self) -> tuple[str, str]:
        self.site.run()
        return self.site.states()[guid_of()]

    def release(self) -> tuple[str, str]:
        held = self.site.states()[guid_of()]
        with self.site.pool.connection() as connection:
            digest = connection.execute("SELECT digest FROM registration").fetchone()[0]
        assert self.decisions.decide(Action.RELEASED, {guid_of(): digest}, "CN=carla", "") == {guid_of()}, held
        return self.work()

    def leaves_as(self, **changes: object) -> np.ndarray:
        """Return the pixels with which staging would send it."""
        data = part10(**changes)
        result = self.sealer.perform(_released, data).result(60)
        return pydicom.dcmread(io.BytesIO(result)).pixel_array


def _released(deidentifier, data: bytes) -> bytes:  # type: ignore[no-untyped-def]
    result = deidentifier.deidentify(data, None, frozenset({"ultrasound"}))
    return b"".join(result.data)


@pytest.fixture
def looked(make_site: Callable[..., Site]) -> Iterator[Looked]:
    made = Looked(make_site())
    yield made
    made.sealer.close()


def blanked(pixels: np.ndarray) -> bool:
    return bool(pixels[20:32, 10:60].max() == 0 and pixels[33:].max() > 0)


def test_by_default_nothing_is_looked_at(looked: Looked) -> None:
    judge = looked.follow("propose")
    assert judge.rules == "rules"
    assert looked.arrive() == ("PUBLISHED", "")
    assert looked.looked == 0


def test_an_image_of_a_chosen_modality_waits_for_its_text_until_a_curator_lets_it_go(looked: Looked) -> None:
    looked.follow("propose", "CT")
    assert looked.arrive() == ("QUARANTINED", "TEXT_FOUND")
    assert looked.release() == ("PUBLISHED", "")
    assert not blanked(looked.leaves_as()), "a person saw it and let it go as it is"
    assert looked.looked == 1, "what was found is kept"


def test_an_image_without_text_or_of_another_modality_is_published(looked: Looked) -> None:
    looked.lines = [TextLine(LINE.box, "C", 0.99)]
    looked.follow("propose", "CT")
    assert looked.arrive() == ("PUBLISHED", "")
    assert looked.looked == 1, "a single character is no text"
    looked.lines = [LINE]
    looked.follow("propose", "MR")
    assert looked.arrive(StudyDescription="another") == ("PUBLISHED", "")
    assert looked.looked == 1


def test_what_is_found_is_blanked_and_released_whenever_it_leaves(looked: Looked) -> None:
    looked.follow("blank-and-release", "CT")
    assert looked.arrive() == ("PUBLISHED", "")
    assert blanked(looked.leaves_as())
    assert not blanked(looked.leaves_as(StudyDescription="another header"))
    with looked.site.pool.connection() as connection:
        [row] = connection.execute("SELECT outcome, policy, blanked, regions FROM found_text").fetchall()
        assert "SECRET" not in str(connection.execute("SELECT to_jsonb(f)::text FROM found_text AS f").fetchall())
    assert row == ("FOUND", "blank-and-release", True, [[10, 20, 60, 32]])


def test_what_is_found_is_blanked_and_held_until_a_curator_lets_it_go(looked: Looked) -> None:
    looked.follow("blank-and-hold", "CT")
    assert looked.arrive() == ("QUARANTINED", "TEXT_BLANKED")
    assert looked.release() == ("PUBLISHED", "")
    assert blanked(looked.leaves_as())


def test_a_suspect_is_released_with_its_text_blanked_if_there_is_some(looked: Looked) -> None:
    looked.follow("blank-and-release")
    assert looked.arrive(**US, BurnedInAnnotation="YES") == ("PUBLISHED", "")
    assert blanked(looked.leaves_as(**US, BurnedInAnnotation="YES"))


def test_a_suspect_in_which_nothing_is_found_waits_as_ever(looked: Looked) -> None:
    looked.lines = []
    looked.follow("blank-and-release")
    assert looked.arrive(**US) == ("QUARANTINED", "ULTRASOUND")


def test_a_suspect_is_blanked_and_held_for_its_own_reason(looked: Looked) -> None:
    looked.follow("blank-and-hold")
    assert looked.arrive(**US) == ("QUARANTINED", "ULTRASOUND")
    assert looked.release() == ("PUBLISHED", "")
    assert blanked(looked.leaves_as(**US))


def test_what_cannot_be_looked_at_waits_and_is_looked_at_again(looked: Looked) -> None:
    looked.follow("blank-and-release", "CT")
    looked.lines = NotLooked("timeout")
    assert looked.arrive() == ("QUARANTINED", "TEXT_NOT_CHECKED")
    looked.lines = []
    looked.decisions.decide(Action.RETRIED, {guid_of(): None}, "CN=carla", "")
    assert looked.work() == ("PUBLISHED", "")
    assert looked.looked == 2


def test_a_change_of_policy_has_it_judged_again(looked: Looked) -> None:
    looked.follow("propose", "CT")
    assert looked.arrive() == ("QUARANTINED", "TEXT_FOUND")
    looked.follow("blank-and-release", "CT")
    assert looked.site.service().register_study("1.2.826.0.1.77.1").queued == 1
    assert looked.work() == ("PUBLISHED", "")
    assert blanked(looked.leaves_as())


def test_pixels_that_cannot_be_blanked_are_never_released_by_policy(looked: Looked) -> None:
    looked.follow("blank-and-release", "CT")
    broken = pydicom.dcmread(io.BytesIO(part10("JPEG2000.dcm", Modality="CT")))
    broken.SOPClassUID = broken.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    broken.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f no image"])
    written = io.BytesIO()
    broken.save_as(written)
    made = header_of(written.getvalue())
    looked.site.enqueue(made)
    looked.site.run()
    assert looked.site.states()[guid_of()][0] == "QUARANTINED"
    assert looked.site.states()[guid_of()][1] != ""


@pytest.mark.parametrize(
    ("reason", "error", "code"),
    [
        ("not_installed", FailedPrecondition, "NO_TEXT_DETECTOR"),
        ("timeout", Unavailable, "TEXT_NOT_CHECKED"),
        ("undecodable_pixels", FailedPrecondition, "TEXT_NOT_CHECKED"),
        ("frame_unknown", Invalid, "FRAME_UNKNOWN"),
    ],
)
def test_a_curator_reads_why_an_image_cannot_be_looked_at(reason: str, error: type[Exception], code: str) -> None:
    def find(_data: bytes, _frame: int) -> list[TextLine]:
        raise NotLooked(reason)

    with pytest.raises(error) as refused:
        find_lines(find, b"", 1)
    assert refused.value.reason == code  # type: ignore[attr-defined]


def test_with_the_real_detector_a_name_in_the_pixels_is_found_and_blanked(looked: Looked) -> None:
    if not is_installed() and os.environ.get("MDM_REQUIRE_ALL") != "1":
        pytest.skip("the detector is not installed")
    from PIL import Image, ImageDraw, ImageFont

    dataset = pydicom.dcmread(io.BytesIO(part10()))
    picture = Image.new("L", (256, 256), 20)
    ImageDraw.Draw(picture).text((20, 30), "Secret Name 1960", fill=235, font=ImageFont.load_default(16))
    dataset.Rows, dataset.Columns = 256, 256
    dataset.PixelData = (np.asarray(picture).astype(np.int16) * 8).tobytes()
    written = io.BytesIO()
    dataset.save_as(written)
    finder = TextFinder()
    looked.find = finder.find  # type: ignore[assignment, method-assign]
    looked.follow("blank-and-release", "CT")
    looked.site.enqueue(header_of(written.getvalue()))
    looked.site.run()
    finder.close()
    assert looked.site.states()[guid_of()] == ("PUBLISHED", "")
    pixels = pydicom.dcmread(io.BytesIO(looked.sealer.perform(_released, written.getvalue()).result(60))).pixel_array
    assert (np.asarray(picture) > 100).sum() > 100 and pixels.max() <= 20 * 8
