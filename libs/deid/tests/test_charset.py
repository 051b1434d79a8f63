"""Character sets: misspelt terms are understood, of unknown ones only ASCII stays, and no name survives in another decoding."""

import dataclasses
import io
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.encoding.charset import Charset, canonical
from mdm_deid.rules.profile import SHIPPED
from pydicom.dataelem import RawDataElement

SET, NAME, MODEL, SERIES, SEQUENCE, INSIDE = 0x00080005, 0x00100010, 0x00081090, 0x0008103E, 0x00082218, 0x00080104


@pytest.mark.parametrize(
    "written, meant",
    [
        *((term, term) for term in ("ISO_IR 100", "ISO_IR 13", "ISO_IR 203", "ISO_IR 192", "GB18030", "GBK", "ISO 2022 IR 100")),
        *(
            (term, "ISO_IR 100")
            for term in ("ISO-IR 100", "ISO_IR_100", "iso_ir 100", "ISO IR 100", "ISO_IR100", "ISO8859-1", "iso-8859-1")
        ),
        *((term, "ISO_IR 100") for term in ("ISO_8859-1:1987", "8859-1", "latin1", "Latin-1", "ISO_IR 100 ", "ISO_IR 100\\ISO_IR 100")),
        *(
            (term, "ISO_IR 192")
            for term in (
                "UTF-8",
                "utf8",
                "iso_ir 192",
                "ISO-IR-192",
                "ISO 2022 IR 192",
                "\\ISO_IR 192",
                "UNICODE",
                "ISO_IR 192\\ISO_IR 100",
            )
        ),
        *((term, "GB18030") for term in ("GB18030 ", "gb-18030", "GB18030-2000", "ISO_IR GB18030")),
        *((term, "GBK") for term in ("gbk", "GB2312", "ISO 2022 GBK", "CP936")),
        *((term, "") for term in ("", " ", "ISO_IR 6", "ISO 2022 IR 6", "ASCII", "ISO_IR_6", "\\")),
        *((term, "ISO_IR 144") for term in ("ISO8859-5", "ISO-IR 144", "cyrillic")),
        *((term, "ISO_IR 166") for term in ("TIS-620", "ISO8859-11", "ISO-IR 166")),
        ("ISO 8859-15", "ISO_IR 203"),
        ("latin2", "ISO_IR 101"),
        ("\\ISO 2022 IR 87", "\\ISO 2022 IR 87"),
        (" \\ iso 2022 ir 87 ", "\\ISO 2022 IR 87"),
        ("ISO 2022 IR 6\\ ISO-2022-IR-87", "ISO 2022 IR 6\\ISO 2022 IR 87"),
        ("ISO_IR 6\\ISO_IR 87", "ISO 2022 IR 6\\ISO 2022 IR 87"),
        ("ISO 2022 IR 87", "ISO 2022 IR 6\\ISO 2022 IR 87"),
        ("ISO-2022-JP", "ISO 2022 IR 6\\ISO 2022 IR 87"),
        ("ISO 2022 58", "ISO 2022 IR 6\\ISO 2022 IR 58"),
        ("ISO_IR 13\\ISO_IR 87\\ISO_IR 159", "ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159"),
        ("ISO_IR 100\\ISO_IR 144", "ISO 2022 IR 100\\ISO 2022 IR 144"),
        *(
            (term, None)
            for term in ("XXX XXXX", "Not Supplied", "ISO_IR 199", "cp1251", "koi8-r", "Shift_JIS", "_", "ISO_IR 100\\FOO", "Zorgvliet")
        ),
        *((term, None) for term in ("ISO_IR 100\\ISO_IR 192", "GBK\\GB18030")),
    ],
)
def test_misspelt_terms_are_understood(written: str, meant: str | None) -> None:
    assert canonical(written) == meant
    assert meant is None or canonical(meant) == meant


@pytest.mark.parametrize("value", ["ISO_IR 100", "ISO 2022 IR 13\\ISO 2022 IR 87", "\\ISO 2022 IR 149", "ISO_IR 203", "GBK", ""])
def test_every_term_can_be_read_and_written(value: str) -> None:
    known = Charset(value)
    assert known.decode(b"CT") == "CT" and known.encode("CT") == b"CT"


