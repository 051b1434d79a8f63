"""Streaming authenticated encryption in the wire format of Tink's AES256_GCM_HKDF_1MB (raw key, no Tink prefix).

Layout (Tink documentation, "AES-GCM-HKDF Streaming AEAD"): header = length 40 (1 byte) ‖ salt (32) ‖ nonce prefix (7);
segment key = HKDF-SHA-256(key, salt, info = associated data); each segment is AES-256-GCM under the nonce
prefix ‖ index (4, big-endian) ‖ last (1), and is 1 MiB long with its tag, the first one shorter by the header, the last
one as long as needed. Swapped, missing or foreign segments fail to authenticate, and so does a cut: the last segment is
marked. The format is implemented here because Tink's own Python binding copies every byte several times
(15 times slower); tests compare both.

Salt and nonce prefix are random, or derived from key, associated data and content: then the same content gives the same ciphertext
(docs/decisions/0030-stable-ciphertext.md).
"""

import hashlib
import io
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Buffer = bytes | bytearray | memoryview

KEY_SIZE: Final = 32
SEGMENT_SIZE: Final = 1 << 20
HEADER_SIZE: Final = 40
TAG_SIZE: Final = 16
_SALT_SIZE: Final = 32
_PREFIX_SIZE: Final = 7
_MAX_SEGMENTS: Final = 1 << 32
# Longer than a salt, so HKDF extracts here from the key under another salt than any stream has.
_HEADER_LABEL = b"MDM stable ciphertext, version 1: salt and nonce prefix"
_of_thread = threading.local()


class StreamError(ValueError):
    """Ciphertext that is not authentic (altered, cut, or of another key or associated data), or an unusable key."""


class Destination(Protocol):
    """A destination of ciphertext; `write` accepts all of its data, as buffered files do."""

    def write(self, data: Buffer, /) -> object:
        """Write all of `data`."""


class Source(Protocol):
    """A source of plaintext or ciphertext; `read` may return fewer bytes than asked, and none only at the end."""

    def read(self, size: int, /) -> Buffer:
        """Return up to `size` bytes."""


