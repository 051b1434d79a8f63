"""Private attributes by list and creator: numbers only, in every encoding, in private sequences however they are nested."""

import csv
import io
import re
import struct
from importlib import resources
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.outcome import ProfileError

IMAGING, MR, FRAME = b"Philips Imaging DD 001", b"Philips MR Imaging DD 001", b"Philips MR Imaging DD 005"
SLOPE = struct.pack("<f", 0.0125)


@pytest.fixture(scope="module", params=["research", "neuro"])
def keeping(request: pytest.FixtureRequest, pseudonymiser: Pseudonymiser) -> CheckedDeidentifier:
    profile = Profile.shipped(request.param)
    return CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile)


@pytest.fixture(scope="module")
def neuro(pseudonymiser: Pseudonymiser) -> Deidentifier:
    return Deidentifier(Profile.shipped("neuro"), pseudonymiser)


def released(deidentifier: Any, content: bytes) -> pydicom.Dataset:
    result = deidentifier.deidentify(content)
    assert result.outcome is Outcome.RELEASED, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


def slope_of(builder: Any) -> bytes:
    return struct.pack(builder.order + "f", 0.0125)


def frame(builder: Any, block: int = 0x10, creator: bytes = MR) -> bytes:
    """Return an item's elements: a scale slope, an unlisted private number, a name, text, an unknown creator's element."""
    element = lambda number, vr, value: builder.element(0x20050000 | number, vr, value)  # noqa: E731
    return b"".join(
        [
            builder.element(0x00080018, "UI", b"1.2.3.99"),
            builder.element(0x00100010, "PN", b"Canary^Cora"),
            element(block, "LO", creator),
            element(block + 1, "LO", b"CANARY CREATOR"),
            element(block << 8 | 0x0D, "FL", bytes(4)),
            element(block << 8 | 0x0E, "FL", slope_of(builder)),
            element(block << 8 | 0x5F, "LO", b"CANARY TEXT"),
            element(block + 1 << 8 | 0x0E, "FL", struct.pack(builder.order + "f", 99.0)),
        ]
    )


def leaf(dataset: pydicom.Dataset) -> dict[int, bytes]:
    """Return every private value that is no creator and no sequence, at any depth."""
    found = {}
    for element in dataset.iterall():
        if element.tag.is_private and element.tag.element > 0xFF and element.VR != "SQ":
            value = element.value
            found[int(element.tag)] = value if isinstance(value, bytes) else struct.pack("<f", float(value))
    return found


def sequence(
    builder: Any, item: bytes, undefined: bool = False, block: int = 0x14, creator: bytes = FRAME, number: int = 0x0F
) -> dict[int, bytes]:
    tag = 0x20050000 | block << 8 | number
    return {
        0x20050000 | block: builder.element(0x20050000 | block, "LO", creator),
        tag: builder.element(tag, "SQ", builder.item(item, undefined), undefined),
    }


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize(("creator", "number"), [(FRAME, 0x0F), (MR, 0x80)], ids=["its own", "listed"])
@pytest.mark.parametrize(("block", "inner"), [(0x14, 0x10), (0x2E, 0x10), (0x14, 0x33)], ids=["usual", "outer moved", "inner moved"])
def test_a_private_sequence_keeps_the_listed_scale_slope_and_nothing_else(
    keeping: CheckedDeidentifier, builder: Any, undefined: bool, creator: bytes, number: int, block: int, inner: int
) -> None:
    content = builder.file(sequence(builder, frame(builder, inner), undefined=undefined, block=block, creator=creator, number=number))
    output = released(keeping, content)
    assert leaf(output) == {0x20050000 | inner << 8 | 0x0D: bytes(4), 0x20050000 | inner << 8 | 0x0E: SLOPE}
    (item,) = output[0x2005, block << 8 | number].value
    assert {int(element.tag) >> 16 for element in item} == {0x2005}
    assert b"CANARY" not in b"".join(keeping.deidentify(content).data or [])


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
def test_a_sequence_encoded_as_un_is_entered(keeping: CheckedDeidentifier, explicit: Any, implicit: Any, undefined: bool) -> None:
    content = implicit.item(frame(implicit), undefined)
    elements = {
        0x20050014: explicit.element(0x20050014, "LO", FRAME),
        0x2005140F: explicit.element(0x2005140F, "UN", content, undefined),
    }
    output = released(keeping, explicit.file(elements))
    (item,) = output[0x2005, 0x140F].value if output[0x2005, 0x140F].VR == "SQ" else items(output[0x2005, 0x140F].value)
    assert item[0x2005, 0x100E].value in (SLOPE, pytest.approx(0.0125))
    assert [int(element.tag) for element in item] == [0x20050010, 0x2005100D, 0x2005100E]


def items(content: bytes) -> list[pydicom.Dataset]:
    """Read items in implicit little endian."""
    tag, length = struct.unpack_from("<4sI", content)
    assert tag == b"\xfe\xff\x00\xe0" and length == len(content) - 8
    return [pydicom.dcmread(io.BytesIO(content[8:]), force=True)]


