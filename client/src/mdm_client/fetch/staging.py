"""Has one site stage files, round after round, and hands each to a worker as soon as it is pinned."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from mdm.srm.v1 import srm_pb2
from mdm_wire.batch import MAX_SURLS
from mdm_wire.errors import Code, FailedPrecondition, Invalid, MdmError, NotFound, Unavailable, make_error
from mdm_wire.retry import Backoff, is_refused_handshake, is_transient, needs_mending
from mdm_wire.status import from_rpc_error

from mdm_client.fetch.plan import PlannedFile
from mdm_client.fetch.transfer import Cancellation

# Pins are given back in lots, so that a spool smaller than the request keeps moving.
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
_CODES = {
    srm_pb2.STATUS_CODE_INVALID_PATH: Code.NOT_FOUND,
    srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE: Code.PERMISSION_DENIED,
    srm_pb2.STATUS_CODE_FILE_LOST: Code.NOT_FOUND,
    srm_pb2.STATUS_CODE_FAILURE: Code.PERMISSION_DENIED,
    srm_pb2.STATUS_CODE_NO_FREE_SPACE: Code.RESOURCE_EXHAUSTED,
    srm_pb2.STATUS_CODE_INVALID_REQUEST: Code.INVALID_ARGUMENT,
    srm_pb2.STATUS_CODE_INTERNAL_ERROR: Code.INTERNAL,
}
_EXPLANATIONS = {
    srm_pb2.STATUS_CODE_INVALID_PATH: "no such file, or not for you",
    srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE: "you may not read it",
    srm_pb2.STATUS_CODE_FILE_LOST: "the PACS no longer has the image",
    srm_pb2.STATUS_CODE_NO_FREE_SPACE: "the site's spool is full; try again later",
    srm_pb2.STATUS_CODE_FILE_UNAVAILABLE: "the site cannot give it now; try again later",
}


class Site(Protocol):
    """What staging needs of a site."""

    place: str

    def prepare_to_get(self, surls: Sequence[str], pin_seconds: int = 0) -> srm_pb2.PrepareToGetResponse:
        """Ask for files."""

    def watch(self, token: str, timeout: float | None = None) -> Any:
        """Return the stream of states."""

    def release(self, token: str, surls: Sequence[str] = ()) -> None:
        """Give pins back."""

    def abort(self, token: str) -> None:
        """End a request."""


class Clock:
    """How long nothing has happened."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._last = time.monotonic()

    def tick(self) -> None:
        """Something happened."""
        self._last = time.monotonic()

    def remaining(self) -> float:
        """Return the seconds until the limit, negative beyond."""
        return self._last + self.limit - time.monotonic()


@dataclass
class _Round:
    """One request at the site."""

    token: str
    wanted: frozenset[str]
    lock: threading.Lock = field(default_factory=threading.Lock)
    started: dict[str, "Future[None]"] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    again: dict[str, MdmError] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)


