"""Text that is kept under Clean Descriptors says nothing of whom the header names, however it is written."""

import io
import re
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_deid import Deidentifier, Profile, Pseudonymiser
from mdm_deid.text.cleaner import Cleaner
from mdm_deid.text.identity import fold, identity, words
from mdm_deid.text.vocabulary import vocabulary

HEADER = frozenset(
    {
        (b"PN", "DOE^JOHN^ROBERT"),
        (b"PN", "Müller-Lüdenscheidt^Anna^^Dr."),
        (b"PN", "Ng^Li"),
        (b"PN", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (b"LO", "HA-0047-1182"),
        (b"SH", "000471"),
        (b"SH", "ACC2004X77"),
        (b"LO", "St. Elsewhere General Hospital, Harbour Road"),
        (b"DA", "19630412"),
        (b"DA", "20040119"),
    }
)
CLEANER = Cleaner(identity(HEADER, False), dates_stay=False, ages_stay=False)


@pytest.mark.parametrize(
    "text, gone",
    [
        ("Knee of john doe left", "doe john"),
        ("KNEE J. DOE", "doe j."),
        ("Doe, John MD", "doe john md"),
        ("DOE^JOHN", "doe john"),
        ("doe_john_t2", "doe john"),
        ("JohnDoe T2", "john doe"),
        ("jdoe scan", "doe"),
        ("doej scan", "doe"),
        ("J D O E", "d o e"),
        ("j.o.h.n d-o-e", "j.o.h.n d-o-e"),
        ("D*O*E", "d*o*e"),
        ("DoeT2", "doe"),
        ("T2DOE", "doe"),
        ("Johns knee", "john"),
        ("xxJOHNxx", "john"),
        ("J.R. Doe", "j.r. doe"),
        ("initials J.D.", "j.d."),
        ("D. J. seen", "d. j."),
        ("Muller", "muller"),
        ("MUELLER", "mueller"),
        ("Mu\u0308ller", "ller"),
        ("Luedenscheidt", "luedenscheidt"),
        ("mullerludenscheidt", "muller"),
        ("ＤＯＥ ＪＯＨＮ", "ＤＯＥ ＪＯＨＮ"),
        ("D\u200boe", "oe"),
        ("Ng chest", "ng"),
        ("山田太郎 CT", "山田 太郎"),
        ("やまだ", "やまだ"),
        ("tarou", "tarou"),
        ("id HA-0047-1182", "0047 1182"),
        ("HA00471182", "1182"),
        ("ha 0047 1182", "1182"),
        ("471182", "471182"),
        ("4-7-1-1-8-2", "4-7-1"),
        ("no 1182", "1182"),
        ("acc2004x77", "acc2004x77"),
        ("ACC-2004-X-77", "acc"),
        ("Elsewhere protocol", "elsewhere"),
        ("HARBOUR head", "harbour"),
        ("born 12.04.1963", "12.04 1963"),
        ("born 12/4/63", "12/4/63"),
        ("4/12/1963", "1963"),
        ("12 APR 1963", "apr 1963"),
        ("April 12th, 1963", "april 1963"),
        ("12. April 63", "april 63"),
        ("1963-04-12", "1963 04-12"),
        ("19630412", "19630412"),
        ("12041963", "12041963"),
        ("120463", "120463"),
        ("1 2 0 4 1 9 6 3", "1 2 0 4"),
        ("since 1963", "1963"),
        ("compare 03.11.2001", "2001 03.11"),
        ("compare Nov 2001", "nov 2001"),
        ("15-mars-2002", "mars 2002"),
        ("at 14:35", "14:35"),
        ("41 years old", "41"),
        ("41yo male", "41"),
        ("aged 41", "41"),
        ("093Y", "093"),
        ("Dr. Smith asked", "smith"),
        ("Prof Karl Meier", "karl meier"),
        ("referred by Schmidt", "schmidt"),
        ("Name: Peter Parker", "peter parker"),
        ("Frau Lehmann", "lehmann"),
        ("Alice Cooper MD", "alice cooper"),
        ("COOPER^ALICE", "cooper alice"),
        ("call 555-0123-456", "555 0123"),
        ("mail a.b@c.org", "a.b@ c.org"),
        ("see https://pacs.local/x?id=1", "pacs.local"),
        ("on \\\\server\\share", "server share"),
        ("uid 1.2.840.113619.2.55.3", "113619"),
        ("host 10.0.12.7", "10.0.12.7"),
        ("mrn 12345678", "12345678"),
        ("J0HN D0E", "j0hn d0e"),
        ("D\u043ee", "\u043e"),
        ("J\u2010o\u2010h\u2010n", "\u2010"),
        ("tech: bob", "bob"),
        ("Patient: Xavier Zed", "xavier zed"),
        ("F41 knee", "41"),
        ("41M", "41"),
        ("born '63", "63"),
        ("x 0471", "471"),
    ],
)
def test_what_the_header_names_is_gone(text: str, gone: str) -> None:
    left = CLEANER.clean(text).casefold()
    for word in gone.split():
        assert word not in left, left


@pytest.mark.parametrize(
    "text",
    [
        "CT ABDOMEN W/O CONTRAST",
        "t2_tse_tra_p2_320",
        "AX T1 POST 3mm",
        "Thorax 1.5 B70f 512x512",
        "Liver: 2 lesions (segment IV), 12 mm",
        "MR HEAD 120kV 250mAs",
        "Schädel nativ",
        "T1_MPRAGE_sag_p2_iso",
        "ep2d_diff_mddw_30dir_b1000_TRACEW",
        "CAP w contrast 5.0 B31f",
        "ThorRoutine  5.0  I31f  3",
        "rs-fMRI BOLD TR2000",
        "AAHead_Scout_MPR_cor",
        "localizer_haste_3-plane",
        "Patient complains of headache since two weeks, rule out tumor",
        "LEFT knee, supine",
        "PE_DE_0.75_D30f",
        "FLAIR sag TE 120 TR 9000",
        "Patient: supine",
        "C5-C6, L3/L4, T2W",
        "2019 protocol v2.1.3, 64x0.6mm",
        "KM 100ml Ultravist 370, 3 \u03bcm",
    ],
)
def test_what_names_nobody_stays(text: str) -> None:
    assert CLEANER.clean(text) == text


@pytest.mark.parametrize(
    "text, left",
    [
        ("lives at 2DA41B8C0E street", ""),
        ("seen with Aunt Berta", "seen with Aunt [...]"),
        ("12 Main Street", ""),
        ("Hauptstrasse 5 head", "[...] head"),
        ("J. van der Berg asked", "[...] asked"),
        ("ward K1234, AB12CD34, A1B2C3", "ward [...]"),
        ("Yevgeniya left knee", "[...] left knee"),
        ("胸部 王小东", "胸部 [...]"),
        ("rose williams knee", "[...] knee"),
        ("Κώστας head", "[...] head"),
    ],
)
def test_a_word_that_is_not_of_the_trade_is_removed_though_the_header_does_not_have_it(text: str, left: str) -> None:
    assert CLEANER.clean(text) == left


@settings(max_examples=300, deadline=None)
@given(
    word=st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1, max_size=24),
    around=st.sampled_from(["%s", "lives at %s street", "CT %s", "knee, %s left", "T2_%s_3mm"]),
)
def test_every_word_that_is_left_is_a_known_one_or_has_at_most_four_digits(word: str, around: str) -> None:
    for left in re.findall(r"[^\W_]+", CLEANER.clean(around % word)):
        for part in re.findall(r"[^\W\d_]{2,}", left):
            whole = fold(part)
            pieces = re.findall(r"[A-Z]+(?![a-z])|.[a-z]*", part)
            assert {whole, whole.removesuffix("s")} & vocabulary() or all(fold(piece) in vocabulary() for piece in pieces), left
        assert len(re.sub(r"\D", "", left)) <= 8


