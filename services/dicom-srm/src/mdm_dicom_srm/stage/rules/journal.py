"""Writes changes of requests behind, many in one statement, so that a file costs no round trip of its own."""

import logging
import threading

from mdm_dicom_srm.stage.rules.model import Request, StagedFile
from mdm_dicom_srm.stage.rules.port import FileChange, RequestStore

_log = logging.getLogger(__name__)


class Journal:
    """Collects changes and saves them every `interval` seconds, or at once by `flush`.

    What a crash loses is at most the last interval: a file that was ready is then found in the spool again, one that was
    released stays pinned until its pin expires. While the database is away changes are kept and tried again.
    """

    def __init__(self, store: RequestStore, interval: float = 0.2) -> None:
        self._store = store
        self._interval = interval
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._files: dict[tuple[bytes, int], StagedFile] = {}
        self._aborted: dict[bytes, None] = {}
        self._gone: dict[bytes, None] = {}
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

    def changed(self, request: Request, position: int) -> None:
        """Note the present state of a file."""
        with self._lock:
            self._files[request.digest, position] = request.files[position].copy()

    def aborted(self, request: Request) -> None:
        """Note that a request was aborted."""
        with self._lock:
            self._aborted[request.digest] = None

    def forgotten(self, request: Request) -> None:
        """Note that a request is to be removed."""
        with self._lock:
            self._gone[request.digest] = None

    def flush(self) -> None:
        """Save now what was noted until now.

        Raises:
            Exception: of the store; the changes are kept for the next time.
        """
        with self._saving:
            with self._lock:
                files, self._files = self._files, {}
                aborted, self._aborted = self._aborted, {}
                gone, self._gone = self._gone, {}
            try:
                changes = [FileChange(digest, at, file) for (digest, at), file in files.items() if digest not in gone]
                if changes or aborted:
                    self._store.save(changes, list(aborted))
                if gone:
                    self._store.remove(list(gone))
            except Exception:
                with self._lock:
                    self._files = files | self._files
                    self._aborted = aborted | self._aborted
                    self._gone = gone | self._gone
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
