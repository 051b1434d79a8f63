"""Ages and sexes are read where they can mean one thing only; else they go."""

import io
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier
from mdm_deid.rules.replacement import age, sex

AGES = {
    "060Y": "060Y",
    "60Y": "060Y",
    "060 Y": "060Y",
    "60y": "060Y",
    "60 Y ": "060Y",
    "0060Y": "060Y",
    "6M": "006M",
    "3w": "003W",
    "1D": "001D",
    "089Y": "089Y",
    "90Y": "090Y",
    "101Y": "090Y",
    "999M": "999M",
    "000Y": "000Y",
    **dict.fromkeys(("60", "060", "Y60", "60.5Y", "-1Y", "1000Y", "60X", "sixty", "60Y60", "60YY", "", "  ", "\0", "60-70Y"), ""),
}
SEXES = {
    "F": "F",
    "f": "F",
    "FEMALE": "F",
    "female ": "F",
    "Weiblich": "F",
    "W": "F",
    "M": "M",
    "m": "M",
    "male": "M",
    "MALE": "M",
    "O": "O",
    "other": "O",
    "divers": "O",
    **dict.fromkeys(("U", "unknown", "H", "N", "1", "FM", "M F", "MALE?", "", "Zorgvliet", "\xe9"), ""),
}


def read(deidentifier: Deidentifier, file: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(b"".join(deidentifier.deidentify(file).data or [])))


@pytest.mark.parametrize(("written", "meant"), list(AGES.items()))
def test_an_age_is_written_as_dicom_has_it(research: Deidentifier, explicit: Any, written: str, meant: str) -> None:
    assert age(written.encode()).decode() == meant
    output = read(research, explicit.file({0x00101010: explicit.element(0x00101010, "AS", written.encode())}))
    assert output.get("PatientAge", "") == meant


@pytest.mark.parametrize(("written", "meant"), list(SEXES.items()))
def test_a_sex_is_written_as_dicom_has_it(research: Deidentifier, explicit: Any, written: str, meant: str) -> None:
    assert sex(written.encode("latin-1")).decode() == meant
    output = read(research, explicit.file({0x00100040: explicit.element(0x00100040, "CS", written.encode("latin-1"))}))
    assert output.PatientSex == meant


def test_a_profile_that_keeps_no_characteristics_keeps_none(basic: Deidentifier, builder: Any) -> None:
    elements = {0x00100040: builder.element(0x00100040, "CS", b"female"), 0x00101010: builder.element(0x00101010, "AS", b"60Y")}
    output = read(basic, builder.file(elements))
    assert output.PatientSex == ""
    assert "PatientAge" not in output


def test_inside_sequences_they_are_read_likewise(research: Deidentifier, builder: Any) -> None:
    inner = builder.element(0x00100040, "CS", b"male") + builder.element(0x00101010, "AS", b"7M")
    output = read(research, builder.file({0x00081140: builder.element(0x00081140, "SQ", builder.item(inner))}))
    assert (output.ReferencedImageSequence[0].PatientSex, output.ReferencedImageSequence[0].PatientAge) == ("M", "007M")
