"""Reading multipart bodies however they are cut into chunks."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_dicom_srm.pacs.multipart import MultipartBroken, ReadInto, boundary_of, whole
from mdm_dicom_srm.pacs.multipart import parts as pieces
from mdm_dicom_srm.shared_memory import BlockPool

BOUNDARY = b"b0undary"


def receiver(chunks: Iterable[bytes]) -> ReadInto:
    """Return what gives chunks as a connection gives bytes: at most one at a time, as far as there is room."""
    left, rest = iter(chunks), b""

    def read_into(view: memoryview) -> int:
        nonlocal rest
        rest = rest or next(left, b"")
        count = min(len(view), len(rest))
        view[:count], rest = rest[:count], rest[count:]
        return count

    return read_into


def parts(chunks: Iterable[bytes], boundary: bytes, limit: int, block_bytes: int = 512) -> Iterator[bytes]:
    for piece in pieces(receiver(chunks), boundary, limit, BlockPool(block_bytes)):
        yield bytes(piece.view)
        piece.release()


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
    assert list(parts(chunked(data, size), BOUNDARY, 10_000)) == contents


def test_a_part_with_a_length_may_hold_the_delimiter() -> None:
    content = b"a\r\n--" + BOUNDARY + b"\r\nb"
    assert list(parts([body([content], lengths=True)], BOUNDARY, 10_000)) == [content]


@pytest.mark.parametrize("lengths", [True, False])
def test_a_body_that_breaks_off_gives_its_whole_parts_and_then_fails(lengths: bool) -> None:
    data = body([b"first", b"second" * 50], lengths=lengths)
    found = []
    with pytest.raises(MultipartBroken):
        for part in parts([data[:-60]], BOUNDARY, 10_000):
            found.append(part)
    assert found == [b"first"]


def test_endless_part_headers_are_refused() -> None:
    with pytest.raises(MultipartBroken):
        list(parts([b"--" + BOUNDARY + b"\r\n" + b"X: y\r\n" * 10_000, b"more"], BOUNDARY, 10_000))


@pytest.mark.parametrize("lengths", [True, False])
def test_a_part_that_is_too_long_is_refused_before_it_is_read(lengths: bool) -> None:
    taken = []

    def endless():  # type: ignore[no-untyped-def]
        yield body([b"x" * 20_000], lengths=lengths)[:1000]
        for _ in range(100):
            taken.append(1)
            yield b"x" * 1000

    with pytest.raises(MultipartBroken):
        list(parts(endless(), BOUNDARY, 10_000))
    assert len(taken) < 12


@pytest.mark.parametrize(
    "content_type", ['multipart/related; type="application/dicom"; boundary="b0undary"', "multipart/related;boundary=b0undary"]
)
def test_the_boundary_is_read_quoted_or_not(content_type: str) -> None:
    assert boundary_of(content_type) == BOUNDARY


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/related"])
def test_what_is_not_multipart_is_refused(content_type: str) -> None:
    with pytest.raises(MultipartBroken):
        boundary_of(content_type)


@given(size=st.integers(0, 3000), cut=st.integers(1, 700))
def test_a_body_that_is_not_multipart_comes_whole(size: int, cut: int) -> None:
    data = bytes(n % 251 for n in range(size))
    assert whole(receiver(chunked(data, cut)), 3000, BlockPool(512)).view == data


def test_a_body_that_is_too_long_is_refused() -> None:
    with pytest.raises(MultipartBroken):
        whole(receiver(chunked(bytes(3001), 100)), 3000, BlockPool(512))


def test_parts_that_nobody_released_keep_their_bytes() -> None:
    contents = [bytes([number]) * 200 for number in range(20)]
    pool = BlockPool(512)
    found = list(pieces(receiver([body(contents, lengths=True)]), BOUNDARY, 10_000, pool))
    assert [bytes(piece.view) for piece in found] == contents
    for piece in found:
        piece.release()
