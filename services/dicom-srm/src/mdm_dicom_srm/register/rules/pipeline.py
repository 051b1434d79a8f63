"""The steps of registration for a batch of one series. Each may be repeated; each is recorded before the next begins."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError

from mdm_dicom_srm.register.rules.description import IMAGES, INSTANCES, PATIENTS, SERIES, STUDIES, Describer, Description, Verdict
from mdm_dicom_srm.register.rules.model import Batch, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import AclHolder, Catalog, Keys, Metadata, Outcomes, Queue
from mdm_dicom_srm.register.rules.site import SiteAcls

_log = logging.getLogger(__name__)
_REMEMBERED_STUDIES = 10_000
_ORDER = {State.RECEIVED: 0, State.KEYED: 1, State.DESCRIBED: 2, State.PUBLISHED: 3}

Action = Callable[[Batch, Sequence[Description]], Outcomes]


@dataclass(frozen=True, slots=True)
class Grid:
    """The services that registration writes to."""

    keys: Keys
    metadata: Metadata
    catalog: Catalog


class Pipeline:
    """Takes batches from RECEIVED to PUBLISHED. Safe for several threads, each with its own batch."""

    def __init__(self, queue: Queue, describer: Describer, acls: SiteAcls, names: Names, grid: Grid, max_attempts: int) -> None:
        self._queue = queue
        self._describer = describer
        self._acls = acls
        self._names = names
        self._grid = grid
        self._max_attempts = max_attempts
        self._site_ready = False
        self._studies_ready: OrderedDict[UUID, None] = OrderedDict()

    def prepare_site(self) -> bool:
        """Create the site's ACLs and collections, so that they can be queried before the first image; tell whether they are there."""
        try:
            self._ensure_site()
        except MdmError as error:
            _log.warning("the site's collections cannot be created yet", extra={"reason": error.reason})
        return self._site_ready

    def run(self, batch: Batch) -> None:
        """Bring each instance as far as it goes now; what cannot go on is settled or postponed, nothing stays leased.

        Errors of the queue come through: then the lease runs out by itself, and every step may be repeated.
        """
        states = {job.guid: job.state for job in batch.jobs}
        try:
            works = self._describe(batch)
            for state, action in (
                (State.KEYED, self._make_keys),
                (State.DESCRIBED, self._store_metadata),
                (State.PUBLISHED, self._publish),
            ):
                works = self._step(batch, works, states, state, action)
        except Exception as error:
            _log.error("registration stopped by a defect", extra={"error": type(error).__name__, "instances": len(batch.jobs)})
            self._queue.postpone(batch.lease_id, dict.fromkeys(states, "INTERNAL"), self._max_attempts)
        self._queue.release(batch.lease_id)

    def _describe(self, batch: Batch) -> list[Description]:
        """Return what can be registered; the rest is settled by its verdict."""
        works: list[Description] = []
        verdicts: dict[State, dict[UUID, str]] = {}
        for job in batch.jobs:
            try:
                outcome = self._describer.describe(job)
            except Exception as error:
                _log.error("a header could not be read", extra={"guid": str(job.guid), "error": type(error).__name__})
                outcome = Verdict(State.FAILED, "HEADER_UNREADABLE")
            if isinstance(outcome, Verdict):
                verdicts.setdefault(outcome.state, {})[job.guid] = outcome.reason
            else:
                works.append(outcome)
        for state, reasons in verdicts.items():
            self._settle(batch, reasons, state)
        return works

    def _step(self, batch: Batch, works: list[Description], states: dict[UUID, State], reached: State, action: Action) -> list[Description]:
        """Do one step for those that have not done it; return those that have it behind them."""
        todo = [work for work in works if _ORDER[states[work.guid]] < _ORDER[reached]]
        if not todo:
            return works
        try:
            errors = action(batch, todo)
        except MdmError as error:
            self._site_ready = False
            self._studies_ready.pop(todo[0].acl_id, None)
            _log.warning("registration step failed", extra={"step": str(reached), "reason": error.reason, "instances": len(todo)})
            self._queue.postpone(batch.lease_id, {work.guid: error.reason for work in todo}, self._max_attempts)
            held: set[UUID] = set()
        else:
            self._fail(batch, {guid: error for guid, error in errors.items() if error is not None})
            held = self._queue.advance(batch.lease_id, [work.guid for work in todo if errors.get(work.guid) is None], reached)
            states.update(dict.fromkeys(held, reached))
            _log.info("registered", extra={"step": str(reached), "instances": len(held)})
        return [work for work in works if _ORDER[states[work.guid]] >= _ORDER[reached]]

    def _make_keys(self, batch: Batch, works: Sequence[Description]) -> Outcomes:
        self._ensure_acls(works[0].acl_id)
        return self._grid.keys.create_keys([work.guid for work in works], works[0].acl_id)

    def _store_metadata(self, batch: Batch, works: Sequence[Description]) -> Outcomes:
        self._ensure_acls(works[0].acl_id)
        found = self._grid.metadata.upsert(self._names.collection(IMAGES), [work.entries[IMAGES] for work in works])
        errors = {work.guid: error for work, error in zip(works, found, strict=True)}
        stored = [work for work in works if errors[work.guid] is None]
        # Those of this step are not counted in the queue yet; a repetition after a crash comes to the same number.
        count = self._queue.count_described(batch.series_token) + len(stored)
        for name in (PATIENTS, STUDIES, SERIES):
            entries = {work.entries[name].key: work.entries[name] for work in stored}
            if name == SERIES:
                entries = {key: replace(entry, values={**entry.values, INSTANCES: count}) for key, entry in entries.items()}
            for error in self._grid.metadata.upsert(self._names.collection(name), list(entries.values())) if entries else ():
                if error is not None:
                    raise error
        return errors

    def _publish(self, batch: Batch, works: Sequence[Description]) -> Outcomes:
        self._ensure_acls(works[0].acl_id)
        self._grid.catalog.ensure_directories(list(dict.fromkeys(directory for work in works for directory in work.directories)))
        found = self._grid.catalog.register([work.file for work in works])
        return {work.guid: error for work, error in zip(works, found, strict=True)}

    def _ensure_acls(self, study_acl: UUID) -> None:
        """Create what the steps rest on, once per process unless a step failed since."""
        self._ensure_site()
        if study_acl not in self._studies_ready:
            everywhere: tuple[AclHolder, ...] = (self._grid.keys, self._grid.metadata, self._grid.catalog)
            for holder in everywhere:
                holder.ensure_acls([self._acls.study(study_acl)])
            self._studies_ready[study_acl] = None
            while len(self._studies_ready) > _REMEMBERED_STUDIES:
                self._studies_ready.popitem(last=False)

    def _ensure_site(self) -> None:
        if not self._site_ready:
            site: tuple[AclHolder, ...] = (self._grid.metadata, self._grid.catalog)
            for holder in site:
                holder.ensure_acls(self._acls.site())
            self._grid.metadata.ensure_collections(self._describer.collections())
            self._site_ready = True

    def _fail(self, batch: Batch, errors: Mapping[UUID, MdmError]) -> None:
        """Settle what can never succeed, postpone the rest."""
        hopeless = {guid: error.reason for guid, error in errors.items() if isinstance(error, Invalid)}
        self._settle(batch, hopeless, State.FAILED)
        later = {guid: error.reason for guid, error in errors.items() if guid not in hopeless}
        for guid, reason in later.items():
            _log.warning("registration postponed", extra={"guid": str(guid), "reason": reason})
        if later:
            self._queue.postpone(batch.lease_id, later, self._max_attempts)

    def _settle(self, batch: Batch, reasons: Mapping[UUID, str], state: State) -> None:
        for guid, reason in reasons.items():
            _log.warning("not registered", extra={"guid": str(guid), "state": str(state), "reason": reason})
        if reasons:
            self._queue.settle(batch.lease_id, reasons, state)