def test_the_vocabulary_has_no_names() -> None:
    assert vocabulary() & words("names") == set()
    assert {"street", "knee", "contrast", "schadel"} <= vocabulary()


def test_text_that_cannot_be_judged_is_removed() -> None:
    nobody = Cleaner(identity(frozenset({(b"LO", "Radiology"), (b"PN", "Anonymous")}), False), dates_stay=False, ages_stay=False)
    assert nobody.clean("CT ABDOMEN") == ""
    assert CLEANER.clean("CT\x00ABDOMEN\x1b") == ""
    assert CLEANER.clean("a b " * 5000) == ""


def test_dates_and_ages_stay_where_an_option_keeps_them_but_not_the_birthday_or_a_great_age() -> None:
    keeping = Cleaner(identity(HEADER, True), dates_stay=True, ages_stay=True)
    assert keeping.clean("compare 03.11.2001, 41 years") == "compare 03.11.2001, 41 years"
    assert "1963" not in keeping.clean("born 12.04.1963")
    assert "12" not in keeping.clean("born April 12 1963")
    assert "93" not in keeping.clean("93 years old")


@pytest.mark.timeout(60)
def test_a_hostile_text_is_cleaned_in_one_pass() -> None:
    """Each would take minutes if a pattern went back over what it has seen, and the time-out would end the test."""
    for text in ("1." * 8000, "a" * 16000, "^" * 16000, "1-" * 8000, "j " * 8000, "Dr " * 5000, "@" * 16000, "/a" * 8000, "1 " * 8000):
        assert len(CLEANER.clean(text)) <= len(text)


