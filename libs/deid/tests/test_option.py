"""Every row of table E.1-1 under every option, alone and in pairs: what is expected is read from the table, not from the engine."""

import io
import itertools
import re
from datetime import date, timedelta
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.rules.rule import CLEAN_FACES, FULL_DATES, MODIFIED_DATES, OPTION_CODES, OPTIONS
from mdm_deid.rules.table import Row, load_rows
from mdm_deid.text.vocabulary import label_tags
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement

SHARED, ISSUER = 0x52009229, 0x00100021
TEXT = {"LO", "LT", "SH", "ST", "UC", "UT"}
CLEANING = {"clean_descriptors", "clean_structured_content", "clean_graphics", "retain_patient_characteristics"}
DAY = date(2003, 5, 17)
# The de-identifier writes these itself.
OURS = {0x00100010, 0x00100020}
# What these say is a term of the standard or nothing.
SPECIAL = {0x00080201: b"+0730", 0x00100040: b"O"}
ROWS = [row for row in load_rows() if row.tag >> 16 > 4 and row.tag not in OURS]


def vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "LO"


def mark(tag: int) -> bytes:
    """Return a word of letters that names the row."""
    return b"q" + bytes(ord("a") + int(digit, 16) for digit in f"{tag:08x}") + b"q"


