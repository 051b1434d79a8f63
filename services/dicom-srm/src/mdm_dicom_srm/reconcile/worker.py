"""Reconciliation by schedule, in one process of the site at a time, and at once by command."""

import logging
import threading
from collections.abc import Sequence

from mdm_wire.errors import FailedPrecondition, MdmError

from mdm_dicom_srm.reconcile.rules.model import Difference
from mdm_dicom_srm.reconcile.rules.service import Limits, Reconciliation
from mdm_dicom_srm.reconcile.store.registry import ReconciliationStore

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 60.0


def reconcile_now(reconciliation: Reconciliation, store: ReconciliationStore, limits: Limits) -> Sequence[Difference]:
    """Reconcile, keep what was found and return it.

    Raises:
        FailedPrecondition: RECONCILIATION_RUNS: another process does. MdmError: a service does not answer.
    """
    with store.leading() as leads:
        if not leads:
            raise FailedPrecondition("RECONCILIATION_RUNS", "Another process is reconciling this site; try again later.")
        number = store.begin()
        differences = reconciliation.run(limits)
        store.end(number, differences)
        return differences


class Schedule:
    """Reconciles every so many seconds, whichever instance of the site looks first."""

    def __init__(
        self, reconciliation: Reconciliation, store: ReconciliationStore, limits: Limits, seconds: float, look: float = _LOOK_SECONDS
    ) -> None:
        self._reconciliation, self._store, self._limits = reconciliation, store, limits
        self._seconds, self._look = seconds, look
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        """Begin to look whether it is time."""
        self._thread.start()

    def stop(self) -> None:
        """End; one that is under way is broken off with the process, which leaves nothing half done."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._look):
            try:
                if self._store.is_due(self._seconds):
                    reconcile_now(self._reconciliation, self._store, self._limits)
                    _log.info("reconciled")
            except MdmError as error:
                _log.warning("not reconciled", extra={"reason": error.reason})
            except Exception as error:
                _log.error("reconciliation failed", extra={"error": type(error).__name__})
