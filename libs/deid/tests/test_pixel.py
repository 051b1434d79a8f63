"""Pixels: which images a rule is for, what is blanked and what stays as it was, and what the header says of it."""

import dataclasses
import io
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, ProfileError, Pseudonymiser
from mdm_deid.pixels.rle import encode_frame
from mdm_deid.pixels.rule import PixelRules
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.pixels.decoders import RLELosslessDecoder
from pydicom.uid import JPEGBaseline8Bit, RLELossless

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
RULES = """
[[rule]]
name = "top"
source = "test"
clears = ["ultrasound", "secondary_capture", "burned_in_annotation"]
modalities = ["US", "OT"]
sizes = [[16, 8], [32, 8]]
blank = [[0, 0, 16, 2], [12, 0, 4, 5]]
[[rule]]
name = "regions"
source = "test"
clears = ["ultrasound"]
modalities = ["US"]
keep = "ultrasound_regions"
"""


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[PixelRules]:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    yield PixelRules.load(str(path))


@pytest.fixture
def deidentifier(rules: PixelRules, pseudonymiser: Pseudonymiser) -> Deidentifier:
    return Deidentifier(Profile.shipped("basic"), pseudonymiser, rules)


def expected_blank(x: int, y: int) -> bool:
    return y < 2 or (x >= 12 and y < 5)


