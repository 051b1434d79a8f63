"""What hides in unusual places is found there, and what belongs together stays together, in every encoding."""

import io
import sys
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.rules.table import load_safe_private
from mdm_deid.text.identity import identity
from pydicom.valuerep import DA

SHARED, PET = 0x52009229, "1.2.840.10008.5.1.4.1.1.128"
SECRET = b"SECRETSECRETSECRET"


def read(deidentifier: Deidentifier, content: bytes) -> pydicom.Dataset:
    result = deidentifier.deidentify(content)
    assert result.outcome is Outcome.RELEASED, result.reason
    output = b"".join(result.data)
    assert SECRET not in output
    dataset = pydicom.dcmread(io.BytesIO(output))
    assert SECRET.decode() not in str(dataset)
    return dataset


def test_icons_signatures_former_values_and_padding_go_at_every_depth(builder: Any, closed: Deidentifier) -> None:
    def sequence(tag: int, content: bytes) -> bytes:
        return builder.element(tag, "SQ", builder.item(content, undefined=True), undefined=True)

    name = builder.element(0x00100010, "PN", SECRET)
    pixels = builder.element(0x7FE00010, "OW", SECRET)
    hidden = {
        0x04000561: sequence(0x04000561, sequence(0x04000550, name)),
        0x00880200: sequence(0x00880200, pixels),
        0x4FFE0001: sequence(0x4FFE0001, builder.element(0x04000020, "AT", SECRET)),
        0xFFFAFFFA: sequence(0xFFFAFFFA, builder.element(0x04000120, "OB", SECRET)),
        0xFFFCFFFC: builder.element(0xFFFCFFFC, "OB", SECRET),
        0x00189999: builder.element(0x00189999, "LO", SECRET),
        0x00090010: builder.element(0x00090010, "LO", SECRET),
        0x00091001: sequence(0x00091001, name),
    }
    order = sorted(hidden)
    inside = b"".join(hidden[tag] for tag in order)
    for _ in range(3):
        inside = sequence(SHARED, inside)
    output = read(closed, builder.file(hidden | {SHARED: inside}))
    assert not [tag for tag in order if tag in output]


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.2"])
def test_a_document_that_is_let_through_is_an_empty_shell(builder: Any, closed: Deidentifier, sop_class: str) -> None:
    elements = {
        0x00420010: builder.element(0x00420010, "ST", SECRET),
        0x00420011: builder.element(0x00420011, "OB", SECRET),
        0x00420012: builder.element(0x00420012, "LO", b"application/pdf"),
    }
    output = read(closed, builder.file(elements, sop_class))
    assert set(output.EncapsulatedDocument) == {0}


def test_a_safe_private_sequence_is_entered_like_any_other(explicit: Any, implicit: Any, research: Deidentifier) -> None:
    group, element, creator = next(key for key, vr in load_safe_private().items() if vr == "SQ")
    tag = group << 16 | 0x1000 | element
    for vr, inner in (("SQ", explicit), ("UN", implicit)):
        content = (
            inner.element(0x00080080, "LO", SECRET) + inner.element(0x00100010, "PN", SECRET) + inner.element(0x00280010, "US", b"\1\1")
        )
        elements = {
            group << 16 | 0x10: explicit.element(group << 16 | 0x10, "LO", creator.encode()),
            tag: explicit.element(tag, vr, inner.item(content)),
        }
        output = read(research, explicit.file(elements))
        assert str(output[0x00100010].value).startswith("P")
        assert tag in output


def test_a_sequence_as_un_in_a_sequence_as_un_is_found(explicit: Any, implicit: Any, closed: Deidentifier) -> None:
    inside = implicit.element(0x00081030, "LO", SECRET) + implicit.element(0x0020000D, "UI", b"1.2.3.4")
    inner = implicit.element(0x00081140, "UN", implicit.item(inside))
    outer = explicit.element(SHARED, "UN", implicit.item(inner))
    output = read(closed, explicit.file({SHARED: outer}))
    assert "1.2.3.4" not in str(output)


def test_references_are_the_same_at_every_depth(builder: Any, basic: Deidentifier) -> None:
    frame = builder.element(0x00200052, "UI", b"1.2.3.9")
    elements = {0x00200052: frame, SHARED: builder.element(SHARED, "SQ", builder.item(builder.element(SHARED, "SQ", builder.item(frame))))}
    output = read(basic, builder.file(elements))
    assert output[SHARED].value[0][SHARED].value[0].FrameOfReferenceUID == output.FrameOfReferenceUID != "1.2.3.9"


