"""Compressed frames and colour profiles with a text wherever one can be: what is released does not have it, and shows the same image."""

import io
import random
import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from typing import Any

import jpeg_ls
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_deid import Deidentifier, Outcome
from mdm_deid.pixels.patch import Unreadable
from mdm_deid.pixels.rle import walk
from PIL import Image, ImageCms
from pydicom.encaps import generate_frames, parse_basic_offsets
from pydicom.uid import UID
from stream_grammar import COLUMNS, FORMATS, JPEG, JPEG_2000, JPEG_LS, RLE, ROWS, TEXT, Grammar, dicom, jpeg_parts, segment

EVERY_FORMAT = pytest.mark.parametrize("syntax", FORMATS, ids=lambda syntax: UID(syntax).name.split(" (")[0])


def frames_of(content: bytes) -> list[bytes]:
    """Return the frames as pydicom finds them."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    extended = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in dataset else None
    return list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames), extended_offsets=extended))


def decoded(syntax: str, frame: bytes, samples: int) -> Any:
    """Return the pixels as another library decodes them: Pillow (libjpeg-turbo, OpenJPEG), CharLS, pydicom."""
    if syntax == JPEG_LS:
        return jpeg_ls.decode(np.frombuffer(frame, np.uint8))
    if syntax == RLE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # padding of an original
            return pydicom.dcmread(io.BytesIO(one_frame(RLE, frame, samples))).pixel_array
    with Image.open(io.BytesIO(frame)) as image:
        return np.asarray(image)


def comments(syntax: str, frame: bytes) -> Iterator[bytes]:
    """Yield what Pillow's own readers find in a frame beside the image."""
    if syntax in (JPEG, JPEG_2000):
        with Image.open(io.BytesIO(frame)) as image:
            comment = image.info.get("comment", b"")
            yield comment if isinstance(comment, bytes) else comment.encode("latin-1")
            yield from (content for _, content in getattr(image, "applist", []))
            yield image.info.get("icc_profile", b"")
            yield repr(dict(image.getexif())).encode()


def made(source: random.Random, syntax: str, may_be_odd: bool) -> tuple[Grammar, bytes, list[bytes], int]:
    grammar = Grammar(source, may_be_odd)
    count = grammar.pick(1, 1, 2, 3)
    frames = [FORMATS[syntax](grammar)]
    while len(frames) < count:
        frame = FORMATS[syntax](grammar)
        frames += [frame] if frame[1] == frames[0][1] else []
    items, extended = grammar.encapsulated([frame for frame, _ in frames])
    return grammar, dicom(syntax, items, frames[0][1], count, extended), [frame for frame, _ in frames], frames[0][1]


@EVERY_FORMAT
@settings(max_examples=150)
@given(source=st.randoms(use_true_random=False))
def test_what_is_released_has_no_text(unjudged: Deidentifier, syntax: str, source: random.Random) -> None:
    _, content, _, _ = made(source, syntax, may_be_odd=True)
    result = unjudged.deidentify(content)
    assert result.outcome in (Outcome.RELEASED, Outcome.QUARANTINED), result.reason
    output = b"".join(result.data or [])
    assert b"Wendeline" not in output
    assert b"Kerkstraat" not in output


@EVERY_FORMAT
@settings(max_examples=60)
@given(source=st.randoms(use_true_random=False))
def test_a_second_reader_agrees(unjudged: Deidentifier, syntax: str, source: random.Random) -> None:
    """What breaks no rule is released; another library finds the same frames with the same pixels in it, and nothing beside them."""
    _, content, before, samples = made(source, syntax, may_be_odd=False)
    result = unjudged.deidentify(content)
    assert (result.outcome, result.reason) == (Outcome.RELEASED, "")
    output = b"".join(result.data)
    after = frames_of(output)
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(decoded(syntax, old, samples), decoded(syntax, new[: len(old)], samples))
        for comment in comments(syntax, new):
            assert b"Wendeline" not in comment


