"""What pixel data hold besides pixels goes: bytes after the last one, comments in compressed frames; the pixels stay."""

import io
import struct
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome
from pydicom.encaps import encapsulate

JPEG = "1.2.840.10008.1.2.4.50"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
TEXT = b"Anybody^Else, seen at 12 Main Street"


def image(builder: Any, pixels: bytes, bits: int = 8, frames: bytes = b"1") -> bytes:
    number = lambda value: value.to_bytes(2, "big" if builder.name == "big" else "little")  # noqa: E731
    elements = {
        0x00280002: builder.element(0x00280002, "US", number(1)),
        0x00280008: builder.element(0x00280008, "IS", frames),
        0x00280010: builder.element(0x00280010, "US", number(10)),
        0x00280011: builder.element(0x00280011, "US", number(12)),
        0x00280100: builder.element(0x00280100, "US", number(bits)),
        0x7FE00010: builder.element(0x7FE00010, "OW", pixels),
    }
    return builder.file(elements)


def read(deidentifier: Deidentifier, content: bytes) -> pydicom.Dataset:
    result = deidentifier.deidentify(content)
    assert result.outcome is Outcome.RELEASED, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data)))


@pytest.mark.parametrize("bits, frames", [(8, b"1"), (16, b"1"), (1, b"8"), (8, b"3")])
def test_bytes_after_the_last_pixel_become_zeros(builder: Any, closed: Deidentifier, bits: int, frames: bytes) -> None:
    pixels = bytes(range(1, 121)) * (bits * int(frames))
    pixels = pixels[: 15 * bits * int(frames)]
    output = read(closed, image(builder, pixels + b"of Anybody", bits, frames))
    assert output.PixelData == pixels + bytes(10)


def test_frames_the_header_does_not_tell_of_wait_for_a_person(builder: Any, closed: Deidentifier) -> None:
    result = closed.deidentify(image(builder, bytes(120) + b"hidden frame" * 10))
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "surplus_pixels")


def test_pixel_data_given_twice_fail(explicit: Any, closed: Deidentifier) -> None:
    twice = explicit.element(0x7FE00010, "OW", b"ab") * 2
    assert closed.deidentify(explicit.file({0x7FE00010: twice})).reason == "duplicate_element"


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def compressed(frame: bytes, syntax: str, ct_small: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(ct_small))
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "syntax, before, after",
    [
        (JPEG, b"\xff\xd8" + segment(0xFE, TEXT), b"\xff\xd8" + segment(0xFE, b" " * len(TEXT))),
        (JPEG, b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + TEXT), b"\xff\xd8" + segment(0xE1, bytes(6 + len(TEXT)))),
        (
            JPEG,
            b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1" + b"abc"),
            b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1" + bytes(3)),
        ),
        (JPEG_2000, b"\xff\x4f" + segment(0x64, b"\0\1" + TEXT), b"\xff\x4f" + segment(0x64, b"\0\1" + b" " * len(TEXT))),
    ],
)
def test_comments_in_compressed_frames_are_blanked(closed: Deidentifier, ct_small: bytes, syntax: str, before: bytes, after: bytes) -> None:
    scan = segment(0xDA if syntax == JPEG else 0x90, b"parameters") + b"coded " + segment(0xFE, b"is no comment here")
    output = read(closed, compressed(before + scan, syntax, ct_small))
    assert output.PixelData == encapsulate([after + scan])


@pytest.mark.parametrize(
    "start",
    [
        b"\xff\x4f" + segment(0x64, b"\0\1Created by GDCM/OpenJPEG version 2.3.0"),
        b"\xff\x4f" + segment(0x64, b"\0\1Kakadu-v7.3.3"),
        b"\xff\xd8" + segment(0xEE, b"Adobe\0e\0\0\0\0\0") + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        b"\xff\xd8" + segment(0xE8, b"mrfx\1") + segment(0xFE, b"MITRA_DICOM_STANDARD"),
        b"\xff\xd8" + segment(0xE8, b"SPIFF\0" + bytes(range(24))) + segment(0xE8, b"\0\0\0\1\xff\xd8"),
        b"\xff\xd8\xff\xfe\0\1",
    ],
)
def test_what_encoders_write_and_decoders_need_stays(closed: Deidentifier, ct_small: bytes, start: bytes) -> None:
    frame = start + segment(0xDA if start[1] == 0xD8 else 0x90, b"parameters") + b"coded"
    frame += b"\0" * (len(frame) % 2)
    output = read(closed, compressed(frame, JPEG if start[1] == 0xD8 else JPEG_2000, ct_small))
    assert output.PixelData == encapsulate([frame])


def test_a_blanked_comment_leaves_the_pixels_as_they_were(closed: Deidentifier, real_files: list[Path]) -> None:
    path = next(path for path in real_files if path.name == "SC_rgb_jpeg_dcmtk.dcm")
    original = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(original.PixelData, number_of_frames=1))
    original.PixelData = encapsulate([frame[:2] + segment(0xFE, TEXT) + frame[2:]])
    original["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    original.save_as(buffer)
    output = read(closed, buffer.getvalue())
    assert b"Anybody" not in output.PixelData
    assert (output.pixel_array == pydicom.dcmread(path).pixel_array).all()
