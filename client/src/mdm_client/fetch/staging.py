"""Staging at one site, round after round; each file is handed on as soon as it is pinned."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from mdm.srm.v1 import srm_pb2
from mdm_wire.batch import MAX_SURLS
from mdm_wire.errors import Code, FailedPrecondition, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.retry import Backoff, is_refused_handshake, is_transient, needs_mending
from mdm_wire.url import turl_token

from mdm_client.fetch.ciphertext import Ciphertext, StagedFile
from mdm_client.fetch.file_stream import Arrival, FileStream
from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.srm import SrmClient
from mdm_client.fetch.state import error_of
from mdm_client.fetch.waiting import Cancellation, Clock
from mdm_client.service import Stream

# Pins are released in lots, so that a spool smaller than the request keeps moving.
_RELEASE_LOT = 200
_MAX_READ_ATTEMPTS = 4

_WAITING = frozenset({srm_pb2.STATUS_CODE_REQUEST_QUEUED, srm_pb2.STATUS_CODE_REQUEST_INPROGRESS})
_LATER = frozenset(
    {
        srm_pb2.STATUS_CODE_NO_FREE_SPACE,
        srm_pb2.STATUS_CODE_FILE_UNAVAILABLE,
        srm_pb2.STATUS_CODE_FILE_LIFETIME_EXPIRED,
        srm_pb2.STATUS_CODE_RELEASED,
        srm_pb2.STATUS_CODE_ABORTED,
    }
)


@dataclass
class _Round:
    """One request at the site: what became of each SURL, and what runs in workers."""

    token: str
    surls: Mapping[UUID, str]
    lock: threading.Lock = field(default_factory=threading.Lock)
    taken: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    again: dict[str, MdmError] = field(default_factory=dict)
    running: "list[Future[None]]" = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    def open(self) -> list[UUID]:
        """Return the files of which nothing is known yet."""
        return [guid for guid, surl in self.surls.items() if surl not in self.taken | self.settled | self.again.keys()]


class SiteStaging:
    """Stages files at one site until each is fetched or has failed.

    `start` runs a task in a worker. `fetch(file, source)` reads a pinned file and reports it; it raises MdmError where the site could not
    be read. `fail` reports a file that was given up. `received` is called with each count of bytes of ciphertext.
    Files that have come whole in a stream are fetched by the thread that receives them, unless so many may be `beside` it in workers: that
    pays where a file is waited for, as until it is on the disk.
    """

    def __init__(
        self,
        site: SrmClient,
        files: Mapping[str, PlannedFile],
        start: Callable[[Callable[[], None]], "Future[None]"],
        fetch: Callable[[PlannedFile, Ciphertext], None],
        fail: Callable[[PlannedFile, MdmError], None],
        clock: Clock,
        cancellation: Cancellation,
        received: Callable[[int], None] = lambda _: None,
        *,
        beside: int = 0,
    ) -> None:
        self._site = site
        self._files = dict(files)
        self._start = start
        self._fetch = fetch
        self._fail = fail
        self._clock = clock
        self._cancellation = cancellation
        self._received = received
        self._beside = threading.BoundedSemaphore(beside) if beside else None
        self._attempts: dict[str, int] = {}
        self._reasons: dict[str, MdmError] = {}
        self._obstacle: MdmError | None = None
        self._watched: Stream | None = None

    def run(self) -> None:
        """Return when each file is fetched or has failed, or at once after cancellation."""
        backoff = Backoff(0.3, 10.0)
        while self._files and not self._cancellation.stopped:
            surls = list(self._files)[:MAX_SURLS]
            again = self._one_round(surls)
            self._reasons.update(again)
            if self._cancellation.stopped:
                return
            for surl in surls:
                if surl not in again:
                    self._files.pop(surl, None)
            if self._obstacle:
                for file in self._files.values():
                    self._fail(file, self._obstacle)
                return
            if len(again) < len(surls):
                backoff.reset()
            elif again:
                pause = backoff.pause()
                if self._clock.remaining() < pause:
                    self._give_up(again)
                    return
                self._cancellation.wait(pause)

    def _one_round(self, surls: list[str]) -> dict[str, MdmError]:
        """Stage and fetch files; return those that are worth another round, with the reason why this one failed."""
        try:
            response = self._site.prepare_to_get(surls)
        except MdmError as error:
            if is_transient(error):
                return dict.fromkeys(surls, error)
            if needs_mending(error):
                self._obstacle = error
                return dict.fromkeys(surls, error)
            for surl in surls:
                self._fail(self._files[surl], error)
            return {}
        current = _Round(response.token, {self._files[surl].guid: surl for surl in surls})
        try:
            if not self._stream(current, response.files):
                for status in response.files:
                    self._saw(current, status)
                self._watch(current)
            wait(current.running)
        finally:
            self._end(current)
        lost = Unavailable("NOT_STAGED", f"{self._site.place}: the file was not staged; try again later")
        # A round that the time limit ends says nothing of these: the error of an earlier one says more.
        unknown = [current.surls[guid] for guid in current.open()]
        return {**current.again, **{surl: self._reasons.get(surl, lost) for surl in unknown}}

    def _stream(self, current: _Round, answered: Sequence[srm_pb2.FileStatus]) -> bool:
        """Receive the files of a round in one stream; return False if the site's dicom-srm has no such streams."""
        if not self._site.streams_files:
            return False
        for status in answered:
            if status.status != srm_pb2.STATUS_CODE_FILE_PINNED:
                self._saw(current, status)
        self._receive(current, current.token, current.open())
        return self._site.streams_files

    def _receive(self, current: _Round, token: str, guids: Sequence[UUID]) -> None:
        """Receive files from the instance that a token names; what another one has is received from that at the same time."""
        stream = FileStream(self._site, token, guids, self._clock, self._cancellation, self._received)
        try:
            for arrivals in stream.arrivals():
                at_others: dict[str, list[UUID]] = {}
                for arrival in arrivals:
                    other = self._arrived(current, token, arrival)
                    if other:
                        at_others.setdefault(other, []).append(arrival.guid)
                for other, there in at_others.items():
                    current.running.append(self._start(partial(self._receive, current, other, there)))
                if self._obstacle:
                    return
        except MdmError as error:
            if error.code is Code.UNIMPLEMENTED:
                self._site.streams_files = False
            elif not self._cancellation.stopped:
                for guid in stream.left:
                    self._unread(current, current.surls[guid], error, tried=not is_transient(error))

    def _arrived(self, current: _Round, token: str, arrival: Arrival) -> str:
        """Take in what came of a file; return the token that names the instance that has it, if this one does not."""
        surl = current.surls[arrival.guid]
        if arrival.source is not None:
            self._clock.tick()
            current.again.pop(surl, None)
            current.taken.add(surl)
            # A stream from another instance runs in a worker itself: there it would wait for workers that wait for it.
            if arrival.source.whole and self._beside is not None and token == current.token:
                self._beside.acquire()
                current.running.append(self._start(partial(self._work_beside, current, surl, arrival.source)))
            else:
                self._work(current, surl, arrival.source)
        elif arrival.error is not None:
            self._unread(current, surl, arrival.error)
        elif arrival.status is not None:
            other = turl_token(arrival.status.turl)
            if other and current.token == token:
                return other
            if other:
                self._unread(current, surl, FailedPrecondition("OTHER_INSTANCE", f"{self._site.place}: another instance has the file"))
            else:
                self._saw(current, arrival.status)
        return ""

    def _watch(self, current: _Round) -> None:
        """Follow the request until nothing is queued or in progress; open a broken stream again."""
        backoff = Backoff()
        while not self._cancellation.stopped and not self._obstacle and not self._complete(current):
            remaining = self._clock.remaining()
            if remaining <= 0:
                return
            call = self._watched = self._site.watch(current.token, timeout=max(remaining, 0.1))
            try:
                with self._cancellation.cancelling(call):
                    for response in call:
                        for status in response.files:
                            self._saw(current, status)
                return
            except MdmError as error:
                if not is_transient(error):
                    return
            self._cancellation.wait(min(backoff.pause(), max(self._clock.remaining(), 0.0)))

    def _complete(self, current: _Round) -> bool:
        return not current.open()

    def _saw(self, current: _Round, status: srm_pb2.FileStatus) -> None:
        """Take in the state of a file; one that is pinned is read in a worker."""
        surl = status.surl
        if surl not in self._files or surl in current.taken or surl in current.settled:
            return
        if status.status in _WAITING:
            return
        file = self._files[surl]
        if status.status == srm_pb2.STATUS_CODE_FILE_PINNED:
            self._clock.tick()
            current.again.pop(surl, None)
            current.taken.add(surl)
            current.running.append(self._start(partial(self._read, current, surl, status.turl, status.size)))
        elif status.status in _LATER:
            current.again[surl] = error_of(file.location.lfn, status)
        else:
            current.settled.add(surl)
            self._fail(file, error_of(file.location.lfn, status))

    def _read(self, current: _Round, surl: str, turl: str, size: int) -> None:
        """Read a file by a call of its own."""
        source = StagedFile(self._site, turl, size, self._cancellation, self._received)
        try:
            self._work(current, surl, source)
        finally:
            source.close()

    def _work(self, current: _Round, surl: str, source: Ciphertext) -> None:
        """Fetch a file; one whose pin was lost gets another round."""
        try:
            if self._obstacle:
                raise self._obstacle
            self._fetch(self._files[surl], source)
        except MdmError as error:
            if self._cancellation.stopped:
                return
            self._unread(current, surl, error)
        self._release_in_lots(current, surl)

    def _work_beside(self, current: _Round, surl: str, source: Ciphertext) -> None:
        try:
            self._work(current, surl, source)
        finally:
            if self._beside is not None:
                self._beside.release()

    def _unread(self, current: _Round, surl: str, error: MdmError, tried: bool = True) -> None:
        """Give a file that could not be read another round, unless that is in vain, or it was `tried` often."""
        if needs_mending(error) and not is_refused_handshake(error):
            self._obstacle = error
            if self._watched:
                self._watched.cancel()
        self._attempts[surl] = self._attempts.get(surl, 0) + tried
        if _worth_another_round(error) and self._attempts[surl] < _MAX_READ_ATTEMPTS:
            current.again[surl] = error
        else:
            current.settled.add(surl)
            self._fail(self._files[surl], error)

    def _release_in_lots(self, current: _Round, surl: str) -> None:
        lot: list[str] = []
        with current.lock:
            current.finished.append(surl)
            if len(current.finished) >= _RELEASE_LOT:
                lot, current.finished = current.finished, []
        if lot:
            current.running.append(self._start(partial(self._release, current.token, lot)))

    def _release(self, token: str, surls: list[str]) -> None:
        with suppress(MdmError):  # they are released again with the request, or expire
            self._site.release(token, surls)

    def _end(self, current: _Round) -> None:
        """Release the request's pins; abort it if it is unfinished."""
        try:
            if self._cancellation.stopped or not self._complete(current):
                self._site.abort(current.token)
            else:
                self._site.release(current.token)
        except MdmError:
            return  # the pins expire by themselves

    def _give_up(self, again: Mapping[str, MdmError]) -> None:
        for surl, error in again.items():
            message = f"given up after {self._clock.limit:.0f} s without progress: {error.message}"
            self._fail(self._files.pop(surl), error.saying(message))


def _worth_another_round(error: MdmError) -> bool:
    """Return whether staging again may help: the site is unreachable, or no longer knows the TURL.

    A server that stops during the handshake looks like a refused certificate; the request of the next round shows which it is.
    """
    return is_transient(error) or isinstance(error, NotFound | Invalid | FailedPrecondition) or is_refused_handshake(error)
