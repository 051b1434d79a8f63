"""The mask of a head's series: the face is in it, the brain is not, whatever the pose, the plane and the noise."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from mdm_deid.faces.region import FaceRegion
from mdm_deid.faces.rule import FaceRule, from_json, to_json
from mdm_deid.faces.series import make_rule, read_slice
from mdm_deid.outcome import FaceUnmasked
from mdm_testing.head import Pose, Scan, brain, face, points, series, volume

CT = Scan(pixel=3, slice=6)
MR = Scan("MR", pixel=3, slice=6)


def rule_of(files: Sequence[bytes]) -> FaceRule:
    return make_rule(read_slice(file) for file in files)


def refusal(files: Sequence[bytes]) -> str:
    with pytest.raises(FaceUnmasked) as error:
        rule_of(files)
    return error.value.detail


@pytest.mark.parametrize(
    "pose, scan",
    [
        (Pose(), CT),
        (Pose(), MR),
        (Pose(20), CT),
        (Pose(-25), MR),
        (Pose(yaw=30), CT),
        (Pose(roll=20), CT),
        (Pose(15, -25, 12), dataclasses.replace(MR, plane="sagittal", noise=20)),
        (Pose(-10, 10, 5), dataclasses.replace(MR, plane="coronal", noise=15)),
        (Pose(size=0.62), dataclasses.replace(CT, pixel=2, slice=4)),
        (Pose(size=1.1, shift=(10, -5, 5)), CT),
        (Pose(5), dataclasses.replace(CT, noise=40, table=True)),
        (Pose(), dataclasses.replace(CT, high=(120, 150, 78))),  # the vertex is cut off
        (Pose(), dataclasses.replace(MR, low=(-120, -135, -70))),  # all below the nose is missing
    ],
    ids=str,
)
def test_the_face_is_masked_and_the_brain_is_not(pose: Pose, scan: Scan) -> None:
    rule = rule_of(series(volume(pose, scan), scan))
    assert rule.name == "face"
    masked = FaceRegion.from_numbers(rule.region).contains(points(scan))
    head = pose.to_head(points(scan))
    shown, kept = face(head), brain(head)
    assert shown.sum() > 500 and kept.sum() > 5_000
    assert (masked & shown).sum() >= 0.97 * shown.sum()
    assert not (masked & kept).any()
    # The rear of the head stays as it is.
    assert not masked[head[..., 1] > 40].any()


def test_the_same_images_give_the_same_mask_in_any_order() -> None:
    files = series(volume(Pose(5, 5), CT), CT)
    mixed = random.Random(7).sample(files, len(files))
    assert rule_of(files) == rule_of(mixed) == from_json(to_json(rule_of(files)))


def test_a_scanned_back_to_front_head_is_not_masked_at_its_rear() -> None:
    shown = volume(Pose(), CT)
    assert refusal(series(shown[:, ::-1], CT)) in ("no_nose", "no_face_in_front", "no_head")


SHORT = dataclasses.replace(CT, pixel=4, slice=8)


def header_changed(**elements: Any) -> list[bytes]:
    return series(volume(Pose(), SHORT), SHORT, **elements)


@pytest.mark.parametrize(
    "elements, detail",
    [
        ({"RescaleSlope": "NaN"}, "rescale"),
        ({"RescaleSlope": 0}, "rescale"),
        ({"RescaleIntercept": None}, "rescale"),
        ({"ImagePositionPatient": None}, "no_position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no_position"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "no_position"),
        ({"PixelSpacing": [0, 0]}, "no_position"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": 2}, "multi_frame"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "pixel_layout"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "sop_class"),
        ({"ImagePositionPatient": [0, 0, 0]}, "duplicate_positions"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_what_a_header_leaves_uncertain_gives_no_mask(elements: dict[str, object], detail: str) -> None:
    assert refusal(header_changed(**elements)) == detail


def test_a_series_that_is_no_regular_stack_gives_no_mask() -> None:
    files = series(volume(Pose(), SHORT), SHORT)
    assert rule_of(files).region
    assert refusal(files[:1]) == "too_few_slices"
    assert refusal(files[:9]) == "too_few_slices"
    assert refusal(files[:15] + files[17:]) == "gaps"
    assert refusal(files + files[4:6]) == "duplicate_positions"
    other = dataclasses.replace(SHORT, plane="coronal")
    assert refusal(files + series(volume(Pose(), other), other, uid="1.2.3.9")) == "mixed_orientations"


def test_several_volumes_in_one_series_give_no_mask() -> None:
    shown = volume(Pose(), SHORT)
    assert refusal(series(shown, SHORT) + series(shown + 5, SHORT, uid="1.2.3.7.1")) == "duplicate_positions"


def test_a_head_of_which_the_face_is_not_shown_gives_no_mask() -> None:
    scan = dataclasses.replace(CT, low=(-120, -135, -15))
    assert refusal(series(volume(Pose(), scan), scan)) == "face_not_shown"
    scan = dataclasses.replace(CT, low=(-120, -82, -150))
    assert refusal(series(volume(Pose(), scan), scan)) == "face_cut_off"


def body(scan: Scan) -> np.ndarray:
    at = points(scan)
    return np.where((at[..., 0] / 110) ** 2 + (at[..., 1] / 100) ** 2 < 1, 40.0, -1000.0)


def test_a_body_without_a_head_gives_no_mask_unless_its_header_agrees() -> None:
    files = series(body(SHORT), SHORT)
    assert refusal(files) in ("no_head", "head_cut_off")
    rule = rule_of(series(body(SHORT), SHORT, BodyPartExamined="ABDOMEN"))
    assert (rule.name, rule.region, rule.codes) == ("no-head", (), frozenset())


def test_a_head_whose_header_says_foot_is_masked_all_the_same() -> None:
    assert rule_of(header_changed(BodyPartExamined="FOOT")).name == "face"


def test_images_without_any_contrast_give_no_mask() -> None:
    scan = dataclasses.replace(SHORT, modality="MR")
    assert refusal(series(np.full(points(scan).shape[:3], 7.0), scan)) == "no_contrast"
