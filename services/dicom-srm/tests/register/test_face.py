"""Faces: images wait until the mask of their series is made from what the PACS has, and leave masked, on a real database."""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pydicom
import pytest
from mdm_deid import Profile
from mdm_deid.pixels.rule import PixelRules
from mdm_dicom_srm.judgement import make_deidentifier
from mdm_dicom_srm.oversight.rules.drawn_rules import DrawnRules
from mdm_dicom_srm.oversight.rules.face import FaceJudge, FaceMasks, SeriesReader
from mdm_dicom_srm.oversight.rules.picture import Instances
from mdm_dicom_srm.oversight.rules.site_judge import SiteJudge
from mdm_dicom_srm.oversight.store.face import FaceStore
from mdm_dicom_srm.oversight.store.pixel_rule import PixelRuleStore
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.port import InstanceLocator
from mdm_dicom_srm.register.rules.assessor import PooledJudge
from mdm_dicom_srm.register.rules.model import Action
from mdm_dicom_srm.register.store.decision import DecisionStore
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from mdm_testing.head import Pose, Scan, series, volume
from mdm_wire.errors import FailedPrecondition
from PIL import Image

from .conftest import SECRET, Site

pytestmark = pytest.mark.integration
SCAN = Scan(pixel=4, slice=8)
PROFILE = dataclasses.replace(Profile.shipped("basic"), options=frozenset({"clean_recognizable_visual_features"}))


class Masked:
    """A site that masks faces; its masks are made when a test says so, not by a thread."""

    def __init__(self, site: Site, quiet: float = 0.0) -> None:
        self.site = site
        self.decisions = DecisionStore(site.pool, site.names)
        self.masks = FaceMasks(FaceStore(site.pool, RecordSealer(SECRET), site.names), quiet, clock=_Clock())
        drawn = DrawnRules(PixelRuleStore(site.pool, RecordSealer(SECRET)), masks=self.masks.rules)
        self.sealer = ThreadSealer(partial(make_deidentifier, PROFILE, SECRET, PixelRules(), True), 1, drawn.drawn)
        self.masks.use(SeriesReader(site.pacs, self.sealer.perform))
        site.judge = FaceJudge(SiteJudge(PooledJudge(self.sealer.judge, "rules", self.decisions.released), drawn), self.masks)  # type: ignore[assignment]
        site.max_attempts = 100

    def arrive(self, files: Sequence[bytes]) -> None:
        self.site.enqueue(*map(header_of, files))

    def work(self) -> list[tuple[str, str]]:
        """Do what is due, pauses being over; return the states of all instances."""
        self.site.expire()
        self.site.run()
        return sorted(set(self.site.states().values()))

    def make(self) -> None:
        self.masks.work(("1.2.3.6", "1.2.3.7"))

    def leaves(self, data: bytes) -> bytes:
        return bytes(self.sealer.perform(_released, data).result(60))