def ciphertext_size(plaintext_size: int) -> int:
    """Return the size of the ciphertext of `plaintext_size` bytes."""
    segments = max(1, -(-(plaintext_size + HEADER_SIZE) // (SEGMENT_SIZE - TAG_SIZE)))
    return HEADER_SIZE + plaintext_size + segments * TAG_SIZE


def encrypt(key: bytes, associated_data: bytes, buffers: Iterable[Buffer]) -> bytes:
    """Return the ciphertext of the concatenated buffers, held in memory."""
    destination = io.BytesIO()
    with EncryptingWriter(key, associated_data, destination) as writer:
        for buffer in buffers:
            writer.write(buffer)
    return destination.getvalue()


def encrypt_buffers(key: bytes, associated_data: bytes, buffers: Sequence[Buffer], destination: Destination) -> int:
    """Encrypt the concatenated buffers, which are not copied, segment by segment; return the size of the ciphertext in bytes.

    Equal content under an equal key and associated data gives equal ciphertext. The buffers must not change meanwhile: they are read
    twice, for their digest and to encrypt them, and what was not digested must not be encrypted under a salt that was derived.
    `destination` may take a part of what it is given, as unbuffered files do, and then returns how much; it must have used that when
    `write` returns.
    """
    views = deque(view for view in (memoryview(buffer).cast("B") for buffer in buffers) if view)
    left = sum(map(len, views))
    salt, prefix = _derived(key, associated_data, views)
    cipher = SegmentCipher(key, associated_data, salt, prefix)
    sealed = _scratch(min(ciphertext_size(left), SEGMENT_SIZE))
    sealed[:HEADER_SIZE] = bytes([HEADER_SIZE]) + salt + prefix
    start, total, index, last = HEADER_SIZE, 0, 0, False
    while not last:
        size = min(left, SEGMENT_SIZE - TAG_SIZE - start)
        left -= size
        last = not left
        end = cipher.seal_from(views, size, index, last, sealed, start)
        _write_all(destination, sealed[:end])
        start, total, index = 0, total + end, index + 1
    return total


def decrypt(key: bytes, associated_data: bytes, data: Buffer) -> bytes:
    """Return the plaintext of a whole ciphertext.

    Raises:
        StreamError: the ciphertext is not authentic or not complete; nothing is returned.
    """
    cipher, rest = open_header(key, associated_data, memoryview(data))
    segments = []
    first = SEGMENT_SIZE - HEADER_SIZE
    starts = [0, *range(first, len(rest), SEGMENT_SIZE)]
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else len(rest)
        segments.append(cipher.open(rest[start:end], index, last=end == len(rest)))
    return segments[0] if len(segments) == 1 else b"".join(segments)


def encrypt_stream(key: bytes, associated_data: bytes, source: Source, destination: Destination) -> int:
    """Encrypt everything from `source` into `destination`, in constant memory; return the number of plaintext bytes.

    `destination` must have used the data when `write` returns: the buffer is used again.
    """
    with EncryptingWriter(key, associated_data, destination) as writer:
        return writer.write_from(source)


def decrypt_stream(key: bytes, associated_data: bytes, source: Source, destination: Destination) -> int:
    """Decrypt everything from `source` into `destination`, in constant memory; return the number of plaintext bytes.

    Every byte written is authentic and in place, but only the return proves that nothing was cut off: the caller must discard what
    was written after an exception. `destination` must have used what it gets when `write` returns.

    Raises:
        StreamError: the next segment is not authentic, or the stream was cut.
    """
    size = 0
    for segment in DecryptingReader(key, associated_data, source).segments():
        destination.write(segment)
        size += len(segment)
    return size


class SegmentCipher:
    """AES-256-GCM of numbered segments under one header."""

    def __init__(self, key: bytes, associated_data: bytes, salt: bytes, prefix: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise StreamError(f"the file key must have {KEY_SIZE} bytes")
        derived = HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=salt, info=associated_data).derive(key)
        self._gcm = AESGCM(derived)
        self._aes = AES(derived)
        self._prefix = prefix

    def _nonce(self, index: int, last: bool) -> bytes:
        if index >= _MAX_SEGMENTS:
            raise StreamError("the stream is longer than its format allows")
        return self._prefix + index.to_bytes(4, "big") + (b"\x01" if last else b"\x00")

    def seal_into(self, plaintext: Buffer, index: int, last: bool, target: memoryview) -> memoryview:
        size = len(plaintext) + TAG_SIZE
        self._gcm.encrypt_into(self._nonce(index, last), plaintext, None, target[:size])
        return target[:size]

    def seal_from(self, views: deque[memoryview], size: int, index: int, last: bool, target: memoryview, start: int) -> int:
        """Take `size` bytes of plaintext from `views` and write them, sealed, to `target` from `start`; return where they end."""
        encryptor = Cipher(self._aes, GCM(self._nonce(index, last))).encryptor()
        end = start + size
        while start < end:
            view = views.popleft()
            if len(view) > end - start:
                views.appendleft(view[end - start :])
                view = view[: end - start]
            start += encryptor.update_into(view, target[start:])
        encryptor.finalize()
        target[end : end + TAG_SIZE] = encryptor.tag
        return end + TAG_SIZE

    def open(self, segment: Buffer, index: int, last: bool) -> bytes:
        try:
            return self._gcm.decrypt(self._nonce(index, last), segment, None)
        except InvalidTag:
            raise _not_authentic() from None

    def open_into(self, segment: Buffer, index: int, last: bool, target: memoryview) -> memoryview:
        size = len(segment) - TAG_SIZE
        if size < 0:
            raise _not_authentic()
        try:
            self._gcm.decrypt_into(self._nonce(index, last), segment, None, target[:size])
        except InvalidTag:
            raise _not_authentic() from None
        return target[:size]


class EncryptingWriter:
    """Encrypts what is written; at most one segment is buffered.

    `close` writes the last segment: without it the ciphertext does not decrypt. Leaving a `with` block by an exception
    therefore does not close, so that a plaintext cut short never passes for a whole one. `destination` stays open.
    """

    def __init__(self, key: bytes, associated_data: bytes, destination: Destination) -> None:
        salt, prefix = os.urandom(_SALT_SIZE), os.urandom(_PREFIX_SIZE)
        self._cipher = SegmentCipher(key, associated_data, salt, prefix)
        self._destination = destination
        self._index = 0
        self._capacity = SEGMENT_SIZE - HEADER_SIZE - TAG_SIZE
        self._pending = bytearray()
        self._sealed = memoryview(bytearray())
        self.closed = False
        destination.write(bytes([HEADER_SIZE]) + salt + prefix)

    def write(self, data: Buffer) -> int:
        """Encrypt all of `data`; return its size in bytes."""
        if self.closed:
            raise ValueError("write to a closed stream")
        view = memoryview(data).cast("B")
        position = 0
        if self._pending:
            position = min(self._capacity - len(self._pending), len(view))
            self._pending += view[:position]
            if position < len(view):
                self._emit(self._pending, last=False)
                self._pending.clear()
        while len(view) - position > self._capacity:
            block = view[position : position + self._capacity]
            position += self._capacity
            self._emit(block, last=False)
        self._pending += view[position:]
        return len(view)

    def write_from(self, source: Source) -> int:
        """Encrypt everything from `source`, without another copy; return its size in bytes."""
        size = self.write(_read_exactly(source, self._capacity - len(self._pending)))
        block, spare = (memoryview(bytearray(SEGMENT_SIZE - TAG_SIZE)) for _ in range(2))
        # A full segment is the last one only if nothing follows.
        if len(self._pending) == self._capacity and (count := _fill(source, block)):
            self._emit(self._pending, last=False)
            while count == self._capacity and (following := _fill(source, spare)):
                self._emit(block, last=False)
                size += count
                block, spare, count = spare, block, following
            self._pending[:] = block[:count]
            size += count
        return size

    def close(self) -> None:
        """Write the last segment. A second call does nothing."""
        if not self.closed:
            self.closed = True
            self._emit(self._pending, last=True)
            self._pending.clear()

    def _emit(self, plaintext: Buffer, last: bool) -> None:
        size = len(plaintext) + TAG_SIZE
        if len(self._sealed) < size:
            self._sealed = memoryview(bytearray(size))
        self._destination.write(self._cipher.seal_into(plaintext, self._index, last, self._sealed))
        self._index += 1
        self._capacity = SEGMENT_SIZE - TAG_SIZE

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close after success; leave the ciphertext unfinished after an exception."""
        if kind is None:
            self.close()
        self.closed = True


class DecryptingReader(io.RawIOBase):
    """Reads authenticated plaintext, segment by segment, in constant memory; `source` stays open.

    Every byte returned is authentic and in place, but only the end of the stream proves that nothing was cut off: a
    consumer must discard what it has read if a later read raises StreamError.
    """

    def __init__(self, key: bytes, associated_data: bytes, source: Source) -> None:
        super().__init__()
        self._source = source
        header = _read_exactly(source, HEADER_SIZE)
        self._cipher, _ = open_header(key, associated_data, memoryview(header))
        self._index = 0
        self._size = SEGMENT_SIZE - HEADER_SIZE
        self._block = memoryview(bytearray(SEGMENT_SIZE + 1))
        self._carried = 0
        self._opened = memoryview(bytearray(SEGMENT_SIZE - TAG_SIZE))
        self._finished = False
        self._plaintext = self._opened[:0]

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is private
        """Fill `buffer` with as much of one segment as fits; return the bytes filled, 0 at the end.

        Raises:
            StreamError: the next segment is not authentic, or the stream was cut.
        """
        while not self._plaintext and not self._finished:
            self._next_segment()
        size = min(len(buffer), len(self._plaintext))
        memoryview(buffer).cast("B")[:size] = self._plaintext[:size]
        self._plaintext = self._plaintext[size:]
        return size

    def readall(self) -> bytes:
        """Return the rest of the plaintext; nothing is returned unless all of it is authentic."""
        return b"".join([bytes(segment) for segment in self.segments()])

    def segments(self) -> Iterator[memoryview]:
        """Yield the rest of the plaintext, a segment at a time; each is overwritten by the next one.

        Raises:
            StreamError: as `readinto`.
        """
        if self._plaintext:
            yield self._plaintext
        while not self._finished:
            self._next_segment()
            yield self._plaintext
        self._plaintext = self._opened[:0]

    def _next_segment(self) -> None:
        """Decrypt one segment; one byte is read ahead, because only the end of the source shows which one is last."""
        end = self._carried + _fill(self._source, self._block[self._carried : self._size + 1])
        last = end <= self._size
        self._plaintext = self._opened[:0]
        self._plaintext = self._cipher.open_into(self._block[: min(end, self._size)], self._index, last, self._opened)
        self._block[0] = self._block[self._size] if not last else 0
        self._carried = 0 if last else 1
        self._finished = last
        self._index += 1
        self._size = SEGMENT_SIZE


def _derived(key: bytes, associated_data: bytes, views: Iterable[memoryview]) -> tuple[bytes, bytes]:
    """Return salt and nonce prefix of this content: HKDF-SHA-256 of the key over associated data and SHA-256 of the plaintext."""
    digest = hashlib.sha256()
    for view in views:
        digest.update(view)
    # The digest has a fixed length and stands last, so no two pairs of associated data and digest are the same bytes.
    info = associated_data + digest.digest()
    derived = HKDF(algorithm=SHA256(), length=_SALT_SIZE + _PREFIX_SIZE, salt=_HEADER_LABEL, info=info).derive(key)
    return derived[:_SALT_SIZE], derived[_SALT_SIZE:]


def _scratch(size: int) -> memoryview:
    """Return a buffer of this thread, used again: it is cheaper than memory that the system has to give and clear each time."""
    if (kept := getattr(_of_thread, "scratch", None)) is None or len(kept) < size:
        kept = _of_thread.scratch = memoryview(bytearray(size))
    return kept


def _write_all(destination: Destination, data: memoryview) -> None:
    while data:
        written = destination.write(data)
        data = data[written:] if isinstance(written, int) else data[:0]


def _fill(source: Source, buffer: memoryview) -> int:
    """Read until `buffer` is full or the source ends; return the bytes read."""
    read_into = getattr(source, "readinto", None)
    filled = 0
    while filled < len(buffer):
        if read_into is not None:
            count = read_into(buffer[filled:])
        else:
            block = source.read(len(buffer) - filled)
            count = len(block)
            buffer[filled : filled + count] = block
        if not count:
            break
        filled += count
    return filled


def _read_exactly(source: Source, size: int) -> bytes:
    """Return `size` bytes, fewer only at the end of the source."""
    buffer = memoryview(bytearray(size))
    return bytes(buffer[: _fill(source, buffer)])


def open_header(key: bytes, associated_data: bytes, data: memoryview) -> tuple[SegmentCipher, memoryview]:
    """Split ciphertext into its cipher and what follows the header."""
    data = data.cast("B")
    if len(data) < HEADER_SIZE or data[0] != HEADER_SIZE:
        raise _not_authentic()
    salt, prefix = bytes(data[1 : 1 + _SALT_SIZE]), bytes(data[1 + _SALT_SIZE : HEADER_SIZE])
    return SegmentCipher(key, associated_data, salt, prefix), data[HEADER_SIZE:]


def _not_authentic() -> StreamError:
    return StreamError("the ciphertext is not authentic: altered, cut short, or of another key or identifier")
