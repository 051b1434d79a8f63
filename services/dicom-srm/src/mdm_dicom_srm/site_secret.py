"""The site secret: how it is read, keys that follow from it, and the seal of what no reader of the database may see."""

import os
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mdm_service.settings import ConfigurationError
from mdm_wire.errors import FailedPrecondition

_SECRET_BYTES = 32
_NONCE = 12


def read_site_secret(path: Path) -> bytes:
    """Return the site secret.

    Raises:
        ConfigurationError: the file cannot be read or is too short.
    """
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"site_secret_file: {error}") from error
    if len(secret) < _SECRET_BYTES:
        raise ConfigurationError(f"site_secret_file: {path}: has {len(secret)} bytes, at least {_SECRET_BYTES} random ones are needed")
    return secret


def derive_key(site_secret: bytes, purpose: str) -> bytes:
    """Return 32 bytes by HKDF-SHA256 (RFC 5869) of the site secret; every purpose has its own."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"mdm-dicom-srm-v1:" + purpose.encode()).derive(site_secret)


class RecordSealer:
    """AES-256-GCM with a random 96-bit nonce; bound to the registration (GUID) and the field, so records cannot be exchanged."""

    def __init__(self, site_secret: bytes) -> None:
        self._cipher = AESGCM(derive_key(site_secret, "record"))

    def seal(self, guid: UUID, field: str, plain: bytes) -> bytes:
        """Return nonce and ciphertext."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, guid.bytes + field.encode())

    def open(self, guid: UUID, field: str, sealed: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            FailedPrecondition: SEAL_BROKEN, it was sealed under another site secret or has been changed.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], guid.bytes + field.encode())
        except (InvalidTag, ValueError):
            raise FailedPrecondition(
                "SEAL_BROKEN", "A stored record cannot be opened: check that site_secret_file is the right one."
            ) from None
