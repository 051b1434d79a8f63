"""Large files: of the ciphertext those segments are read that hold the wanted range of the plaintext; never the whole file."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from uuid import UUID

from mdm.srm.v1 import srm_pb2
from mdm_crypto.segments import Segments
from mdm_crypto.stream import HEADER_SIZE, StreamError
from mdm_wire.errors import Corrupt, FailedPrecondition, Invalid, MdmError, NotFound, TimedOut, Unavailable
from mdm_wire.retry import Backoff, is_transient
from mdm_wire.url import surl_authority

from mdm_client.catalog.model import Location
from mdm_client.fetch.srm import SrmClient, Want
from mdm_client.fetch.state import error_of
from mdm_client.fetch.waiting import Cancellation, Clock
from mdm_client.service import Stream

#: Opened segments of about 1 MiB that one file keeps.
_KEPT = 8
_WAITING = frozenset({srm_pb2.STATUS_CODE_REQUEST_QUEUED, srm_pb2.STATUS_CODE_REQUEST_INPROGRESS})
#: States in which the same request may be made again.
_LATER = frozenset({srm_pb2.STATUS_CODE_NO_FREE_SPACE, srm_pb2.STATUS_CODE_FILE_UNAVAILABLE})
_PIN_SECONDS = 3600


class RangedFile:
    """One file at its site, pinned until `close`. Its size is proven by its last segment when it is opened. Thread-safe."""

    def __init__(self, site: SrmClient, surl: str, guid: UUID, key: bytes, *, timeout: float, cancellation: Cancellation) -> None:
        """Stage the file. `timeout` is in seconds without progress, here and in each read.

        Raises:
            MdmError: it cannot be staged or read. Corrupt: CIPHERTEXT_NOT_AUTHENTIC.
        """
        self._site, self._surl, self._guid, self._key = site, surl, guid, key
        self._timeout = timeout
        self._cancellation = cancellation
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._token = self._turl = ""
        self._extended = 0.0
        self._source: _Source | None = None
        self._header = b""
        try:
            self._stage()
            self._segment(self._segments.count - 1)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the plaintext."""
        return self._segments.plaintext_size

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the plaintext from `offset`, fewer only at its end.

        Raises:
            MdmError: the site does not give them. Corrupt: CIPHERTEXT_NOT_AUTHENTIC. FailedPrecondition: FILE_CHANGED: it was staged anew
                with other content.
        """
        end = min(offset + size, self.size)
        parts = []
        with self._lock:
            while offset < end:
                index, within = self._segments.holding(offset)
                part = self._segment(index)[within : within + end - offset]
                parts.append(part)
                offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Release the pin."""
        with self._lock:
            if self._source is not None:
                self._source.close()
            token, self._token = self._token, ""
            if token and not self._cancellation.stopped:
                with suppress(MdmError):  # the pin expires by itself
                    self._site.release(token)

    def _segment(self, index: int) -> bytes:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        opened = self._open(index, self._ciphertext(*self._segments.place(index)))
        self._kept[index] = opened
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return opened

    def _open(self, index: int, ciphertext: bytes) -> bytes:
        try:
            return self._segments.open(index, ciphertext)
        except StreamError as error:
            raise _not_authentic(self._guid) from error

    def _ciphertext(self, start: int, end: int) -> bytes:
        """Return bytes of the ciphertext; a stream that breaks is opened again, a pin that was lost is asked for again."""
        clock, backoff = Clock(self._timeout), Backoff()
        while True:
            self._cancellation.check()
            try:
                self._extend()
                if self._source is None or self._source.position != start:
                    self._renew(start)
                assert self._source is not None
                return self._source.take(end - start, self._timeout)
            except MdmError as error:
                self._drop()
                pause = backoff.pause()
                if clock.remaining() < pause:
                    raise
                if isinstance(error, NotFound | Invalid | FailedPrecondition):
                    self._stage_again(error)
                elif not is_transient(error):
                    raise
                self._cancellation.wait(pause)

    def _renew(self, start: int) -> None:
        self._drop()
        self._source = _Source(self._site, self._turl, start, self._cancellation)

    def _drop(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _stage_again(self, why: MdmError) -> None:
        """Pin the file once more, after its TURL was refused; raises `why` if what is there now is not what was read so far."""
        before, size = self._header, self.size
        self._stage()
        if (self._header, self.size) != (before, size):
            raise FailedPrecondition(
                "FILE_CHANGED", f"{self._guid}: it was staged anew while it was read, with other content: open it again"
            ) from why

    def _stage(self) -> None:
        """Have the file pinned, and read its header."""
        self._turl, size = self._pinned(Clock(self._timeout))
        self._extended = time.monotonic()
        source = _Source(self._site, self._turl, 0, self._cancellation)
        try:
            self._header = source.take(HEADER_SIZE, self._timeout)
        finally:
            source.close()
        try:
            self._segments = Segments(self._key, self._guid.bytes, self._header, size)
        except StreamError as error:
            raise _not_authentic(self._guid) from error

    def _pinned(self, clock: Clock) -> tuple[str, int]:
        """Ask until the file is pinned; return its TURL and the size of its ciphertext."""
        backoff = Backoff(0.3, 5.0)
        while True:
            self._cancellation.check()
            response = self._site.prepare_to_get([self._surl], Want(pin_seconds=_PIN_SECONDS))
            self._token = response.token
            for status in self._states(response, clock):
                if status.status == srm_pb2.STATUS_CODE_FILE_PINNED:
                    return status.turl, status.size
                if status.status in _WAITING:
                    continue
                error = error_of(str(self._guid), status)
                if status.status not in _LATER or clock.remaining() < 0:
                    raise error
                break
            else:
                if clock.remaining() < 0:
                    raise TimedOut("NOT_STAGED", f"{self._site.place}: the file was not staged in {self._timeout:.0f} s")
            with suppress(MdmError):
                self._site.release(self._token)
            self._cancellation.wait(min(backoff.pause(), max(clock.remaining(), 0.0) + 0.01))

    def _states(self, response: srm_pb2.PrepareToGetResponse, clock: Clock) -> Iterator[srm_pb2.FileStatus]:
        """Yield what the site says of the file until the clock has run out; a stream that breaks is only the end."""
        yield from response.files
        call = self._site.watch(response.token, timeout=max(clock.remaining(), 0.1))
        with suppress(MdmError), self._cancellation.cancelling(call):
            for answer in call:
                yield from answer.files

    def _extend(self) -> None:
        """Keep the pin of a file that is read for long."""
        if time.monotonic() - self._extended > _PIN_SECONDS / 2:
            self._extended = time.monotonic()
            with suppress(MdmError):  # what was lost is asked for again
                self._site.extend(self._token, (), _PIN_SECONDS)


def usable_replica(place: Location, sites: Mapping[str, object]) -> tuple[str, str]:
    """Return the first SURL at a site of the configuration, and the site.

    Raises:
        NotFound: NO_REPLICA.
    """
    for surl in place.surls:
        site = surl_authority(surl)
        if site in sites:
            return surl, site
    raise NotFound("NO_REPLICA", f"{place.lfn}: no available copy at a site of the configuration")


class _Source:
    """The ciphertext from a place on, as one call brings it."""

    def __init__(self, site: SrmClient, turl: str, position: int, cancellation: Cancellation) -> None:
        self.position = position
        self._place = site.place
        self._call: Stream = site.read(turl, position)
        self._chunks = iter(self._call)
        self._rest = memoryview(b"")
        self._cancellation = cancellation

    def take(self, size: int, timeout: float) -> bytes:
        """Return the next `size` bytes.

        Raises:
            MdmError: the site answers with an error, not in time, or with too little.
        """
        parts, missing = [], size
        # A site that is frozen, not dead, sends nothing, and breaks nothing either.
        watchdog = threading.Timer(timeout, self._call.cancel)
        watchdog.daemon = True
        with self._cancellation.cancelling(self._call):
            watchdog.start()
            try:
                while missing:
                    if not self._rest:
                        chunk = next(self._chunks, None)
                        if chunk is None:
                            raise Unavailable("STREAM_CUT", f"{self._place}: the stream ended early")
                        self._rest = memoryview(chunk.data)
                    part, self._rest = self._rest[:missing], self._rest[missing:]
                    parts.append(part)
                    missing -= len(part)
            finally:
                watchdog.cancel()
        self.position += size
        return b"".join(parts)

    def close(self) -> None:
        """End the call."""
        self._call.cancel()


def _not_authentic(guid: UUID) -> Corrupt:
    return Corrupt("CIPHERTEXT_NOT_AUTHENTIC", f"{guid}: what the site sent is not what was encrypted for this file")