def test_decay_times_keep_their_distance(builder: Any, research: Deidentifier, pseudonymiser: Pseudonymiser) -> None:
    start = builder.element(0x00181072, "TM", b"081500") + builder.element(0x00181078, "DT", b"20191231233000.25-0500")
    elements = {
        0x00080021: builder.element(0x00080021, "DA", b"20200101"),
        0x00080031: builder.element(0x00080031, "TM", b"003000"),
        0x00540016: builder.element(0x00540016, "SQ", builder.item(start)),
    }
    output = read(research, builder.file(elements, PET))
    dose = output.RadiopharmaceuticalInformationSequence[0]
    injected, scanned = str(dose.RadiopharmaceuticalStartDateTime), DA(output.SeriesDate)
    assert (scanned - DA(injected[:8])).days == 1
    assert injected[8:] == "233000.25-0500"
    assert (output.SeriesTime, dose.RadiopharmaceuticalStartTime) == ("003000", "081500")
    assert (scanned - DA("20200101")).days == pseudonymiser.date_offset_days("PATIENT-0815")


@pytest.mark.parametrize(
    "value, length, rest",
    [(b"2020", 4, ""), (b"202003", 6, ""), (b"20200301", 8, ""), (b"2020030112", 8, "12"), (b"20200301+0100", 8, "+0100"), (b"", 0, "")],
)
def test_a_date_keeps_its_precision(builder: Any, research: Deidentifier, value: bytes, length: int, rest: str) -> None:
    output = read(research, builder.file({0x0008002A: builder.element(0x0008002A, "DT", value)}))
    moved = str(output.AcquisitionDateTime)
    assert moved[length:] == rest
    assert not value or (moved[:length] < value[:length].decode() and moved[:length].isdigit())


def test_a_date_as_it_was_written_before_dicom_is_moved(builder: Any, research: Deidentifier) -> None:
    plain = read(research, builder.file({0x00080020: builder.element(0x00080020, "DA", b"20200301")}))
    assert read(research, builder.file({0x00080020: builder.element(0x00080020, "DA", b"2020.03.01")})).StudyDate == plain.StudyDate


@pytest.mark.parametrize(
    "age, told", [(b"089Y", "089Y"), (b"090Y", "090Y"), (b"104Y", "090Y"), (b"999M", "999M"), (b"old man", None), (b"41", None)]
)
def test_ages_above_89_are_one(builder: Any, research: Deidentifier, age: bytes, told: str | None) -> None:
    elements = {
        0x00101010: builder.element(0x00101010, "AS", age),
        0x00100030: builder.element(0x00100030, "DA", b"19120101"),
        0x00104000: builder.element(0x00104000, "LT", age + b" " + age.lstrip(b"0").lower() + b"o"),
    }
    output = read(research, builder.file(elements))
    assert output.get("PatientAge") == told or (told is None and not output.get("PatientAge"))
    assert output.PatientBirthDate == ""
    text = output.to_json()
    assert "1912" not in text and "104Y" not in text and "104y" not in text


def calls(deidentifier: Deidentifier, content: bytes) -> int:
    """Return how many functions are called to de-identify a file, a measure of work that does not depend on the machine."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    deidentifier.deidentify(content)
    identity.cache_clear()
    sys.setprofile(seen)
    try:
        deidentifier.deidentify(content)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("profile", ["basic", "research", "strict"])
def test_work_grows_with_the_number_of_nested_elements_and_no_faster(builder: Any, pseudonymiser: Pseudonymiser, profile: str) -> None:
    """Every item names somebody else, dates something else and describes it, so that all there is to learn and to look for grows too."""

    def nested(count: int) -> bytes:
        items = []
        for number in range(count):
            word = "".join(chr(97 + int(digit)) for digit in f"{number:06d}").encode()
            content = builder.element(0x00081050, "PN", b"Doctor%b^Given%b" % (word, word))
            content += builder.element(0x00200052, "UI", b"1.2.3.%d" % number)
            content += builder.element(0x00204000, "LT", b"text %b of Given%b" % (word, word))
            items.append(builder.item(builder.element(0x00081140, "SQ", builder.item(content, undefined=True), undefined=True)))
        return builder.file({SHARED: builder.element(SHARED, "SQ", b"".join(items))})

    deidentifier = Deidentifier(replace(Profile.shipped(profile), rules=()), pseudonymiser)
    few, many = calls(deidentifier, nested(100)), calls(deidentifier, nested(400))
    assert many < 4.4 * few
