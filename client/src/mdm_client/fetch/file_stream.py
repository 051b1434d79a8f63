"""One stream for many files of a request: each is handed on as it comes, and a broken stream goes on where it broke."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from mdm.srm.v1.srm_pb2 import FileStatus
from mdm.srm.v1.transfer_pb2 import FilePart
from mdm_wire.errors import Code, Corrupt, MdmError, Unavailable
from mdm_wire.retry import Backoff, is_busy, is_transient
from mdm_wire.status import from_item
from mdm_wire.url import turl

from mdm_client.fetch.ciphertext import MAX_BREAKS, Ciphertext, StagedFile, WholeFile
from mdm_client.fetch.srm import SrmClient
from mdm_client.fetch.waiting import Cancellation, Clock

# A server takes only so many calls of one caller at a time; a stream that is refused waits for the others so long at most.
_BUSY_SECONDS = 120.0
_LEAST_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came of a file: its ciphertext; or the state in which staging ended, or that another instance has it; or why it is not read."""

    guid: UUID
    source: Ciphertext | None = None
    status: FileStatus | None = None
    error: MdmError | None = None


class FileStream:
    """The files of one request at one instance. At most one message is in memory, beside what gRPC reads ahead (some MiB).

    `left` has the files of which nothing final has come, each with the bytes that have. `received` is called with each count of bytes.
    """

    def __init__(
        self, site: SrmClient, token: str, guids: Sequence[UUID], clock: Clock, cancellation: Cancellation, received: Callable[[int], None]
    ) -> None:
        self._site = site
        self._token = token
        self._clock = clock
        self._cancellation = cancellation
        self._received = received
        self.left: dict[UUID, int] = dict.fromkeys(guids, 0)
        self._guids = {str(guid): guid for guid in guids}
        self._partial: UUID | None = None
        self._abandoned = False
        self._failure: MdmError | None = None
        self._messages = self._read_messages()

    def arrivals(self) -> Iterator[list[Arrival]]:
        """Yield what each message brings. A file must be read before the next list is asked for; what is not read of it is dropped.

        Ends when nothing is left, or the clock has run out.

        Raises:
            MdmError: the stream broke too often, or is refused. UNIMPLEMENTED: the site's dicom-srm is older than the method.
        """
        try:
            for parts in self._messages:
                yield [self._arrival(part, data) for part, data in parts]
                if self._partial is not None:
                    self.left.pop(self._partial)
                    self._partial, self._abandoned = None, True
            if self._failure is not None and self.left:
                raise self._failure
        finally:
            self._messages.close()

    def _arrival(self, part: FilePart, data: memoryview) -> Arrival:
        guid = self._guids[part.guid]
        if part.HasField("error"):
            return Arrival(guid, error=_error_of(part, self._site.place))
        if part.HasField("status"):
            return Arrival(guid, status=part.status)
        return Arrival(guid, WholeFile(data) if guid != self._partial else _Pieces(self, guid, part.size, data))

    def next_piece(self) -> memoryview:
        """Return the next piece of the large file that is being read.

        Raises:
            MdmError: the site does not give more of it.
        """
        for part, data in next(self._messages, ()):
            if part.HasField("error"):
                raise _error_of(part, self._site.place)
            return data
        raise Unavailable("STREAM_CUT", f"{self._site.place}: the stream ended early")

    def alone(self, guid: UUID, size: int) -> StagedFile:
        """Return a file of the request as one that is read by a call of its own."""
        return StagedFile(self._site, turl(self._site.site, self._token, guid), size, self._cancellation, self._received)

    def _read_messages(self) -> Generator[list[tuple[FilePart, memoryview]], None, None]:
        """Yield the parts of each message with their bytes; a stream that broke is opened again for what is left."""
        trouble = _Trouble()
        while self.left and (trouble.refused or self._clock.remaining() > 0):
            self._cancellation.check()
            self._abandoned = False
            # Of a file that has come in part, first the rest: whoever reads it waits for it.
            wanted = self.left if self._partial is None else {self._partial: self.left[self._partial]}
            call = self._site.read_files(self._token, wanted, timeout=max(self._clock.remaining(), _LEAST_SECONDS))
            failure: MdmError | None = None
            try:
                with self._cancellation.cancelling(call):
                    for response, data in call:
                        parts = list(self._parts(response.parts, data))
                        trouble = _Trouble()
                        self._received(len(data))
                        yield parts
                        if self._abandoned or not self.left:
                            break
            except MdmError as error:
                failure = error
            finally:
                call.cancel()
            if self._abandoned or not self.left or (wanted is not self.left and self._partial is None):
                continue
            if failure is None:
                trouble.ended()
            elif not trouble.passes(failure):
                self._cancellation.check()
                self._failure = failure
                raise failure
            self._cancellation.wait(trouble.pause())

    def _parts(self, parts: Sequence[FilePart], data: memoryview) -> Iterator[tuple[FilePart, memoryview]]:
        """Yield parts with their bytes, and note how far their files have come.

        Raises:
            Corrupt: STREAM_MALFORMED: not what was asked for.
        """
        start = 0
        if self._partial is not None and len(parts) != 1:
            raise self._malformed()
        for part in parts:
            guid, end = self._guids.get(part.guid), start + part.length
            if guid is None or guid not in self.left or self._partial not in (None, guid):
                raise self._malformed()
            ended = part.HasField("error") or part.HasField("status")
            position = part.offset + part.length
            fits = part.offset == self.left[guid] and part.length > 0 and position <= part.size and end <= len(data)
            if not ended and not fits:
                raise self._malformed()
            if ended or position == part.size:
                self._partial = None
                del self.left[guid]
            else:
                self._partial = guid
                self.left[guid] = position
            yield part, data[start:end]
            start = end

    def _malformed(self) -> MdmError:
        return Corrupt("STREAM_MALFORMED", f"{self._site.place}: the stream of files is not what was asked for")