def test_sequences_nest_and_each_item_has_its_own_creators(keeping: CheckedDeidentifier, builder: Any) -> None:
    inside = sequence(builder, frame(builder))
    without = builder.element(0x2005100E, "FL", slope_of(builder))  # of no creator in this item
    outer = b"".join(inside[tag] for tag in sorted(inside))
    both = builder.item(outer) + builder.item(without) + builder.item(frame(builder, creator=b"SOMEBODY ELSE"))
    elements = {0x20010010: builder.element(0x20010010, "LO", IMAGING), 0x2001105F: builder.element(0x2001105F, "SQ", both)}
    output = released(keeping, builder.file(elements))
    assert leaf(output) == {0x2005100D: bytes(4), 0x2005100E: SLOPE}
    first, *others = output[0x2001, 0x105F].value
    assert first[0x2005, 0x140F].value[0][0x2005, 0x100E].value == pytest.approx(0.0125)
    assert all(not list(other) for other in others)


def test_a_private_sequence_inside_the_functional_groups_is_entered(keeping: CheckedDeidentifier, builder: Any) -> None:
    elements = sequence(builder, frame(builder), undefined=True)
    group = builder.item(b"".join(elements[tag] for tag in sorted(elements)), undefined=True)
    output = released(keeping, builder.file({0x52009230: builder.element(0x52009230, "SQ", group, undefined=True)}))
    assert leaf(output) == {0x2005100D: bytes(4), 0x2005100E: SLOPE}


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize("creator", [b"SOMEBODY ELSE", b"Philips MR Imaging DD 05", b"philips mr imaging dd 005", b""])
def test_a_sequence_of_another_creator_goes(keeping: CheckedDeidentifier, builder: Any, creator: bytes, undefined: bool) -> None:
    output = released(keeping, builder.file(sequence(builder, frame(builder), undefined=undefined, creator=creator)))
    assert not [element for element in output.iterall() if element.tag.is_private]


def test_a_sequence_with_nothing_listed_in_it_goes(keeping: CheckedDeidentifier, builder: Any) -> None:
    item = builder.element(0x00100010, "PN", b"Canary^Cora") + builder.element(0x00181030, "LO", b"head")
    output = released(keeping, builder.file(sequence(builder, item)))
    assert [int(element.tag) for element in output.iterall() if element.tag.is_private] == [0x20050014]


@pytest.mark.parametrize(
    "content",
    [b"\xfe\xff\x00\xe0\xff\0\0\0DOE^JANE", b"\xfe\xff\x00\xe0\x08\0\0\0DOE^JANE", b"DOE^JANE" * 3, b"\xfe\xff\x00\xe0"],
    ids=["item too long", "item of text", "text", "stump"],
)
@pytest.mark.parametrize("vr", ["SQ", "UN"])
def test_what_is_no_sequence_goes_and_fails_nothing(neuro: Deidentifier, explicit: Any, content: bytes, vr: str) -> None:
    elements = {0x20050014: explicit.element(0x20050014, "LO", FRAME), 0x2005140F: explicit.element(0x2005140F, vr, content)}
    output = released(neuro, explicit.file(elements))
    assert [int(element.tag) for element in output if element.tag.is_private] == [0x20050014]


def test_a_rule_that_removes_the_sequence_goes_first(builder: Any, pseudonymiser: Pseudonymiser, tmp_path: Any) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f'name = "site"\nbase = "neuro"\n[[attribute]]\naction = "remove"\nprivate_creator = "{FRAME.decode()}"\n')
    deidentifier = Deidentifier(Profile.load(path), pseudonymiser)
    assert not leaf(released(deidentifier, builder.file(sequence(builder, frame(builder)))))


NUMBERS: list[tuple[int, bytes, str, bytes, bool]] = [
    (0x0019000C, b"SIEMENS MR HEADER", "IS", b"1000", True),
    (0x0019000C, b"SIEMENS MR HEADER", "IS", b"DOE", False),
    (0x0019000C, b"SIEMENS MR HEADER", "IS", b"1\\2", False),
    (0x0019000C, b"SIEMENS MR HEADER", "LO", b"1000", True),
    (0x0019000E, b"SIEMENS MR HEADER", "FD", struct.pack("<3d", 0.6, -0.8, 1e-17), True),
    (0x0019000E, b"SIEMENS MR HEADER", "FD", struct.pack("<2d", 0.6, -0.8), False),
    (0x0019000E, b"SIEMENS MR HEADER", "FD", b"DOE^JANE" * 3, False),
    (0x0019000E, b"SIEMENS MR HEADER", "FD", struct.pack("<3d", 0.6, float("nan"), 0), False),
    (0x0019000E, b"SIEMENS MR HEADER", "UN", struct.pack("<3d", 0.6, -0.8, 0), True),
    (0x0019000E, b"SIEMENS MR HEADER", "UN", b"Doe, Jane from Main St. 5 "[:24], False),
    (0x00510011, b"SIEMENS MR HEADER", "LO", b"p2s4", True),
    (0x00510011, b"SIEMENS MR HEADER", "LO", b"p2 Doe", False),
    (0x0051000B, b"SIEMENS MR HEADER", "SH", b"64p*64", True),
    (0x0019009C, b"GEMS_ACQU_01", "LO", b"epiRT", True),
    (0x0019009C, b"GEMS_ACQU_01", "LO", b"epi by Doe", False),
    (0x004300B6, b"GEMS_PARM_01", "LO", b"3\\3\\19\\\\\\\\", True),
    (0x004300B6, b"GEMS_PARM_01", "LO", b"3\\Doe", False),
    (0x0043002C, b"GEMS_PARM_01", "SS", struct.pack("<h", 544), True),
    (0x0043002C, b"GEMS_PARM_01", "SS", b"DOE1", False),
    (0x0021005A, b"GEMS_RELA_01", "SL", struct.pack("<i", 7680), True),
    (0x0021005A, b"GEMS_RELA_01", "SL", b"JANE", False),
    (0x2001000B, IMAGING, "CS", b"CORONAL", True),
    (0x20010004, IMAGING, "CS", b"O", True),
    (0x20050010, b"SOMEBODY ELSE", "FL", SLOPE, False),
]


