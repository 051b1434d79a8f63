"""Corrects the sizes of files once it is known what users get of them: the PACS's header is longer or shorter than theirs."""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from mdm_dicom_srm.register.rules.port import Catalog

_log = logging.getLogger(__name__)
_BATCH = 1_000


class Sizes(Protocol):
    """The sizes that registration knows; `register.store.RegistrationStore` has each method's contract."""

    def sizes_of(self, guids: Sequence[UUID]) -> Mapping[UUID, int | None]: ...
    def note_sizes(self, sizes: Mapping[UUID, int]) -> None: ...


class SizeCorrection:
    """Gathers sizes for a moment and gives the catalog those that differ, many at once.

    A user who has fetched files compares them with the catalog's sizes next (`--skip-existing`), so the moment is short.

    What is lost by a crash is corrected when the file is staged the next time.
    """

    def __init__(self, sizes: Sizes, catalog: Catalog, moment: float = 0.05, retry: float = 1.0) -> None:
        self._sizes = sizes
        self._catalog = catalog
        self._moment, self._retry = moment, retry
        self._lock = threading.Lock()
        self._waiting: dict[UUID, int] = {}
        self._stopped, self._noted = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="register-sizes", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Give the catalog what is left and end."""
        self._stopped.set()
        self._noted.set()
        self._thread.join()
        self._try()

    def note(self, guid: UUID, size: int) -> None:
        """Take in how many bytes users get of a file; returns at once."""
        with self._lock:
            self._waiting[guid] = size
        self._noted.set()

    def flush(self) -> None:
        """Give the catalog now what was taken in until now.

        Raises:
            MdmError: the catalog is away or refuses; it is corrected the next time.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        try:
            while waiting:
                batch = dict(list(waiting.items())[:_BATCH])
                known = self._sizes.sizes_of(list(batch))
                wrong = {guid: size for guid, size in batch.items() if guid in known and known[guid] != size}
                if wrong:
                    self._catalog.set_sizes(wrong)
                    self._sizes.note_sizes(wrong)
                waiting = {guid: size for guid, size in waiting.items() if guid not in batch}
        except Exception:
            with self._lock:
                self._waiting = waiting | self._waiting
            raise

    def _run(self) -> None:
        while self._noted.wait() and not self._stopped.wait(self._moment):
            self._noted.clear()
            if not self._try():
                self._noted.set()
                self._stopped.wait(self._retry)

    def _try(self) -> bool:
        try:
            self.flush()
        except Exception as error:
            _log.warning("sizes are not corrected yet", extra={"error": type(error).__name__})
            return False
        return True