@settings(max_examples=60)
@given(source=st.randoms(use_true_random=False), may_be_odd=st.booleans())
def test_a_colour_profile_keeps_its_numbers_alone(unjudged: Deidentifier, source: random.Random, may_be_odd: bool) -> None:
    grammar = Grammar(source, may_be_odd)
    profile = grammar.profile()
    frame, _ = Grammar(random.Random(0), may_be_odd=False).rle()
    items, _ = Grammar(random.Random(0), may_be_odd=False).encapsulated([frame])
    result = unjudged.deidentify(dicom(RLE, items, frame[0], 1, {0x00282000: profile}))
    assert result.outcome is Outcome.RELEASED
    output = b"".join(result.data)
    assert b"Wendeline" not in output
    kept = pydicom.dcmread(io.BytesIO(output)).get("ICCProfile")
    if not grammar.odd:
        assert translated(kept) == translated(profile)
        assert not ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(kept))).strip()


def translated(profile: bytes) -> bytes:
    """Return colours after a transformation by LittleCMS."""
    colours = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    target = ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), target, "RGB", "LAB")
    return ImageCms.applyTransform(colours, transform).tobytes()


def one_frame(syntax: str, frame: bytes, samples: int = 1) -> bytes:
    frame += b"\0" * (len(frame) % 2)
    return dicom(syntax, struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(frame)) + frame, samples, 1)


def plain_jpeg() -> list[tuple[int, bytes]]:
    buffer = io.BytesIO()
    Image.new("L", (COLUMNS, ROWS), 77).save(buffer, "JPEG")
    return list(jpeg_parts(buffer.getvalue()))


def written_over_quantization(frame: bytes, text: bytes) -> bytes:
    """Return a frame with a text in the quantization table that its one component uses."""
    start = frame.index(b"\xff\xdb") + 5
    assert len(text) <= 64
    return frame[:start] + text + frame[start + len(text) :]


def written_over_scan(frame: bytes, at: int) -> bytes:
    """Return a frame with a letter at a place in the header of its scan, behind the number of components."""
    start = frame.index(b"\xff\xda") + 4 + at
    return frame[:start] + b"W" + frame[start + 1 :]


@pytest.mark.parametrize("quality", range(1, 100, 3))
def test_usual_quantization_tables_are_no_text(unjudged: Deidentifier, quality: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (COLUMNS, ROWS), (77, 20, 3)).save(buffer, "JPEG", quality=quality)
    result = unjudged.deidentify(one_frame(JPEG, buffer.getvalue(), 3))
    assert result.outcome is Outcome.RELEASED, result.reason


@pytest.mark.parametrize("fill", [b"\xff", b"\xff" * 3])
@pytest.mark.parametrize("marker", [0xE1, 0xFE, 0xE0, 0xED])
def test_fill_bytes_before_a_marker_hide_nothing(unjudged: Deidentifier, fill: bytes, marker: int) -> None:
    """T.81 B.1.1.2: any marker may be preceded by bytes FF; before every part of the frame in turn."""
    parts = plain_jpeg()
    for place in range(1, len(parts) + 1):
        frame = b"".join(part + (fill + segment(marker, TEXT) if place == number else b"") for number, (_, part) in enumerate(parts, 1))
        result = unjudged.deidentify(one_frame(JPEG, frame))
        output = b"".join(result.data or [])
        assert result.outcome is Outcome.RELEASED
        assert b"Wendeline" not in output


@pytest.mark.parametrize(
    "syntax, change, reason",
    [
        (JPEG, lambda frame: frame[:-2], "unreadable_frame"),
        (JPEG, lambda frame: frame + frame, "surplus_pixels"),
        (JPEG, lambda frame: b"\0\0" + frame, "unreadable_frame"),
        (JPEG, lambda frame: frame[:2] + b"\xff\xfe\0\1" + frame[2:], "unreadable_frame"),
        (JPEG, lambda frame: frame[:2] + b"\xff\xfe\xff\xff" + frame[2:], "unreadable_frame"),
        (JPEG, lambda frame: frame[:2] + segment(0xF3, TEXT) + frame[2:], "unreadable_frame"),
        (JPEG, lambda frame: frame[:-2] + TEXT + frame[-2:], "unreadable_frame"),
        (JPEG, lambda frame: frame[:2] + segment(0xDB, b"\3" + (TEXT * 2)[:64]) + frame[2:], "unreadable_frame"),
        (JPEG, lambda frame: written_over_quantization(frame, TEXT), "unreadable_frame"),
        *((JPEG, lambda frame, at=at: written_over_scan(frame, at), "unreadable_frame") for at in range(1, 6)),
        (JPEG, lambda _: b"\xff\xd8" + segment(0xFE, b"Kakadu") + b"\xff\xd9", "unreadable_frame"),
        (JPEG_2000, lambda frame: frame, "unreadable_frame"),
        ("1.2.840.10008.1.2.4.100", lambda frame: frame, "unchecked_stream"),
        ("1.2.840.10008.1.2.4.102", lambda frame: frame, "unchecked_stream"),
        ("1.2.840.10008.1.2.4.66", lambda frame: frame, "unchecked_stream"),
    ],
)
def test_a_walker_that_is_lost_holds_the_file_back(unjudged: Deidentifier, syntax: str, change: Any, reason: str) -> None:
    frame = b"".join(part for _, part in plain_jpeg())
    result = unjudged.deidentify(one_frame(syntax, change(frame)))
    assert (result.outcome, result.reason, result.data) == (Outcome.QUARANTINED, reason, None)


