"""What we write as Crypt4GH is what the reference implementation reads, for each recipient and for nobody else."""

import hashlib
import io
from base64 import b64encode

import crypt4gh.lib
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from mdm_crypto.crypt4gh import SEGMENT_SIZE, Crypt4ghWriter, RecipientError, encrypted_size, parse_recipient
from nacl.bindings import crypto_sign_ed25519_sk_to_curve25519


def recipient() -> tuple[bytes, bytes]:
    """A private key and its public one."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def written(content: bytes, *recipients: bytes, piece: int = 10_000) -> tuple[bytes, Crypt4ghWriter]:
    file = io.BytesIO()
    with Crypt4ghWriter(recipients, file) as writer:
        for start in range(0, len(content), piece):
            writer.write(content[start : start + piece])
    return file.getvalue(), writer


def opened(data: bytes, private: bytes) -> bytes:
    plain = io.BytesIO()
    crypt4gh.lib.decrypt([(0, private, None)], io.BytesIO(data), plain)
    return plain.getvalue()


@given(size=st.sampled_from([0, 1, SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 3 * SEGMENT_SIZE]), piece=st.integers(1, 200_000))
def test_the_reference_reads_what_we_write(size, piece):
    private, public = recipient()
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    data, writer = written(content, public, piece=max(piece, size // 50))
    assert opened(data, private) == content
    assert len(data) == writer.size == encrypted_size(size, 1) and writer.plain_size == size
    assert (writer.sha256, writer.plain_sha256) == (hashlib.sha256(data).hexdigest(), hashlib.sha256(content).hexdigest())


def test_each_recipient_reads_it_and_nobody_else():
    keys = [recipient() for _ in range(3)]
    data, _ = written(b"for two", keys[0][1], keys[1][1])
    assert [opened(data, private) for private, _ in keys[:2]] == [b"for two"] * 2
    with pytest.raises(ValueError):
        opened(data, keys[2][0])


def test_a_file_cut_between_segments_decrypts_and_only_its_digest_shows_it():
    private, public = recipient()
    content = bytes(2 * SEGMENT_SIZE)
    data, writer = written(content, public)
    cut = data[: len(data) - SEGMENT_SIZE - 28]
    assert opened(cut, private) == content[:SEGMENT_SIZE]
    assert hashlib.sha256(cut).hexdigest() != writer.sha256 and len(cut) != writer.size


def test_an_altered_file_does_not_decrypt():
    private, public = recipient()
    data, _ = written(b"content", public)
    for place in (130, len(data) - 1):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(Exception):  # noqa: B017 - libsodium's own
            assert opened(altered, private) != b"content"


def test_keys_are_read_as_their_programs_write_them():
    _, public = recipient()
    pem = f"-----BEGIN CRYPT4GH PUBLIC KEY-----\n{b64encode(public).decode()}\n-----END CRYPT4GH PUBLIC KEY-----\n"
    assert parse_recipient(pem) == public
    ssh = Ed25519PrivateKey.generate()
    line = ssh.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = crypto_sign_ed25519_sk_to_curve25519(ssh.private_bytes_raw() + ssh.public_key().public_bytes_raw())
    data, _ = written(b"by ssh", parse_recipient(f"{line} alice@example\n"))
    assert opened(data, private) == b"by ssh"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "neither"),
        ("ssh-rsa AAAA", "neither"),
        ("ssh-ed25519 !!!", "damaged"),
        ("-----BEGIN CRYPT4GH PUBLIC KEY-----\nAAAA\n", "damaged"),
        ("-----BEGIN CRYPT4GH PUBLIC KEY-----", "damaged"),
        ("-----BEGIN CRYPT4GH PRIVATE KEY-----\nAAAA\n", "private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "private key"),
    ],
)
def test_what_is_no_public_key_is_refused(text, said):
    with pytest.raises(RecipientError, match=said):
        parse_recipient(text)


def test_nothing_is_written_for_nobody_or_for_a_key_of_low_order():
    for recipients in ([], [bytes(32)]):
        with pytest.raises(RecipientError):
            Crypt4ghWriter(recipients, io.BytesIO())
