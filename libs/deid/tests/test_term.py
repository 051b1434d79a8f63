"""Terms of the standard stay in the attribute whose terms they are, whoever is called like them, and nowhere else."""

import dataclasses
import io
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser, Result
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.text.term import is_term, meanings

SC = "1.2.840.10008.5.1.4.1.1.7"
PROFILES = ("basic", "research", "neuro", "strict", "options")
MODALITY, BODY_PART, ANATOMY, NAME = 0x00080060, 0x00180015, 0x00082218, 0x00100010
OPTIONS = frozenset(
    {"retain_uids", "retain_device_identity", "retain_longitudinal_full_dates", "clean_graphics", "clean_structured_content"}
)


@pytest.fixture(scope="session", params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    if request.param == "options":
        return dataclasses.replace(Profile.shipped("basic"), rules=(), options=OPTIONS)
    return dataclasses.replace(Profile.shipped(request.param), rules=())


@pytest.fixture(scope="session")
def checked(profile: Profile, pseudonymiser: Pseudonymiser) -> CheckedDeidentifier:
    return CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile)


def released(result: Result) -> pydicom.Dataset:
    assert result.outcome is Outcome.RELEASED, (result.reason, [f"{tag:08X}" for tag in result.found])
    return pydicom.dcmread(io.BytesIO(b"".join(result.data or [])))


def coded(builder: Any, code: bytes, scheme: bytes, meaning: bytes, *more: bytes) -> bytes:
    return builder.item(
        builder.element(0x00080100, "SH", code)
        + builder.element(0x00080102, "SH", scheme)
        + builder.element(0x00080104, "LO", meaning)
        + b"".join(more)
    )


