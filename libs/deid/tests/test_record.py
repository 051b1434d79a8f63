"""The record of de-identification: earlier steps stay in it, what they no longer hold of does not, and it names nobody."""

import dataclasses
import io
import itertools
from collections.abc import Sequence
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.rules.profile import SHIPPED
from mdm_deid.rules.record import MEANINGS
from pydicom.sr._concepts_dict import concepts

METHOD, CODES, DATES = 0x00120063, 0x00120064, 0x00280303
RETAIN = {code for code, meaning in MEANINGS.items() if meaning.startswith("Retain")}


def released(builder: Any, pseudonymiser: Pseudonymiser, profile: Profile, elements: dict[int, bytes]) -> pydicom.Dataset:
    """De-identify with the self-check, and read with pydicom."""
    profile = dataclasses.replace(profile, rules=())
    elements = {0x00100010: builder.element(0x00100010, "PN", b"Zorgvliet^Quirine")} | elements
    result = CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile).deidentify(builder.file(elements))
    assert result.outcome is Outcome.RELEASED, (result.reason, result.found)
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


def code(builder: Any, value: str, scheme: str = "DCM", meaning: str = "whatever") -> bytes:
    texts = ((0x00080100, "SH", value), (0x00080102, "SH", scheme), (0x00080104, "LO", meaning))
    return builder.item(b"".join(builder.element(tag, vr, text.encode()) for tag, vr, text in texts))


def earlier(builder: Any, codes: Sequence[bytes] = (), method: bytes = b"", dates: bytes = b"") -> dict[int, bytes]:
    elements = {0x00120062: builder.element(0x00120062, "CS", b"YES")}
    if codes:
        elements[CODES] = builder.element(CODES, "SQ", b"".join(codes))
    if method:
        elements[METHOD] = builder.element(METHOD, "LO", method)
    if dates:
        elements[DATES] = builder.element(DATES, "CS", dates)
    return elements


def codes_of(output: pydicom.Dataset) -> list[str]:
    return [item.CodeValue for item in output.DeidentificationMethodCodeSequence]


def methods_of(output: pydicom.Dataset) -> list[str]:
    value = output.DeidentificationMethod
    return [value] if isinstance(value, str) else list(value)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_face_that_was_removed_before_is_told_after(builder: Any, pseudonymiser: Pseudonymiser, name: str) -> None:
    record = earlier(builder, [code(builder, "113102"), code(builder, "replace_recogn", "99REFACE")], b"mri_reface 0.3.4")
    output = released(builder, pseudonymiser, Profile.shipped(name), record)
    assert methods_of(output) == ["mri_reface 0.3.4", f"MDM {name}, PS3.15 2026c"]
    assert "113102" in codes_of(output) and codes_of(output) == sorted(set(codes_of(output)))
    assert output.PatientIdentityRemoved == "YES"
    assert all(item.CodeMeaning == MEANINGS[item.CodeValue] for item in output.DeidentificationMethodCodeSequence)


def test_the_codes_are_those_of_the_context_group() -> None:
    group = {value for codes in concepts["DCM"].values() for value, (_, cids) in codes.items() if 7050 in cids}
    assert set(MEANINGS) == group


@pytest.mark.parametrize("name", SHIPPED)
def test_cleaning_lasts_and_retaining_is_told_only_where_it_is_ours(explicit: Any, pseudonymiser: Pseudonymiser, name: str) -> None:
    plain = set(codes_of(released(explicit, pseudonymiser, Profile.shipped(name), {})))
    every = earlier(explicit, [code(explicit, value) for value in MEANINGS])
    after = set(codes_of(released(explicit, pseudonymiser, Profile.shipped(name), every)))
    assert after == plain | (MEANINGS.keys() - RETAIN)


DATE_OPTIONS = {
    "REMOVED": frozenset[str](),
    "MODIFIED": frozenset({"retain_longitudinal_modified_dates"}),
    "UNMODIFIED": frozenset({"retain_longitudinal_full_dates"}),
}
DATE_CODES = {"REMOVED": set[str](), "MODIFIED": {"113107"}, "UNMODIFIED": {"113106"}}


@pytest.mark.parametrize("before, ours", list(itertools.product(DATE_OPTIONS, repeat=2)))
def test_of_dates_the_strongest_that_was_done_is_true(explicit: Any, pseudonymiser: Pseudonymiser, before: str, ours: str) -> None:
    order = ["UNMODIFIED", "MODIFIED", "REMOVED"]
    expected = max(before, ours, key=order.index)
    output = released(explicit, pseudonymiser, Profile("x", DATE_OPTIONS[ours]), earlier(explicit, dates=before.encode()))
    assert output.LongitudinalTemporalInformationModified == expected
    assert {"113106", "113107"} & set(codes_of(output)) == DATE_CODES[expected]