separators = st.text(alphabet=" -_.,/^'\t", min_size=0, max_size=2)


@settings(max_examples=150, deadline=None)
@given(
    names=st.permutations(["Doe", "John", "Robert"]),
    gaps=st.lists(separators, min_size=3, max_size=3),
    style=st.sampled_from([str.upper, str.lower, str.title, str.swapcase]),
    around=st.sampled_from(["%s", "CT %s", "%s knee", "T2 %s 3mm", "(%s)"]),
)
def test_no_order_case_or_separator_saves_a_name(names: list[str], gaps: list[str], style: Any, around: str) -> None:
    written = around % "".join(style(name) + gap for name, gap in zip(names, gaps, strict=True))
    left = fold(CLEANER.clean(written))
    assert not any(name in left for name in ("doe", "john", "robert")), (written, left)


def read(result: Any) -> pydicom.Dataset:
    assert result.data is not None, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


def test_a_files_descriptions_lose_what_its_header_names(builder: Any, research: Deidentifier) -> None:
    nested = builder.item(builder.element(0x00400007, "LO", b"step for Doe, J. knee"))
    elements = {
        0x00081030: builder.element(0x00081030, "LO", b"Knee of JOHN DOE left"),
        0x0008103E: builder.element(0x0008103E, "LO", b"John"),
        0x00081048: builder.element(0x00081048, "PN", b"Strange^Stephen"),
        0x00100010: builder.element(0x00100010, "PN", b"Doe^John"),
        0x00204000: builder.element(0x00204000, "LT", b"asked by strange, s."),
        0x00400275: builder.element(0x00400275, "SQ", nested),
        # Neither is a row of the table: an attribute's own vocabulary is left alone unless it repeats a name.
        0x00181180: builder.element(0x00181180, "SH", b"DOE'S GRID"),
        0x00185100: builder.element(0x00185100, "CS", b"HFS"),
    }
    output = read(research.deidentify(builder.file(elements)))
    assert output.StudyDescription == "Knee of [...] left"
    assert "SeriesDescription" not in output
    assert output.ImageComments == "asked by [...]"
    assert output.RequestAttributesSequence[0].ScheduledProcedureStepDescription == "step for [...] knee"
    assert output.PatientPosition == "HFS"


def test_what_stays_anywhere_does_not_repeat_a_name(builder: Any, basic: Deidentifier) -> None:
    inside = builder.item(builder.element(0x00080104, "LO", b"scan of Smithers-Jones"))
    elements = {
        0x00100010: builder.element(0x00100010, "PN", b"Smithers-Jones^Indiana"),
        0x00080070: builder.element(0x00080070, "LO", b"smithers.jones imaging"),
        0x00180015: builder.element(0x00180015, "CS", b"SMITHERS"),
        0x00185100: builder.element(0x00185100, "CS", b"HFS"),
        0x00082218: builder.element(0x00082218, "SQ", inside),
    }
    output = read(basic.deidentify(builder.file(elements)))
    assert output.Manufacturer == "[...] imaging"
    assert "BodyPartExamined" not in output
    assert output.AnatomicRegionSequence[0].CodeMeaning == "scan of [...]"
    assert output.PatientPosition == "HFS"


def korean(text: str) -> bytes:
    """Return text in ISO 2022 IR 149, announced anew after each delimiter (PS3.5 annex I)."""
    return b"^".join(b"\x1b$)C" + part.encode("euc_kr") for part in text.split("^"))


