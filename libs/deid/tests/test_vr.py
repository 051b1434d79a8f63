"""An element under a VR that does not exist is understood where its end is certain; else the file is held back."""

import dataclasses
import io
import struct
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser, Result
from mdm_deid.check.self_check import CheckedDeidentifier

NAME, OPERATOR, THICKNESS, ROWS, BODY_PART, ANATOMY = 0x00100010, 0x00081070, 0x00180050, 0x00280010, 0x00180015, 0x00082218
PADDING_VALUE, PIXELS = 0x00280120, 0x7FE00010
NO_VRS = [b"??", b"\0\0", b"  ", b"xs", b"ZZ", b"cs", b"-\xff"]


def odd(builder: Any, tag: int, vr: bytes, value: bytes, length: str = "short") -> bytes:
    """Return an element as writers that do not know its VR leave it."""
    value += b" " * (len(value) % 2)
    head = struct.pack(builder.order + "HH", tag >> 16, tag & 0xFFFF)
    if length == "none":
        return head + struct.pack(builder.order + "I", len(value)) + value
    if length == "long":
        return head + vr + b"\0\0" + struct.pack(builder.order + "I", len(value)) + value
    return head + vr + struct.pack(builder.order + "H", len(value)) + value


@pytest.fixture(scope="session", params=["basic", "research", "neuro", "strict"])
def checked(request: pytest.FixtureRequest, pseudonymiser: Pseudonymiser) -> CheckedDeidentifier:
    profile = dataclasses.replace(Profile.shipped(request.param), rules=())
    return CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile)


def released(result: Result) -> pydicom.Dataset:
    assert result.outcome is Outcome.RELEASED, (result.reason, result.found)
    return pydicom.dcmread(io.BytesIO(b"".join(result.data or [])))


@pytest.mark.parametrize("length", ["short", "long", "none"])
@pytest.mark.parametrize("vr", NO_VRS)
def test_it_is_read_by_the_dictionary(checked: CheckedDeidentifier, explicit: Any, vr: bytes, length: str) -> None:
    elements = {
        OPERATOR: odd(explicit, OPERATOR, vr, b"Zorgvliet^Quirine", length),
        NAME: odd(explicit, NAME, vr, b"Quackenbush^Odilia", length),
        BODY_PART: odd(explicit, BODY_PART, vr, b"HEAD", length),
        THICKNESS: odd(explicit, THICKNESS, vr, b"1.5", length),
        0x00181111: odd(explicit, 0x00181111, vr, b"", length),
        ROWS: odd(explicit, ROWS, vr, struct.pack("<H", 16), length),
    }
    result = checked.deidentify(explicit.file(elements))
    output = released(result)
    assert (output.BodyPartExamined, output.SliceThickness, output.Rows) == ("HEAD", 1.5, 16)
    assert output.PatientName == output.PatientID
    assert "OperatorsName" not in output
    for name in (b"Zorgvliet", b"Quackenbush"):
        assert name not in b"".join(result.data or [])


@pytest.mark.parametrize("undefined", [False, True])
def test_it_is_found_inside_sequences(research: Deidentifier, builder: Any, undefined: bool) -> None:
    if not builder.explicit:
        return  # VRs are not written
    inner = odd(builder, OPERATOR, b"??", b"Zorgvliet^Quirine") + odd(builder, THICKNESS, b"??", b"1.5", "long")
    outer = builder.item(builder.element(ANATOMY, "SQ", builder.item(inner, undefined), undefined), undefined)
    output = released(research.deidentify(builder.file({0x00081140: builder.element(0x00081140, "SQ", outer, undefined)})))
    item = output.ReferencedImageSequence[0].AnatomicRegionSequence[0]
    assert item.SliceThickness == 1.5
    assert "OperatorsName" not in item


def test_a_sequence_under_it_is_entered_whether_explicit_or_as_in_un(research: Deidentifier, explicit: Any, implicit: Any) -> None:
    for builder in (explicit, implicit):
        content = builder.element(OPERATOR, "PN", b"Zorgvliet^Quirine") + builder.element(THICKNESS, "DS", b"1.5")
        sequence = odd(explicit, ANATOMY, b"??", builder.item(content), "long")
        output = released(research.deidentify(explicit.file({ANATOMY: sequence})))
        assert [item.SliceThickness for item in output.AnatomicRegionSequence] == [1.5]
        assert "OperatorsName" not in output.AnatomicRegionSequence[0]