def person(text: str, codec: str) -> bytes:
    return text.encode(codec)


def released(builder: Any, pseudonymiser: Pseudonymiser, name: str, elements: dict[int, bytes]) -> tuple[bytes, pydicom.Dataset]:
    """De-identify with the self-check, without quarantine by kind of image."""
    profile = dataclasses.replace(Profile.shipped(name), rules=())
    result = CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile).deidentify(builder.file(elements))
    assert result.outcome is Outcome.RELEASED, (result.reason, result.found)
    content = b"".join(result.data)
    return content, pydicom.dcmread(io.BytesIO(content))


def raw(dataset: pydicom.Dataset, tag: int) -> bytes | None:
    element = dataset.get_item(tag)
    if element is None:
        return None
    value = element.value if isinstance(element, RawDataElement) else str(element.value).encode("latin-1")
    return (value or b"").rstrip(b" \0")


LATIN, HAN, RUSSIAN = "Müßigbrodt^Jörg", "周杰蘭^美玲", "Щербакова^Алёна"


@pytest.mark.parametrize(
    "written, after, codec, name",
    [
        (b"ISO-IR 100", b"ISO_IR 100", "latin-1", LATIN),
        (b"latin1", b"ISO_IR 100", "latin-1", LATIN),
        (b"UTF-8", b"ISO_IR 192", "utf-8", HAN),
        (b"iso_ir 192", b"ISO_IR 192", "utf-8", RUSSIAN),
        (b"ISO-IR 144", b"ISO_IR 144", "iso8859_5", RUSSIAN),
        (b"gb18030", b"GB18030", "gb18030", HAN),
        (b"GB2312", b"GBK", "gbk", "周杰^美玲"),
        (b"ISO_IR_6", None, "ascii", "Zorgvliet^Quirine"),
        (b"XXX XXXX", None, "latin-1", LATIN),
        (b"cp1251", None, "cp1251", RUSSIAN),
        (b"Shift_JIS", None, "shift_jis", "山田^太郎"),
        (b"ISO_IR 100", b"ISO_IR 100", "utf-8", LATIN),
        (b"ISO_IR 192", b"ISO_IR 192", "latin-1", LATIN),
        (b"", None, "gbk", HAN),
        (None, None, "utf-8", HAN),
    ],
)
@pytest.mark.parametrize("profile", SHIPPED)
@pytest.mark.parametrize("depth", [0, 1])
def test_a_set_is_written_as_the_standard_spells_it_or_goes(
    builder: Any, pseudonymiser: Pseudonymiser, profile: str, written: bytes | None, after: bytes | None, codec: str, name: str, depth: int
) -> None:
    family = name.split("^")[0]
    texts = {MODEL: f"Model {family}", INSIDE: f"head {family.upper()}", SERIES: f"head {family}"}
    said = {} if written is None else {SET: builder.element(SET, "CS", written)}
    inside = b"".join(
        {**said, **{tag: builder.element(tag, "LO", texts[tag].encode(codec)) for tag in (INSIDE, MODEL)}}[tag]
        for tag in sorted({*said, INSIDE, MODEL})
    )
    elements = said if depth == 0 else {}
    elements = elements | {
        SEQUENCE: builder.element(SEQUENCE, "SQ", builder.item(inside if depth else inside.replace(said.get(SET, b"?"), b"")))
    }
    if depth == 0:
        elements |= {tag: builder.element(tag, "LO", texts[tag].encode(codec)) for tag in (MODEL, SERIES)}
        elements[NAME] = builder.element(NAME, "PN", name.encode(codec))
    else:
        # The patient's name stands in the item alone, in the item's own set.
        elements[0x00081140] = builder.element(
            0x00081140, "SQ", builder.item(said.get(SET, b"") + builder.element(NAME, "PN", name.encode(codec)))
        )
    content, output = released(builder, pseudonymiser, profile, elements)
    holder = output if depth == 0 else output.AnatomicRegionSequence[0] if profile != "strict" else None
    if holder is not None:
        assert raw(holder, SET) == after
    assert b"ANON" not in content.split(b"MDM ")[0].replace(b"ANONYMIZED", b"")
    for text in (family, family.lower(), family.upper()):
        for other in {codec, "utf-8", "latin-1", "utf-16-le", "gb18030", "iso8859_5"}:
            try:
                assert text.encode(other) not in content, other
            except UnicodeEncodeError:
                continue


