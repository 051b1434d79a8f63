"""A staged copy: the ciphertext that is served, its ETag and its checksums."""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self
from uuid import UUID

from mdm_crypto import file, stream
from mdm_wire.errors import Unavailable

_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the ciphertext of a file, staged or not: equal content has equal ciphertext (decision 0030)."""

    guid: UUID
    etag: str
    size: int
    sha256: bytes
    md5: bytes
    adler32: int


class KnownCopies(Protocol):
    """Remembers what copies were like; a file that is changed or removed is forgotten."""

    def find(self, guids: Sequence[UUID]) -> dict[UUID, Known]:
        """Return what is known of files."""
        ...

    def add(self, known: Known) -> None:
        """Remember a copy."""
        ...

    def forget(self, guids: Sequence[UUID]) -> None:
        """Remove what is known of files that are changed or removed."""
        ...


@dataclass(slots=True)
class Copy:
    """A staged file, opened for a caller; `check` raises once the caller may read it no longer.

    `etag` are the salt and nonce prefix that the ciphertext begins with, in hexadecimal: equal ones mean equal bytes.
    """

    guid: UUID
    size: int
    data: BinaryIO
    check: Callable[[], None]
    etag: str = ""

    def __post_init__(self) -> None:
        start = os.pread(self.data.fileno(), file.HEADER_SIZE + stream.HEADER_SIZE, 0)
        # Results of users have a header that names their key before the stream.
        offset = file.HEADER_SIZE if start.startswith(file.MAGIC) else 0
        self.etag = start[offset + 1 : offset + stream.HEADER_SIZE].hex()

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset`, if the caller may read them now.

        Raises:
            Forbidden: not any more. Unavailable: the spool has lost a part of the file, or rights cannot be checked.
        """
        self.check()
        data = os.pread(self.data.fileno(), size, offset)
        while len(data) < size:
            more = os.pread(self.data.fileno(), size - len(data), offset + len(data))
            if not more:
                raise Unavailable("STAGED_FILE_GONE", "The spool has lost a part of the staged file; ask for it again.")
            data += more
        return data

    def close(self) -> None:
        """Close the file."""
        self.data.close()

    def __enter__(self) -> Self:
        """Return the copy."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def known_of(copy: Copy, copies: KnownCopies) -> Known:
    """Return the checksums of a copy, reading it once unless they are remembered."""
    found = copies.find([copy.guid]).get(copy.guid)
    if found is not None and (found.etag, found.size) == (copy.etag, copy.size):
        return found
    sha256, md5, adler32, position = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 1, 0
    while position < copy.size:
        block = copy.read(position, min(_BLOCK_BYTES, copy.size - position))
        sha256.update(block)
        md5.update(block)
        adler32 = zlib.adler32(block, adler32)
        position += len(block)
    known = Known(copy.guid, copy.etag, copy.size, sha256.digest(), md5.digest(), adler32)
    copies.add(known)
    if not os.fstat(copy.data.fileno()).st_nlink:  # removed meanwhile, and forgotten before it was remembered
        copies.forget([copy.guid])
    return known