class _Clock:
    """Time passes with every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


def _released(deidentifier, data: bytes) -> bytes:  # type: ignore[no-untyped-def]
    return b"".join(deidentifier.deidentify(data, None, frozenset()).data or [])


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return series(volume(Pose(), SCAN), SCAN)


@pytest.fixture
def make_masked(make_site: Callable[..., Site]) -> Iterator[Callable[..., Masked]]:
    made: list[Masked] = []

    def make(quiet: float = 0.0) -> Masked:
        made.append(Masked(make_site(), quiet))
        return made[-1]

    yield make
    for one in made:
        one.sealer.close()


def test_images_wait_until_their_series_is_masked_and_leave_masked(make_masked: Callable[..., Masked], files: list[bytes]) -> None:
    masked = make_masked()
    masked.arrive(files)
    assert masked.work() == [("RECEIVED", "FACE_MASK_PENDING")]
    masked.make()
    assert masked.work() == [("PUBLISHED", "")]
    left = pydicom.dcmread(io.BytesIO(masked.leaves(files[12])))
    assert left.RecognizableVisualFeatures == "NO"
    assert not np.array_equal(left.pixel_array, pydicom.dcmread(io.BytesIO(files[12])).pixel_array)
    # Another instance of the service, and the same one later, give the same bytes.
    assert make_masked().leaves(files[12]) == masked.leaves(files[12]) == masked.leaves(files[12])


def test_a_series_that_still_arrives_is_not_taken_for_whole(make_masked: Callable[..., Masked], files: list[bytes]) -> None:
    masked = make_masked(quiet=3600.0)
    masked.arrive(files[:20])
    masked.make()
    assert masked.work() == [("RECEIVED", "FACE_MASK_PENDING")]
    with masked.site.pool.connection() as connection:
        connection.execute("UPDATE face_series SET since = since - interval '2 hours'")
    masked.arrive(files[20:])
    masked.make()  # others have come: the time begins anew
    assert masked.work() == [("RECEIVED", "FACE_MASK_PENDING")]
    with masked.site.pool.connection() as connection:
        connection.execute("UPDATE face_series SET since = since - interval '2 hours'")
    masked.make()
    assert masked.work() == [("PUBLISHED", "")]


def test_what_gives_no_mask_is_quarantined_and_a_curator_may_release_it(make_masked: Callable[..., Masked], files: list[bytes]) -> None:
    masked = make_masked()
    masked.arrive(files[:4])
    masked.work()
    masked.make()
    assert masked.work() == [("QUARANTINED", "FACE_UNMASKED")]
    with masked.site.pool.connection() as connection:
        digests = dict(connection.execute("SELECT guid, digest FROM registration").fetchall())
        assert connection.execute("SELECT refused FROM face_series").fetchone() == ("too_few_slices",)
    assert masked.decisions.decide(Action.RELEASED, digests, "CN=carla", "") == set(digests)
    assert masked.work() == [("PUBLISHED", "")]


def test_an_image_that_comes_later_gets_a_mask_of_its_own_and_others_keep_theirs(
    make_masked: Callable[..., Masked], files: list[bytes]
) -> None:
    masked = make_masked()
    masked.arrive(files[:-1])
    masked.work()
    masked.make()
    assert masked.work() == [("PUBLISHED", "")]
    before = masked.leaves(files[12])
    masked.arrive(files[-1:])
    assert masked.work() == [("PUBLISHED", ""), ("RECEIVED", "FACE_MASK_PENDING")]
    masked.make()
    assert masked.work() == [("PUBLISHED", "")]
    assert masked.leaves(files[12]) == before


def test_what_is_kept_names_nobody(make_masked: Callable[..., Masked], files: list[bytes]) -> None:
    masked = make_masked()
    masked.arrive(files)
    masked.make()
    with masked.site.pool.connection() as connection:
        rows = str(connection.execute("SELECT * FROM face_mask").fetchall() + connection.execute("SELECT * FROM face_series").fetchall())
    assert "1.2.3.7" not in rows and "members" not in rows


def test_a_head_is_drawn_with_its_face_and_without(make_masked: Callable[..., Masked], files: list[bytes]) -> None:
    masked = make_masked()
    masked.arrive(files)
    instances = Instances(masked.site.pacs, masked.sealer.perform)
    head = instances.head(InstanceLocator("1.2.3.6", "1.2.3.7", "1.2.3.7.1"))
    assert (head.detail, head.images) == ("", len(files))
    drawn = np.asarray(Image.open(io.BytesIO(head.png)))
    with_face, without = np.split(drawn, 2)
    assert with_face.any()
    assert (with_face != without).mean() > 0.05
    # What is gone is gone in the lower part; the vertex looks as before.
    quarter = len(with_face) // 4
    assert np.array_equal(with_face[:quarter] > 0, without[:quarter] > 0)


def test_what_is_no_volume_is_not_drawn(make_masked: Callable[..., Masked], files: list[bytes]) -> None:
    masked = make_masked()
    masked.arrive(files[:3])
    instances = Instances(masked.site.pacs, masked.sealer.perform)
    with pytest.raises(FailedPrecondition, match="too_few_slices"):
        instances.head(InstanceLocator("1.2.3.6", "1.2.3.7", "1.2.3.7.1"))
