"""Text in pixels: what a detector is given, what it finds in real and made images, and the limits of its process."""

import io
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from mdm_deid.outcome import Malformed
from mdm_deid.pixels.blanking import Unblankable
from mdm_deid.pixels.image import Box
from mdm_deid.pixels.text_line import NotLooked, TextLine, merged, pictures
from mdm_deid.pixels.text_worker import TextFinder, is_installed
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file

detector = pytest.mark.skipif(
    not is_installed() and os.environ.get("MDM_REQUIRE_ALL") != "1", reason="the detector is not installed: pip install 'mdm-deid[text]'"
)


def sample(name: str) -> bytes:
    found = get_testdata_file(name, download=False)
    if not found:
        pytest.skip(f"{name} does not come with pydicom")
    return Path(found).read_bytes()


def written(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def frames_of_text(*texts: str, bits: int = 16) -> bytes:
    """A multi-frame image, each frame with a text or none, in another place."""
    dataset = pydicom.dcmread(io.BytesIO(sample("CT_small.dcm")))
    frames = []
    for number, text in enumerate(texts):
        picture = Image.new("L", (320, 200), 30)
        ImageDraw.Draw(picture).text((10, 10 + 30 * number), text, fill=200, font=ImageFont.load_default(16))
        frames.append(np.asarray(picture).astype(f"<u{bits // 8}"))
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 200, 320, len(texts)
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PixelData = np.stack(frames).tobytes()
    return written(dataset)


@pytest.fixture(scope="module")
def finder():
    made = TextFinder()
    yield made
    made.close()


@detector
def test_lines_of_real_ultrasounds_are_found_whatever_their_compression(finder):
    for name in ("US1_UNCR.dcm", "examples_rgb_color.dcm"):
        texts = " ".join(line.text for line in finder.find(sample(name), 1))
        assert "BAPTIST" in texts and "LYMPH" in texts.replace("YHPH", "YMPH"), texts


@detector
def test_text_of_any_frame_is_found_when_the_whole_instance_is_looked_at(finder):
    data = frames_of_text("", "MARY JONES", "", "BORN 1960", "")
    found = {line.text: line.box for line in finder.find(data)}
    assert any("JONES" in text for text in found) and any("1960" in text for text in found), found
    [box] = [box for text, box in found.items() if "JONES" in text]
    assert box.left <= 10 and box.top <= 44 and box.bottom >= 56 and box.right <= 320
    assert finder.find(data, 1) == []
    assert any("JONES" in line.text for line in finder.find(data, 2))


def paletted(indices: np.ndarray, red: list[int], others: list[int]) -> bytes:
    """A palette colour image."""
    dataset = pydicom.dcmread(io.BytesIO(sample("CT_small.dcm")))
    dataset.Rows, dataset.Columns = indices.shape
    dataset.PhotometricInterpretation, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = "PALETTE COLOR", 8, 8, 7
    dataset.PixelRepresentation = 0
    for name, table in (("Red", red), ("Green", others), ("Blue", others)):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(table), 0, 16])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", np.array(table, "<u2").tobytes())
    dataset.PixelData = indices.astype(np.uint8).tobytes()
    return written(dataset)


def test_of_a_palette_the_colours_are_looked_at_and_not_its_indices():
    # Neighbouring indices of opposite colours; the largest index is black, as the background is.
    indices = np.array([[0, 1], [2, 0]])
    [picture] = list(pictures(paletted(indices, [0, 65535, 0], [0, 0, 0])))
    assert picture.tolist() == [[0, 255], [0, 0]]


def test_of_a_palette_that_cannot_be_read_the_indices_are_looked_at():
    dataset = pydicom.dcmread(io.BytesIO(paletted(np.array([[0, 1], [2, 0]]), [0, 65535, 0], [0, 0, 0])))
    del dataset.RedPaletteColorLookupTableDescriptor
    [picture] = list(pictures(written(dataset)))
    assert picture.tolist() == [[0, 127], [255, 0]]


@detector
def test_text_in_neighbouring_indices_of_a_palette_is_found(finder):
    mask = Image.new("L", (320, 200), 0)
    ImageDraw.Draw(mask).text((10, 10), "MARY JONES", fill=1, font=ImageFont.load_default(18))
    indices = np.asarray(mask) + np.random.default_rng(3).integers(1, 100, (200, 320)) * 2
    tables = [60000 if number % 2 else 3000 for number in range(256)]
    assert any("JONES" in line.text for line in finder.find(paletted(indices, tables, tables)))


@detector
def test_an_image_without_text_gives_no_line(finder):
    rng = np.random.default_rng(1)
    dataset = pydicom.dcmread(io.BytesIO(frames_of_text("")))
    dataset.PixelData = (rng.gamma(2, 20, (200, 320)) * 10).astype("<u2").tobytes()
    assert finder.find(written(dataset)) == []