def high_throughput(*, comment: bytes = b"", coded: bytes = b"\x80" * 20, after: bytes = b"") -> bytes:
    """Return a codestream by T.814: capabilities after the size, one tile-part, coded data that nobody decodes here."""
    size = struct.pack(">HIIIIIIIIHBBB", 0x4000, COLUMNS, ROWS, 0, 0, COLUMNS, ROWS, 0, 0, 1, 7, 1, 1)
    head = b"\xff\x4f" + segment(0x51, size) + segment(0x50, struct.pack(">IH", 1 << 17, 0)) + comment
    head += segment(0x52, bytes([0, 2, 0, 1, 0, 1, 4, 4, 0x40, 1])) + segment(0x5C, bytes([0x40, 8, 8, 8, 8]))
    return head + b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14 + len(coded), 0, 1) + b"\xff\x93" + coded + b"\xff\xd9" + after


@pytest.mark.parametrize(
    "frame, outcome",
    [
        (high_throughput(comment=segment(0x64, b"\0\1" + TEXT)), Outcome.RELEASED),
        (high_throughput(after=TEXT), Outcome.RELEASED),
        (high_throughput(coded=b"\x80" * 9 + segment(0x64, b"\0\1" + TEXT)), Outcome.QUARANTINED),
        (high_throughput(coded=b"\x80" * 9 + TEXT), Outcome.QUARANTINED),
        (high_throughput(comment=segment(0x6F, TEXT)), Outcome.QUARANTINED),
    ],
)
def test_high_throughput_streams_have_the_same_grammar(unjudged: Deidentifier, frame: bytes, outcome: Outcome) -> None:
    result = unjudged.deidentify(one_frame("1.2.840.10008.1.2.4.201", frame))
    assert result.outcome is outcome
    assert b"Wendeline" not in b"".join(result.data or [])


def items(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content for content in contents)


def plain_frame() -> bytes:
    frame = b"".join(part for _, part in plain_jpeg())
    return frame + b"\0" * (len(frame) % 2)


@pytest.mark.parametrize("table, mended", [((0, 1), True), ((0, 0), True), ((), True), ((0,), False), ((0, 1, 2), False)])
def test_a_basic_offset_table_says_where_the_frames_are(unjudged: Deidentifier, table: tuple[int, ...], mended: bool) -> None:
    """One of another length than the frames demand has no right value of the same length."""
    frame = plain_frame()
    content = dicom(JPEG, items(struct.pack(f"<{len(table)}I", *table), frame, frame), 1, 2)
    result = unjudged.deidentify(content)
    if not mended:
        assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "unreadable_fragments")
        return
    output = pydicom.dcmread(io.BytesIO(b"".join(result.data)))
    assert parse_basic_offsets(output.PixelData) == ([0, 8 + len(frame)] if table else [])


@pytest.mark.parametrize("frames, fragments", [(1, 0), (2, 1), (2, 3), (3, 4)])
def test_fragments_that_no_table_tells_apart_hold_the_file_back(unjudged: Deidentifier, frames: int, fragments: int) -> None:
    result = unjudged.deidentify(dicom(JPEG, items(b"", *[plain_frame()] * fragments), 1, frames))
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "unreadable_fragments")


def test_more_images_than_frames_hold_the_file_back(unjudged: Deidentifier) -> None:
    for contents in ([plain_frame()] * 2, [plain_frame() * 2]):
        result = unjudged.deidentify(dicom(JPEG, items(b"", *contents), 1, 1))
        assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "surplus_pixels")


