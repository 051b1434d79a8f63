"""Reading multipart bodies however they are cut into chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_dicom_srm.pacs.multipart import MultipartBroken, boundary_of, parts

BOUNDARY = b"b0undary"


def body(contents: list[bytes], *, lengths: bool, preamble: bytes = b"", final_break: bool = True) -> bytes:
    pieces = [preamble]
    for number, content in enumerate(contents):
        pieces.append((b"\r\n" if number or preamble else b"") + b"--" + BOUNDARY + b"\r\n")
        pieces.append(b"Content-Type: application/dicom\r\n")
        if lengths:
            pieces.append(b"content-length: %d\r\n" % len(content))
        pieces.append(b"\r\n" + content)
    pieces.append(b"\r\n--" + BOUNDARY + b"--" + (b"\r\n" if final_break else b""))
    return b"".join(pieces)


def chunked(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(
    contents=st.lists(st.binary(max_size=300).filter(lambda content: b"\r\n--" + BOUNDARY not in content), min_size=1, max_size=5),
    size=st.integers(1, 400),
    lengths=st.booleans(),
    preamble=st.sampled_from([b"", b"preamble"]),
    final_break=st.booleans(),
)
def test_parts_come_out_whole_whatever_the_chunks(
    contents: list[bytes], size: int, lengths: bool, preamble: bytes, final_break: bool
) -> None:
    data = body(contents, lengths=lengths, preamble=preamble, final_break=final_break)
    assert list(parts(chunked(data, size), BOUNDARY)) == contents


def test_a_part_with_a_length_may_hold_the_delimiter() -> None:
    content = b"a\r\n--" + BOUNDARY + b"\r\nb"
    assert list(parts([body([content], lengths=True)], BOUNDARY)) == [content]


@pytest.mark.parametrize("lengths", [True, False])
def test_a_body_that_breaks_off_gives_its_whole_parts_and_then_fails(lengths: bool) -> None:
    data = body([b"first", b"second" * 50], lengths=lengths)
    found = []
    with pytest.raises(MultipartBroken):
        for part in parts([data[:-60]], BOUNDARY):
            found.append(part)
    assert found == [b"first"]


def test_endless_part_headers_are_refused() -> None:
    with pytest.raises(MultipartBroken):
        list(parts([b"--" + BOUNDARY + b"\r\n" + b"X: y\r\n" * 10_000, b"more"], BOUNDARY))


@pytest.mark.parametrize(
    "content_type", ['multipart/related; type="application/dicom"; boundary="b0undary"', "multipart/related;boundary=b0undary"]
)
def test_the_boundary_is_read_quoted_or_not(content_type: str) -> None:
    assert boundary_of(content_type) == BOUNDARY


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/related"])
def test_what_is_not_multipart_is_refused(content_type: str) -> None:
    with pytest.raises(MultipartBroken):
        boundary_of(content_type)
