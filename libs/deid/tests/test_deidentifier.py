"""What the output of de-identification is: valid, consistent, faithful in its pixels, and an outcome for any input."""

import io
import random
import warnings
import zlib
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser, Result
from mdm_deid.rules.profile import FULL_DATES, OPTIONS
from pydicom.tag import Tag

SHARED = 0x52009229


def read(result: Result) -> pydicom.Dataset:
    assert result.outcome is Outcome.RELEASED, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


def lenient_read(content: bytes) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(content))


def test_a_real_image_gets_a_pseudonym_and_says_what_was_done(basic: Deidentifier, ct_small: bytes) -> None:
    output = read(basic.deidentify(ct_small))
    assert output.PatientID == output.PatientName
    assert output.PatientID.startswith("P") and len(output.PatientID) == 17
    assert output.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in output.DeidentificationMethodCodeSequence] == ["113100"]
    assert output.LongitudinalTemporalInformationModified == "REMOVED"
    assert output.StudyDate == ""
    assert "PatientAge" not in output
    assert output.file_meta.MediaStorageSOPInstanceUID == output.SOPInstanceUID
    assert "SourceApplicationEntityTitle" not in output.file_meta
    assert (output.Rows, output.Modality, output.SliceThickness) == (128, "CT", 5)


def test_pixels_are_equal_in_every_real_file(closed: Deidentifier, real_files: list[Path]) -> None:
    released = 0
    for path in real_files:
        content = path.read_bytes()
        result = closed.deidentify(content)
        if result.outcome is not Outcome.RELEASED:
            continue
        before, after = lenient_read(content), lenient_read(b"".join(result.data))
        for keyword in ("PixelData", "FloatPixelData", "WaveformSequence"):
            if keyword in before and keyword != "WaveformSequence":
                old, new = before.get_item(keyword).value, after.get_item(keyword).value
                if old[20:24] == b"jP  ":
                    # A JP2 file around the image has an editor's colour profile and lists of readers.
                    start = old.index(b"\xff\x4f\xff\x51")
                    assert old != new
                    old, new = old[start:], new[start:]
                assert old == new, path.name
        released += 1
    assert released > 200


def test_large_pixel_data_is_a_view_of_the_input(explicit: Any, basic: Deidentifier) -> None:
    number = lambda value: value.to_bytes(2, "little")  # noqa: E731
    geometry = {tag: explicit.element(tag, "US", number(value)) for tag, value in ((0x00280010, 400), (0x00280011, 500), (0x00280100, 16))}
    content = explicit.file(geometry | {0x7FE00010: explicit.element(0x7FE00010, "OW", b"\1\2" * 200_000)})
    result = basic.deidentify(content)
    views = [part for part in result.data if isinstance(part, memoryview) and part.obj is content]
    assert sum(map(len, views)) >= 400_000


def test_real_files_that_fail_do_so_for_a_reason(unjudged: Deidentifier, real_files: list[Path]) -> None:
    reasons = Counter(unjudged.deidentify(path.read_bytes()).reason for path in real_files)
    assert set(reasons) <= {"", "truncated", "invalid_vr", "no_sop_instance", "unknown_transfer_syntax", "pixel_layout"}
    assert reasons["truncated"] == 3
    assert reasons["invalid_vr"] == 1


def test_references_stay_intact_across_files(basic: Deidentifier, builder: Any) -> None:
    source = read(basic.deidentify(builder.file({0x00200052: builder.element(0x00200052, "UI", b"1.2.3.9")})))
    reference = builder.element(0x00081155, "UI", b"1.2.3.4.5") + builder.element(0x00200052, "UI", b"1.2.3.9")
    item = builder.item(reference)
    other = read(
        basic.deidentify(
            builder.file(
                {
                    0x00080018: builder.element(0x00080018, "UI", b"1.2.3.4.6"),
                    0x00081140: builder.element(0x00081140, "SQ", item),
                }
            )
        )
    )
    assert other.ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert other.ReferencedImageSequence[0].FrameOfReferenceUID == source.FrameOfReferenceUID
    assert other.StudyInstanceUID == source.StudyInstanceUID
    assert other.SOPInstanceUID != source.SOPInstanceUID


