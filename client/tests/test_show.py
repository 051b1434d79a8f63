"""mdm show and mdm thumbnail over a grid of fakes with images."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from client.tests.imaging import imaging_grid, slices
from client.tests.test_cli import mdm, rows


@pytest.fixture
def imaging(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid") as served, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield served


def public(name: str):
    dataset = dcmread(str(get_testdata_file(name, download=False)))
    dataset.InstanceNumber = 1
    return dataset


def folder_of(imaging, dataset) -> str:
    return imaging.image_of(dataset.SOPInstanceUID).lfn.rpartition("/")[0]


def test_an_image_is_drawn_with_a_caption_and_nothing_reaches_the_disk(imaging, tmp_path, monkeypatch):
    imaging.add_study(slices(3, 32))
    image = next(iter(imaging.catalog.images.values()))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    config = imaging.config()
    for target in (image.lfn, str(image.guid)):
        found = mdm(config, "show", target, "--protocol", "blocks")
        assert (found.exit_code, found.stdout.splitlines()[-1]) == (0, f"{target}: CT of 32 × 32")
        assert found.stdout.count("▀") == 44 * 22  # 22 of 24 rows, and a square picture
    assert set(tmp_path.rglob("*")) - set(before) == {config}


def test_a_window_and_a_frame_are_taken(imaging):
    steps = slices(1, 32)[0]
    steps.PixelData = np.repeat(np.arange(32, dtype=np.uint16)[None] * 100, 32, 0).tobytes()
    frames = public("emri_small.dcm")
    imaging.add_study([steps], [frames])
    config = imaging.config()
    step, multi = (imaging.image_of(dataset.SOPInstanceUID).lfn for dataset in (steps, frames))
    narrow = mdm(config, "show", step, "--protocol", "plain", "--window", "-1024", "1").stdout.splitlines()[0]
    assert (narrow[0] == "@", set(narrow[4:])) == (False, {"@"})  # only the darkest column is not above this window
    wide = mdm(config, "show", step, "--protocol", "plain", "--window", "576", "3200").stdout.splitlines()[0]
    assert len(set(wide)) == 10
    assert "10 of 10 frames" in mdm(config, "show", multi).stdout
    assert "frame 3 of 10" in mdm(config, "show", multi, "--frame", "3").stdout
    beyond = mdm(config, "show", multi, "--frame", "11")
    assert (beyond.exit_code, "there is no frame 11: the image has 10" in beyond.stderr) == (3, True)
    assert mdm(config, "show", step, "--window", "1", "0").exit_code == 2


def test_a_directory_becomes_a_montage_of_images_spread_over_it(imaging):
    series = slices(30)
    imaging.add_study(series)
    found = mdm(imaging.config(), "--json", "show", folder_of(imaging, series[0]), "--tiles", "4")
    assert rows(found.stdout)[0] | {"target": ""} == {"target": "", "width": 34, "height": 34, "caption": "CT of 16 × 16, 4 of 30 images"}
    # What is not drawn is perhaps fetched ahead of it, but only among those chosen.
    assert len(imaging.fetched()) == 4


def test_what_cannot_be_drawn_is_one_line_and_the_rest_goes_on(imaging):
    plan, image = public("rtplan.dcm"), slices(1)
    imaging.add_study([plan], image)
    imaging.add("/biomed/hospital-a/garbage.dcm", b"no DICOM file")
    config = imaging.config()
    plan_lfn, good = imaging.image_of(plan.SOPInstanceUID).lfn, imaging.image_of(image[0].SOPInstanceUID).lfn
    found = mdm(config, "show", plan_lfn, "/biomed/nobody", "/biomed/hospital-a/garbage.dcm", good)
    assert found.exit_code == 1
    assert "an object of modality RTPLAN has no pixels to draw" in found.stderr
    assert "/biomed/nobody" in found.stderr
    assert found.stdout.splitlines()[-1].startswith(good)
    assert "a file cannot be read as DICOM" in found.stderr
    assert len(found.stderr.splitlines()) == 3


@pytest.mark.parametrize(("name", "kind"), [("t.png", "PNG"), ("t.jpg", "JPEG"), ("t.JPEG", "JPEG")])
def test_a_thumbnail_is_the_middle_image_of_a_series(imaging, tmp_path, name, kind):
    series = slices(9, 64)
    for number, dataset in enumerate(series):
        pixels = np.zeros((64, 64), np.uint16)
        pixels[number * 7 : number * 7 + 7] = 4000
        dataset.PixelData = pixels.tobytes()
    imaging.add_study(series)
    out = tmp_path / name
    found = mdm(imaging.config(), "thumbnail", folder_of(imaging, series[0]), "-o", str(out), "--size", "32")
    assert found.exit_code == 0, found.stderr
    picture = Image.open(io.BytesIO(out.read_bytes()))
    assert (picture.format, picture.size) == (kind, (32, 32))
    grey = np.asarray(picture.convert("L"), int)
    assert grey[15, 16] > 200 and grey[5, 16] < 60 and grey[28, 16] < 60
    assert (out.stat().st_mode & 0o777) == 0o600
    again = mdm(imaging.config(), "thumbnail", folder_of(imaging, series[0]), "-o", str(out))
    assert (again.exit_code, "exists" in again.stderr) != (0, False)


def test_a_thumbnail_of_what_has_none_is_refused_in_one_line(imaging, tmp_path):
    plan = public("rtplan.dcm")
    imaging.add_study([plan])
    config = imaging.config()
    refused = mdm(config, "thumbnail", folder_of(imaging, plan), "-o", str(tmp_path / "t.png"))
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "has no pixels" in refused.stderr
    named = mdm(config, "thumbnail", folder_of(imaging, plan), "-o", str(tmp_path / "t.gif"))
    assert "a picture's name ends with .png" in named.stderr
    assert not list(Path(tmp_path).glob("t.*"))


def test_packages_that_are_missing_are_named(imaging, monkeypatch):
    monkeypatch.setattr("mdm_client.image.reader.importlib.util.find_spec", lambda name: None if name == "PIL" else object())
    refused = mdm(imaging.config(), "show", "/biomed/x")
    assert "mdm show needs PIL: pip install 'mdm-client[picture]'" in refused.stderr