def kanji(text: str) -> bytes:
    """Return text in ISO 2022 IR 87 (PS3.5 annex H)."""
    return b"^".join(part.encode("iso2022_jp") for part in text.split("^"))


@pytest.mark.parametrize(
    "charset, name, text, left",
    [
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Knie von JÖRG MÜLLER".encode("latin-1"), "Knie [...]"),
        (b"ISO_IR 192", "Müller^Jörg".encode(), b"Knie Mueller", "Knie [...]"),
        (b"ISO_IR 192", "Иванов^Иван".encode(), "КТ ИВАНОВА".encode(), "КТ [...]"),
        (b"ISO_IR 144", "Иванов^Иван".encode("iso8859_5"), "КТ иванов".encode("iso8859_5"), "КТ [...]"),
        (b"", b"Doe^John", "Schädel".encode("latin-1"), None),
        (b"\\ISO 2022 IR 149", b"Hong^Gildong=" + korean("洪^吉洞") + b"=" + korean("홍^길동"), b"CT " + korean("홍길동"), "CT [...]"),
        (b"\\ISO 2022 IR 149", b"Hong^Gildong", b"knee of gildong left", "knee of [...] left"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87", b"Yamada^Tarou=" + kanji("山田^太郎"), b"CT " + kanji("山田"), "CT [...]"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87", b"Yamada^Tarou=" + kanji("山田^太郎"), b"CT " + kanji("胸部"), "CT 胸部"),
        (b"GB18030", "王^小东".encode("gb18030"), "CT 王小东".encode("gb18030"), "CT [...]"),
    ],
)
def test_names_are_found_in_every_character_set(
    builder: Any, research: Deidentifier, charset: bytes, name: bytes, text: bytes, left: str | None
) -> None:
    elements = {
        0x00080005: builder.element(0x00080005, "CS", charset),
        0x00081030: builder.element(0x00081030, "LO", text),
        0x00100010: builder.element(0x00100010, "PN", name),
    }
    assert read(research.deidentify(builder.file(elements))).get("StudyDescription") == left


@pytest.mark.parametrize("damaged", ["M?ller", "Mller", "M_ller", "M\ufffdller", "M\u00c3\u00bcller", "M\u00fcller", "Mueller", "Muller"])
def test_a_name_whose_accents_were_lost_is_found_in_what_stays(basic: Deidentifier, explicit: Any, damaged: str) -> None:
    elements = {
        0x00080005: explicit.element(0x00080005, "CS", b"ISO_IR 192"),
        0x00081090: explicit.element(0x00081090, "LO", f"Scan {damaged}".encode()),
        0x00100010: explicit.element(0x00100010, "PN", "M\u00fcller^J\u00f6rg".encode()),
    }
    output = pydicom.dcmread(io.BytesIO(b"".join(basic.deidentify(explicit.file(elements)).data or [])))
    assert "ller" not in output.ManufacturerModelName


def test_names_are_learnt_from_what_is_removed_at_any_depth(builder: Any, research: Deidentifier) -> None:
    original = builder.item(builder.element(0x00100010, "PN", b"Formerly^Known"))
    modified = builder.element(0x04000550, "SQ", original)
    elements = {
        0x04000561: builder.element(0x04000561, "SQ", builder.item(modified)),
        0x00081030: builder.element(0x00081030, "LO", b"Knee FORMERLY left"),
    }
    assert read(research.deidentify(builder.file(elements))).StudyDescription == "Knee [...] left"


def test_a_retained_institution_may_be_told(builder: Any, pseudonymiser: Pseudonymiser) -> None:
    retained = Profile("x", frozenset({"clean_descriptors", "retain_institution_identity"}))
    elements = {
        0x00080080: builder.element(0x00080080, "LO", b"Vitreous Clinic"),
        0x00081030: builder.element(0x00081030, "LO", b"Vitreous knee"),
    }
    content = builder.file(elements)
    assert read(Deidentifier(retained, pseudonymiser).deidentify(content)).StudyDescription == "Vitreous knee"
    plain = Profile("x", frozenset({"clean_descriptors"}))
    assert read(Deidentifier(plain, pseudonymiser).deidentify(content)).StudyDescription == "[...] knee"