@pytest.mark.parametrize("profile", SHIPPED)
def test_what_cannot_be_read_with_certainty_leaves_ascii_only(explicit: Any, pseudonymiser: Pseudonymiser, profile: str) -> None:
    """A reader without the character set must not see other signs than the writer meant."""
    elements = {
        SET: explicit.element(SET, "CS", b"MY OWN SET"),
        NAME: explicit.element(NAME, "PN", b"Zorgvliet^Quirine"),
        MODEL: explicit.element(MODEL, "LO", b"M\xe4del 5"),
        0x00181250: explicit.element(0x00181250, "SH", b"Coil \x1b$B;3ED"),
        0x00181030: explicit.element(0x00181030, "LO", b"head routine"),
    }
    content, output = released(explicit, pseudonymiser, profile, elements)
    assert SET not in output and output.get("ManufacturerModelName", "") == "" and output.get("ReceiveCoilName", "") == ""
    assert b"M\xe4del" not in content and b"\x1b$" not in content
    assert profile not in ("research", "neuro") or output.ProtocolName == "head routine"


def jis(text: str) -> bytes:
    return b"^".join(part.encode("iso2022_jp") for part in text.split("^"))


@pytest.mark.parametrize("declared", [None, b"ISO_IR 100", b"ISO 2022 IR 87", b"\\ISO 2022 IR 87", b"MINE"])
@pytest.mark.parametrize("profile", SHIPPED)
def test_escape_sequences_hide_no_name_from_text_in_another_set(
    explicit: Any, pseudonymiser: Pseudonymiser, profile: str, declared: bytes | None
) -> None:
    """Text in escape sequences is ASCII byte by byte, but says something else."""
    unicode = explicit.element(SET, "CS", b"ISO_IR 192") + explicit.element(INSIDE, "LO", "頭部 山田".encode())
    elements = {} if declared is None else {SET: explicit.element(SET, "CS", declared)}
    elements |= {
        NAME: explicit.element(NAME, "PN", b"Yamada^Tarou=" + jis("山田^太郎")),
        MODEL: explicit.element(MODEL, "LO", b"Model " + jis("山田")),
        SEQUENCE: explicit.element(SEQUENCE, "SQ", explicit.item(unicode)),
    }
    content, _ = released(explicit, pseudonymiser, profile, elements)
    assert "山田".encode() not in content and jis("山田")[3:7] not in content


