"""Scans: from a scope to the studies to be looked at, by command and by schedule; and what operators ask of them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from uuid import UUID

from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound

from mdm_dicom_srm.pacs.port import Pacs, Scope
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.scan import ENDED, Action, Listing, Order, Scan, ScanState, ScanStores, check_note, check_scope

_log = logging.getLogger(__name__)
_CHUNK = 200
MAX_NAMES = 1000
MAX_SCANS = 100
_KEPT_DAYS = 30


@dataclass(frozen=True, slots=True)
class Schedule:
    """When scans begin by themselves; 0 means never. `days` says how far back the frequent ones look."""

    every_seconds: float = 0
    days: int = 7
    all_every_seconds: float = 0


class Scanner:
    """Gathers the studies of scans. Everything here may be repeated; a study is looked at once per scan."""

    def __init__(self, pacs: Pacs, stores: ScanStores, schedule: Schedule) -> None:
        self._pacs = pacs
        self._contents = stores.contents
        self._scans = stores.scans
        self._schedule = schedule

    def start_due(self, today: date) -> None:
        """Begin the scans that are due; of several instances one does."""
        schedule = self._schedule
        for kind, seconds, scope in (
            ("RECENT", schedule.every_seconds, Scope(since=today - timedelta(days=schedule.days))),
            ("ALL", schedule.all_every_seconds, Scope()),
        ):
            if seconds and self._scans.start_due(kind, Order(Action.REGISTER, scope), seconds) is not None:
                _log.info("a scan begins by schedule", extra={"kind": kind})

    def forget(self) -> None:
        """Remove scans that ended long ago."""
        self._scans.forget(_KEPT_DAYS)

    def gather(self, listing: Listing) -> None:
        """Have every study of a scan looked at; it ends early if the scan was cancelled.

        Raises:
            Unavailable: the PACS is away; what was found is kept, and asking again is harmless.
        """
        studies = self._studies(listing.order)
        while chunk := list(islice(studies, _CHUNK)):
            if not self._scans.add_studies(listing, chunk):
                return
        self._scans.listed(listing)

    def _studies(self, order: Order) -> Iterator[str]:
        """Yield the studies of a scope that the registry has, which the PACS may have lost, and those that the PACS has."""
        last = ""
        for locator in self._contents.series_in(order.scope):
            if locator.study_uid != last:
                last = locator.study_uid
                yield last
        if order.action is Action.REGISTER:
            yield from order.scope.study_uids if order.scope == Scope(study_uids=order.scope.study_uids) else ()
            yield from self._pacs.studies(order.scope)


class ScanService:
    """What operators ask: scans by command, and the removal of what should not be on the grid. `wake` is called when there is work."""

    def __init__(self, stores: ScanStores, names: Names, wake: Callable[[], None]) -> None:
        self._scans = stores.scans
        self._contents = stores.contents
        self._inspections = stores.inspections
        self._names = names
        self._wake = wake

    def start(self, scope: Scope, by: str, *, dry_run: bool) -> UUID:
        """Begin a scan; it is durable when this returns.

        Raises:
            Invalid: SCOPE_MALFORMED.
        """
        check_scope(scope)
        return self._start(Order(Action.REGISTER, scope, dry_run, by))

    def _start(self, order: Order) -> UUID:
        scan_id = self._scans.start(order)
        self._wake()
        return scan_id

    def get(self, scan_id: UUID) -> Scan:
        """Return a scan and how far it is.

        Raises:
            NotFound: there is none.
        """
        scan = self._scans.get(scan_id)
        if scan is None:
            raise NotFound("SCAN_NOT_FOUND", "No such scan.")
        return scan

    def newest(self, size: int) -> list[Scan]:
        """Return the scans that were started last, the newest first; size 0 means the most.

        Raises:
            Invalid: the size is out of range.
        """
        if not 0 <= size <= MAX_SCANS:
            raise Invalid("PAGE_SIZE", f"A page has 1 to {MAX_SCANS} scans.")
        return self._scans.page(size or MAX_SCANS)

    def cancel(self, scan_id: UUID) -> None:
        """End a scan; what it found so far stays. One that was cancelled before is no error.

        Raises:
            NotFound: there is none.
            FailedPrecondition: SCAN_ENDED, it ended otherwise.
        """
        if not self._scans.cancel(scan_id) and (scan := self.get(scan_id)).state in ENDED and scan.state is not ScanState.CANCELLED:
            raise FailedPrecondition("SCAN_ENDED", "The scan has ended already.")

    def look(self, study_uid: str) -> None:
        """Have a study looked at: something said that it has changed."""
        self._inspections.queue(study_uid)
        self._wake()

    def held(self, sop_uids: Sequence[str]) -> set[str]:
        """Return those of some instances that the registry has durably and is not removing, whatever became of them."""
        instances = {self._names.instance(sop_uid): sop_uid for sop_uid in sop_uids if sop_uid}
        pending = iter(instances)
        found: set[str] = set()
        while chunk := list(islice(pending, MAX_NAMES)):
            found |= {instances[instance] for instance, known in self._contents.of_instances(chunk).items() if known.live}
        return found

    def unregister(
        self, guids: Sequence[UUID], lfns: Sequence[str], study_uids: Sequence[str], by: str, note: str, *, dry_run: bool
    ) -> list[int | MdmError]:
        """Have registrations removed from the grid, and kept out until they are sent or registered again.

        Returns:
            How many each GUID, then each name, then each study stands for, or NotFound.

        Raises:
            Invalid: none or too many are asked for, or the note is malformed.
        """
        check_note(note)
        if not 1 <= len(guids) + len(lfns) + len(study_uids) <= MAX_NAMES:
            raise Invalid("BATCH_SIZE", f"Name 1 to {MAX_NAMES} files, directories and studies.")
        found: list[int | MdmError] = []
        for guid in guids:
            found.append(self._contents.unregister([guid], by, note, dry_run=dry_run))
        for lfn in lfns:
            found.append(self._contents.unregister_below(lfn.rstrip("/"), by, note, dry_run=dry_run))
        for study_uid in study_uids:
            found.append(self._contents.unregister_study(self._names.study_token(study_uid), by, note, dry_run=dry_run))
        self._wake()
        absent = NotFound("REGISTRATION_NOT_FOUND", "Nothing of this name is registered.")
        return [count or absent for count in found]

    def unregister_scope(self, scope: Scope, by: str, note: str, *, dry_run: bool) -> UUID:
        """Begin a scan that has everything of a scope removed that the registry knows.

        Raises:
            Invalid: scope or note are malformed.
        """
        check_scope(scope)
        check_note(note)
        return self._start(Order(Action.UNREGISTER, scope, dry_run, by, note))


def look_for(stores: ScanStores, guids: Sequence[UUID]) -> None:
    """Have the studies of registrations looked at whose instances a retrieval did not find; never raises."""
    try:
        for study_uid in {locator.study_uid for locator in stores.contents.locators(guids)}:
            stores.inspections.queue(study_uid)
    except Exception as error:
        _log.warning("studies are not looked at", extra={"error": type(error).__name__})
