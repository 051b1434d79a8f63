"""Writing Crypt4GH, the GA4GH format of encrypted files: for each recipient a header packet, then segments of 64 KiB.

Layout (GA4GH, "Crypt4GH File Encryption Standard", version 1): "crypt4gh" ‖ version, 1 (4 bytes, little-endian as all numbers) ‖ number
of packets (4) ‖ packets ‖ segments. A packet is its length, 108 (4) ‖ method, 0: X25519 and ChaCha20-Poly1305 (4) ‖ the writer's public
key (32) ‖ nonce (12) ‖ sealed (packet type, 0 (4) ‖ method of the data, 0 (4) ‖ data key (32)) with its tag (16), under the first half of
BLAKE2b-512 (shared secret ‖ recipient's key ‖ writer's key). A segment is nonce (12) ‖ up to 65,536 sealed bytes ‖ tag (16).

The format does not mark the last segment: a file that was cut between two decrypts without an error. Whoever stores one needs its size
and digest beside it, which the writer counts as it goes.
"""

import hashlib
import os
from base64 import b64decode
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519

from mdm_crypto.stream import Buffer, Destination

SEGMENT_SIZE: Final = 65_536
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_PACKET_SIZE: Final = 108
_KEY_SIZE: Final = 32
_BEGIN = "-----BEGIN CRYPT4GH PUBLIC KEY-----"
_SSH = "ssh-ed25519"


class RecipientError(ValueError):
    """A text that is no public key of a recipient, or a key for which nothing can be encrypted."""


def parse_recipient(text: str) -> bytes:
    """Return the 32 bytes of a public key: a file as `crypt4gh-keygen` writes it, or a line `ssh-ed25519 …`.

    Raises:
        RecipientError: it is neither. A private key is refused by name.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    try:
        if lines and lines[0] == _BEGIN:
            return _whole(b64decode(lines[1], validate=True))
        if lines and lines[0].startswith(_SSH + " "):
            blob = b64decode(lines[0].split()[1], validate=True)
            return bytes(crypto_sign_ed25519_pk_to_curve25519(_whole(blob[-_KEY_SIZE:])))
    except (ValueError, IndexError, RuntimeError) as error:
        raise RecipientError("a damaged public key") from error
    if "PRIVATE KEY" in text:
        raise RecipientError("a private key: give the recipient's public one")
    raise RecipientError("neither a Crypt4GH public key nor an ssh-ed25519 one")


def encrypted_size(plaintext_size: int, recipients: int) -> int:
    """Return the size of a Crypt4GH file of `plaintext_size` bytes."""
    return 16 + recipients * _PACKET_SIZE + plaintext_size + -(-plaintext_size // SEGMENT_SIZE) * (_NONCE_SIZE + _TAG_SIZE)


class Crypt4ghWriter:
    """Encrypts what is written for some recipients, under a data key of its own; at most one segment is buffered.

    Call `close` at the end: until then the last bytes are missing. `size`, `sha256`, `plain_size` and `plain_sha256` count what came out
    and what went in.
    """

    def __init__(self, recipients: Sequence[bytes], destination: Destination) -> None:
        """Write the header.

        Raises:
            RecipientError: there is no recipient, or one of the keys is of low order.
        """
        if not recipients:
            raise RecipientError("no recipient")
        self._destination = destination
        data_key = ChaCha20Poly1305.generate_key()
        self._cipher = ChaCha20Poly1305(data_key)
        self._pending = bytearray()
        self._sha256, self._plain_sha256 = hashlib.sha256(), hashlib.sha256()
        self.size = self.plain_size = 0
        writer = X25519PrivateKey.generate()
        packets = [_packet(writer, recipient, data_key) for recipient in recipients]
        self._emit(b"crypt4gh" + _number(1) + _number(len(packets)) + b"".join(packets))

    @property
    def sha256(self) -> str:
        """SHA-256 of the encrypted file so far, in hexadecimal."""
        return self._sha256.hexdigest()

    @property
    def plain_sha256(self) -> str:
        """SHA-256 of the plaintext so far, in hexadecimal."""
        return self._plain_sha256.hexdigest()

    def write(self, data: Buffer, /) -> int:
        """Encrypt all of `data`; return its size in bytes."""
        view = memoryview(data).cast("B")
        self._plain_sha256.update(view)
        self.plain_size += len(view)
        position = 0
        if self._pending:
            position = min(SEGMENT_SIZE - len(self._pending), len(view))
            self._pending += view[:position]
            if len(self._pending) == SEGMENT_SIZE:
                self._seal(self._pending)
                self._pending.clear()
        while len(view) - position >= SEGMENT_SIZE:
            self._seal(view[position : position + SEGMENT_SIZE])
            position += SEGMENT_SIZE
        self._pending += view[position:]
        return len(view)

    def close(self) -> None:
        """Write what is left."""
        if self._pending:
            self._seal(self._pending)
            self._pending.clear()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close after success."""
        if kind is None:
            self.close()

    def _seal(self, segment: Buffer) -> None:
        nonce = os.urandom(_NONCE_SIZE)
        self._emit(nonce)
        self._emit(self._cipher.encrypt(nonce, segment, None))

    def _emit(self, data: bytes) -> None:
        self._sha256.update(data)
        self.size += len(data)
        self._destination.write(data)


def _packet(writer: X25519PrivateKey, recipient: bytes, data_key: bytes) -> bytes:
    """Return the header packet by which a recipient gets the data key."""
    try:
        secret = writer.exchange(X25519PublicKey.from_public_bytes(recipient))
    except ValueError as error:
        raise RecipientError("a public key for which nothing can be encrypted") from error
    public = writer.public_key().public_bytes_raw()
    key = hashlib.blake2b(secret + recipient + public).digest()[:_KEY_SIZE]
    nonce = os.urandom(_NONCE_SIZE)
    sealed = ChaCha20Poly1305(key).encrypt(nonce, _number(0) + _number(0) + data_key, None)
    return _number(_PACKET_SIZE) + _number(0) + public + nonce + sealed


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _whole(key: bytes) -> bytes:
    if len(key) != _KEY_SIZE:
        raise ValueError("not 32 bytes")
    return key