class _Trouble:
    """What went wrong since something came last."""

    def __init__(self) -> None:
        self._breaks = 0
        self._backoff = Backoff()
        self._busy_backoff = Backoff(0.05, 0.5)
        self._busy_until = time.monotonic() + _BUSY_SECONDS
        self.refused = False

    def passes(self, failure: MdmError) -> bool:
        """Return whether the stream should be opened again after a failure."""
        self.refused = is_busy(failure)
        self._breaks += not self.refused
        return is_transient(failure) and self._breaks <= MAX_BREAKS and (not self.refused or time.monotonic() < self._busy_until)

    def ended(self) -> None:
        """Note that the stream has ended early, but well: too many callers wait for files already."""
        self.refused = True

    def pause(self) -> float:
        """Return how long to wait before, in seconds."""
        return (self._busy_backoff if self.refused else self._backoff).pause()


class _Pieces:
    """A file that comes in pieces."""

    whole = False

    def __init__(self, stream: FileStream, guid: UUID, size: int, first: memoryview) -> None:
        self.size = size
        self._stream = stream
        self._guid = guid
        self._piece = first
        self._to_come = size - len(first)

    def read_all(self) -> bytes:
        """See `Ciphertext`, as for each method."""
        pieces = []
        while piece := self.read(self.size):
            pieces.append(piece)
        return b"".join(pieces)

    def read(self, size: int, /) -> memoryview:
        if not self._piece and self._to_come:
            self._piece = self._stream.next_piece()
            self._to_come -= len(self._piece)
        part, self._piece = self._piece[:size], self._piece[size:]
        return part

    def again(self) -> StagedFile:
        return self._stream.alone(self._guid, self.size)


def _error_of(part: FilePart, place: str) -> MdmError:
    error = from_item(part.error) or MdmError("STREAM_MALFORMED", "no error", code=Code.UNKNOWN)
    return error.at(place)
