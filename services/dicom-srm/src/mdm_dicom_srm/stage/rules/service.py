"""Use cases of staging: what a caller may ask of the SRM."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO
from uuid import UUID

from mdm_wire.errors import Exhausted, Invalid, Unavailable
from mdm_wire.url import guid_of_surl

from mdm_dicom_srm.stage.rules.book import Live, RequestBook, View
from mdm_dicom_srm.stage.rules.journal import Journal
from mdm_dicom_srm.stage.rules.model import MAX_FILES, Request, StagedFile, State, files_of_surls, new_token, refused_file, token_digest
from mdm_dicom_srm.stage.rules.port import Clock, RequestStore, Spool
from mdm_dicom_srm.stage.rules.rights import Rechecker, Verdicts

# A watcher gets the first change at once and what follows gathered over this time: a message per file would cost more than
# the file.
_GATHER_SECONDS = 0.05
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The site's pin times in seconds, and how many callers may watch at once (each takes a server thread)."""

    default_pin_seconds: int
    max_pin_seconds: int
    watches: int


class StagingService:
    """Requests of callers for files of this site."""

    def __init__(
        self,
        authority: str,
        rights: Rechecker,
        store: RequestStore,
        spool: Spool,
        book: RequestBook,
        journal: Journal,
        submit: Callable[[Iterable[UUID]], None],
        policy: Policy,
        clock: Clock,
    ) -> None:
        self.authority = authority
        self._rights = rights
        self._store = store
        self._spool = spool
        self._book = book
        self._journal = journal
        self._submit = submit
        self._policy = policy
        self._clock = clock
        self._watches = threading.BoundedSemaphore(policy.watches)
        self._stopping = threading.Event()

    def resume(self) -> None:
        """Take over the requests of an earlier process: pins are held again, unfinished files staged again."""
        for request in self._store.load():
            self._submit(self._book.add(request))

    def stop(self) -> None:
        """End watches."""
        self._stopping.set()

    def prepare(self, owner: str, surls: Sequence[str], pin_seconds: int) -> tuple[str, View]:
        """Ask for files; return the request's token and its present state, without waiting for files.

        A SURL that is not ours, unknown or forbidden is INVALID_PATH; it does not fail the others. `pin_seconds` 0 means
        the site's default; more than the site's maximum means the maximum.

        Raises:
            Invalid: no SURLs, too many, or a negative pin time.
            Exhausted: the caller keeps too many files.
            Unavailable: rights cannot be checked now.
        """
        if not 0 < len(surls) <= MAX_FILES:
            raise Invalid("BAD_BATCH", f"Ask for 1 to {MAX_FILES} files at a time.", fields={"surls": "too few or too many"})
        if pin_seconds < 0:
            raise Invalid("BAD_PIN_TIME", "The pin time cannot be negative.", fields={"pin_seconds": "negative"})
        self._book.check_room(owner, len(surls))
        verdicts = Verdicts()
        files = self._allowed(owner, files_of_surls(self.authority, surls), verdicts)
        token = new_token()
        seconds = min(pin_seconds or self._policy.default_pin_seconds, self._policy.max_pin_seconds)
        request = Request(token_digest(token), owner, seconds, self._clock(), files)
        self._store.add(request)
        self._submit(self._book.add(request, verdicts))
        return token, self._book.view(self._book.find(owner, token))

    def status(self, owner: str, token: str) -> View:
        """Return the caller's request as it is now.

        Raises:
            NotFound: no such request of this caller.
        """
        return self._book.view(self._book.find(owner, token))

    def watch(self, owner: str, token: str, gone: threading.Event) -> Iterator[View]:
        """Yield the request, then its changes until no file is pending or the caller is `gone`.

        Raises:
            NotFound: no such request of this caller.
            Exhausted: too many watch already; ask for the status instead.
            Unavailable: the service ends.
        """
        live = self._book.find(owner, token)
        if not self._watches.acquire(blocking=False):
            raise Exhausted("TOO_MANY_WATCHES", "Too many requests are being watched; ask for the status from time to time instead.")
        try:
            view = self._book.view(live)
            yield view
            pause = 0.0
            while view.pending and not gone.wait(pause):
                if self._stopping.is_set():
                    raise Unavailable("STOPPING", "The service is being stopped; the request goes on when it is back.")
                view = self._book.changes(live, view.seen, _LOOK_SECONDS)
                pause = _GATHER_SECONDS if view.files else 0.0
                if view.files:
                    yield view
        finally:
            self._watches.release()

    def release(self, owner: str, token: str, surls: Sequence[str]) -> list[StagedFile]:
        """Release the caller's pins: of a request (of all its files when no SURLs are given), or without a token of any request.

        Returns one file per SURL in the order asked, else all of the request. A SURL on which the caller has no such pin is
        INVALID_PATH.

        Raises:
            NotFound: no such request of this caller.
            Invalid: neither token nor SURLs, or too many.
        """
        if len(surls) > MAX_FILES or not (token or surls):
            raise Invalid("BAD_BATCH", f"Give a token, or 1 to {MAX_FILES} SURLs, or both.", fields={"surls": "too few or too many"})
        if not surls:
            files = self._book.release(self._book.find(owner, token), None)
        else:
            files = self._release_surls(owner, self._book.find(owner, token) if token else None, surls)
        self._journal.flush()
        return files

    def abort(self, owner: str, token: str) -> State:
        """End the caller's request: what waits is dropped, what is pinned released. Return its state.

        Raises:
            NotFound: no such request of this caller.
        """
        state = self._book.abort(self._book.find(owner, token))
        self._journal.flush()
        return state

    def open(self, owner: str, token: str, guid: UUID) -> tuple[StagedFile, BinaryIO]:
        """Return a pinned file of the caller's request and its ciphertext, opened; the caller closes it.

        Raises:
            NotFound: no such request of this caller, or the file is not pinned by it.
            Forbidden: the caller may not read it any more.
            Unavailable: the file vanished from the spool, ask for it again; or rights cannot be checked now.
        """
        file = self._book.pinned(self._book.find(owner, token), guid)
        self.reading(owner, token, guid)()
        data = self._spool.open(guid)
        if data is None:
            raise Unavailable("STAGED_FILE_GONE", "The staged file is gone; release it and ask for it again.")
        return file, data

    def reading(self, owner: str, token: str, guid: UUID) -> Callable[[], None]:
        """Return a check to make before each part of a file is sent; see `Rechecker.confirm`.

        Raises:
            NotFound: no such request of this caller.
        """
        live = self._book.find(owner, token)
        return lambda: self._rights.confirm(owner, guid, live.verdicts, lambda: self._book.all_pinned(live))

    def _allowed(self, owner: str, files: list[StagedFile], verdicts: Verdicts) -> list[StagedFile]:
        readable = self._rights.ask(owner, [file.guid for file in files if file.guid is not None], verdicts)
        return [file if file.guid is None or file.guid in readable else refused_file(file.surl) for file in files]

    def _release_surls(self, owner: str, live: Live | None, surls: Sequence[str]) -> list[StagedFile]:
        guids = {text: guid_of_surl(self.authority, text) for text in surls}
        asked = [guid for guid in dict.fromkeys(guids.values()) if guid is not None]
        if live is None:
            released = self._book.release_everywhere(owner, asked)
            found = dict.fromkeys(released, State.RELEASED)
        else:
            known = [guid for guid in asked if guid in live.request.positions]
            found = {file.guid: file.state for file in self._book.release(live, known) if file.guid is not None}
        missing = StagedFile("", None, State.INVALID_PATH, "NOT_PINNED")
        return [
            StagedFile(text, guid, found[guid]) if guid is not None and guid in found else replace(missing, surl=text)
            for text, guid in guids.items()
        ]