def test_a_name_whose_writer_did_not_return_to_ascii_is_known_all_the_same(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    elements = {
        SET: explicit.element(SET, "CS", b"\\ISO 2022 IR 87"),
        NAME: explicit.element(NAME, "PN", b"Yamada^Tarou=\x1b$B;3ED^B@O:"),
        MODEL: explicit.element(MODEL, "LO", b"Model " + jis("太郎")),
    }
    content, _ = released(explicit, pseudonymiser, "basic", elements)
    assert b"B@O:" not in content


def test_utf_8_under_another_name_is_not_searched_as_what_it_is_called(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    """Read as Latin-1, capital and small letters of a name in UTF-8 have nothing in common."""
    elements = {
        SET: explicit.element(SET, "CS", b"ISO_IR 100"),
        NAME: explicit.element(NAME, "PN", "Žižková^Ludmila".encode()),
        MODEL: explicit.element(MODEL, "LO", "Model ŽIŽKOVÁ".encode()),
    }
    content, _ = released(explicit, pseudonymiser, "basic", elements)
    assert "ŽIŽKOVÁ".encode() not in content


@pytest.mark.parametrize("place", ["late", "twice"])
def test_a_set_that_comes_late_or_twice_in_an_item_is_refused(builder: Any, basic: Deidentifier, place: str) -> None:
    text, own = builder.element(INSIDE, "LO", b"head"), builder.element(SET, "CS", b"ISO_IR 192")
    item = builder.item(text + own if place == "late" else own + builder.element(SET, "CS", b"ISO_IR 100") + text)
    result = basic.deidentify(builder.file({SEQUENCE: builder.element(SEQUENCE, "SQ", item)}))
    assert (result.outcome, result.reason) == (Outcome.FAILED, "late_character_set")


def test_the_set_of_an_item_ends_with_it(builder: Any, pseudonymiser: Pseudonymiser) -> None:
    own = builder.element(SET, "CS", b"ISO-IR 144") + builder.element(INSIDE, "LO", "голова".encode("iso8859_5"))
    elements = {
        SET: builder.element(SET, "CS", b"UTF-8"),
        NAME: builder.element(NAME, "PN", "Žižková^Ludmila".encode()),
        SEQUENCE: builder.element(SEQUENCE, "SQ", builder.item(own) + builder.item(builder.element(INSIDE, "LO", "Schädel".encode()))),
        SERIES: builder.element(SERIES, "LO", "Schädel nativ".encode()),
    }
    _, output = released(builder, pseudonymiser, "research", elements)
    assert output.SeriesDescription == "Schädel nativ"
    assert [item.CodeMeaning for item in output.AnatomicRegionSequence] == ["голова", "Schädel"]


@pytest.mark.parametrize("fault", ["truncated", "stray item"])
@pytest.mark.parametrize("profile", ["research", "neuro"])
def test_the_set_of_an_item_ends_with_it_in_a_malformed_sequence_too(
    builder: Any, pseudonymiser: Pseudonymiser, profile: str, fault: str
) -> None:
    """The sequence is taken away, and read no further than its fault; text after it is in the file's set."""
    own = builder.element(SET, "CS", b"ISO_IR 144") + builder.element(0x00100020, "LO", "Щербакова".encode("iso8859_5"))
    item = builder.item(own[:-4]) if fault == "truncated" else builder.item(own + builder.item(b""))
    elements = {
        SET: builder.element(SET, "CS", b"ISO_IR 192"),
        NAME: builder.element(NAME, "PN", "Žižková^Ludmila".encode()),
        # No word that stands in an output anyway: for such a one the file would be gone through again, and read from the start.
        0x00100020: builder.element(0x00100020, "LO", b"77341Q"),
        0x00101002: builder.element(0x00101002, "SQ", item),
        0x00181030: builder.element(0x00181030, "LO", "Schädel Žižková nativ".encode()),
    }
    content, output = released(builder, pseudonymiser, profile, elements)
    assert output.ProtocolName == "Schädel [...] nativ"
    assert 0x00101002 not in output and "Щербакова".encode("iso8859_5") not in content


@pytest.mark.parametrize("written", [b"ISO-IR 192", b"ISO_IR 192"])
def test_pseudonyms_do_not_depend_on_how_misspelt_sets_are_understood(explicit: Any, pseudonymiser: Pseudonymiser, written: bytes) -> None:
    elements = {SET: explicit.element(SET, "CS", written), 0x00100020: explicit.element(0x00100020, "LO", "ä1".encode())}
    _, output = released(explicit, pseudonymiser, "basic", elements)
    read = {b"ISO-IR 192": "latin-1", b"ISO_IR 192": "utf-8"}[written]
    assert output.PatientID == pseudonymiser.patient("ä1".encode().decode(read))


@pytest.mark.parametrize("declared, codec", [(b"ISO 2022 IR 100", "latin-1"), (b"ISO 2022 IR 100\\ISO 2022 IR 144", "latin-1")])
def test_text_of_the_first_set_can_be_shortened(explicit: Any, pseudonymiser: Pseudonymiser, declared: bytes, codec: str) -> None:
    elements = {
        SET: explicit.element(SET, "CS", declared),
        NAME: explicit.element(NAME, "PN", "Müller^Jörg".encode(codec)),
        SERIES: explicit.element(SERIES, "LO", "Schädel Müller nativ".encode(codec)),
    }
    content, _ = released(explicit, pseudonymiser, "research", elements)
    assert "Schädel [...] nativ".encode(codec) in content
