"""Every row of table E.1-1, planted as a canary wherever a data set can hold it, must be gone from the output."""

import io
import re
from collections.abc import Iterable
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mdm_deid import Deidentifier, Outcome
from mdm_deid.rules.table import Row, load_rows
from pydicom.datadict import dictionary_VR

SHARED, PER_FRAME, PRIVATE_SQ = 0x52009229, 0x52009230, 0x00291010
CLASSES = {"ct": "1.2.840.10008.5.1.4.1.1.2", "enhanced-mr": "1.2.840.10008.5.1.4.1.1.4.1", "retired": "1.2.840.10008.5.1.4.1.1.5"}
CANARY = re.compile(rb"CNRY[0-9A-F]{8}|9\.8765\.\d+")
KEPT_CODE_VALUE = 0x00080100


def vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "LO"


def canary(tag: int) -> bytes:
    return b"9.8765.%d" % tag if vr_of(tag) == "UI" else b"CNRY%08XCNRY" % tag


def plant(builder: Any, tag: int) -> bytes:
    """Return the element with its canary; in a sequence, inside an item and an attribute that is itself kept."""
    if vr_of(tag) == "SQ":
        if "U" in dict(actions())[tag]:
            return builder.element(tag, "SQ", builder.item(builder.element(0x00081155, "UI", b"9.8765.%d" % tag)))
        return builder.element(tag, "SQ", builder.item(builder.element(KEPT_CODE_VALUE, "SH", canary(tag))))
    return builder.element(tag, vr_of(tag), canary(tag))


def actions() -> Iterable[tuple[int, str]]:
    return ((row.tag, row.basic) for row in load_rows())


def all_rows(builder: Any, rows: Iterable[Row], skip_group_2: bool = False) -> dict[int, bytes]:
    return {row.tag: plant(builder, row.tag) for row in rows if not (skip_group_2 and row.tag >> 16 == 2)}


def leaks(deidentifier: Deidentifier, content: bytes) -> set[bytes]:
    """Return the canaries in the output, in its plain bytes (inflated if need be)."""
    result = deidentifier.deidentify(content)
    assert result.outcome is Outcome.RELEASED, result.reason
    output = b"".join(result.data)
    if b"1.2.840.10008.1.2.1.99" in output[:400]:
        plain = io.BytesIO()
        dataset = pydicom.dcmread(io.BytesIO(output))
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.save_as(plain, implicit_vr=False, little_endian=True)
        output = plain.getvalue()
    return set(CANARY.findall(output))


def joined(elements: dict[int, bytes]) -> bytes:
    return b"".join(elements[tag] for tag in sorted(elements))


@pytest.fixture(params=list(CLASSES))
def sop_class(request: pytest.FixtureRequest) -> str:
    return CLASSES[request.param]


def test_the_table_is_complete() -> None:
    rows = load_rows()
    assert len(rows) == 652
    assert {row.basic for row in rows} == {"X", "Z", "D", "U", "X/Z", "X/D", "Z/D", "X/Z/D", "X/Z/U*"}


def test_no_row_survives_at_the_top_level(builder: Any, closed: Deidentifier, sop_class: str) -> None:
    planted = all_rows(builder, load_rows(), skip_group_2=True)
    content = builder.file(planted, sop_class)
    if builder.name != "deflated":
        assert len(set(CANARY.findall(content))) == len(planted)
    assert leaks(closed, content) == set()


@pytest.mark.parametrize("undefined", [False, True])
def test_no_row_survives_in_a_standard_sequence(builder: Any, closed: Deidentifier, sop_class: str, undefined: bool) -> None:
    inside = builder.item(joined(all_rows(builder, load_rows())), undefined)
    twice = builder.item(builder.element(SHARED, "SQ", inside, undefined), undefined)
    content = builder.file({PER_FRAME: builder.element(PER_FRAME, "SQ", twice, undefined)}, sop_class)
    assert leaks(closed, content) == set()


@pytest.mark.parametrize("vr", ["SQ", "UN"])
@pytest.mark.parametrize("undefined", [False, True])
def test_no_row_survives_in_a_private_sequence(
    builder: Any, implicit: Any, closed: Deidentifier, research: Deidentifier, vr: str, undefined: bool
) -> None:
    inner = implicit if vr == "UN" else builder
    inside = inner.item(joined(all_rows(inner, load_rows())), undefined)
    value = inside + (b"" if not undefined or inner is builder else implicit.element(0xFFFEE0DD, "", b""))
    element = builder.element(PRIVATE_SQ, vr, value, undefined and inner is builder)
    if undefined and inner is not builder:
        element = undefined_un(builder, PRIVATE_SQ, inside, implicit)
    creator = builder.element(0x00290010, "LO", b"CNRY00290010CNRY")
    content = builder.file({0x00290010: creator, PRIVATE_SQ: element})
    assert leaks(closed, content) == set()
    assert leaks(research, content) == set()


