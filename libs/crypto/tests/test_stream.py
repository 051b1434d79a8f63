"""The wire format against Tink itself and against a second reading of its specification, and every kind of damage."""

import hashlib
import hmac
import io
import os

import pytest
import tink
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_crypto import stream
from mdm_crypto.stream import HEADER_SIZE, SEGMENT_SIZE, StreamError
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

KEY = bytes(range(32))
GUID = bytes(range(16))
FIRST = SEGMENT_SIZE - HEADER_SIZE - 16
NEXT = SEGMENT_SIZE - 16
SIZES = [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + NEXT, FIRST + NEXT + 1, 3 * SEGMENT_SIZE]


def content(size: int) -> bytes:
    return os.urandom(min(size, 4096)).ljust(size, b"\x5a")


@pytest.fixture(scope="module")
def tink_primitive() -> streaming_aead.StreamingAead:
    streaming_aead.register()
    parameters = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=SEGMENT_SIZE, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
    )
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(version=0, key_value=KEY, params=parameters)
    data = tink_pb2.KeyData(
        type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
        value=key.SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    entry = tink_pb2.Keyset.Key(key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW)
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[entry])
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


class KeptOpen(io.BytesIO):
    """Tink closes its destination; the bytes are still wanted."""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("size", SIZES)
def test_tink_decrypts_what_we_encrypt(tink_primitive, size):
    plaintext = content(size)
    ciphertext = stream.encrypt(KEY, GUID, [plaintext])
    with tink_primitive.new_decrypting_stream(io.BytesIO(ciphertext), GUID) as reader:
        assert reader.read() == plaintext


@pytest.mark.parametrize("size", SIZES)
def test_we_decrypt_what_tink_encrypts(tink_primitive, size):
    plaintext = content(size)
    destination = KeptOpen()
    with tink_primitive.new_encrypting_stream(destination, GUID) as writer:
        writer.write(plaintext)
    assert stream.decrypt(KEY, GUID, destination.getvalue()) == plaintext


def test_one_segment_matches_the_specification_read_independently():
    ciphertext = stream.encrypt(KEY, GUID, [b"pixels"])
    assert ciphertext[0] == 40
    salt, prefix = ciphertext[1:33], ciphertext[33:40]
    derived = HKDF(algorithm=SHA256(), length=32, salt=salt, info=GUID).derive(KEY)
    assert AESGCM(derived).decrypt(prefix + bytes(4) + b"\x01", ciphertext[40:], None) == b"pixels"


@pytest.mark.parametrize("size", SIZES)
def test_size_of_ciphertext_is_known_beforehand_and_the_reader_gives_the_plaintext(size):
    plaintext = content(size)
    ciphertext = stream.encrypt(KEY, GUID, [plaintext])
    assert len(ciphertext) == stream.ciphertext_size(size)
    assert stream.DecryptingReader(KEY, GUID, io.BytesIO(ciphertext)).read() == plaintext
    assert stream.decrypt(KEY, GUID, ciphertext) == plaintext


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("written_before", [0, 7])
def test_whole_streams_are_copied_through_in_either_direction(size, written_before):
    plaintext = content(size)
    middle, end = io.BytesIO(), io.BytesIO()
    with stream.EncryptingWriter(KEY, GUID, middle) as writer:
        writer.write(plaintext[:written_before])
        assert writer.write_from(io.BytesIO(plaintext[written_before:])) == len(plaintext[written_before:])
    middle.seek(0)
    assert stream.decrypt_stream(KEY, GUID, middle, end) == size
    assert end.getvalue() == plaintext


@settings(max_examples=25)
@given(st.lists(st.integers(0, SEGMENT_SIZE + 100), max_size=4))
def test_how_the_plaintext_is_cut_into_writes_makes_no_difference(sizes):
    parts = [content(size) for size in sizes]
    ciphertext = stream.encrypt(KEY, GUID, [memoryview(part) for part in parts])
    assert stream.decrypt(KEY, GUID, ciphertext) == b"".join(parts)


class Sparing(io.BytesIO):
    """A destination that takes only a part of what it is given, as unbuffered files may."""

    def write(self, data):
        return super().write(data[:300_000])


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0, 1, 1000, *SIZES]), max_size=4))
def test_buffers_are_encrypted_without_a_copy_however_they_are_cut(sizes):
    parts = [content(size) for size in sizes]
    destination = Sparing()
    size = stream.encrypt_buffers(KEY, GUID, [memoryview(part) for part in parts], destination)
    assert size == len(destination.getvalue()) == stream.ciphertext_size(sum(sizes))
    assert stream.decrypt(KEY, GUID, destination.getvalue()) == b"".join(parts)


@pytest.mark.parametrize("size", SIZES)
def test_tink_decrypts_buffers(tink_primitive, size):
    plaintext, destination = content(size), io.BytesIO()
    stream.encrypt_buffers(KEY, GUID, [plaintext], destination)
    destination.seek(0)
    assert tink_primitive.new_decrypting_stream(destination, GUID).read() == plaintext


