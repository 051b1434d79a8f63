"""The one way of requests to their store: new ones at once, changes later and many at a time, so that a file costs no round trip."""

import logging
import threading
from collections.abc import Sequence
from uuid import UUID

from mdm_dicom_srm.stage.rules.model import Request, RequestSummary, StagedFile
from mdm_dicom_srm.stage.rules.port import FileChange, RequestChange, RequestStore, SiteStore

_log = logging.getLogger(__name__)


class RequestJournal:
    """Collects changes and saves them every `interval` seconds, or at once by `flush`.

    A crash loses at most the last interval: a file that was ready is then found in the spool again, one that was released stays pinned
    until its pin expires. While the database is away, changes are kept and tried again.
    """

    def __init__(self, store: RequestStore, site: SiteStore, interval: float = 0.2) -> None:
        self._store = store
        self._site = site
        self._interval = interval
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._files: dict[tuple[bytes, int], StagedFile] = {}
        self._requests: dict[bytes, RequestChange] = {}
        self._forgotten: dict[bytes, None] = {}
        self._claims: dict[UUID, bool] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stage-journal", daemon=True)

    def start(self) -> None:
        """Begin to save in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Save what is left and end."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._try()

    def load(self) -> list[Request]:
        """Return every request that an earlier process kept."""
        return self._store.load()

    def add(self, request: Request, token: str, description: str) -> None:
        """Save a new request before anybody learns its token."""
        self._store.add(request, token, description)

    def summaries(self, owner: str, digests: Sequence[bytes] | None, description: str, limit: int) -> list[RequestSummary]:
        """Return requests of an owner as they are now; see `RequestStore.summaries`."""
        self.flush()
        return self._store.summaries(owner, digests, description, limit)

    def changed(self, request: Request, position: int) -> None:
        """Note the present state of a file."""
        with self._lock:
            self._files[request.digest, position] = request.files[position].copy()

    def noted(self, request: Request) -> None:
        """Note the present state of a request as a whole."""
        with self._lock:
            self._requests[request.digest] = RequestChange(request.digest, request.aborted, request.suspended)

    def claim(self, guid: UUID, held: bool) -> None:
        """Note whether this instance holds a file: others hand requests for it over."""
        with self._lock:
            self._claims[guid] = held

    def forgotten(self, request: Request) -> None:
        """Note that a request is to be removed."""
        with self._lock:
            self._forgotten[request.digest] = None

    def flush(self) -> None:
        """Save now what was noted before.

        Raises:
            Exception: of the store; the changes are kept for the next time.
        """
        with self._saving:
            with self._lock:
                files, self._files = self._files, {}
                requests, self._requests = self._requests, {}
                forgotten, self._forgotten = self._forgotten, {}
                claims, self._claims = self._claims, {}
            try:
                changes = [FileChange(digest, at, file) for (digest, at), file in files.items() if digest not in forgotten]
                if changes or requests:
                    self._store.save(changes, list(requests.values()))
                if forgotten:
                    self._store.remove(list(forgotten))
                if claims:
                    self._site.update_claims([g for g, held in claims.items() if held], [g for g, held in claims.items() if not held])
            except Exception:
                with self._lock:
                    self._files = files | self._files
                    self._requests = requests | self._requests
                    self._forgotten = forgotten | self._forgotten
                    self._claims = claims | self._claims
                raise

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._try()

    def _try(self) -> None:
        try:
            self.flush()
        except Exception as error:
            _log.warning("changes of staging requests are not saved yet: %s", type(error).__name__)
            self._stopped.wait(5)
