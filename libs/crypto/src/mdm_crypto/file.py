"""Encrypted files: a header that names the key, then a stream of `mdm_crypto.stream`.

Layout of version 1: "MDMFILE" (7 bytes) ‖ version, 1 (1 byte) ‖ GUID of the key (16) ‖ stream. The stream's associated data are
those 24 bytes, so a header that was altered, or taken from another file, authenticates nothing. A stream without a
header, as staged files are kept, is read too: its associated data is the GUID alone, which the reader must know. The two
never pass for each other: a bare stream begins with the byte 40.
"""

from typing import Final
from uuid import UUID

from mdm_crypto import stream
from mdm_crypto.stream import Destination, Source

MAGIC: Final = b"MDMFILE"
VERSION: Final = 1
HEADER_SIZE: Final = 24


class FormatError(ValueError):
    """Bytes that are not an encrypted file, or one of a version that this code does not know."""


def header(guid: UUID) -> bytes:
    """Return the header of a file encrypted under the key of this GUID."""
    return MAGIC + bytes([VERSION]) + guid.bytes


def encrypt_file(key: bytes, guid: UUID, source: Source, destination: Destination) -> int:
    """Encrypt everything from `source` into `destination`, in constant memory; return the number of plaintext bytes.

    The file is complete only when this returns: after an exception what was written does not decrypt.
    """
    start = header(guid)
    destination.write(start)
    return stream.encrypt_stream(key, start, source, destination)


class EncryptedFile:
    """An encrypted file whose header has been read from `source`; `guid` names its key, None for a bare stream.

    The header is not authenticated before `decrypt` has succeeded.
    """

    def __init__(self, source: Source) -> None:
        """Read the header.

        Raises:
            FormatError: it is malformed.
        """
        start = _read(source, HEADER_SIZE)
        self.guid: UUID | None = None
        self._source = source
        self._associated_data = start
        if start.startswith(MAGIC):
            if len(start) < HEADER_SIZE:
                raise FormatError("an encrypted file, cut short in its header")
            if start[len(MAGIC)] != VERSION:
                raise FormatError(f"an encrypted file of version {start[len(MAGIC)]}; this program reads version {VERSION}")
            self.guid = UUID(bytes=start[len(MAGIC) + 1 :])
        elif start[:1] == bytes([stream.HEADER_SIZE]):
            self._source = _Prefixed(start, source)
        else:
            raise FormatError("not an encrypted file")

    def decrypt(self, key: bytes, guid: UUID, destination: Destination) -> int:
        """Write the plaintext to `destination` in constant memory; return its size in bytes. Once only.

        Every byte written is authentic and in place, but only the return proves that nothing was cut off: the caller
        must discard what was written after an exception.

        Raises:
            StreamError: another key, or altered, reordered, spliced or cut.
        """
        associated_data = guid.bytes if self.guid is None else self._associated_data
        return stream.decrypt_stream(key, associated_data, self._source, destination)


class _Prefixed:
    """A source whose first bytes have been read already: returns them first."""

    def __init__(self, start: bytes, rest: Source) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int, /) -> stream.Buffer:
        if not self._start:
            return self._rest.read(size)
        part, self._start = self._start[:size], self._start[size:]
        return part


def _read(source: Source, size: int) -> bytes:
    found = b""
    while len(found) < size and (block := source.read(size - len(found))):
        found += block
    return found
