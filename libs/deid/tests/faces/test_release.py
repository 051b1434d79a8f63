"""Series with faces through the de-identifier and the command: blanked and marked, or held back."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser, Result
from mdm_deid.cli.command import deid
from mdm_deid.faces.region import FaceRegion
from mdm_deid.faces.series import make_rule, read_slice
from mdm_deid.pixels.drawn import SiteRules
from mdm_deid.pixels.rule import PixelRules
from mdm_testing.head import Pose, Scan, points, series, volume
from pydicom.uid import JPEGLSLossless, RLELossless

SCAN = Scan(pixel=3, slice=8)
PROFILE = Profile("faces", frozenset({"clean_recognizable_visual_features"}))
PLAIN = Deidentifier(PROFILE, Pseudonymiser(bytes(32)))


def released(files: Sequence[bytes], of: Sequence[bytes] | None = None) -> list[Result]:
    """De-identify images under the mask that was made from `of`."""
    rule = make_rule(read_slice(file) for file in of or files)
    masking = PLAIN.with_pixels(SiteRules(PixelRules(), [rule], PLAIN.suspicions))
    return [masking.deidentify(file) for file in files]


def dataset(result: Result) -> pydicom.Dataset:
    assert result.outcome is Outcome.RELEASED and result.data is not None, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return series(volume(Pose(8, 4), SCAN), SCAN)


def test_without_a_mask_every_ct_and_mr_image_waits(files: list[bytes]) -> None:
    result = PLAIN.deidentify(files[3])
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "face_unmasked")
    assert PLAIN.deidentify(files[3], released=frozenset({"face_unmasked"})).outcome is Outcome.RELEASED
    assert Deidentifier(Profile("x"), Pseudonymiser(bytes(32))).deidentify(files[3]).outcome is Outcome.RELEASED


def test_the_face_becomes_air_and_all_else_stays(files: list[bytes]) -> None:
    rule = make_rule(read_slice(file) for file in files)
    masked = FaceRegion.from_numbers(rule.region).contains(points(SCAN))
    blanked = 0
    for n, result in enumerate(released(files)):
        before, after = pydicom.dcmread(io.BytesIO(files[n])), dataset(result)
        assert (after.pixel_array[masked[n]] == 24).all()  # -1000 Hounsfield units
        assert np.array_equal(after.pixel_array[~masked[n]], before.pixel_array[~masked[n]])
        codes = [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
        assert codes == ["113100", "113102"]
        assert after.RecognizableVisualFeatures == "NO"
        assert ("DERIVED" in after.ImageType) is bool(masked[n].any())
        blanked += int(masked[n].sum())
    assert blanked > 5_000


def test_an_image_is_always_blanked_alike(files: list[bytes]) -> None:
    first, again = (b"".join(released([files[5]], files)[0].data or []) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_compressed_images_are_blanked_as_native_ones_are(files: list[bytes], syntax: str) -> None:
    packed = []
    for file in files:
        image = pydicom.dcmread(io.BytesIO(file))
        image.compress(syntax, generate_instance_uid=False)
        buffer = io.BytesIO()
        image.save_as(buffer)
        packed.append(buffer.getvalue())
    pairs = zip(released(files), released(packed), strict=True)
    assert all(np.array_equal(dataset(native).pixel_array, dataset(other).pixel_array) for native, other in pairs)


def test_an_image_that_the_mask_was_not_made_from_waits(files: list[bytes]) -> None:
    image = pydicom.dcmread(io.BytesIO(files[5]))
    for change in ({"SOPInstanceUID": "1.2.3.4.5"}, {"ImagePositionPatient": [0, 0, 0]}, {"PixelSpacing": [1, 1]}):
        for keyword, value in change.items():
            setattr(image, keyword, value)
        buffer = io.BytesIO()
        image.save_as(buffer)
        assert released([buffer.getvalue()], files)[0].reason == "face_unmasked"


def test_a_rendering_saved_as_a_capture_waits(files: list[bytes]) -> None:
    image = pydicom.dcmread(io.BytesIO(files[5]))
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    buffer = io.BytesIO()
    image.save_as(buffer)
    assert PLAIN.deidentify(buffer.getvalue()).reason == "face_unmasked"


def test_the_command_masks_whole_series_and_reports_what_it_did(tmp_path: Path, files: list[bytes]) -> None:
    (tmp_path / "in").mkdir()
    for n, file in enumerate([*files, *series(volume(Pose(), SCAN), SCAN, uid="1.2.9")[:4]]):
        (tmp_path / "in" / f"{n:03}.dcm").write_bytes(file)
    profile = tmp_path / "p.toml"
    profile.write_text('name = "faces"\nbase = "research"\noptions = ["clean_recognizable_visual_features"]\n')
    report = tmp_path / "report.jsonl"
    arguments = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--profile", str(profile), "--report", str(report), "-j", "2"]
    ended = CliRunner().invoke(deid, arguments)
    assert f"{len(files)} released; 4 quarantined (face_unmasked 4)" in ended.output, ended.output
    entries = [json.loads(line) for line in report.read_text().splitlines()[1:-1]]
    assert {entry["face"] for entry in entries if entry["outcome"] == "RELEASED"} == {"face"}
    assert [entry["face"] for entry in entries if entry["outcome"] == "QUARANTINED"] == ["too_few_slices"] * 4
    written = [pydicom.dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")]
    assert len(written) == len(files) and all(one.RecognizableVisualFeatures == "NO" for one in written)
