"""What pixel data hold besides pixels goes; where their length or layout is in doubt the file is held back, and no pixel is touched."""

import io
import struct
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome


def image(builder: Any, pixels: bytes, bits: int = 8, frames: bytes = b"1", **others: Any) -> bytes:
    """Return a file of 10 rows and 12 columns; `others`: samples, photometric, rows, columns, tag and vr of the pixel data, undefined."""
    number = lambda value: value.to_bytes(2, "big" if builder.name == "big" else "little")  # noqa: E731
    tag, vr = others.get("tag", 0x7FE00010), others.get("vr", "OW")
    elements = {
        0x00280002: builder.element(0x00280002, "US", number(others.get("samples", 1))),
        0x00280004: builder.element(0x00280004, "CS", others.get("photometric", b"MONOCHROME2")),
        0x00280008: builder.element(0x00280008, "IS", frames),
        0x00280010: builder.element(0x00280010, "US", number(others.get("rows", 10))),
        0x00280011: builder.element(0x00280011, "US", number(others.get("columns", 12))),
        0x00280100: builder.element(0x00280100, "US", number(bits)),
        tag: builder.element(tag, vr, pixels, others.get("undefined", False)),
    }
    return builder.file(elements)


def read(deidentifier: Deidentifier, content: bytes) -> pydicom.Dataset:
    result = deidentifier.deidentify(content)
    assert result.outcome is Outcome.RELEASED, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


def held(deidentifier: Deidentifier, content: bytes) -> str:
    result = deidentifier.deidentify(content)
    assert (result.outcome, result.data) == (Outcome.QUARANTINED, None)
    return result.reason


@pytest.mark.parametrize("bits, frames", [(8, b"1"), (16, b"1"), (8, b"3")])
def test_bytes_after_the_last_pixel_become_zeros(builder: Any, closed: Deidentifier, bits: int, frames: bytes) -> None:
    pixels = bytes(range(1, 121)) * (bits * int(frames))
    pixels = pixels[: 15 * bits * int(frames)]
    output = read(closed, image(builder, pixels + b"of Anybody", bits, frames))
    assert output.PixelData == pixels + bytes(10)


# What the header says, and how many bytes of pixels there are: as said, or as writers are known to understand it.
LAYOUTS = [
    ({"samples": 3, "photometric": b"YBR_FULL_422"}, 240),
    ({"samples": 3, "photometric": b"YBR_FULL_422"}, 360),
    ({"samples": 3, "photometric": b"YBR_FULL_422", "frames": b"4"}, 1440),
    ({"samples": 3, "photometric": b"YBR_PARTIAL_422"}, 360),
    ({"samples": 3, "photometric": b"YBR_PARTIAL_420"}, 180),
    ({"samples": 3, "photometric": b"YBR_PARTIAL_420"}, 360),
    ({"samples": 3, "photometric": b"YBR_FULL_422", "columns": 11}, 240),
    ({"samples": 3, "photometric": b"YBR_FULL_422", "columns": 11}, 330),
    ({"samples": 3, "photometric": b"RGB"}, 360),
    ({"samples": 4, "photometric": b"ARGB"}, 480),
    ({"photometric": b"PALETTE COLOR"}, 120),
    ({"bits": 12}, 180),
    ({"bits": 12}, 240),
    ({"bits": 1}, 16),
    ({"bits": 1}, 120),
    ({"bits": 1, "frames": b"8"}, 120),
    ({"bits": 1, "frames": b"8", "columns": 11}, 8 * 14),
    ({"rows": 5, "columns": 5, "frames": b"3"}, 76),
    ({"rows": 5, "columns": 5, "frames": b"3"}, 78),
    ({"bits": 32, "tag": 0x7FE00008, "vr": "OF"}, 480),
    ({"bits": 64, "tag": 0x7FE00009, "vr": "OD"}, 960),
    # Short of what the header says: all there are.
    ({"frames": b"5"}, 480),
    ({"samples": 3}, 120),
]


@pytest.mark.parametrize("said, length", LAYOUTS)
def test_pixels_are_not_touched(builder: Any, closed: Deidentifier, said: dict[str, Any], length: int) -> None:
    pixels = bytes(number % 251 + 1 for number in range(length))
    output = read(closed, image(builder, pixels, **said))
    assert output[said.get("tag", 0x7FE00010)].value == pixels