def value(row: Row) -> tuple[str, bytes]:
    """Return the VR and a value from which a retained, a cleaned and a removed row can be told."""
    vr, number = vr_of(row.tag), ROWS.index(row)
    day = f"{DAY + timedelta(days=number):%Y%m%d}".encode()
    plain = {"DA": day, "DT": day + b"101112.5", "UI": b"9.8765.%d" % row.tag, "AS": b"%03dY" % (number % 80)}
    plain["TM"] = b"10%02d%02d.%d" % (number // 60, number % 60, number)
    plain |= {"DS": b"%d.5" % (7000 + number), "IS": b"%d" % (7000 + number)}
    return vr, SPECIAL.get(row.tag) or plain.get(vr, mark(row.tag))


def plant(builder: Any, row: Row, options: frozenset[str]) -> bytes:
    """Return the row's element; where it is to be cleaned, a known word, one that nobody knows, and a name of the header."""
    vr, content = value(row)
    if expected(row, options) in ("cleaned", "named anew"):
        content = b"knee " + content + b" Doe"
    if vr == "SQ":
        return builder.element(row.tag, "SQ", builder.item(builder.element(0x00080100, "SH", mark(row.tag))))
    return builder.element(row.tag, vr, content)


def expected(row: Row, options: frozenset[str]) -> str:
    """Return `kept`, `shifted`, `cleaned` (of the text only the known word is kept), `named anew` (a label) or `gone`."""
    codes = {option: row.options[option] for option in options if option in row.options}
    vr = vr_of(row.tag)
    if MODIFIED_DATES in codes:
        return "shifted" if vr in ("DA", "DT") else "kept" if vr in ("TM", "SH") else "gone"
    if "K" in codes.values():
        return "kept"
    if "C" in codes.values() and CLEANING & codes.keys():
        return "kept" if vr == "SQ" else "gone" if vr not in TEXT else "named anew" if row.tag in label_tags() else "cleaned"
    # A sequence of references is entered, and its codes are not references.
    if row.tag in label_tags() and vr in TEXT and row.basic[0] != "X":
        return "named anew"
    return "kept" if row.basic == "X/Z/U*" else "gone"


def outcome(row: Row, elements: dict[int, bytes], offset: int) -> str:
    vr, content = value(row)
    found = elements.get(row.tag, b"")
    if vr in ("DA", "DT") and content in found:
        return "kept"
    if vr in ("DA", "DT"):
        moved = f"{date.fromisoformat(content[:8].decode()) + timedelta(days=offset):%Y%m%d}".encode()
        return "shifted" if moved + content[8:] in found else "gone"
    if vr == "SQ":
        return "kept" if mark(row.tag) in found else "gone"
    if content in found:
        return "kept"
    return "cleaned" if found.strip() == b"knee [...]" else "named anew" if found.startswith(b"LABEL_") else "gone"


def top_level(content: bytes) -> dict[int, bytes]:
    """Return the values of an explicit little endian data set by tag, read with nothing of the engine's."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    out = {}
    for tag in dataset.keys():  # noqa: SIM118 - values are not to be converted
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            out[int(tag)] = element.value or b""
        else:
            out[int(tag)] = element.value[0].to_json().encode() if element.value else b""
    return out


def check(explicit: Any, pseudonymiser: Pseudonymiser, options: frozenset[str]) -> Any:
    deidentifier = Deidentifier(Profile("test", options), pseudonymiser)
    planted = {row.tag: plant(explicit, row, options) for row in ROWS} | {0x00100010: explicit.element(0x00100010, "PN", b"Doe^John")}
    result = deidentifier.deidentify(explicit.file(planted))
    assert result.outcome is Outcome.RELEASED, result.reason
    elements = top_level(b"".join(result.data))
    offset = pseudonymiser.date_offset_days("PATIENT-0815", mark(ISSUER).decode())
    wrong = {
        (f"{row.tag:08x}", row.name): (expected(row, options), outcome(row, elements, offset))
        for row in ROWS
        if expected(row, options) != outcome(row, elements, offset)
    }
    assert wrong == {}
    return elements


@pytest.mark.parametrize("option", [None, *sorted(OPTIONS)])
def test_each_row_under_each_option(explicit: Any, pseudonymiser: Pseudonymiser, option: str | None) -> None:
    check(explicit, pseudonymiser, frozenset({option} if option else ()))


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_each_row_under_each_pair_of_options(explicit: Any, pseudonymiser: Pseudonymiser, option: str) -> None:
    for other in sorted(OPTIONS):
        if other > option and {option, other} != {FULL_DATES, MODIFIED_DATES}:
            check(explicit, pseudonymiser, frozenset({option, other}))


@pytest.mark.parametrize("dates", [FULL_DATES, MODIFIED_DATES])
def test_all_options_together_leave_a_record_of_each(explicit: Any, pseudonymiser: Pseudonymiser, dates: str) -> None:
    options = OPTIONS - {FULL_DATES, MODIFIED_DATES} | {dates}
    elements = check(explicit, pseudonymiser, options)
    assert elements[0x00280303].strip() == (b"UNMODIFIED" if dates == FULL_DATES else b"MODIFIED")


def test_the_codes_of_the_options_are_recorded(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    for option, (code, _) in OPTION_CODES.items():
        result = Deidentifier(Profile("test", frozenset({option})), pseudonymiser).deidentify(explicit.file({}))
        # Faces are recorded where a mask was applied: see faces/test_release.py.
        code = "113100" if option == CLEAN_FACES else code
        assert set(re.findall(rb"1131\d\d", b"".join(result.data))) == {b"113100", code.encode()}


@pytest.mark.parametrize("options", [*itertools.combinations(sorted(OPTIONS - {FULL_DATES}), 2)][::5])
def test_options_hold_in_every_encoding_and_depth(builder: Any, pseudonymiser: Pseudonymiser, options: tuple[str, ...]) -> None:
    """Inside a sequence as at the top, and whatever the transfer syntax."""
    deidentifier = Deidentifier(Profile("test", frozenset(options)), pseudonymiser)
    inside = builder.item(b"".join(plant(builder, row, frozenset(options)) for row in sorted(ROWS, key=lambda row: row.tag)))
    elements = {SHARED: builder.element(SHARED, "SQ", inside), 0x00100010: builder.element(0x00100010, "PN", b"Doe^John")}
    result = deidentifier.deidentify(builder.file(elements))
    assert result.outcome is Outcome.RELEASED, result.reason
    item = pydicom.dcmread(io.BytesIO(b"".join(result.data)))[SHARED].value[0]
    for row in ROWS:
        vr = vr_of(row.tag)
        if vr in TEXT | {"PN", "SQ", "UI"}:
            text = item[row.tag].to_json() if row.tag in item else ""
            word = mark(row.tag).decode() if vr == "SQ" else value(row)[1].decode()
            assert (word in text) == (expected(row, frozenset(options)) in ("kept", "shifted")), row
            assert ("knee" in text) == (expected(row, frozenset(options)) == "cleaned"), row
            assert "Doe" not in text, row