def encrypted(key: bytes, associated_data: bytes, parts: list[bytes]) -> bytes:
    destination = io.BytesIO()
    stream.encrypt_buffers(key, associated_data, parts, destination)
    return destination.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_equal_content_gives_equal_ciphertext_however_it_is_cut(size):
    plaintext = content(size)
    whole = encrypted(KEY, GUID, [plaintext])
    assert encrypted(KEY, GUID, [plaintext[: size // 3], plaintext[size // 3 :], b""]) == whole
    assert encrypted(KEY, GUID, [plaintext]) == whole


@settings(max_examples=200)
@given(st.binary(max_size=64), st.binary(max_size=64))
def test_other_content_key_or_file_never_shares_a_stream_key(first, second):
    """No segment of two streams may be encrypted under one key and nonce: salts differ, so the keys of the streams do."""
    salts = {encrypted(KEY, GUID, [item])[1:33] for item in (first, second)}
    assert len(salts) == len({first, second})
    other = encrypted(KEY[::-1], GUID, [first])[1:33], encrypted(KEY, GUID[::-1], [first])[1:33]
    assert not salts.intersection(other)


def test_the_derived_header_matches_the_decision_read_independently():
    label = b"MDM stable ciphertext, version 1: salt and nonce prefix"
    extracted = hmac.digest(label, KEY, "sha256")
    info = GUID + hashlib.sha256(b"pixels").digest()
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    second = hmac.digest(extracted, first + info + b"\x02", "sha256")
    assert encrypted(KEY, GUID, [b"pix", b"els"])[1:40] == (first + second)[:39]


class Trickle(io.BytesIO):
    """A source that gives less than it is asked for, as a socket does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 65_537))


def test_a_source_of_short_reads_and_a_buffered_reader_work():
    plaintext = content(2 * SEGMENT_SIZE)
    destination = io.BytesIO()
    assert stream.encrypt_stream(KEY, GUID, Trickle(plaintext), destination) == len(plaintext)
    reader = io.BufferedReader(stream.DecryptingReader(KEY, GUID, Trickle(destination.getvalue())))
    assert reader.read(10) == plaintext[:10]
    assert reader.read() == plaintext[10:]


def refused(ciphertext: bytes, key: bytes = KEY, associated_data: bytes = GUID) -> None:
    with pytest.raises(StreamError):
        stream.decrypt(key, associated_data, ciphertext)
    with pytest.raises(StreamError):
        stream.DecryptingReader(key, associated_data, io.BytesIO(ciphertext)).read()
    with pytest.raises(StreamError):
        stream.decrypt_stream(key, associated_data, Trickle(ciphertext), io.BytesIO())


@pytest.fixture(scope="module")
def three_segments() -> bytes:
    return stream.encrypt(KEY, GUID, [content(FIRST + NEXT + 1000)])


def test_wrong_key_and_wrong_guid_never_decrypt(three_segments):
    refused(three_segments, key=bytes(32))
    refused(three_segments, associated_data=bytes(16))
    refused(stream.encrypt(KEY, GUID, []), associated_data=b"")


@pytest.mark.parametrize(
    "kept",
    [0, 1, 39, 40, 41, 56, 1000, SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 2 * SEGMENT_SIZE, -1, -1000],
)
def test_truncated_ciphertext_never_decrypts(three_segments, kept):
    refused(three_segments[:kept])


def test_reordered_repeated_and_missing_segments_never_decrypt(three_segments):
    first = three_segments[:SEGMENT_SIZE]
    second, third = three_segments[SEGMENT_SIZE : 2 * SEGMENT_SIZE], three_segments[2 * SEGMENT_SIZE :]
    refused(first + third)
    refused(first + second + second + third)
    refused(first + third + second)
    longer = stream.encrypt(KEY, GUID, [content(FIRST + 3 * NEXT)])
    segments = [longer[start : start + SEGMENT_SIZE] for start in range(0, len(longer), SEGMENT_SIZE)]
    refused(b"".join([segments[0], segments[2], segments[1], *segments[3:]]))


def test_segments_of_another_file_never_decrypt(three_segments):
    other = stream.encrypt(KEY, GUID, [content(FIRST + NEXT + 1000)])
    refused(three_segments[: 2 * SEGMENT_SIZE] + other[2 * SEGMENT_SIZE :])
    refused(other[:HEADER_SIZE] + three_segments[HEADER_SIZE:])


def test_appended_bytes_never_decrypt(three_segments):
    refused(three_segments + b"\x00")
    refused(three_segments + three_segments)


@given(st.integers(0, 40 + 100 + 16 - 1), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(position, bit):
    ciphertext = bytearray(stream.encrypt(KEY, GUID, [b"x" * 100]))
    ciphertext[position] ^= 1 << bit
    refused(bytes(ciphertext))


def test_a_writer_left_by_an_exception_leaves_ciphertext_that_does_not_decrypt():
    destination = io.BytesIO()
    with pytest.raises(OSError, match="source"), stream.EncryptingWriter(KEY, GUID, destination) as writer:
        writer.write(content(FIRST + 10))
        raise OSError("source broke")
    refused(destination.getvalue())
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")
    writer.close()
    refused(destination.getvalue())


def test_two_encryptions_of_one_plaintext_share_nothing():
    one, two = (stream.encrypt(KEY, GUID, [b"same"]) for _ in range(2))
    assert one[1:33] != two[1:33]
    assert one[40:] != two[40:]


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size):
    with pytest.raises(StreamError, match="32 bytes"):
        stream.encrypt(bytes(size), GUID, [b""])