def test_uids_of_the_standard_stay_and_lookalikes_do_not(basic: Deidentifier, builder: Any) -> None:
    values = b"1.2.840.10008.5.1.4.1.1.2\\1.2.840.10008.19630412\\1.2.826.0.1"
    output = read(basic.deidentify(builder.file({0x00081150: builder.element(0x00081150, "UI", values)})))
    kept, *mapped = output.ReferencedSOPClassUID
    assert kept == "1.2.840.10008.5.1.4.1.1.2"
    assert all(uid.startswith("2.25.") for uid in mapped)


def test_required_attributes_get_dummies_and_optional_ones_go(basic: Deidentifier, builder: Any) -> None:
    enhanced_mr = "1.2.840.10008.5.1.4.1.1.4.1"
    elements = {
        0x00080023: builder.element(0x00080023, "DA", b"20200102"),
        0x0008002A: builder.element(0x0008002A, "DT", b"20200102101112"),
        0x00081030: builder.element(0x00081030, "LO", b"head of Mr X"),
        0x00081010: builder.element(0x00081010, "SH", b"STATION"),
    }
    as_enhanced = read(basic.deidentify(builder.file(elements, enhanced_mr)))
    assert as_enhanced.ContentDate == "19000101"
    assert as_enhanced.AcquisitionDateTime == "19000101000000"
    assert "StudyDescription" not in as_enhanced
    as_ct = read(basic.deidentify(builder.file(elements)))
    assert as_ct.ContentDate == ""
    assert "StationName" not in as_ct


def test_dates_move_by_one_offset_per_patient(research: Deidentifier, pseudonymiser: Pseudonymiser, builder: Any) -> None:
    nested = builder.element(0x0008002A, "DT", b"20200301120000.5+0100")
    elements = {
        0x00080020: builder.element(0x00080020, "DA", b"20200228"),
        0x00080021: builder.element(0x00080021, "DA", b"unknown?"),
        0x00080030: builder.element(0x00080030, "TM", b"101112"),
        0x00101010: builder.element(0x00101010, "AS", b"093Y"),
        SHARED: builder.element(SHARED, "SQ", builder.item(nested)),
    }
    output = read(research.deidentify(builder.file(elements)))
    offset = pseudonymiser.date_offset_days("PATIENT-0815")
    day = pydicom.valuerep.DA(output.StudyDate)
    assert (day - pydicom.valuerep.DA("20200228")).days == offset
    inner = output.SharedFunctionalGroupsSequence[0].AcquisitionDateTime
    assert (pydicom.valuerep.DA(inner[:8]) - day).days == 2
    assert inner[8:] == "120000.5+0100"
    assert "SeriesDate" not in output
    assert (output.StudyTime, output.PatientAge) == ("101112", "090Y")
    assert output.LongitudinalTemporalInformationModified == "MODIFIED"


def test_safe_private_attributes_stay_only_with_their_creator(research: Deidentifier, basic: Deidentifier, builder: Any) -> None:
    elements = {
        0x00190010: builder.element(0x00190010, "LO", b"SIEMENS MR HEADER"),
        0x00190011: builder.element(0x00190011, "LO", b"SOMEBODY"),
        0x0019100C: builder.element(0x0019100C, "IS", b"1000"),
        0x001910FF: builder.element(0x001910FF, "LO", b"name"),
        0x0019110C: builder.element(0x0019110C, "IS", b"2000"),
    }
    content = builder.file(elements)
    private = [element.tag for element in read(research.deidentify(content)) if element.tag.is_private]
    assert private == [Tag(0x00190010), Tag(0x0019100C)]
    assert not [element for element in read(basic.deidentify(content)) if element.tag.is_private]


def test_strangers_without_a_patient_id_are_not_linked(basic: Deidentifier, builder: Any) -> None:
    outputs = [
        read(
            basic.deidentify(
                builder.file(
                    {
                        0x00100020: builder.element(0x00100020, "LO", b""),
                        0x0020000D: builder.element(0x0020000D, "UI", study),
                    }
                )
            )
        )
        for study in (b"1.2.3.1", b"1.2.3.2")
    ]
    assert outputs[0].PatientID != outputs[1].PatientID


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty"),
        (b"hello" * 100, "not_part10"),
        (bytes(128) + b"DICM", "unknown_transfer_syntax"),
    ],
)
def test_what_is_not_dicom_fails(basic: Deidentifier, content: bytes, reason: str) -> None:
    assert basic.deidentify(content) == Result(Outcome.FAILED, reason)


