"""Use cases of callers who look after their requests: release, abort, extend, suspend, find again."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from mdm_wire.errors import Invalid
from mdm_wire.url import guid_of_surl

from mdm_dicom_srm.stage.rules.active import ActiveRequest
from mdm_dicom_srm.stage.rules.journal import RequestJournal
from mdm_dicom_srm.stage.rules.model import MAX_FILES, RequestSummary, StagedFile, State, token_digest
from mdm_dicom_srm.stage.rules.port import Catalog
from mdm_dicom_srm.stage.rules.request import Requests
from mdm_dicom_srm.stage.rules.service import Lifetimes, StagingService
from mdm_dicom_srm.stage.rules.target import SurlParser

MAX_TOKENS = 1_000
_NO_FILE = UUID(int=0)


class RequestControl:
    """What callers may do with requests of theirs; another's look like none (NotFound)."""

    def __init__(
        self,
        surls: SurlParser,
        catalog: Catalog,
        requests: Requests,
        journal: RequestJournal,
        service: StagingService,
        lifetimes: Lifetimes,
    ) -> None:
        self._surls = surls
        self._catalog = catalog
        self._requests = requests
        self._journal = journal
        self._service = service
        self._lifetimes = lifetimes

    def release(self, owner: str, token: str, surls: Sequence[str]) -> list[StagedFile]:
        """Release the caller's pins: of a request (of all its files when no SURLs are given), or without a token of any request.

        Returns one file per SURL in the order asked, else all of the request. A SURL that the caller has not pinned so is
        INVALID_PATH.

        Raises:
            NotFound: no such request of this caller.
            Invalid: neither token nor SURLs, or too many.
        """
        if len(surls) > MAX_FILES or not (token or surls):
            raise Invalid("BAD_BATCH", f"Give a token, or 1 to {MAX_FILES} SURLs, or both.", fields={"surls": "too few or too many"})
        if token:
            return self._end(self._requests.find(owner, token), surls, State.RELEASED)
        guids = self._guids(owner, surls)
        released = self._requests.release_everywhere(owner, list(dict.fromkeys(guids.values())))
        return [
            StagedFile(text, guids[text], State.RELEASED) if guids.get(text) in released else _not_pinned(text)
            for text in dict.fromkeys(surls)
        ]

    def abort_files(self, owner: str, token: str, surls: Sequence[str]) -> list[StagedFile]:
        """End files of the caller's request and return them, in the order asked; the others go on.

        Raises:
            NotFound: no such request of this caller.
            Invalid: no SURLs, or too many.
        """
        if not 0 < len(surls) <= MAX_FILES:
            raise Invalid("BAD_BATCH", f"Give 1 to {MAX_FILES} SURLs.", fields={"surls": "too few or too many"})
        return self._end(self._requests.find(owner, token), surls, State.ABORTED)

    def abort(self, owner: str, token: str) -> State:
        """End the caller's request: what waits is dropped, what is pinned released. Return its state.

        Raises:
            NotFound: no such request of this caller.
        """
        return self._requests.abort(self._requests.find(owner, token))

    def extend(self, owner: str, token: str, surls: Sequence[str], pin_seconds: int) -> tuple[float, list[StagedFile]]:
        """Let pins of the caller's request end `pin_seconds` from now, all of them unless SURLs are given; return the time and the files.

        Raises:
            NotFound: no such request of this caller.
            Invalid: too many SURLs, or a negative time.
        """
        if len(surls) > MAX_FILES:
            raise Invalid("BAD_BATCH", f"Give at most {MAX_FILES} SURLs.", fields={"surls": "too many"})
        seconds = self._lifetimes.pin(pin_seconds)
        active = self._requests.find(owner, token)
        positions = self._positions(active, surls)
        if not surls:
            pinned = self._requests.all_pinned(active)
            return self._requests.extend(active, [active.request.positions[guid] for guid in pinned], seconds)
        now, done = self._requests.extend(active, positions.values(), seconds)
        return now, _in_order(surls, dict(zip(positions, done, strict=True)))

    def suspend(self, owner: str, token: str) -> State:
        """Let what is not staged yet of the caller's request wait; return its state.

        Raises:
            NotFound: no such request of this caller.
        """
        return self._requests.suspend(self._requests.find(owner, token))

    def resume(self, owner: str, token: str) -> State:
        """Go on with the caller's suspended request; return its state.

        Raises:
            NotFound: no such request of this caller.
        """
        state, missing = self._requests.unsuspend(self._requests.find(owner, token))
        self._service.submit(missing)
        return state

    def summaries(self, owner: str, tokens: Sequence[str]) -> list[RequestSummary | None]:
        """Return requests without their files, in the order asked; None for what is none of the caller's.

        Raises:
            Invalid: too many tokens.
        """
        if len(tokens) > MAX_TOKENS:
            raise Invalid("BAD_BATCH", f"Give at most {MAX_TOKENS} tokens.", fields={"tokens": "too many"})
        digests = {token: token_digest(token) for token in tokens}
        found = {item.digest: item for item in self._journal.summaries(owner, list(digests.values()), "", MAX_TOKENS)}
        return [found.get(digests[token]) for token in tokens]

    def tokens(self, owner: str, description: str) -> list[RequestSummary]:
        """Return the caller's requests, newest first: those of a description, or all."""
        return self._journal.summaries(owner, None, description, MAX_TOKENS)

    def _end(self, active: ActiveRequest, surls: Sequence[str], state: State) -> list[StagedFile]:
        if not surls:
            return self._requests.end(active, range(len(active.request.files)), state)
        positions = self._positions(active, surls)
        done = self._requests.end(active, positions.values(), state)
        return _in_order(surls, dict(zip(positions, done, strict=True)))

    def _positions(self, active: ActiveRequest, surls: Sequence[str]) -> dict[str, int]:
        """Return which file of a request each SURL names: as it was asked for, or by the file's identifier."""
        by_surl, by_guid = {file.surl: at for at, file in enumerate(active.request.files) if file.guid}, active.request.positions
        found = {text: by_surl.get(text, by_guid.get(guid_of_surl(self._surls.authority, text) or _NO_FILE)) for text in surls}
        return {text: position for text, position in found.items() if position is not None}

    def _guids(self, owner: str, surls: Iterable[str]) -> dict[str, UUID]:
        """Return which files SURLs mean; what the catalog does not show is left out."""
        targets = {text: self._surls.parse(text) for text in surls}
        names = [text for text, target in targets.items() if isinstance(target, str)]
        entries = self._catalog.stat(owner, [str(targets[text]) for text in names]) if names else []
        guids = {text: target for text, target in targets.items() if isinstance(target, UUID)}
        return guids | {text: entry.guid for text, entry in zip(names, entries, strict=True) if entry and entry.guid}


def _in_order(surls: Sequence[str], found: dict[str, StagedFile]) -> list[StagedFile]:
    return [replace(found[text], surl=text) if text in found else _not_pinned(text) for text in dict.fromkeys(surls)]


def _not_pinned(text: str) -> StagedFile:
    return StagedFile(text, None, State.INVALID_PATH, "NOT_PINNED")