@pytest.mark.parametrize(
    "said, length", [(said, length) for said, length in LAYOUTS if said.get("frames") != b"5" and said != {"samples": 3}]
)
def test_whatever_the_layout_a_text_of_a_row_and_more_is_not_released(
    explicit: Any, closed: Deidentifier, said: dict[str, Any], length: int
) -> None:
    text = b"Anybody^Else, Main Street " * 4
    assert held(closed, image(explicit, b"\7" * length + text[: max(36, length // 10)], **said)) in ("pixel_length", "surplus_pixels")


@pytest.mark.parametrize(
    "said, length, reason",
    [
        ({}, 240, "surplus_pixels"),
        ({"frames": b"2"}, 360, "surplus_pixels"),
        ({}, 132, "pixel_length"),
        ({"bits": 16}, 300, "pixel_length"),
        ({"samples": 3, "photometric": b"YBR_FULL_422"}, 300, "pixel_length"),
        ({"samples": 1, "photometric": b"RGB"}, 360, "surplus_pixels"),
        ({"rows": 0}, 120, "pixel_layout"),
        ({"columns": 0}, 120, "pixel_layout"),
        ({"bits": 0}, 120, "pixel_layout"),
        ({"samples": 0}, 120, "pixel_layout"),
        ({"frames": b"0"}, 120, "pixel_layout"),
        ({"frames": b"1A"}, 120, "pixel_layout"),
        ({"frames": b"-1"}, 120, "pixel_layout"),
        ({"bits": 16, "tag": 0x7FE00008, "vr": "OF"}, 480, "pixel_layout"),
        ({"vr": "UT"}, 120, "pixel_layout"),
        ({"vr": "SQ"}, 120, "pixel_layout"),
    ],
)
def test_a_length_or_layout_in_doubt_holds_the_file_back(
    explicit: Any, closed: Deidentifier, said: dict[str, Any], length: int, reason: str
) -> None:
    assert held(closed, image(explicit, b"\7" * length, **said)) == reason


def test_zeros_after_the_last_pixel_are_padding_whatever_their_number(explicit: Any, closed: Deidentifier) -> None:
    assert read(closed, image(explicit, b"\7" * 120 + bytes(80))).PixelData == b"\7" * 120 + bytes(80)


def test_pixel_data_without_a_geometry_wait_for_a_person(explicit: Any, closed: Deidentifier) -> None:
    assert held(closed, explicit.file({0x7FE00010: explicit.element(0x7FE00010, "OW", b"\1\2" * 60)})) == "pixel_layout"


def test_two_kinds_of_pixel_data_wait_for_a_person(explicit: Any, closed: Deidentifier) -> None:
    content = image(explicit, b"\7" * 480, bits=32, tag=0x7FE00008, vr="OF")
    assert held(closed, content + explicit.element(0x7FE00010, "OW", b"\7" * 480)) == "pixel_layout"
    empty = read(closed, content + explicit.element(0x7FE00010, "OW", b""))
    assert (empty.FloatPixelData, empty.PixelData) == (b"\7" * 480, None)


def test_pixel_data_given_twice_fail(explicit: Any, closed: Deidentifier) -> None:
    twice = explicit.element(0x7FE00010, "OW", b"ab") * 2
    assert closed.deidentify(explicit.file({0x7FE00010: twice})).reason == "duplicate_element"


@pytest.mark.parametrize("name", ["explicit", "implicit"])
@pytest.mark.parametrize("tag, vr", [(0x7FE00010, "SQ"), (0x7FE00010, "OB"), (0x7FE00008, "SQ"), (0x7FE00009, "SQ")])
def test_a_data_set_in_the_place_of_pixels_is_not_passed_on(
    request: pytest.FixtureRequest, closed: Deidentifier, name: str, tag: int, vr: str
) -> None:
    """Items of undefined length under pixel data; the inner elements would go out unread."""
    builder = request.getfixturevalue(name)
    inner = builder.item(builder.element(0x00100010, "PN", b"Anybody^Else"), undefined=vr == "SQ")
    result = closed.deidentify(image(builder, inner, tag=tag, vr=vr, undefined=True))
    assert result.outcome in (Outcome.QUARANTINED, Outcome.FAILED)


@pytest.mark.parametrize("tag", [0x7FE00001, 0x7FE00002, 0x7FE00003])
def test_an_offset_table_beside_uncompressed_pixels_goes(explicit: Any, closed: Deidentifier, tag: int) -> None:
    content = image(explicit, b"\7" * 120)
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    output = read(closed, content[:at] + explicit.element(tag, "OV", b"Anybody^Else1234") + content[at:])
    assert tag not in output
    assert output.PixelData == b"\7" * 120