@pytest.mark.parametrize(("tag", "creator", "vr", "value", "stays"), NUMBERS)
def test_a_listed_value_stays_if_it_is_numbers_or_a_word_of_the_list(
    neuro: Deidentifier, explicit: Any, tag: int, creator: bytes, vr: str, value: bytes, stays: bool
) -> None:
    group, element = tag & 0xFFFF0000, tag & 0xFF
    for block in (0x10, 0xB4):
        whole = group | block << 8 | element
        elements = {group | block: explicit.element(group | block, "LO", creator), whole: explicit.element(whole, vr, value)}
        output = released(neuro, explicit.file(elements))
        assert (whole in output) == stays
        assert b"DOE" not in b"".join(neuro.deidentify(explicit.file(elements)).data or []).upper()


def test_numbers_of_big_endian_files_and_of_unknown_vr_are_read_in_their_order(neuro: Deidentifier, builders: Any) -> None:
    value = (0.6, -0.8, 0.0)
    creator = b"SIEMENS MR HEADER"
    for name, vr, order in (("big", "FD", ">"), ("big", "UN", "<"), ("implicit", "UN", "<"), ("deflated", "FD", "<")):
        builder = builders[name]
        elements = {
            0x00190010: builder.element(0x00190010, "LO", creator),
            0x0019100E: builder.element(0x0019100E, vr, struct.pack(order + "3d", *value)),
        }
        assert 0x0019100E in released(neuro, builder.file(elements)), (name, vr)


def test_a_listed_number_that_is_a_removed_identifier_goes(neuro: Deidentifier, explicit: Any) -> None:
    elements = {
        0x00100020: explicit.element(0x00100020, "LO", b"20451177"),
        0x00190010: explicit.element(0x00190010, "LO", b"SIEMENS MR HEADER"),
        0x0019100C: explicit.element(0x0019100C, "IS", b"20451177"),
    }
    assert 0x0019100C not in released(neuro, explicit.file(elements))


def test_every_row_of_the_list_is_a_private_number_word_or_container_with_a_source() -> None:
    text = (resources.files("mdm_deid") / "data" / "neuroimaging_private.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert len({(row["group"], row["element"], row["private_creator"]) for row in rows}) == len(rows) > 100
    for row in rows:
        assert int(row["group"], 16) % 2 == 1 and re.fullmatch("xx[0-9a-f]{2}", row["element"]) and row["private_creator"]
        assert re.match("dcm2niix k[A-Z]|dcm2niix nii_dicom|DICOM PS3", row["source"]), row
        kind = row["values"].split()[0]
        assert kind in [
            "numbers",
            "terms",
            "code",
            "siemens_csa",
            "siemens_protocol",
            "ge_protocol",
            "ge_user_data",
            "sequence",
            "listed_only",
        ]
        assert row["vr"] in ["US", "SS", "SL", "UL", "FL", "FD", "DS", "IS", "LO", "SH", "ST", "CS", "OB", "SQ"]
        assert kind != "numbers" or row["vr"] not in ("OB", "CS")


def test_a_profile_of_the_site_can_take_a_list_and_misspelt_ones_are_refused(
    tmp_path: Any, explicit: Any, pseudonymiser: Pseudonymiser
) -> None:
    path = tmp_path / "site.toml"
    path.write_text('name = "site"\nbase = "basic"\nprivate_lists = ["neuroimaging"]\n')
    elements = {
        0x00190010: explicit.element(0x00190010, "LO", b"SIEMENS MR HEADER"),
        0x0019100C: explicit.element(0x0019100C, "IS", b"1000"),
        0x00191015: explicit.element(0x00191015, "FD", struct.pack("<d", 1.0)),
    }
    output = released(Deidentifier(Profile.load(path), pseudonymiser), explicit.file(elements))
    assert [int(element.tag) for element in output if element.tag.is_private] == [0x00190010, 0x0019100C]
    path.write_text('name = "site"\nprivate_lists = ["neuro-imaging"]\n')
    with pytest.raises(ProfileError, match="line 2: private_lists: 'neuro-imaging' is not one of neuroimaging"):
        Profile.load(path)