def ultrasound(samples: int = 1, frames: int = 1, bits: int = 8, planar: int = 0, **values: Any) -> pydicom.Dataset:
    """Return a 16 x 8 image whose every byte is 1 to 255."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ULTRASOUND
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.StudyInstanceUID, dataset.PatientID, dataset.Modality = "1.2.3", "4711", "US"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 16, samples
    dataset.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if samples == 3:
        dataset.PlanarConfiguration = planar
    if frames > 1:
        dataset.NumberOfFrames = frames
    size = 8 * 16 * samples * frames * bits // 8
    dataset.PixelData = bytes(1 + n % 255 for n in range(size))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def saved(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def cleaned(deidentifier: Deidentifier, content: bytes) -> pydicom.Dataset:
    result = deidentifier.deidentify(content)
    assert (result.outcome, result.reason) == (Outcome.RELEASED, "")
    assert result.pixel_rule
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


def assert_blanked(before: Any, after: Any, blank: Callable[[int, int], bool], black: Any = 0) -> None:
    """Compare images given as arrays of rows and columns (and samples)."""
    for y in range(before.shape[0]):
        for x in range(before.shape[1]):
            assert (after[y, x] == (black if blank(x, y) else before[y, x])).all(), (x, y)


@pytest.mark.parametrize("samples, planar", [(1, 0), (3, 0), (3, 1)])
@pytest.mark.parametrize("bits", [8, 16])
def test_regions_are_black_in_every_frame_and_the_rest_is_as_it_was(
    deidentifier: Deidentifier, samples: int, planar: int, bits: int
) -> None:
    dataset = ultrasound(samples, frames=3, bits=bits, planar=planar)
    output = cleaned(deidentifier, saved(dataset))
    before, after = dataset.pixel_array, output.pixel_array
    for frame in range(3):
        assert_blanked(before[frame], after[frame], expected_blank)
    assert output.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


@pytest.mark.parametrize("name", ["implicit", "explicit", "big", "deflated"])
def test_every_uncompressed_encoding_is_blanked(deidentifier: Deidentifier, name: str) -> None:
    syntax = {"implicit": "", "explicit": ".1", "big": ".2", "deflated": ".1.99"}[name]
    dataset = ultrasound(bits=16)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2" + syntax)
    before = dataset.PixelData
    if name == "big":
        dataset["PixelData"].VR = "OW"
        swapped = bytearray(before)
        swapped[::2], swapped[1::2] = before[1::2], before[::2]
        dataset.PixelData = bytes(swapped)
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=name == "implicit", little_endian=name != "big", enforce_file_format=True)
    output = cleaned(deidentifier, buffer.getvalue())
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.PixelData = before
    assert_blanked(dataset.pixel_array, output.pixel_array, expected_blank)


def test_the_header_says_what_was_done(deidentifier: Deidentifier) -> None:
    output = cleaned(deidentifier, saved(ultrasound(BurnedInAnnotation="YES", LossyImageCompression="01")))
    assert output.BurnedInAnnotation == "NO"
    assert list(output.ImageType) == ["DERIVED", "PRIMARY"]
    assert "blanked" in output.DerivationDescription
    assert "113101" in [item.CodeValue for item in output.DeidentificationMethodCodeSequence]
    assert output.LossyImageCompression == "01"
    codes = [item.CodeValue for item in output.DeidentificationMethodCodeSequence]
    assert codes == sorted(codes)


def test_a_compressed_image_is_written_losslessly(deidentifier: Deidentifier) -> None:
    dataset = ultrasound(samples=3, frames=2)
    plain = dataset.pixel_array
    dataset.compress(RLELossless)
    output = cleaned(deidentifier, saved(dataset))
    assert output.file_meta.TransferSyntaxUID == RLELossless
    for frame in range(2):
        assert_blanked(plain[frame], output.pixel_array[frame], expected_blank)


def test_a_lossy_image_keeps_its_decoded_pixels_and_says_it_was_lossy(deidentifier: Deidentifier, real_files: list[Path]) -> None:
    path = next(path for path in real_files if path.name == "SC_rgb_small_odd_jpeg.dcm")
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    rule = RULES.replace("[16, 8]", f"[{dataset.Columns}, {dataset.Rows}]").replace("[[0, 0, 16, 2], [12, 0, 4, 5]]", "[[0, 0, 2, 1]]")
    rule = rule.replace(", [32, 8]", "").replace('["US", "OT"]', f'["{dataset.Modality}"]')
    tailored = Deidentifier(Profile.shipped("basic"), Pseudonymiser(b"0" * 32), parsed(rule))
    output = cleaned(tailored, path.read_bytes())
    assert output.file_meta.TransferSyntaxUID == RLELossless
    assert output.PhotometricInterpretation == "YBR_FULL"
    assert output.LossyImageCompression == "01"
    before, after = pixel_array(path, raw=True), pixel_array(io.BytesIO(saved(output)), raw=True)
    assert_blanked(before, after, lambda x, y: y < 1 and x < 2, (0, 128, 128))


def test_a_subsampled_ultrasound_loop_keeps_its_declared_region(pseudonymiser: Pseudonymiser, real_files: list[Path]) -> None:
    """120 frames of JPEG, YBR_FULL_422."""
    path = next(path for path in real_files if path.name == "color3d_jpeg_baseline.dcm")
    tailored = Deidentifier(Profile.shipped("basic"), pseudonymiser, PixelRules.load("shipped"))
    result = tailored.deidentify(path.read_bytes())
    assert (result.reason, result.pixel_rule) == ("", "ultrasound-declared-regions")
    content = io.BytesIO(b"".join(result.data))
    for index in (0, 119):
        before, after = pixel_array(path, raw=True, index=index), pixel_array(content, raw=True, index=index)
        box = (slice(31, 415), slice(84, 596))
        assert (before[box] == after[box]).all()
        outside = after.copy()
        outside[box] = (0, 128, 128)
        assert (outside == (0, 128, 128)).all()


def parsed(text: str) -> PixelRules:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        return PixelRules.load(file.name)


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"Rows": 9}, "ultrasound"),
        ({"Modality": "XC"}, "ultrasound"),
        ({"RecognizableVisualFeatures": "YES"}, "recognizable_visual_features"),
        ({"PixelData": bytes(100)}, "pixel_layout"),
        ({"NumberOfFrames": 2}, "pixel_layout"),
        ({"NumberOfFrames": 0}, "pixel_layout"),
        ({"PhotometricInterpretation": "HSV"}, "pixel_layout"),
        ({"SamplesPerPixel": 4}, "pixel_layout"),
        ({"NumberOfFrames": 999_999_999}, "too_many_pixels"),
    ],
)
def test_what_cannot_be_blanked_waits_for_a_person(deidentifier: Deidentifier, values: dict[str, Any], reason: str) -> None:
    result = deidentifier.deidentify(saved(ultrasound(**values)))
    assert (result.outcome, result.reason, result.data) == (Outcome.QUARANTINED, reason, None)


def test_compressed_pixels_that_cannot_be_decoded_wait_for_a_person(deidentifier: Deidentifier) -> None:
    dataset = ultrasound()
    for syntax, fragment, reason in (
        ("1.2.840.10008.1.2.4.70", b"\xff\xd8nonsense", "compressed_pixels"),
        ("1.2.840.10008.1.2.4.50", b"\xff\xd8nonsense", "undecodable_pixels"),
        ("1.2.840.10008.1.2.5", struct.pack("<16I", 1, 64, *[0] * 14) + b"\x7f", "undecodable_pixels"),
    ):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        dataset.PixelData = encapsulate([fragment])
        dataset["PixelData"].is_undefined_length = True
        result = deidentifier.deidentify(saved(dataset))
        assert (result.outcome, result.reason) == (Outcome.QUARANTINED, reason)


def region(left: int, top: int, right: int, bottom: int) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


def test_only_the_regions_an_ultrasound_declares_stay(deidentifier: Deidentifier) -> None:
    dataset = ultrasound(samples=3, Rows=4, Columns=32, SequenceOfUltrasoundRegions=[region(2, 1, 9, 2), region(8, 2, 20, 3)])
    output = cleaned(deidentifier, saved(dataset))

    def outside(x: int, y: int) -> bool:
        return not ((2 <= x <= 9 and 1 <= y <= 2) or (8 <= x <= 20 and 2 <= y <= 3))

    assert_blanked(dataset.pixel_array, output.pixel_array, outside)


@pytest.mark.parametrize("box", [(0, 0, 31, 3), (2, 1, 32, 3), (5, 2, 4, 3)])
def test_regions_that_reach_the_top_or_beyond_the_image_lift_nothing(deidentifier: Deidentifier, box: tuple[int, int, int, int]) -> None:
    dataset = ultrasound(Rows=4, Columns=32, SequenceOfUltrasoundRegions=[region(*box)])
    assert deidentifier.deidentify(saved(dataset)).reason == "ultrasound"


def test_a_header_without_pixels_is_judged_by_the_rules(deidentifier: Deidentifier) -> None:
    dataset = ultrasound()
    del dataset.PixelData
    result = deidentifier.deidentify(saved(dataset))
    assert (result.outcome, result.pixel_rule) == (Outcome.RELEASED, "top")
    dataset.Rows = 9
    result = deidentifier.deidentify(saved(dataset))
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "ultrasound")


def test_without_rules_suspects_wait(basic: Deidentifier) -> None:
    assert basic.deidentify(saved(ultrasound())).reason == "ultrasound"


@pytest.mark.parametrize("samples, sample_bytes", [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_our_rle_is_read_back_by_pydicom(samples: int, sample_bytes: int) -> None:
    patterns = [bytes(600), bytes(range(200)) * 3, b"\1\1\2\2\2" * 120, b"\7" * 129 + b"\x08" + b"\7" * 470]
    frame = b"".join(patterns)[: 2400 // (samples * sample_bytes) * samples * sample_bytes]
    rows, columns = 4, len(frame) // (4 * samples * sample_bytes)
    frame = frame[: rows * columns * samples * sample_bytes]
    encoded = encapsulate([encode_frame(frame, rows, samples, sample_bytes)])
    options = {
        "transfer_syntax_uid": RLELossless,
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "number_of_frames": 1,
        "photometric_interpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "planar_configuration": 0,
        "bits_allocated": 8 * sample_bytes,
        "bits_stored": 8 * sample_bytes,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    decoded, properties = next(RLELosslessDecoder.iter_buffer(encoded, decoding_plugin="pydicom", **options))
    if properties.get("planar_configuration") == 1:
        plane = len(decoded) // 3
        pixels = [
            decoded[sample * plane + n * sample_bytes : sample * plane + (n + 1) * sample_bytes]
            for n in range(rows * columns)
            for sample in range(3)
        ]
        decoded = b"".join(pixels)
    assert bytes(decoded) == frame


def test_the_shipped_rules_are_valid_and_each_names_its_source() -> None:
    rules = PixelRules.load("shipped").rules
    assert len(rules) >= 15
    assert all(rule.source and rule.clears for rule in rules)


@pytest.mark.parametrize(
    "change, message",
    [
        (('source = "test"\n', ""), "source"),
        (("sizes = [[16, 8], [32, 8]]\n", ""), "sizes"),
        (("blank = [[0, 0, 16, 2]", "blank = [[0, 0, 17, 2]"), "reaches beyond"),
        (("blank = [[0, 0, 16, 2]", "blank = [[0, 0, -1, 2]"), "blank"),
        (("blank = [[0, 0, 16, 2]", "blanks = [[0, 0, 16, 2]"), "unknown key 'blanks'"),
        (('modalities = ["US", "OT"]\n', ""), "sop_classes or modalities"),
        (('name = "regions"', 'name = "top"'), "two rules"),
        (('clears = ["ultrasound"]', 'clears = "ultrasound"'), "clears"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place(change: tuple[str, str], message: str) -> None:
    assert change[0] in RULES
    with pytest.raises(ProfileError, match=message):
        parsed(RULES.replace(*change, 1))


@pytest.mark.integration
def test_dciodvfy_finds_no_error_in_cleaned_images_that_the_input_did_not_have(
    pseudonymiser: Pseudonymiser, real_files: list[Path], new_errors: Any, tmp_path: Path
) -> None:
    profile = dataclasses.replace(Profile.shipped("basic"), rules=())
    new: dict[str, list[str]] = {}
    images = representatives(real_files)
    for path, rules in images.items():
        result = Deidentifier(profile, pseudonymiser, rules).deidentify(path.read_bytes())
        if result.data is None:
            assert result.reason in ("undecodable_pixels", "compressed_pixels", "pixel_layout"), path.name
            continue
        assert result.pixel_rule == "first row"
        output = tmp_path / path.name
        output.write_bytes(b"".join(result.data))
        if errors := new_errors(path, output):
            new[path.name] = errors
    assert len(images) > 20
    assert new == {}


def representatives(paths: list[Path]) -> dict[Path, PixelRules]:
    """Return the first small image of each kind, with a rule that blanks its first row."""
    chosen: dict[tuple[str, ...], Path] = {}
    rules: dict[Path, PixelRules] = {}
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, force=True)
            kind = tuple(str(header.get(name)) for name in ("SOPClassUID", "PhotometricInterpretation", "BitsAllocated"))
        kind += (str(header.file_meta.get("TransferSyntaxUID")),)
        if "Rows" in header and "Modality" in header and path.stat().st_size < 200_000 and chosen.setdefault(kind, path) is path:
            size = f"{header.Columns}, {header.Rows}"
            conditions = f'modalities = ["{header.Modality}"]\nsizes = [[{size}]]\nblank = [[0, 0, {header.Columns}, 1]]'
            rules[path] = parsed(f'[[rule]]\nname = "first row"\nsource = "test"\n{conditions}')
    return rules