class SiteStaging:
    """Stages files at one site until each is fetched or has failed.

    `start` runs a task in a worker. `fetch(file, turl, size)` fetches a pinned file and reports it; it raises MdmError
    where the site could not be read. `fail` reports a file given up.
    """

    def __init__(
        self,
        site: Site,
        files: Mapping[str, PlannedFile],
        start: Callable[[Callable[[], None]], "Future[None]"],
        fetch: Callable[[PlannedFile, str, int], None],
        fail: Callable[[PlannedFile, MdmError], None],
        clock: Clock,
        cancellation: Cancellation,
    ) -> None:
        self._site = site
        self._files = dict(files)
        self._start = start
        self._fetch = fetch
        self._fail = fail
        self._clock = clock
        self._cancellation = cancellation
        self._attempts: dict[str, int] = {}
        self._reasons: dict[str, MdmError] = {}
        self._obstacle: MdmError | None = None
        self._watched: Any = None

    def run(self) -> None:
        """Return when every file is settled, or at once after cancellation."""
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
                self._fail_all(self._obstacle)
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
        """Stage and fetch what can be; return what is worth another round, and why it was not had in this one."""
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
        current = _Round(response.token, frozenset(surls))
        try:
            for status in response.files:
                self._saw(current, status)
            self._watch(current)
            wait(current.started.values())
        finally:
            self._end(current)
        lost = Unavailable("NOT_STAGED", f"{self._site.place}: the file was not staged; try again later")
        known = current.settled | set(current.started) | set(current.again)
        # A round that the limit cuts short knows nothing: what an earlier one learnt says more.
        return {**current.again, **{surl: self._reasons.get(surl, lost) for surl in surls if surl not in known}}

    def _watch(self, current: _Round) -> None:
        """Follow the request until nothing is queued or in progress; take a broken stream up again."""
        backoff = Backoff()
        while not self._cancellation.stopped and not self._obstacle and not self._complete(current):
            remaining = self._clock.remaining()
            if remaining <= 0:
                return
            call = self._watched = self._site.watch(current.token, timeout=max(remaining, 0.1))
            self._cancellation.enter(call)
            try:
                for response in call:
                    for status in response.files:
                        self._saw(current, status)
                return
            except grpc.RpcError as error:
                if not is_transient(from_rpc_error(error, self._site.place)):
                    return
            finally:
                self._cancellation.leave(call)
            self._cancellation.wait(min(backoff.pause(), max(self._clock.remaining(), 0.0)))

    def _complete(self, current: _Round) -> bool:
        return len(current.started.keys() | current.settled | current.again.keys()) >= len(current.wanted)

    def _saw(self, current: _Round, status: srm_pb2.FileStatus) -> None:
        surl = status.surl
        if surl not in current.wanted or surl in current.started or surl in current.settled:
            return
        if status.status in _WAITING:
            return
        file = self._files[surl]
        if status.status == srm_pb2.STATUS_CODE_FILE_PINNED:
            self._clock.tick()
            current.again.pop(surl, None)
            current.started[surl] = self._start(lambda: self._work(current, file, status))
        elif status.status in _LATER:
            current.again[surl] = _error(file, status)
        else:
            current.settled.add(surl)
            self._fail(file, _error(file, status))

    def _work(self, current: _Round, file: PlannedFile, status: srm_pb2.FileStatus) -> None:
        """Fetch a file in a worker; one whose pin was lost on the way gets another round."""
        surl = status.surl
        try:
            if self._obstacle:
                raise self._obstacle
            self._fetch(file, status.turl, status.size)
        except MdmError as error:
            if self._cancellation.stopped:
                return
            if needs_mending(error) and not is_refused_handshake(error):
                self._obstacle = error
                self._watched.cancel()
            self._attempts[surl] = self._attempts.get(surl, 0) + 1
            if _worth_another_round(error) and self._attempts[surl] < _MAX_READ_ATTEMPTS:
                current.again[surl] = error
            else:
                self._fail(file, error)
        lot: list[str] = []
        with current.lock:
            current.finished.append(surl)
            if len(current.finished) >= _RELEASE_LOT:
                lot, current.finished = current.finished, []
        if lot:
            self._release(current.token, lot)

    def _end(self, current: _Round) -> None:
        """Give the request's pins back; an unfinished request is aborted."""
        try:
            if self._cancellation.stopped or not self._complete(current):
                self._site.abort(current.token)
            else:
                self._site.release(current.token)
        except MdmError:
            # The pins expire by themselves.
            return

    def _release(self, token: str, surls: list[str]) -> None:
        try:
            self._site.release(token, surls)
        except MdmError:
            # They are released again with the request, or expire.
            return

    def _fail_all(self, error: MdmError) -> None:
        for file in self._files.values():
            self._fail(file, error)
        self._files.clear()

    def _give_up(self, again: Mapping[str, MdmError]) -> None:
        for surl, error in again.items():
            message = f"given up after {self._clock.limit:.0f} s without progress: {error.message}"
            self._fail(self._files.pop(surl), error.saying(message))


def _worth_another_round(error: MdmError) -> bool:
    """Return whether staging again may help: the site is away, or no longer knows the TURL.

    A server that is stopped while it accepts looks like a refused certificate; whether it is one is known when the next round is asked for.
    """
    return is_transient(error) or isinstance(error, NotFound | Invalid | FailedPrecondition) or is_refused_handshake(error)


def _error(file: PlannedFile, status: srm_pb2.FileStatus) -> MdmError:
    name = srm_pb2.StatusCode.Name(status.status).removeprefix("STATUS_CODE_")
    code = _CODES.get(status.status, Code.UNAVAILABLE)
    why = status.explanation or _EXPLANATIONS.get(status.status, name)
    return make_error(code, name, f"{file.location.lfn}: {why}")