def image(builder: Any, patient: bytes, **more: bytes) -> dict[int, bytes]:
    element = builder.element
    elements = {
        0x00080008: element(0x00080008, "CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        MODALITY: element(MODALITY, "CS", b"CT"),
        NAME: element(NAME, "PN", patient),
        BODY_PART: element(BODY_PART, "CS", b"CHEST"),
        0x00185100: element(0x00185100, "CS", b"HFS"),
        0x00200060: element(0x00200060, "CS", b"L"),
        0x00280004: element(0x00280004, "CS", b"MONOCHROME2"),
    }
    return elements | {int(tag[1:], 16): value for tag, value in more.items()}


@pytest.mark.parametrize("modality", ["RWV", "SM", "ES", "IO", "RG", "IVOCT", "CTPROTOCOL", "OPM", "SMR", "ST", "VF", "PT", "TEXTUREMAP"])
def test_a_modality_stays_where_what_is_removed_is_spelt_alike(checked: CheckedDeidentifier, explicit: Any, modality: str) -> None:
    written = {
        "x00081010": explicit.element(0x00081010, "SH", modality.encode()),
        "x00081070": explicit.element(0x00081070, "PN", modality.encode()),
        "x00700080": explicit.element(0x00700080, "CS", modality.encode()),
        "x00700081": explicit.element(0x00700081, "LO", modality.encode()),
        "x00080060": explicit.element(MODALITY, "CS", modality.encode()),
    }
    anonymous = released(checked.deidentify(explicit.file(image(explicit, b"Rontgen^Quirine", **written))))
    assert anonymous.Modality == modality


@pytest.mark.parametrize("patient", [b"Chest", b"Axial", b"Head^Left", b"Mr^Ct", b"Original^Primary", b"Chest^Axial^Hfs", b"Monochrome2"])
def test_a_patient_called_like_a_term_takes_none_away_and_is_no_alarm(checked: CheckedDeidentifier, builder: Any, patient: bytes) -> None:
    codes = builder.element(ANATOMY, "SQ", coded(builder, b"69536005", b"SCT", b"Head"))
    nested = builder.element(0x00081140, "SQ", builder.item(builder.element(MODALITY, "CS", b"MR")))
    anonymous = released(checked.deidentify(builder.file(image(builder, patient, x00082218=codes, x00081140=nested))))
    assert list(anonymous.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert (anonymous.Modality, anonymous.BodyPartExamined) == ("CT", "CHEST")
    assert (anonymous.PatientPosition, anonymous.Laterality, anonymous.PhotometricInterpretation) == ("HFS", "L", "MONOCHROME2")
    assert anonymous.PatientName != patient.decode()
    if "AnatomicRegionSequence" in anonymous:
        item = anonymous.AnatomicRegionSequence[0]
        assert (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == ("69536005", "SCT", "Head")


MAKER, CREATOR = 0x00080070, 0x20010010


@pytest.mark.parametrize(
    ("maker", "patient"),
    [
        (b"Philips", b"Philips^Quirine"),
        (b"GE MEDICAL SYSTEMS", b"Phantom^Medical"),
        (b"SIEMENS", b"Rontgen^Siemens"),
        (b"Canon Medical Systems", b"Canon"),
        (b"Hologic, Inc.", b"Hologic"),
    ],
)
def test_the_maker_of_a_device_stays_whoever_is_called_like_it(
    checked: CheckedDeidentifier, builder: Any, maker: bytes, patient: bytes
) -> None:
    elements = {MAKER: builder.element(MAKER, "LO", maker), CREATOR: builder.element(CREATOR, "LO", b"Philips Imaging DD 001")}
    elements[0x20011003] = builder.element(0x20011003, "FL", bytes(4))
    anonymous = released(checked.deidentify(builder.file(image(builder, patient) | elements)))
    assert anonymous.get("Manufacturer") in (maker.decode(), "", None)
    assert anonymous.PatientName != patient.decode()


def test_the_maker_and_private_creators_that_stay_do_so_beside_a_patient_of_their_name(research: Deidentifier, explicit: Any) -> None:
    check = CheckedDeidentifier(research, Profile.shipped("research"))
    elements = {
        MAKER: explicit.element(MAKER, "LO", b"Philips Medical Systems"),
        CREATOR: explicit.element(CREATOR, "LO", b"Philips Imaging DD 001"),
        0x20011003: explicit.element(0x20011003, "FL", b"\0\0\x7a\x44"),
    }
    anonymous = released(check.deidentify(explicit.file(image(explicit, b"Philips^Quirine") | elements)))
    assert anonymous.Manufacturer == "Philips Medical Systems"
    assert anonymous[0x20011003].value == 1000.0


@pytest.mark.parametrize(
    ("tag", "value"),
    [(MAKER, b"Philips Quirine"), (0x00081090, b"Philips"), (0x20010011, b"Philips Quirine"), (0x20010011, b"Philips Other 1")],
)
def test_the_self_check_finds_a_maker_s_name_where_it_names_no_maker(explicit: Any, tag: int, value: bytes) -> None:
    check = CheckedDeidentifier(None, Profile.shipped("research"))  # type: ignore[arg-type]
    original = explicit.file(image(explicit, b"Philips"))
    leaking = explicit.file(image(explicit, b"P0000000000000000") | {tag: explicit.element(tag, "LO", value)})
    assert NAME in check.leaks(original, [leaking])


def test_a_code_of_the_standard_says_it_in_the_standards_words_where_its_own_would_go(research: Deidentifier, explicit: Any) -> None:
    codes = explicit.element(ANATOMY, "SQ", coded(explicit, b"T-D1100", b"SRT", b"Head of Quirine Zorgvliet"))
    file = explicit.file(image(explicit, b"Zorgvliet^Quirine", x00082218=codes))
    item = released(research.deidentify(file)).AnatomicRegionSequence[0]
    assert (item.CodeValue, item.CodeMeaning) == ("T-D1100", "Head")


@pytest.mark.parametrize(
    ("code", "scheme", "meaning"),
    [(b"ZORGVLIET", b"99SITE", b"Zorgvliet"), (b"ZORGVLIET", b"SCT", b"Zorgvliet"), (b"69536005", b"99SITE", b"Zorgvliet")],
)
def test_what_is_no_code_of_the_standard_may_name_someone(
    checked: CheckedDeidentifier, explicit: Any, code: bytes, scheme: bytes, meaning: bytes
) -> None:
    codes = explicit.element(ANATOMY, "SQ", coded(explicit, code, scheme, meaning))
    result = checked.deidentify(explicit.file(image(explicit, b"Zorgvliet^Quirine", x00082218=codes)))
    assert b"zorgvliet" not in b"".join(result.data or []).lower()
    assert result.outcome is Outcome.RELEASED


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (BODY_PART, "CS", b"ZORGVLIET"),
        (0x00081090, "LO", b"CHEST 64"),
        (0x00181020, "LO", b"CHEST"),
        (0x00180024, "SH", b"CHEST"),
        (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\ZORGVLIET"),
    ],
)
def test_a_term_in_another_attribute_than_its_own_counts_as_the_name_it_is(
    checked: CheckedDeidentifier, explicit: Any, tag: int, vr: str, value: bytes
) -> None:
    file = explicit.file(image(explicit, b"Zorgvliet^Chest") | {tag: explicit.element(tag, vr, value)})
    anonymous = released(checked.deidentify(file))
    left = anonymous.get_item(tag).value if tag in anonymous else b""
    assert b"CHEST" not in left
    assert b"ZORGVLIET" not in left


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [(0x00081090, "LO", b"Axial"), (0x00181251, "SH", b"Axial 2"), (0x00185101, "CS", b"ORIGINAL"), (0x00181030, "LO", b"head AXIAL")],
)
def test_the_self_check_still_finds_the_name_anywhere_else(explicit: Any, tag: int, vr: str, value: bytes) -> None:
    profile = Profile.shipped("basic")
    patient = b"Original" if vr == "CS" else b"Axial"
    original = explicit.file(image(explicit, patient) | {0x00080008: explicit.element(0x00080008, "CS", b"ORIGINAL\\PRIMARY")})
    same = explicit.file(image(explicit, b"P0000000000000000"))
    leaking = explicit.file(image(explicit, b"P0000000000000000") | {tag: explicit.element(tag, vr, value)})
    check = CheckedDeidentifier(None, profile)  # type: ignore[arg-type]
    assert NAME not in check.leaks(original, [same])
    assert NAME in check.leaks(original, [leaking])


def test_the_self_check_reads_codes_as_the_standard_has_them(explicit: Any) -> None:
    check = CheckedDeidentifier(None, Profile.shipped("basic"))  # type: ignore[arg-type]
    original = explicit.file({NAME: explicit.element(NAME, "PN", b"Pancreas")})
    told = lambda *entry: explicit.file({ANATOMY: explicit.element(ANATOMY, "SQ", coded(explicit, *entry))})  # noqa: E731
    pancreas = next(code for code in ("15776009", "181277001") if meanings("SCT", code)[:1] == ["Pancreas"]).encode()
    assert NAME not in check.leaks(original, [told(pancreas, b"SCT", b"Pancreas")])
    assert NAME in check.leaks(original, [told(pancreas, b"99SITE", b"Pancreas")])
    assert NAME in check.leaks(original, [told(pancreas, b"SCT", b"Pancreas here")])
    assert NAME in check.leaks(original, [told(pancreas, b"SCT", b"Pancreas", explicit.element(0x00080117, "UI", b"1.2 pancreas"))])


def test_the_table_has_the_terms_of_the_standard() -> None:
    for tag, terms in {
        MODALITY: "CT MR PT NM US RWV SM ES IO RG IVOCT IVUS OPV PLAN STAIN XC ANN PA OPTBSV DG CF MS",
        0x00080008: "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER VOLUME MIXED",
        0x00089007: "ORIGINAL MIXED VOLUME",
        BODY_PART: "HEAD CHEST ABDOMEN KNEE LSPINE WHOLEBODY",
        0x00100040: "M F O",
        0x00180020: "SE IR GR EP RM",
        0x00180021: "SK MTC SS TRSS SP MP OSP NONE",
        0x00180023: "2D 3D",
        0x00185100: "HFS HFP FFS FFDL SITTING",
        0x00185101: "AP PA LL RL",
        0x00200060: "L R",
        0x00200062: "L R U B",
        0x00280004: "MONOCHROME1 MONOCHROME2 RGB YBR_FULL_422",
        0x00541001: "BQML CNTS GML",
        0x0040A040: "TEXT CODE NUM CONTAINER PNAME",
    }.items():
        missing = [term for term in terms.split() if not is_term(tag, term.encode())]
        assert not missing, f"{tag:08X}"
    assert is_term(0x00280004, b"PALETTE COLOR ")
    assert not is_term(MODALITY, b"CHEST")
    assert not is_term(BODY_PART, b"chest")
    assert not is_term(NAME, b"CT")


def test_strict_keeps_the_codes_that_an_object_cannot_do_without(strict: Deidentifier, builder: Any) -> None:
    sequence = lambda tag, *entry: builder.element(tag, "SQ", coded(builder, *entry))  # noqa: E731
    segment = builder.item(
        sequence(0x00620003, b"85756007", b"SCT", b"Tissue")
        + builder.element(0x00620005, "LO", b"Liver of Zorgvliet")
        + sequence(0x0062000F, b"10200004", b"SCT", b"Liver of Zorgvliet")
    )
    elements = {0x00620002: builder.element(0x00620002, "SQ", segment), NAME: builder.element(NAME, "PN", b"Zorgvliet^Liver")}
    item = released(strict.deidentify(builder.file(elements, "1.2.840.10008.5.1.4.1.1.66.4"))).SegmentSequence[0]
    category, kind = item.SegmentedPropertyCategoryCodeSequence[0], item.SegmentedPropertyTypeCodeSequence[0]
    assert (category.CodeValue, category.CodeMeaning) == ("85756007", "Tissue")
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("10200004", "SCT", "Liver")
    assert "Zorgvliet" not in str(item)
