"""The format of encrypted files: published vectors, and every way in which a file is not what it says."""

import io
import itertools
import os
from hashlib import sha256
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from mdm_crypto import stream
from mdm_crypto.file import HEADER_SIZE, EncryptedFile, FormatError, encrypt_file, header
from mdm_crypto.stream import SEGMENT_SIZE, StreamError

KEY = bytes(range(32))
GUID = UUID("00112233-4455-6677-8899-aabbccddeeff")
OTHER = UUID("ffeeddcc-bbaa-9988-7766-554433221100")
START = SEGMENT_SIZE - 40 - 16

#: The vectors of docs/decisions/0010-encrypted-files.md: plaintext, and the file under KEY and GUID as hexadecimal digits.
VECTORS = [
    (
        b"",
        "4d444d46494c450100112233445566778899aabbccddeeff"
        "28a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6"
        "89994e9c96812fe50e36bfbd89289925",
    ),
    (
        b"pixels",
        "4d444d46494c450100112233445566778899aabbccddeeff"
        "28a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6"
        "1d5120089f87bccfaf84ac46ae45434bf0f219b438fc",
    ),
]
#: A file of three segments of zeros, by its SHA-256.
LONG_SIZE, LONG_SHA256 = 2 * SEGMENT_SIZE + 1000, "7c7fb7f10606943f44055747b8cad5d63a41b86d0bb938614eee02ea9dd30f31"


def encrypted(plaintext: bytes, guid: UUID = GUID, key: bytes = KEY) -> bytes:
    destination = io.BytesIO()
    assert encrypt_file(key, guid, io.BytesIO(plaintext), destination) == len(plaintext)
    return destination.getvalue()


def decrypted(content: bytes, guid: UUID = GUID, key: bytes = KEY) -> bytes:
    destination = io.BytesIO()
    EncryptedFile(io.BytesIO(content)).decrypt(key, guid, destination)
    return destination.getvalue()


def refused(content: bytes, guid: UUID = GUID, key: bytes = KEY) -> None:
    with pytest.raises((StreamError, FormatError)):
        decrypted(content, guid, key)


@pytest.fixture
def fixed_randomness(monkeypatch):
    """Make salt and nonce prefix those of the vectors."""
    given_bytes = {32: bytes(range(0xA0, 0xC0)), 7: bytes(range(0xC0, 0xC7))}
    monkeypatch.setattr(stream.os, "urandom", given_bytes.__getitem__)


@pytest.mark.parametrize(("plaintext", "hexadecimal"), VECTORS, ids=["empty", "one segment"])
def test_published_vectors(plaintext, hexadecimal, fixed_randomness):
    assert encrypted(plaintext).hex() == hexadecimal
    assert decrypted(bytes.fromhex(hexadecimal)) == plaintext


def test_the_published_vector_of_three_segments(fixed_randomness):
    content = encrypted(bytes(LONG_SIZE))
    assert sha256(content).hexdigest() == LONG_SHA256
    assert decrypted(content) == bytes(LONG_SIZE)


def test_the_layout_read_independently():
    content = encrypted(b"pixels")
    assert content[:24] == b"MDMFILE\x01" + GUID.bytes
    salt, prefix = content[25:57], content[57:64]
    derived = HKDF(algorithm=SHA256(), length=32, salt=salt, info=content[:24]).derive(KEY)
    assert AESGCM(derived).decrypt(prefix + bytes(4) + b"\x01", content[64:], None) == b"pixels"


@pytest.mark.parametrize("size", [0, 1, START - 1, START, START + 1, START + SEGMENT_SIZE - 16, 3 * SEGMENT_SIZE])
def test_size_is_known_beforehand_and_the_file_comes_back(size):
    plaintext = os.urandom(size)
    content = encrypted(plaintext)
    assert len(content) == HEADER_SIZE + stream.ciphertext_size(size)
    assert EncryptedFile(io.BytesIO(content)).guid == GUID
    assert decrypted(content) == plaintext


def test_a_bare_stream_is_read_under_the_guid_it_was_made_for():
    bare = stream.encrypt(KEY, GUID.bytes, [b"x" * (SEGMENT_SIZE + 5)])
    assert EncryptedFile(io.BytesIO(bare)).guid is None
    assert decrypted(bare) == b"x" * (SEGMENT_SIZE + 5)
    refused(bare, OTHER)


def test_a_header_can_be_neither_taken_off_nor_put_on():
    refused(encrypted(b"pixels")[HEADER_SIZE:])
    refused(header(GUID) + stream.encrypt(KEY, GUID.bytes, [b"pixels"]))


def test_a_file_renamed_to_another_key_does_not_decrypt_even_under_the_same_key():
    content = encrypted(b"pixels")
    refused(header(OTHER) + content[HEADER_SIZE:], OTHER)
    refused(content, key=bytes(32))


def test_reordered_spliced_cut_and_lengthened_files_do_not_decrypt():
    one, two = encrypted(bytes(3 * SEGMENT_SIZE)), encrypted(bytes(3 * SEGMENT_SIZE))
    cuts = [HEADER_SIZE + n * SEGMENT_SIZE for n in range(4)]
    first, second, third = (one[a:b] for a, b in itertools.pairwise(cuts))
    rest = one[cuts[3] :]
    assert one == one[:HEADER_SIZE] + first + second + third + rest
    refused(one[:HEADER_SIZE] + first + third + second + rest)
    refused(one[:HEADER_SIZE] + first + second + rest)
    refused(one[:HEADER_SIZE] + first + two[cuts[1] : cuts[2]] + third + rest)
    refused(two[: HEADER_SIZE + 40] + one[HEADER_SIZE + 40 :])
    refused(one + b"\0")
    for kept in (HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 40, HEADER_SIZE + 56, *cuts[1:], cuts[2] + 1, len(one) - 1):
        refused(one[:kept])


@given(st.integers(0, HEADER_SIZE + stream.ciphertext_size(100) - 1), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(position, bit):
    content = bytearray(encrypted(b"x" * 100))
    content[position] ^= 1 << bit
    refused(bytes(content))


@pytest.mark.parametrize("content", [b"", b"MDM", b"MDMFILE", header(GUID)[:-1], b"DICM" * 20, b"MDMFILE\x02" + bytes(100)])
def test_what_is_no_such_file_is_named_as_that(content):
    with pytest.raises(FormatError, match="encrypted file"):
        EncryptedFile(io.BytesIO(content))
