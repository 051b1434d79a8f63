"""Sealing of shares at rest with a key-encryption key that is outside the database."""

import hashlib
import logging
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from mdm_service.errors import ConfigurationError

_NONCE_SIZE = 12
_log = logging.getLogger(__name__)
_LINE = re.compile(r"^[0-9a-fA-F]{64}$")


class SealBroken(Exception):
    """A sealed share that does not open: another key-encryption key, or altered, or moved from another key's row."""


class Sealer:
    """AES-256-GCM under the first of several key-encryption keys; opens what any of them sealed.

    The associated data binds a sealed share to its place: GUID (16 bytes) ‖ epoch (4, big-endian) ‖ x (1).
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self.current = _key_id(keys[0])

    @classmethod
    def from_file(cls, path: Path) -> "Sealer":
        """Read keys of 64 hexadecimal digits, one a line (`openssl rand -hex 32`); the first one seals.

        A file that everybody on the machine may read is used, with a warning in the log.

        Raises:
            ConfigurationError: the file cannot be read, or a line of it is no key.
        """
        try:
            lines = path.read_text(encoding="ascii").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"keystore.kek_file: {path}: {type(error).__name__}: cannot be read") from None
        if path.stat().st_mode & stat.S_IROTH:
            _log.warning("kek_file is readable by everybody: chmod 600", extra={"path": str(path)})
        if not lines or not all(_LINE.match(line) for line in lines):
            raise ConfigurationError(f"keystore.kek_file: {path}: each line must be 64 hexadecimal digits")
        return cls([bytes.fromhex(line) for line in lines])

    def seal(self, value: bytes, guid: UUID, epoch: int, x: int) -> bytes:
        """Return nonce ‖ ciphertext ‖ tag of a share's value, under the current key."""
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + self._ciphers[self.current].encrypt(nonce, value, _place(guid, epoch, x))

    def open(self, sealed: bytes, kek_id: str, guid: UUID, epoch: int, x: int) -> bytes:
        """Return the share's value.

        Raises:
            SealBroken: it does not open.
        """
        cipher = self._ciphers.get(kek_id)
        if cipher is None:
            raise SealBroken(f"the key-encryption key {kek_id} is not in kek_file")
        try:
            return cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], _place(guid, epoch, x))
        except InvalidTag:
            raise SealBroken("a sealed share is not authentic") from None


def _place(guid: UUID, epoch: int, x: int) -> bytes:
    return guid.bytes + epoch.to_bytes(4, "big") + x.to_bytes(1, "big")


def _key_id(key: bytes) -> str:
    """Name a key without revealing it."""
    return hashlib.sha256(b"mdm keystore key-encryption key id" + key).hexdigest()[:16]