@pytest.mark.parametrize(
    "offsets, lengths, total, stays",
    [
        ((0, 1), (0, 0), None, True),
        ((0, 1), (-1, 0), None, True),
        ((0, 1), None, None, False),
        ((0, 0), (0, 0), None, False),
        ((0, 1), (-2, 0), None, False),
        ((0, 1), (1, 0), None, False),
        ((0, 1), (0, 0), 0, True),
        ((0, 1), (0, 0), 1, False),
    ],
)
def test_an_extended_offset_table_stays_if_it_is_right(
    unjudged: Deidentifier, offsets: tuple[int, int], lengths: tuple[int, int] | None, total: int | None, stays: bool
) -> None:
    """Offsets in frames; lengths and the total as differences from the right ones."""
    frame = plain_frame()
    tables = {0x7FE00001: struct.pack("<2Q", *(number * (8 + len(frame)) for number in offsets))}
    if lengths:
        tables[0x7FE00002] = struct.pack("<2Q", *(len(frame) + difference for difference in lengths))
    if total is not None:
        tables[0x7FE00003] = struct.pack("<Q", 2 * len(frame) + total)
    output = pydicom.dcmread(io.BytesIO(b"".join(unjudged.deidentify(dicom(JPEG, items(b"", frame, frame), 1, 2, tables)).data)))
    assert [tag in output for tag in tables] == [stays] * len(tables)
    assert len(list(generate_frames(output.PixelData, number_of_frames=2))) == 2


def test_a_comment_across_fragments_is_blanked_in_both(unjudged: Deidentifier) -> None:
    frame = plain_frame()
    frame = frame[:2] + segment(0xFE, TEXT + b" ") + frame[2:]
    middle = 2 + 4 + len(TEXT) // 2 // 2 * 2
    result = unjudged.deidentify(dicom(JPEG, items(b"", frame[:middle], frame[middle:]), 1, 1))
    output = b"".join(result.data)
    assert not any(word in output for word in TEXT.split(b", "))
    assert frames_of(output)[0][6 : 6 + len(TEXT)] == b" " * len(TEXT)


@pytest.mark.parametrize(
    "comment, stays",
    [
        (b"Created by GDCM/OpenJPEG version 2.3.0", True),
        (b"Kakadu-v7.3.3", True),
        (b"MITRA_DICOM_STANDARD", True),
        (b"1970 01 02", False),
        (b"555 1234", False),
        (b"Kakadu 1970 0102", False),
        (b"Kakadu for Ostrogard", False),
        ("Kakadu für".encode(), False),
    ],
)
def test_comments_with_the_names_of_encoders_stay(unjudged: Deidentifier, comment: bytes, stays: bool) -> None:
    frame = plain_frame()
    result = unjudged.deidentify(one_frame(JPEG, frame[:2] + segment(0xFE, comment) + frame[2:]))
    assert (comment in b"".join(result.data)) is stays


@pytest.mark.parametrize(
    "marker, content, left",
    [
        (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0", b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        (0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1abc", b"JFIF\0\1\1\0\0\1\0\1\1\1\0\0\0"),
        (0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1Anybody", b"JFIF\0\1\1\0\0\1\0\1" + bytes(9)),
        (0xE0, b"JFIF\0AnybodyEls", b"JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(1)),
        (0xEE, b"Adobe\0e\0\0\0\0\1", b"Adobe\0e\0\0\0\0\1"),
        (0xEE, b"AdobeAnybod\1yElse", b"Adobe\0d\0\0\0\0\1" + bytes(5)),
        (0xE8, b"mrfx\1Anybody", b"mrfx\1" + bytes(7)),
    ],
)
def test_application_segments_keep_what_decoders_read(unjudged: Deidentifier, marker: int, content: bytes, left: bytes) -> None:
    frame = plain_frame()
    result = unjudged.deidentify(one_frame(JPEG, frame[:2] + segment(marker, content) + frame[2:]))
    (output,) = frames_of(b"".join(result.data))
    assert output[6 : 6 + len(content)] == left


def test_a_segment_that_ends_outside_its_frame_costs_no_memory() -> None:
    header = struct.pack("<16I", 2, 64, 0xF0000000, *[0] * 13)
    frame = memoryview(header + b"\x03abcd" + b"text behind the pixels")
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            list(walk(frame, pixels=4, segments=2))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