def test_dates_that_an_earlier_code_calls_modified_are_not_called_unmodified(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    output = released(explicit, pseudonymiser, Profile("x", DATE_OPTIONS["UNMODIFIED"]), earlier(explicit, [code(explicit, "113107")]))
    assert output.LongitudinalTemporalInformationModified == "MODIFIED"
    assert {"113106", "113107"} & set(codes_of(output)) == {"113107"}
    output = released(explicit, pseudonymiser, Profile("x", DATE_OPTIONS["UNMODIFIED"]), earlier(explicit, dates=b"PERHAPS"))
    assert output.LongitudinalTemporalInformationModified == "UNMODIFIED"


@pytest.mark.parametrize(
    "before, after",
    [
        (b"defaced by Dr. Hans Meier, tool mri_deface", ["defaced by [...] mri_deface"]),
        (b"Per DICOM PS 3.15 AnnexE. Details in 0012,0064", ["Per DICOM PS 3.15 AnnexE. Details in 0012,0064"]),
        (b"RSNA CTP 1.0\\pydeface 2.0.2\\RSNA CTP 1.0", ["RSNA CTP 1.0", "pydeface 2.0.2"]),
        (b"MDM site, PS3.15 2025d", ["MDM site, PS3.15 2025d"]),
        (b"Zorgvliet\\ \\zorgvliet q.", []),
        (b"script of Berta, berta@clinic.org, 12.03.2021", ["script of [...]"]),
        ("Gesichtsmaske Jörg".encode("latin-1"), []),
        (b"mri_reface " * 40, ["mri_reface mri_reface mri_reface mri_reface mri_reface [...]"]),
    ],
)
@pytest.mark.parametrize("name", SHIPPED)
def test_method_text_keeps_tools_and_loses_persons(
    explicit: Any, pseudonymiser: Pseudonymiser, name: str, before: bytes, after: list[str]
) -> None:
    output = released(explicit, pseudonymiser, Profile.shipped(name), earlier(explicit, method=before))
    methods = methods_of(output)
    assert methods == [*after, f"MDM {name}, PS3.15 2026c"]
    assert all(len(method) <= 64 for method in methods)


def test_method_text_stays_in_a_file_that_no_longer_names_its_patient(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    nobody = {0x00100010: explicit.element(0x00100010, "PN", b"Anonymous"), 0x00100020: explicit.element(0x00100020, "LO", b"ANON")}
    record = nobody | earlier(explicit, method=b"dicognito 0.17.0 by Berta")
    output = released(explicit, pseudonymiser, Profile.shipped("research"), record)
    assert methods_of(output)[0] == "dicognito 0.17.0 by [...]"


def test_the_record_does_not_grow_when_a_file_comes_again(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    first = released(
        explicit, pseudonymiser, Profile.shipped("research"), earlier(explicit, [code(explicit, "113102")], b"mri_reface 0.3.4")
    )
    out = io.BytesIO()
    first.save_as(out, enforce_file_format=True)
    again = Deidentifier(Profile.shipped("research"), pseudonymiser).deidentify(out.getvalue())
    second = pydicom.dcmread(io.BytesIO(b"".join(again.data)))
    assert methods_of(second) == methods_of(first) and codes_of(second) == codes_of(first)


@pytest.mark.parametrize("dtype", ["garbage", "empty", "text", "hundred", "nested", "other scheme", "by uid", "undefined"])
def test_a_record_that_is_none_counts_for_nothing(builder: Any, pseudonymiser: Pseudonymiser, dtype: str) -> None:
    deep = builder.item(builder.element(0x00080300, "SQ", code(builder, "113102")))
    by_uid = builder.element(0x00080100, "SH", b"113102") + builder.element(0x0008010C, "UI", b"1.2.840.10008.2.16.4")
    content, found = {
        "garbage": (builder.element(CODES, "SQ", b"\xff" * 24), False),
        "empty": (builder.element(CODES, "SQ", b""), False),
        "text": (builder.element(CODES, "LO", b"113102"), False),
        "hundred": (builder.element(CODES, "SQ", code(builder, "113102") * 100 + code(builder, "999999") * 100), True),
        "nested": (builder.element(CODES, "SQ", deep), False),
        "other scheme": (builder.element(CODES, "SQ", code(builder, "113102", "99ZORGVLIET", "Zorgvliet")), False),
        "by uid": (builder.element(CODES, "SQ", builder.item(by_uid)), True),
        "undefined": (builder.element(CODES, "SQ", builder.item(by_uid, undefined=True), undefined=True), True),
    }[dtype]
    output = released(builder, pseudonymiser, Profile.shipped("basic"), {CODES: content})
    assert codes_of(output) == ["113100", "113102"] if found else ["113100"]
    assert "zorgvliet" not in str(output).lower()


@pytest.mark.parametrize("name", SHIPPED)
def test_what_else_tells_of_earlier_steps_stays(explicit: Any, pseudonymiser: Pseudonymiser, name: str) -> None:
    equipment = explicit.item(
        explicit.element(0x00080070, "LO", b"Example")
        + explicit.element(0x00080080, "LO", b"Klinik Kastanienhof")
        + explicit.element(0x00081090, "LO", b"MRI REFACE")
        + explicit.element(0x0018A003, "ST", b"defaced for Zorgvliet by Berta")
        + explicit.element(0x0040A170, "SQ", code(explicit, "109104", "DCM", "De-identifying Equipment"))
    )
    elements = {
        0x0018A001: explicit.element(0x0018A001, "SQ", equipment),
        0x00280301: explicit.element(0x00280301, "CS", b"NO"),
        0x00280302: explicit.element(0x00280302, "CS", b"NO"),
        0x00282110: explicit.element(0x00282110, "CS", b"01"),
    }
    output = released(explicit, pseudonymiser, Profile.shipped(name), elements)
    assert (output.BurnedInAnnotation, output.RecognizableVisualFeatures, output.LossyImageCompression) == ("NO", "NO", "01")
    text = str(output)
    assert not any(word in text for word in ("Kastanienhof", "Zorgvliet", "Berta"))
    if name != "strict":
        item = output.ContributingEquipmentSequence[0]
        assert (item.Manufacturer, item.ManufacturerModelName) == ("Example", "MRI REFACE")
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109104"


def test_a_method_inside_an_item_names_nobody_either(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    inside = explicit.item(explicit.element(METHOD, "LO", b"defaced by Berta"))
    output = released(explicit, pseudonymiser, Profile.shipped("basic"), {0x00082218: explicit.element(0x00082218, "SQ", inside)})
    assert output.AnatomicRegionSequence[0].get("DeidentificationMethod", "") in ("", "[...] by [...]", "defaced by [...]", "[...] by")
