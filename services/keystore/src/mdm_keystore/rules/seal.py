"""Sealing of shares at rest with a key-encryption key that is outside the database."""

import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from mdm_crypto.shamir import Share
from mdm_service.identity.trust import WatchedFile
from mdm_service.settings import ConfigurationError

from mdm_keystore.rules.model import KeyRecord, KeyState

_NONCE_SIZE = 12
_log = logging.getLogger(__name__)
_LINE = re.compile(r"^[0-9a-fA-F]{64}$")


class SealBroken(Exception):
    """A sealed share does not open: it has another key-encryption key, was altered, or was moved from another key's row."""


class Sealer:
    """AES-256-GCM under the first of several key-encryption keys; opens what any of them sealed.

    The associated data binds a sealed share to its place: GUID (16 bytes) ‖ epoch (4, big-endian) ‖ x (1) ‖, from version 1 on,
    version (4, big-endian). Safe for threads; the keys may change at any time.
    """

    def __init__(self, keys: Callable[[], Sequence[bytes]] | Sequence[bytes]) -> None:
        """Take the keys, or what returns the present ones; the first seals."""
        self._keys = keys if callable(keys) else lambda: keys
        self._present: tuple[Sequence[bytes], dict[str, AESGCM]] = ((), {})

    @classmethod
    def from_file(cls, path: Path) -> "Sealer":
        """Read keys of 64 hexadecimal digits, one a line (`openssl rand -hex 32`); the first one seals.

        The file is read again when it changes; while it is unusable, the keys read before are used. A file that everybody on the
        machine may read is used, with a warning in the log.

        Raises:
            ConfigurationError: the file cannot be read, or a line is not a key.
        """
        file = WatchedFile(path, _parse)
        try:
            last = file.get()
        except (OSError, ValueError) as error:
            why = "each line must be 64 hexadecimal digits" if isinstance(error, ValueError) else f"{type(error).__name__}: cannot be read"
            raise ConfigurationError(f"keystore.kek_file: {path}: {why}") from None
        if path.stat().st_mode & stat.S_IROTH:
            _log.warning("kek_file is readable by everybody: chmod 600", extra={"path": str(path)})

        logged = False

        def keys() -> Sequence[bytes]:
            nonlocal last, logged
            try:
                last, logged = file.get(), False
            except (OSError, ValueError) as error:
                if not logged:
                    _log.error("kek_file cannot be used; going on with the keys read before", extra={"error": type(error).__name__})
                logged = True
            return last

        return cls(keys)

    @property
    def current(self) -> str:
        """The name of the key that seals now."""
        return next(iter(self._ciphers()))

    @property
    def known(self) -> list[str]:
        """The names of all keys that open."""
        return list(self._ciphers())

    def seal(self, value: bytes, guid: UUID, epoch: int, x: int, version: int = 0) -> tuple[bytes, str]:
        """Return nonce ‖ ciphertext ‖ tag of a share's value under the current key, and that key's name."""
        return self._seal(value, _place(guid, epoch, x, version))

    def seal_signing_key(self, seed: bytes, chain_id: UUID) -> tuple[bytes, str]:
        """Seal the seed of the key that signs an audit chain; it cannot be opened as a share, nor a share as a signing key."""
        return self._seal(seed, _signing_place(chain_id))

    def open_signing_key(self, sealed: bytes, kek_id: str, chain_id: UUID) -> bytes:
        """Return what `seal_signing_key` sealed.

        Raises:
            SealBroken: it does not open.
        """
        return self._open(sealed, kek_id, _signing_place(chain_id))

    def seal_parts(self, parts: bytes, round_id: UUID, helper: int) -> tuple[bytes, str]:
        """Seal what a helper has dealt in a round; it cannot be opened as anything else."""
        return self._seal(parts, _dealing_place(round_id, helper))

    def open_parts(self, sealed: bytes, kek_id: str, round_id: UUID, helper: int) -> bytes:
        """Return what `seal_parts` sealed.

        Raises:
            SealBroken: it does not open.
        """
        return self._open(sealed, kek_id, _dealing_place(round_id, helper))

    def open(self, sealed: bytes, kek_id: str, guid: UUID, epoch: int, x: int, version: int = 0) -> bytes:
        """Return the share's value.

        Raises:
            SealBroken: it does not open.
        """
        return self._open(sealed, kek_id, _place(guid, epoch, x, version))

    def _seal(self, value: bytes, place: bytes) -> tuple[bytes, str]:
        kek_id, cipher = next(iter(self._ciphers().items()))
        nonce = os.urandom(_NONCE_SIZE)
        return nonce + cipher.encrypt(nonce, value, place), kek_id

    def _open(self, sealed: bytes, kek_id: str, place: bytes) -> bytes:
        cipher = self._ciphers().get(kek_id)
        if cipher is None:
            raise SealBroken(f"the key-encryption key {kek_id} is not in kek_file")
        try:
            return cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], place)
        except InvalidTag:
            raise SealBroken("the sealed value is not authentic") from None

    def _ciphers(self) -> dict[str, AESGCM]:
        keys = self._keys()
        known, ciphers = self._present
        if keys is not known:
            ciphers = {_key_id(key): AESGCM(key) for key in keys}
            self._present = keys, ciphers
        return ciphers


def seal_share(
    sealer: Sealer, share: Share, *, state: KeyState, creator: str, acl_id: UUID, create_time: datetime, expire_time: datetime | None
) -> KeyRecord:
    """Return the sealed record of a share, as it is stored."""
    sealed, kek_id = sealer.seal(share.value, share.guid, share.epoch, share.x, share.version)
    return KeyRecord(
        guid=share.guid,
        epoch=share.epoch,
        x=share.x,
        threshold=share.threshold,
        total=share.total,
        commitments=share.commitments,
        sealed=sealed,
        kek_id=kek_id,
        state=state,
        creator=creator,
        acl_id=acl_id,
        create_time=create_time,
        expire_time=expire_time,
        version=share.version,
    )


def open_share(sealer: Sealer, record: KeyRecord) -> Share | None:
    """Return the share in a record, None if it does not open."""
    try:
        value = sealer.open(record.sealed, record.kek_id, record.guid, record.epoch, record.x, record.version)
    except SealBroken:
        return None
    return Share(record.guid, record.epoch, record.x, value, record.commitments, record.threshold, record.total, record.version)


def _parse(content: bytes) -> Sequence[bytes]:
    lines = content.decode("ascii").split()
    if not lines or not all(_LINE.match(line) for line in lines):
        raise ValueError("each line must have 64 hexadecimal digits")
    return [bytes.fromhex(line) for line in lines]


def _place(guid: UUID, epoch: int, x: int, version: int) -> bytes:
    place = guid.bytes + epoch.to_bytes(4, "big") + x.to_bytes(1, "big")
    return place + version.to_bytes(4, "big") if version else place


def _signing_place(chain_id: UUID) -> bytes:
    """Return the associated data of a signing key; its length differs from that of a share's."""
    return b"mdm keystore audit signing key\0" + chain_id.bytes


def _dealing_place(round_id: UUID, helper: int) -> bytes:
    """Return the associated data of parts; its length differs from that of a share's and of a signing key's."""
    return b"mdm keystore parts\0" + round_id.bytes + helper.to_bytes(1, "big")


def _key_id(key: bytes) -> str:
    """Name a key without revealing it."""
    return hashlib.sha256(b"mdm keystore key-encryption key id" + key).hexdigest()[:16]
