"""What the header names is not found in attributes that stay, of whatever kind they are and in whatever alphabet."""

import io
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome

NAME, NUMBER = b"zwickelmann", b"7781234"
COIL, CODE, REGION, LUTS, SHARED = 0x00181250, 0x00080104, 0x00082218, 0x00283010, 0x52009229


@pytest.fixture(scope="session", params=["basic", "strict", "research"])
def any_profile(request: pytest.FixtureRequest, unjudged: Deidentifier, strict: Deidentifier, research: Deidentifier) -> Deidentifier:
    return {"basic": unjudged, "strict": strict, "research": research}[request.param]


def left(deidentifier: Deidentifier, content: bytes) -> bytes:
    result = deidentifier.deidentify(content)
    assert result.outcome is Outcome.RELEASED, result.reason
    return b"".join(result.data).lower()


@pytest.mark.parametrize(
    "tag, vr, value",
    [
        (0x00080005, "CS", b"ISO_IR 100\\ZWICKELMANN"),
        (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\ZWICKELMANN"),
        (0x00080060, "CS", b"ZWICKELMANN"),
        (0x00180015, "CS", b"ZWICKELMANN"),
        (0x00080030, "TM", b"Zwickelmann"),
        (0x00080201, "SH", b"Zwickelmann"),
        (0x00080020, "DA", b"Zwickelmann"),
        (0x0008002A, "DT", b"Zwickelmann"),
        (0x00100040, "CS", b"ZWICKELMANN"),
        (0x00101010, "AS", b"Zwickelmann"),
        (0x00101020, "DS", b"Zwickelmann"),
        (0x00181250, "SH", b"Zwick\0elmann"),
        (0x00189073, "FD", b"Zwickelmann     "),
        (0x00200011, "IS", b"7781234"),
        (0x00180050, "DS", b"7781234.0"),
        (0x0020000E, "UI", b"Zwickelmann"),
        (0x00081150, "UI", b"1.2.840.10008.778.1234.7781234"),
        (0x00280009, "AT", b"Zwickelmann "),
        (0x00280010, "US", b"Zwickelmann "),
        (0x00281201, "OW", b"Z\0w\0i\0c\0k\0e\0l\0m\0a\0n\0n\0"),
        (0x00282000, "OB", b"..Zwickelmann"),
        (0x00540400, "SH", b"Anybody"),
        (0x7FE00001, "OV", b"Zwickelmann ABCD"),
        (0x7FE00020, "OW", b"anybody."),
        (0x00190010, "LO", b"Zwickelmann"),
    ],
)
def test_no_attribute_that_stays_holds_a_name_or_number(explicit: Any, any_profile: Deidentifier, tag: int, vr: str, value: bytes) -> None:
    """At the top level and in a sequence; the values of two attributes are gone though they name nobody the header knows."""
    element = explicit.element(tag, vr, value)
    known = {
        0x00100010: explicit.element(0x00100010, "PN", b"Zwickelmann^Hektor"),
        0x00100020: explicit.element(0x00100020, "LO", NUMBER),
    }
    for place in ({tag: element}, {SHARED: explicit.element(SHARED, "SQ", explicit.item(element))}):
        output = left(any_profile, explicit.file(known | place))
        for value in (NAME, NUMBER, b"anybody", b"778.1234", b"z\0w\0i\0c\0k", b"elmann"):
            assert value not in output, value


def test_pixel_data_in_an_item_is_not_passed_on(explicit: Any, any_profile: Deidentifier) -> None:
    pixels = explicit.element(0x7FE00010, "OW", b"a small copy")
    assert b"a small copy" not in left(any_profile, explicit.file({SHARED: explicit.element(SHARED, "SQ", explicit.item(pixels))}))


def test_text_in_the_place_of_a_safe_private_number_goes(explicit: Any, research: Deidentifier) -> None:
    elements = {
        0x00190010: explicit.element(0x00190010, "LO", b"SIEMENS MR HEADER"),
        0x0019100C: explicit.element(0x0019100C, "UN", b"Anybody "),
    }
    assert b"anybody" not in left(research, explicit.file(elements))


def escaped(text: str, codec: str, escape: bytes) -> bytes:
    return escape + text.encode(codec)


@pytest.mark.parametrize(
    "charset, name, text, gone",
    [
        (b"GB18030", "王^小东".encode("gb18030"), "王小东 coil".encode("gb18030"), "王小东".encode("gb18030")),
        (b"ISO_IR 192", "Müllereisen^Jörg".encode(), "MÜLLEREISEN coil".encode(), b"llereisen"),
        (b"ISO_IR 100", "Müllereisen^Jörg".encode("latin-1"), "MÜLLEREISEN".encode("latin-1"), b"llereisen"),
        (b"ISO_IR 100", "Müllereisen^Jörg".encode(), "MÜLLEREISEN".encode("latin-1"), b"llereisen"),
        (b"ISO_IR 192", "Müllereisen^Jörg".encode("latin-1"), "Müllereisen".encode("latin-1"), b"llereisen"),
        (b"", "Müllereisen^Jörg".encode("latin-1"), "Müllereisen".encode("latin-1"), b"llereisen"),
        (b"ISO_IR 100", b"Muellerheim^A", "Müllerheim".encode("latin-1"), b"llerheim"),
        (b"ISO_IR 192", b"Zwickelmann^H", "Zwick\u200belmann".encode(), b"elmann"),
        (b"ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ".encode("shift_jis"), "ﾔﾏﾀﾞ c".encode("shift_jis"), "ﾔﾏﾀﾞ".encode("shift_jis")),
        (b"ISO_IR 144", "Иванов^Иван".encode("iso8859_5"), "ИВАНОВ".encode("iso8859_5"), "ВАНОВ".encode("iso8859_5")),
        (b"ISO_IR 127", "قباني^لنزار".encode("iso8859_6"), "قباني".encode("iso8859_6"), "باني".encode("iso8859_6")),
        (b"ISO_IR 166", "สมชาย^ดี".encode("tis_620"), "สมชาย c".encode("tis_620"), "สมชาย".encode("tis_620")),
        (b"\\ISO 2022 IR 87", b"Yamada^T=" + "山田^太".encode("iso2022_jp"), "山田 c".encode("iso2022_jp"), b";3ed"),
        (b"\\ISO 2022 IR 87", b"Yamada^T=" + "山田^太".encode("iso2022_jp"), "山田".encode(), "山田".encode()),
        # The name's second part lacks the escape sequence that the standard wants anew, so the name cannot be read.
        (b"\\ISO 2022 IR 149", escaped("洪^吉洞", "euc_kr", b"\x1b$)C"), escaped("吉洞", "euc_kr", b"\x1b$)C"), "吉洞".encode("euc_kr")),
    ],
)
def test_no_alphabet_hides_a_name(explicit: Any, any_profile: Deidentifier, charset: bytes, name: bytes, text: bytes, gone: bytes) -> None:
    elements = {
        0x00080005: explicit.element(0x00080005, "CS", charset),
        0x00100010: explicit.element(0x00100010, "PN", name),
        COIL: explicit.element(COIL, "SH", text),
        REGION: explicit.element(REGION, "SQ", explicit.item(explicit.element(CODE, "LO", text))),
    }
    assert gone.lower() not in left(any_profile, explicit.file(elements))


def test_an_item_with_a_character_set_of_its_own_is_read_by_it(explicit: Any, any_profile: Deidentifier) -> None:
    inside = explicit.element(0x00080005, "CS", b"ISO_IR 144") + explicit.element(0x00100010, "PN", "Иванов".encode("iso8859_5"))
    elements = {
        0x00080005: explicit.element(0x00080005, "CS", b"ISO_IR 192"),
        COIL: explicit.element(COIL, "SH", "coil Иванов".encode()),
        SHARED: explicit.element(SHARED, "SQ", explicit.item(inside)),
    }
    assert "Иванов".encode().lower() not in left(any_profile, explicit.file(elements))


def test_a_three_letter_name_is_found(explicit: Any, any_profile: Deidentifier) -> None:
    elements = {0x00100010: explicit.element(0x00100010, "PN", b"Doe^Eve"), COIL: explicit.element(COIL, "SH", b"Eve coil")}
    assert b"eve coil" not in left(any_profile, explicit.file(elements))


def test_codes_of_the_standard_stay_though_a_patient_is_called_like_them(explicit: Any, basic: Deidentifier) -> None:
    elements = {
        0x00080008: explicit.element(0x00080008, "CS", b"ORIGINAL\\PRIMARY\\VOLUME"),
        0x00100010: explicit.element(0x00100010, "PN", b"Volume^Primary"),
    }
    assert b"original\\primary\\volume" in left(basic, explicit.file(elements))


def test_text_outside_ascii_that_names_nobody_stays(explicit: Any, basic: Deidentifier) -> None:
    elements = {
        0x00080005: explicit.element(0x00080005, "CS", b"ISO_IR 192"),
        0x00100010: explicit.element(0x00100010, "PN", b"Zwickelmann^Hektor"),
        COIL: explicit.element(COIL, "SH", "Größe 3".encode()),
    }
    assert "Größe 3".encode().lower() in left(basic, explicit.file(elements))


def test_strict_keeps_codes_that_are_terms_and_no_others(builder: Any, strict: Deidentifier) -> None:
    elements = {
        0x00080008: builder.element(0x00080008, "CS", b"ORIGINAL\\PRIMARY\\BERTA HUGO\\MPR"),
        0x00080060: builder.element(0x00080060, "CS", b"CT"),
        0x00180015: builder.element(0x00180015, "CS", b"LOTTE HUBER"),
        0x00185101: builder.element(0x00185101, "CS", b"AP"),
        0x00200060: builder.element(0x00200060, "CS", b"L"),
    }
    result = strict.deidentify(builder.file(elements))
    output = pydicom.dcmread(io.BytesIO(b"".join(result.data)))
    assert output.ImageType == ["ORIGINAL", "PRIMARY", "", "MPR"]
    assert not output.get("BodyPartExamined")
    assert output.ViewPosition == "AP"
    breast = "1.2.840.10008.5.1.4.1.1.1.2"
    demanded = {0x00281300: builder.element(0x00281300, "CS", b"YES"), 0x00080068: builder.element(0x00080068, "CS", b"BERTA")}
    assert b"berta" not in left(strict, builder.file(demanded, breast))
