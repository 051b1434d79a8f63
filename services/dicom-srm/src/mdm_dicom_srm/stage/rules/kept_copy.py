"""Kept files, the results of users, into the spool: they are ciphertext already, so that nothing is retrieved and nothing sealed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from mdm_wire.errors import NotFound, Unavailable

from mdm_dicom_srm import metrics
from mdm_dicom_srm.stage.rules.model import State
from mdm_dicom_srm.stage.rules.port import Kept, NoSpace, Spool
from mdm_dicom_srm.stage.rules.retrieval import DESCRIBED_ANEW, FilesInWork, Retrieval, log_failure

_HOLDER = "kept-copy"


class KeptCopies:
    """Copies kept files in threads of its own; a copy is pinned, evicted and made again like that of an image."""

    def __init__(self, kept: Kept, spool: Spool, work: FilesInWork, threads: int) -> None:
        self._kept = kept
        self._spool = spool
        self._work = work
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stage-kept")

    def close(self) -> None:
        """End; what is not copied yet is copied by the next process."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def take(self, guids: Sequence[UUID]) -> list[UUID]:
        """Have those of the files copied that are kept; return the others."""
        if not guids:
            return []
        try:
            sizes = self._kept.sizes(guids)
        except Exception as error:
            log_failure("kept files cannot be looked up", error)
            self._work.fail(None, guids, State.FILE_UNAVAILABLE, "RESULTS_UNAVAILABLE")
            return []
        for guid, size in sizes.items():
            copy = Retrieval(open={guid})
            self._work.assign(guid, copy)
            self._pool.submit(self._copy, copy, guid, size)
        return [guid for guid in guids if guid not in sizes]

    def _copy(self, copy: Retrieval, guid: UUID, size: int) -> None:
        try:
            self._work.requests.started((guid,))
            slot = self._spool.reserve(guid, size)
            try:
                self._kept.copy_to(guid, slot.path)
                with self._work.changed:
                    if guid in copy.stale:
                        raise Unavailable(DESCRIBED_ANEW, "It is being removed.")
                    self._spool.commit(slot, size, _HOLDER)
            except BaseException:
                self._spool.discard(slot)
                raise
        except NoSpace:
            self._work.fail(copy, (guid,), State.NO_FREE_SPACE, "SPOOL_FULL")
        except NotFound as error:
            self._work.fail(copy, (guid,), State.FILE_LOST, error.reason)
        except Unavailable as error:
            self._work.fail(copy, (guid,), State.FILE_UNAVAILABLE, error.reason)
        except Exception as error:
            self._work.fail(copy, (guid,), State.INTERNAL_ERROR, log_failure("a kept file cannot be copied", error))
        else:
            self._work.finish(copy, (guid,))
            self._work.requests.ready(guid)
            self._work.pace.staged()
            self._spool.unpin(guid, _HOLDER)
            metrics.STAGED_FILES.labels("STAGED").inc()
            metrics.STAGED_BYTES.inc(size)