@detector
def test_small_letters_are_found_in_an_image_larger_than_the_detector_takes(finder):
    picture = Image.new("L", (2600, 2100), 40)
    ImageDraw.Draw(picture).text((2300, 2050), "ID 4711-0815", fill=220, font=ImageFont.load_default(14))
    dataset = pydicom.dcmread(io.BytesIO(frames_of_text("")))
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 2100, 2600, 1
    dataset.PixelData = np.asarray(picture).astype("<u2").tobytes()
    [line] = finder.find(written(dataset))
    assert "0815" in line.text and line.box.left <= 2300 <= line.box.right <= 2600 and line.box.bottom <= 2100


@detector
def test_a_worker_that_needs_too_long_or_too_much_is_replaced_and_says_so():
    hasty = TextFinder(seconds=0.01)
    with pytest.raises(NotLooked) as error:
        hasty.find(frames_of_text("MARY JONES"))
    assert error.value.reason == "timeout"
    hasty._seconds = 120.0
    assert hasty.find(frames_of_text("MARY JONES")), "the next one starts a new worker"
    hasty.close()
    small = TextFinder(memory=64 << 20)
    with pytest.raises(NotLooked) as error:
        small.find(frames_of_text("MARY JONES"))
    assert error.value.reason == "worker_lost"
    small.close()


@detector
def test_a_worker_that_dies_is_replaced(finder):
    assert finder.find(frames_of_text("MARY JONES"))
    worker = finder._idle.get()
    worker._process.kill()
    worker._process.wait()
    finder._idle.put(worker)
    with pytest.raises(NotLooked):
        finder.find(frames_of_text("MARY JONES"))
    assert finder.find(frames_of_text("MARY JONES"))


@detector
@pytest.mark.parametrize(
    ("data", "frame", "reason"),
    [
        (b"no DICOM", 0, None),
        (frames_of_text("A"), 2, "frame_unknown"),
        (frames_of_text("A")[:-20_000], 0, None),
        (sample("rtplan.dcm"), 0, "frame_unknown"),
    ],
)
def test_what_is_no_image_is_refused_by_a_code(finder, data, frame, reason):
    with pytest.raises(NotLooked) as error:
        finder.find(data, frame)
    assert error.value.reason and (reason is None or error.value.reason in (reason, "no_pixels"))


def test_pictures_have_eight_bits_and_the_size_of_the_image():
    for name in ("CT_small.dcm", "MR_small_bigendian.dcm", "examples_rgb_color.dcm", "emri_small_RLE.dcm", "examples_palette.dcm"):
        dataset = pydicom.dcmread(io.BytesIO(sample(name)))
        made = list(pictures(sample(name)))
        assert len(made) >= (4 if int(dataset.get("NumberOfFrames", 1) or 1) > 1 else 1)
        assert all(item.shape == (dataset.Rows, dataset.Columns) and item.dtype == np.uint8 and item.std() > 0 for item in made)


def test_the_brightest_and_darkest_pixels_show_what_is_in_single_frames():
    first, last, brightest, darkest = pictures(frames_of_text("", "MARY", ""))
    assert (brightest > 128).sum() > 20 and all((item > 128).sum() == 0 for item in (first, last, darkest))


def test_text_brighter_than_everything_and_anatomy_beside_metal_both_have_contrast():
    dataset = pydicom.dcmread(io.BytesIO(frames_of_text("A")))
    values = np.tile(np.arange(320, dtype="<u2"), (200, 1))
    values[0, :20] = 60_000
    dataset.NumberOfFrames, dataset.PixelData = 1, values.tobytes()
    whole, common = pictures(written(dataset))
    assert whole[0, 0] == 255 and whole[100].max() < 3
    assert common[100].max() - common[100].min() > 200


def test_too_many_frames_or_pixels_are_refused():
    dataset = pydicom.dcmread(io.BytesIO(frames_of_text("A")))
    dataset.NumberOfFrames = 1025
    with pytest.raises(NotLooked, match="too_many_frames"):
        next(pictures(written(dataset)))
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 1, 65000, 65000
    with pytest.raises(NotLooked, match="too_many_pixels"):
        next(pictures(written(dataset)))
    for data in (b"", b"DICM", frames_of_text("A")[:-1000]):
        with pytest.raises((Malformed, Unblankable, NotLooked)):
            next(pictures(data))


def test_lines_that_cover_each_other_become_one_around_both():
    sure, unsure = TextLine(Box(10, 10, 50, 20), "JONES", 0.9), TextLine(Box(8, 11, 48, 22), "J0NES", 0.5)
    other = TextLine(Box(100, 10, 150, 20), "MARY", 0.8)
    assert merged([unsure, other, sure]) == [TextLine(Box(8, 10, 50, 22), "JONES", 0.9), other]


def test_the_extra_is_not_needed_to_import_what_runs_it():
    import subprocess
    import sys

    code = "import sys, mdm_deid.pixels.text_worker; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
