"""Identifiers of things: slides, scanners, orders stay apart and together as they were, under pseudonyms."""

import dataclasses
import io
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.encoding.element import standard_vr
from mdm_deid.rules.table import load_actions, load_identifiers

SM, CT = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.2"
CONTAINER, SPECIMENS, SPECIMEN, SERIAL, STUDY_ID, ACCESSION = 0x00400512, 0x00400560, 0x00400551, 0x00181000, 0x00200010, 0x00080050
GANTRY, STATION = 0x00181008, 0x00081010


@pytest.fixture(scope="session", params=["basic", "research", "neuro", "strict"])
def profile(request: pytest.FixtureRequest) -> Profile:
    return dataclasses.replace(Profile.shipped(request.param), rules=())


def anonymous(profile: Profile, pseudonymiser: Pseudonymiser, file: bytes) -> pydicom.Dataset:
    result = CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile).deidentify(file)
    assert result.outcome is Outcome.RELEASED, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data or [])))


def slide(builder: Any, container: bytes, specimen: bytes, serial: bytes = b"SCANNER-1", study: bytes = b"S21-1", **more: bytes) -> bytes:
    element = builder.element
    inner = builder.item(element(SPECIMEN, "LO", specimen) + element(0x00400554, "UI", b"1.2.3"))
    elements = {
        ACCESSION: element(ACCESSION, "SH", b"S21-1"),
        SERIAL: element(SERIAL, "LO", serial),
        STUDY_ID: element(STUDY_ID, "SH", study),
        CONTAINER: element(CONTAINER, "LO", container),
        SPECIMENS: element(SPECIMENS, "SQ", inner),
    }
    return builder.file(elements | {int(tag[1:], 16): value for tag, value in more.items()}, SM)


def identifiers(dataset: pydicom.Dataset) -> list[str]:
    specimen = dataset.SpecimenDescriptionSequence[0].SpecimenIdentifier
    return [dataset.ContainerIdentifier, specimen, dataset.DeviceSerialNumber, dataset.StudyID, dataset.AccessionNumber]


def test_slides_and_scanners_stay_apart_in_every_encoding(profile: Profile, pseudonymiser: Pseudonymiser, builder: Any) -> None:
    first = identifiers(anonymous(profile, pseudonymiser, slide(builder, b"S21-1_A_1", b"S21-1_A")))
    second = identifiers(anonymous(profile, pseudonymiser, slide(builder, b"S21-1_B_4", b"S21-1_B", b"SCANNER-2", b"S21-2")))
    assert [one == other for one, other in zip(first, second, strict=True)] == [False, False, False, False, True]
    assert all(len(value) == 16 and value.isalnum() and value.isupper() for value in first + second)
    # The accession number and the study's identifier are the same, as they were.
    assert first[3] == first[4]
    assert len({*first, *second}) == 8


def test_the_same_thing_has_the_same_pseudonym_however_it_is_written(
    profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any, implicit: Any
) -> None:
    in_latin = explicit.element(0x00080005, "CS", b"ISO_IR 100")
    in_unicode = implicit.element(0x00080005, "CS", b"ISO_IR 192")
    one = anonymous(profile, pseudonymiser, slide(explicit, "Präparat 7 ".encode("latin-1"), b" A1", x00080005=in_latin))
    other = anonymous(profile, pseudonymiser, slide(implicit, "Präparat 7".encode(), b"A1\0", x00080005=in_unicode))
    assert identifiers(one) == identifiers(other)


def test_nobody_without_the_secret_can_compute_a_pseudonym(explicit: Any) -> None:
    file = slide(explicit, b"S21-1_A_1", b"S21-1_A")
    profile = dataclasses.replace(Profile.shipped("basic"), rules=())
    here, there = (identifiers(anonymous(profile, Pseudonymiser(secret * 32), file)) for secret in (b"a", b"b"))
    assert set(here).isdisjoint(there)


def test_what_the_profile_removes_is_not_brought_back(profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any) -> None:
    elements = {
        tag: explicit.element(tag, vr, b"ROOM-7")
        for tag, vr in ((STATION, "SH"), (0x00181004, "LO"), (GANTRY, "LO"), (0x00380010, "LO"), (SERIAL, "LO"), (0x0018700A, "SH"))
    }
    output = anonymous(profile, pseudonymiser, explicit.file(elements, CT))
    assert not [tag for tag in elements if tag in output]


def test_an_option_that_keeps_device_identity_keeps_it(pseudonymiser: Pseudonymiser, explicit: Any) -> None:
    profile = dataclasses.replace(Profile.shipped("basic"), rules=(), options=frozenset({"retain_device_identity"}))
    output = anonymous(profile, pseudonymiser, slide(explicit, b"S21-1_A_1", b"S21-1_A"))
    assert output.DeviceSerialNumber == "SCANNER-1"
    assert output.ContainerIdentifier.startswith("I")


def test_what_is_empty_stays_empty_unless_there_must_be_a_value(profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any) -> None:
    output = anonymous(profile, pseudonymiser, slide(explicit, b"  ", b"", b"", b" "))
    assert output.StudyID == ""
    assert (output.ContainerIdentifier, output.DeviceSerialNumber) == ("ANONYMIZED", "ANONYMIZED")


def test_many_values_in_an_identifier_are_told_apart_too(profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any) -> None:
    output = anonymous(profile, pseudonymiser, slide(explicit, b"A\\B\\A", b"A"))
    first, second, third = output.ContainerIdentifier
    assert first == third != second
    assert first == output.SpecimenDescriptionSequence[0].SpecimenIdentifier


def test_an_identifier_in_a_false_type_is_no_pseudonym(profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any) -> None:
    elements = {ACCESSION: explicit.element(ACCESSION, "PN", b"Zorgvliet"), STUDY_ID: explicit.element(STUDY_ID, "US", b"\7\0")}
    output = anonymous(profile, pseudonymiser, explicit.file(elements))
    assert not output.get("AccessionNumber")
    assert not output.get("StudyID")


def test_the_list_names_attributes_that_the_table_empties_or_replaces() -> None:
    actions = load_actions()
    for tag in load_identifiers():
        assert set("ZD") & set(actions[tag]), f"{tag:08X}"
        assert standard_vr(tag) in (b"SH", b"LO", b"LT", b"ST", b"UC", b""), f"{tag:08X}"