def test_one_of_many_vrs_is_left_to_the_reader_and_pixels_are_words(research: Deidentifier, explicit: Any) -> None:
    pixels = bytes(range(32))
    elements = {
        PADDING_VALUE: odd(explicit, PADDING_VALUE, b"xs", b"\xff\xff"),
        0x00280010: explicit.element(ROWS, "US", struct.pack("<H", 4)),
        0x00280011: explicit.element(0x00280011, "US", struct.pack("<H", 4)),
        0x00280100: explicit.element(0x00280100, "US", struct.pack("<H", 16)),
        0x00280002: explicit.element(0x00280002, "US", struct.pack("<H", 1)),
        PIXELS: odd(explicit, PIXELS, b"ox", pixels, "long"),
    }
    output = released(research.deidentify(explicit.file(elements)))
    assert output.PixelData == pixels
    assert output[PIXELS].VR == "OW"
    assert PADDING_VALUE in output


def test_private_and_unknown_ones_are_no_way_round_the_rules(checked: CheckedDeidentifier, explicit: Any) -> None:
    elements = {
        0x00090010: odd(explicit, 0x00090010, b"??", b"VENDOR"),
        0x00091001: odd(explicit, 0x00091001, b"??", b"Zorgvliet^Quirine"),
        0x00190010: odd(explicit, 0x00190010, b"??", b"SIEMENS MR HEADER"),
        0x0019100C: odd(explicit, 0x0019100C, b"??", b"1000"),
        0x0018FFF0: odd(explicit, 0x0018FFF0, b"??", b"Zorgvliet^Quirine"),
    }
    output = released(checked.deidentify(explicit.file(elements)))
    assert 0x00091001 not in output
    assert 0x0018FFF0 not in output


@pytest.mark.parametrize(
    "element",
    [
        pytest.param(lambda builder: odd(builder, THICKNESS, b"??", b"1.5")[:-2], id="too short"),
        pytest.param(lambda builder: odd(builder, THICKNESS, b"??", b"1.5") + b"\1\2", id="too long"),
        pytest.param(lambda _: b"\x18\0\x50\0??", id="no length"),
        pytest.param(lambda _: b"\x18\0\x50\0??\xff\xff", id="beyond the end"),
        pytest.param(lambda _: b"\x18\0\x50\0??\0\0\xff\xff\xff\xff" + b"\xfe\xff\xdd\xe0\0\0\0\0", id="undefined length"),
        pytest.param(lambda builder: odd(builder, PIXELS, b"ox", b"\0" * 7 + b"\1", "short") + b"\0", id="odd pixels"),
    ],
)
def test_where_its_end_is_not_certain_the_file_is_held_back(checked: CheckedDeidentifier, explicit: Any, element: Any) -> None:
    result = checked.deidentify(explicit.file({THICKNESS: element(explicit), ROWS: explicit.element(ROWS, "US", b"\1\0")}))
    assert result.outcome is Outcome.FAILED
    assert result.data is None


def test_two_readings_that_both_go_on_are_no_certainty(checked: CheckedDeidentifier, explicit: Any) -> None:
    # Of four bytes, the next two elements' tags read as a length that ends before one more.
    after = explicit.element(0x00200013, "IS", b"1")
    middle = explicit.element(THICKNESS + 1, "DS", b"1") * 1
    tag_as_length = struct.unpack("<I", middle[:4])[0]
    filler = explicit.element(0x00200010, "SH", b"")
    gap = tag_as_length - (len(middle) - 4)
    pixels = explicit.element(0x00187FFE, "UT", b"\0" * (gap - 12 - len(filler)))
    element = odd(explicit, THICKNESS, b"??", b"") + middle + pixels + filler
    result = checked.deidentify(explicit.file({THICKNESS: element, 0x00200013: after}))
    assert (result.outcome, result.reason) == (Outcome.FAILED, "invalid_vr")


def test_many_in_a_row_do_not_take_long(checked: CheckedDeidentifier, explicit: Any) -> None:
    many = b"".join(odd(explicit, 0x00180000 + number, b"??", b"") for number in range(0x1000, 0x8000))
    assert checked.deidentify(explicit.file({0x00181000: many})).outcome is Outcome.RELEASED
