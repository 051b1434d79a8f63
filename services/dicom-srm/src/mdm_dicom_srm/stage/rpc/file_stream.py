"""The messages of `ReadFiles`: small files packed, large ones in pieces, and what became of those that do not come."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO
from uuid import UUID

from mdm.srm.v1.transfer_pb2 import FilePart
from mdm_wire.errors import Invalid, MdmError, NotFound, Unavailable
from mdm_wire.frame import encode
from mdm_wire.status import failed

from mdm_dicom_srm.stage.rpc.message import Messages
from mdm_dicom_srm.stage.rules.model import StagedFile, State
from mdm_dicom_srm.stage.rules.reading import Reading

#: Files up to this size are sent whole; of larger ones, each piece but the last ends at a multiple of it, as segments of ciphertext do.
PIECE_BYTES = 1024 * 1024
#: A message takes no further file from this size on. Measured: with messages of 256 KiB, gRPC alone takes twice the client's time.
PACKED_BYTES = 512 * 1024
_MAX_PARTS = 256


class FileStream:
    """Makes messages, encoded, of files of one request: at most one piece of a file, or one packed message, is in memory."""

    def __init__(self, reading: Reading, messages: Messages, token: str, offsets: Mapping[UUID, int]) -> None:
        self._reading = reading
        self._messages = messages
        self._token = token
        self._offsets = offsets
        self._parts: list[FilePart] = []
        self._data: list[bytes] = []
        self._filled = 0

    def unknown(self) -> Iterator[bytes]:
        """Yield messages that say which files are not of the request."""
        for guid in self._reading.unknown(self._offsets):
            self._refuse(guid, NotFound("NOT_PINNED", "The file is not of this request; ask for it."))
            yield from self._flushed(_MAX_PARTS)
        yield from self._flushed()

    def messages(self, files: Sequence[StagedFile], now: float) -> Iterator[bytes]:
        """Yield messages of files that have settled; the last one ends with the last file."""
        for file in files:
            if file.guid is None:
                continue
            if file.state is State.FILE_PINNED and not self._reading.is_at_another(file):
                yield from self._file(file.guid)
            else:
                self._parts.append(FilePart(guid=str(file.guid), status=self._messages.with_turl(file, now, self._token)))
            yield from self._flushed(_MAX_PARTS)
        yield from self._flushed()

    def _file(self, guid: UUID) -> Iterator[bytes]:
        try:
            file, data = self._reading.open(guid)
            with data:
                offset = self._offsets.get(guid, 0)
                if not 0 <= offset <= file.size:
                    raise Invalid("BAD_OFFSET", f"The file has {file.size} bytes.")
                if file.size - offset > PIECE_BYTES:
                    yield from self._pieces(guid, file.size, data, offset)
                    return
                if self._filled + file.size - offset > PIECE_BYTES:
                    yield from self._flushed()
                    self._reading.check(guid)
                self._add(guid, file.size, offset, _read(data, file.size - offset, offset))
        except MdmError as error:
            self._refuse(guid, error)
        if self._filled >= PACKED_BYTES:
            yield from self._flushed()

    def _pieces(self, guid: UUID, size: int, data: BinaryIO, offset: int) -> Iterator[bytes]:
        yield from self._flushed()
        try:
            while offset < size:
                piece = _read(data, min(PIECE_BYTES - offset % PIECE_BYTES, size - offset), offset)
                self._reading.check(guid)
                self._add(guid, size, offset, piece)
                offset += len(piece)
                yield from self._flushed()
        except MdmError as error:
            self._refuse(guid, error)
            yield from self._flushed()  # whoever reads the file gets nothing else before

    def _add(self, guid: UUID, size: int, offset: int, data: bytes) -> None:
        self._parts.append(FilePart(guid=str(guid), offset=offset, length=len(data), size=size))
        self._data.append(data)
        self._filled += len(data)

    def _refuse(self, guid: UUID, error: MdmError) -> None:
        self._parts.append(FilePart(guid=str(guid), error=failed(error)))

    def _flushed(self, parts: int = 1) -> Iterator[bytes]:
        """Yield the message of what has gathered, if these are at least so many parts."""
        if len(self._parts) >= parts:
            message = encode(self._parts, self._data)
            self._parts, self._data, self._filled = [], [], 0
            yield message


def _read(file: BinaryIO, size: int, offset: int) -> bytes:
    """Return exactly `size` bytes.

    Raises:
        Unavailable: the file is shorter.
    """
    data = os.pread(file.fileno(), size, offset)
    while len(data) < size:  # a signal, or a file system that gives less at a time
        more = os.pread(file.fileno(), size - len(data), offset + len(data))
        if not more:
            raise Unavailable("STAGED_FILE_GONE", "The spool has lost a part of the staged file; release it and ask for it again.")
        data += more
    return data