def test_an_unknown_transfer_syntax_fails(basic: Deidentifier, explicit: Any) -> None:
    content = explicit.file({}).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    assert basic.deidentify(content).reason == "unknown_transfer_syntax"


def test_nesting_too_deep_fails_and_a_long_chain_does_not(basic: Deidentifier, builder: Any) -> None:
    def nested(depth: int) -> bytes:
        element = builder.element(0x00280010, "US", b"\1\0")
        for _ in range(depth):
            element = builder.element(SHARED, "SQ", builder.item(element, undefined=True), undefined=True)
        return builder.file({SHARED: element})

    assert basic.deidentify(nested(50)).outcome is Outcome.RELEASED
    assert basic.deidentify(nested(500)).reason == "nesting_too_deep"


def test_a_deflate_bomb_fails_without_being_inflated(basic: Deidentifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdm_deid.encoding.part10.MAX_INFLATED", 1 << 16)
    deflater = zlib.compressobj(wbits=-15)
    body = deflater.compress(bytes(1 << 20)) + deflater.flush()
    meta = b"\2\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
    assert basic.deidentify(bytes(128) + b"DICM" + meta + body).reason == "too_large"


def test_truncation_and_bit_flips_never_raise(unjudged: Deidentifier, research: Deidentifier, real_files: list[Path]) -> None:
    rng = random.Random(7)
    small = [path.read_bytes() for path in real_files if path.stat().st_size < 20_000]
    for _ in range(1500):
        content = bytearray(rng.choice(small))
        if rng.random() < 0.4:
            del content[rng.randrange(132, len(content)) :]
        for _ in range(rng.choice((0, 1, 3, 20))):
            if len(content) > 133:
                content[rng.randrange(132, min(len(content), 3000))] ^= 1 << rng.randrange(8)
        for deidentifier in (unjudged, research):
            result = deidentifier.deidentify(bytes(content))
            assert (result.data is None) == (result.outcome is not Outcome.RELEASED)


def test_a_truncated_header_is_never_released(basic: Deidentifier, explicit: Any) -> None:
    content = explicit.file({0x7FE00010: explicit.element(0x7FE00010, "OW", bytes(100))})
    start = content.index(b"PATIENT-0815") - 8
    for end in range(start + 1, len(content)):
        boundary = basic.deidentify(content[:end])
        if boundary.outcome is Outcome.RELEASED:
            assert b"PATIENT" not in b"".join(boundary.data)


@pytest.mark.integration
@pytest.mark.parametrize("options", ["basic", "research", "neuro", "strict", *sorted(OPTIONS), "all"])
def test_dciodvfy_reports_no_error_the_input_did_not_have(
    pseudonymiser: Pseudonymiser, real_files: list[Path], new_errors: Any, tmp_path: Path, options: str
) -> None:
    chosen = OPTIONS - {FULL_DATES} if options == "all" else frozenset({options})
    profile = Profile("test", chosen) if chosen <= OPTIONS else replace(Profile.shipped(options), rules=())
    deidentifier = Deidentifier(profile, pseudonymiser)
    new: dict[str, list[str]] = {}
    # Every file under whole profiles, one of a kind under single options.
    for number, path in enumerate(representatives(tuple(real_files)) if options in OPTIONS else real_files):
        result = deidentifier.deidentify(path.read_bytes())
        if result.outcome is Outcome.RELEASED:
            output = tmp_path / f"{number}.dcm"
            output.write_bytes(b"".join(result.data))
            if errors := new_errors(path, output):
                new[path.name] = errors
            output.unlink()
    assert new == {}


@cache
def representatives(paths: tuple[Path, ...]) -> list[Path]:
    """Return the first small file of each SOP class in each transfer syntax."""
    chosen: dict[tuple[str, ...], Path] = {}
    for path in paths:
        if path.stat().st_size < 200_000:
            header = lenient_read(path.read_bytes())
            key = (str(header.get("SOPClassUID")), str(header.file_meta.get("TransferSyntaxUID")))
            chosen.setdefault(key, path)
    return list(chosen.values())
