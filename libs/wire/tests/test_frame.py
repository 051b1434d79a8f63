"""Messages of files are what the generated code writes and reads, whichever side is older or newer."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from mdm.srm.v1.transfer_pb2 import FilePart, ReadFilesResponse
from mdm_wire.frame import decode, encode

parts = st.builds(FilePart, guid=st.text(max_size=40), offset=st.integers(0, 2**40), length=st.integers(0, 2**40))
pieces = st.lists(st.binary(max_size=300), max_size=4)


@given(st.lists(parts, max_size=5), pieces)
def test_generated_code_reads_what_is_encoded_and_decoding_reads_what_generated_code_writes(some, data):
    whole = b"".join(data)
    expected = ReadFilesResponse(parts=some, data=whole)
    encoded = encode(some, data)
    assert ReadFilesResponse.FromString(encoded) == expected
    for message in (encoded, expected.SerializeToString()):
        found, content = decode(message)
        assert (list(found.parts), bytes(content)) == (some, whole)


@given(st.lists(parts, max_size=3), st.binary(min_size=1, max_size=200), st.binary(min_size=1, max_size=30))
def test_fields_of_later_versions_and_another_order_are_read_too(some, data, later):
    head, body = ReadFilesResponse(parts=some).SerializeToString(), ReadFilesResponse(data=data).SerializeToString()
    unknown = bytes([0x7A, len(later)]) + later  # field 15
    for message in (body + head, unknown + head + body, head + unknown + body, head + body + unknown):
        found, content = decode(message)
        assert (list(found.parts), bytes(content)) == (some, data)


def test_the_data_are_the_bytes_of_the_message_itself():
    message = encode([FilePart(guid="g", length=100_000)], [bytes(100_000)])
    assert decode(message)[1].obj is message


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_read_as_generated_code_reads_them(message):
    try:
        expected = ReadFilesResponse.FromString(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode(message)
    else:
        found, content = decode(message)
        assert (found.parts, bytes(content)) == (expected.parts, expected.data)


@given(st.lists(parts, min_size=1, max_size=3), st.binary(min_size=1, max_size=300), st.data())
def test_a_message_that_is_cut_is_refused_or_has_less(some, data, draw):
    message = encode(some, [data])
    cut = message[: draw.draw(st.integers(0, len(message) - 1))]
    try:
        found, content = decode(cut)
    except DecodeError:
        return
    assert len(content) == 0 and list(found.parts) == some[: len(found.parts)]