@pytest.mark.parametrize("undefined", [False, True])
def test_no_row_survives_in_a_sequence_encoded_as_un(
    builder: Any, implicit: Any, closed: Deidentifier, sop_class: str, undefined: bool
) -> None:
    inside = implicit.item(joined(all_rows(implicit, load_rows())), undefined)
    element = undefined_un(builder, SHARED, inside, implicit) if undefined else builder.element(SHARED, "UN", inside)
    content = builder.file({SHARED: element}, sop_class)
    assert leaks(closed, content) == set()


def undefined_un(builder: Any, tag: int, items: bytes, implicit: Any) -> bytes:
    """UN of undefined length: the outer header in the file's encoding, all inside it in implicit little endian."""
    head = builder.element(tag, "UN", b"", undefined=True)[:-8]
    return head + items + implicit.element(0xFFFEE0DD, "", b"")


def test_a_row_encoded_as_un_or_under_a_false_vr_does_not_survive(explicit: Any, closed: Deidentifier) -> None:
    for vr in ("UN", "OB", "UT", "LO", "CS"):
        rows = [row.tag for row in load_rows() if row.tag >> 16 > 4 and not (vr == "UN" and vr_of(row.tag) == "SQ")]
        planted = {tag: explicit.element(tag, vr, canary(tag)) for tag in rows}
        assert leaks(closed, explicit.file(planted)) == set(), vr


@pytest.mark.parametrize("tag, vr", [(0x00186060, "LT"), (SHARED, "LO"), (0x00280010, "UT"), (0x00081140, "OB")])
def test_a_kept_attribute_under_a_vr_of_another_class_is_removed(explicit: Any, closed: Deidentifier, tag: int, vr: str) -> None:
    assert leaks(closed, explicit.file({tag: explicit.element(tag, vr, b"CNRY%08XCNRY" % tag)})) == set()


def test_a_sequence_that_cannot_be_read_fails_the_file(explicit: Any, closed: Deidentifier) -> None:
    content = explicit.file({SHARED: explicit.element(SHARED, "UN", b"CNRY52009229CNRY")})
    assert closed.deidentify(content).outcome is Outcome.FAILED


def test_research_keeps_only_what_an_option_names(builder: Any, research: Deidentifier) -> None:
    rows = [row for row in load_rows() if row.tag >> 16 != 2 and row.options.get("retain_patient_characteristics") != "K"]
    rows = [row for row in rows if not row.options.keys() & {"retain_longitudinal_modified_dates", "clean_descriptors"}]
    assert leaks(research, builder.file(all_rows(builder, rows))) == set()


tags = st.sampled_from([row.tag for row in load_rows() if row.tag >> 16 > 4])
sequences = st.sampled_from([SHARED, PER_FRAME, 0x00081140, 0x00082112, 0x00289132, 0x00089007 + 0x1000000, 0x00291001])
trees = st.recursive(
    st.dictionaries(tags, st.none(), min_size=1, max_size=4),
    lambda inner: st.dictionaries(sequences, st.tuples(inner, st.sampled_from(["SQ", "UN"]), st.booleans()), min_size=1, max_size=3),
    max_leaves=12,
)


def encode(builder: Any, implicit: Any, tree: dict[int, Any]) -> dict[int, bytes]:
    out = {}
    for tag, node in tree.items():
        if node is None:
            out[tag] = plant(builder, tag)
            continue
        inner, vr, undefined = node
        writer = implicit if vr == "UN" else builder
        item = writer.item(joined(encode(writer, implicit, inner)), undefined)
        if vr == "UN" and undefined:
            out[tag] = undefined_un(builder, tag, item, implicit)
        else:
            out[tag] = builder.element(tag, vr, item, undefined)
    return out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=trees)
def test_no_row_survives_any_nesting(builder: Any, implicit: Any, closed: Deidentifier, tree: dict[int, Any]) -> None:
    assert leaks(closed, builder.file(encode(builder, implicit, tree))) == set()


@pytest.mark.parametrize(
    "tag, vr",
    [
        (0x00091001, "LO"),
        (0x00090010, "LO"),
        (0x60003000, "OW"),
        (0x60004000, "LT"),
        (0x60000022, "LO"),
        (0x50003000, "OW"),
        (0x50000020, "CS"),
        (0xFFFCFFFC, "OB"),
        (0x00080000, "UL"),
        (0x0008FFF0, "LO"),
        (0x00189999, "PN"),
        (0x00400310, "PN"),
        (0x00400400, "LT"),
        (0x00100033, "LO"),
        (0x00081190, "UR"),
        (0x00287FE0, "UR"),
        (0x7FE10010, "OB"),
        (0x00041141, "CS"),
    ],
)
def test_what_no_row_names_but_may_identify_is_removed(builder: Any, closed: Deidentifier, tag: int, vr: str) -> None:
    planted = builder.element(tag, vr, b"CNRY%08XCNRY" % tag)
    nested = builder.element(SHARED, "SQ", builder.item(planted))
    assert leaks(closed, builder.file({tag: planted, SHARED: nested})) == set()


def test_preamble_and_file_meta_are_our_own(builder: Any, basic: Deidentifier) -> None:
    content = builder.file({}, preamble=b"CNRY00000000CNRY" * 8)
    output = b"".join(basic.deidentify(content).data)
    assert output[:128] == bytes(128)
    assert b"CANARY" not in output
    assert b"MDM_DEID" in output
