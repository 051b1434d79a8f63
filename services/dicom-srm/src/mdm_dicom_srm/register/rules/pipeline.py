"""The steps of registration for a batch of one series. Each may be repeated; each is recorded before the next begins."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from mdm_deid.outcome import Outcome
from mdm_deid.rules.patient import Patient, patient_of
from mdm_wire.errors import Invalid, MdmError

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.register.rules.description import IMAGES, Describer, Description, Verdict
from mdm_dicom_srm.register.rules.judge import Rejudge
from mdm_dicom_srm.register.rules.model import Batch, Job, State
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import AclHolder, Grid, Outcomes, Queue, Statements
from mdm_dicom_srm.register.rules.removal import Removal
from mdm_dicom_srm.register.rules.shared import SharedEntries
from mdm_dicom_srm.register.rules.site import SiteAcls

_log = logging.getLogger(__name__)
_REMEMBERED_STUDIES = 10_000
_OTHER_ACL = "KEY_GUARDED_OTHERWISE"
_ORDER = {State.RECEIVED: 0, State.KEYED: 1, State.DESCRIBED: 2, State.PUBLISHED: 3}

Action = Callable[[Batch, Sequence[Description]], Outcomes]


class Pipeline:
    """Takes batches from RECEIVED to PUBLISHED, and from REMOVING to REMOVED. Safe for several threads, each with its own batch."""

    def __init__(
        self,
        queue: Queue,
        statements: Statements,
        rejudge: Rejudge,
        describer: Describer,
        acls: SiteAcls,
        names: Names,
        grid: Grid,
        max_attempts: int,
    ) -> None:
        self._queue = queue
        self._statements = statements
        self._rejudge = rejudge
        self._describer = describer
        self._acls = acls
        self._names = names
        self._grid = grid
        self._shared = SharedEntries(statements, grid.metadata, names)
        self._removal = Removal(queue, statements, self._shared, names, grid)
        self._max_attempts = max_attempts
        self._site_ready = False
        self._studies_ready: OrderedDict[UUID, None] = OrderedDict()

    def prepare_site(self) -> bool:
        """Create the site's ACLs and collections, so that they can be queried before the first image; return whether they are there."""
        try:
            self._ensure_site()
        except MdmError as error:
            _log.warning("the site's collections cannot be created yet", extra={"reason": error.reason})
        return self._site_ready

    def tidy(self) -> None:
        """Write what a process that ended has left half written; to be called from time to time."""
        try:
            self._shared.write_left()
        except MdmError as error:
            _log.warning("shared entries are not written yet", extra={"reason": error.reason})

    def run(self, batch: Batch) -> None:
        """Bring each instance as far as it goes now; what cannot go on is settled or postponed, nothing stays leased.

        Errors of the queue come through: then the lease runs out by itself, and every step may be repeated.
        """
        states = {job.guid: job.state for job in batch.jobs}
        try:
            self._remove(batch)
            works = self._describe(batch)
            for state, action in (
                (State.KEYED, self._make_keys),
                (State.DESCRIBED, self._store_metadata),
                (State.PUBLISHED, self._publish),
            ):
                works = self._step(batch, works, states, state, action)
        except MdmError as error:
            _log.warning("registration cannot begin", extra={"reason": error.reason, "instances": len(batch.jobs)})
            self._queue.postpone(batch.lease_id, dict.fromkeys(states, error.reason), self._max_attempts)
        except Exception as error:
            _log.error("registration stopped by a defect", extra={"error": type(error).__name__, "instances": len(batch.jobs)})
            self._queue.postpone(batch.lease_id, dict.fromkeys(states, "INTERNAL"), self._max_attempts)
        self._queue.release(batch.lease_id)

    def _remove(self, batch: Batch) -> None:
        """End generations."""
        jobs = [job for job in batch.jobs if job.state is State.REMOVING]
        if not jobs:
            return
        try:
            errors = self._removal.remove(jobs)
        except MdmError as error:
            _log.warning("removal failed", extra={"reason": error.reason, "instances": len(jobs)})
            self._queue.postpone(batch.lease_id, {job.guid: error.reason for job in jobs}, self._max_attempts)
            return
        failed = {guid: error.reason for guid, error in errors.items() if error is not None}
        if failed:
            self._queue.postpone(batch.lease_id, failed, self._max_attempts)
        removed = self._queue.advance(batch.lease_id, [job.guid for job in jobs if job.guid not in failed], State.REMOVED)
        _log.info("removed", extra={"instances": len(removed)})

    def _describe(self, batch: Batch) -> list[Description]:
        """Return what can be registered; the rest is settled by its verdict, its generation ends, or it waits for the PACS to be judged."""
        jobs = self._recall([job for job in batch.jobs if job.state is not State.REMOVING])
        self._grid.copies.forget([job.guid for job in jobs if job.changed])
        jobs = self._end_dead(batch, jobs)
        patients = self._decide_patients(jobs)
        works: list[Description] = []
        errors: dict[UUID, MdmError] = {}
        verdicts: dict[State, dict[UUID, str]] = {}
        for job in jobs:
            try:
                judged = self._judged(batch, job, patients.get(job.guid))
                outcome = self._described(judged)
            except MdmError as error:
                errors[job.guid] = error
                continue
            if isinstance(outcome, Description) and job.patient_key in ("", outcome.patient_key):
                works.append(outcome)
            elif isinstance(outcome, Description):
                self._end_generation(batch, judged, State.RECEIVED)
            elif job.keyed and (job.changed or outcome.state is not State.FAILED):
                self._end_generation(batch, judged, outcome.state, outcome.reason)
            else:
                verdicts.setdefault(outcome.state, {})[job.guid] = outcome.reason
        for state, reasons in verdicts.items():
            self._settle(batch, reasons, state)
        self._fail(batch, errors)
        return works

    def _judged(self, batch: Batch, job: Job, patient: Patient | None) -> Job:
        """Return the job with a judgement under the present rules and of its study's patient, kept so that it need not be made again."""
        if not self._rejudge.is_due(job, patient):
            return job
        try:
            judged = self._rejudge(job, lambda found: self._decide_patients([found]).get(found.guid))
        except MdmError:
            raise
        except Exception as error:
            _log.error("an instance could not be judged again", extra={"guid": str(job.guid), "error": type(error).__name__})
            return replace(job, judgement=Judgement(Outcome.FAILED, "HEADER_UNREADABLE"))
        self._queue.keep(batch.lease_id, judged)
        return judged

    def _end_dead(self, batch: Batch, jobs: Sequence[Job]) -> list[Job]:
        """End the generations whose key was destroyed: a key made anew under an old GUID would bring it back. Return the other jobs."""
        keyed = [job.guid for job in jobs if job.keyed and (job.changed or job.restoring)]
        dead = self._grid.keys.missing(keyed) if keyed else set()
        for job in jobs:
            if job.guid in dead:
                self._end_generation(batch, job, State.RECEIVED)
        return [job for job in jobs if job.guid not in dead]

    def _described(self, job: Job) -> Description | Verdict:
        try:
            return self._describer.describe(job)
        except Exception as error:
            _log.error("a header could not be read", extra={"guid": str(job.guid), "error": type(error).__name__})
            return Verdict(State.FAILED, "HEADER_UNREADABLE")

    def _recall(self, jobs: Sequence[Job]) -> list[Job]:
        """Return jobs with the names that an earlier version of this service gave and did not keep."""
        unknown = [job.guid for job in jobs if (job.changed or job.restoring) and job.keyed and not job.lfn]
        lfns = self._grid.catalog.lfns(unknown) if unknown else {}
        self._queue.note_lfns(lfns)
        return [
            replace(job, lfn=lfns[job.guid], patient_key=self._patient_key(lfns[job.guid])) if job.guid in lfns else job for job in jobs
        ]

    def _patient_key(self, lfn: str) -> str:
        return next((path.rpartition("/")[2] for path in self._names.directories_above(lfn)[-1:]), "")

    def _decide_patients(self, jobs: Sequence[Job]) -> dict[UUID, Patient]:
        """Return, for each instance that says of which study and patient it is, of whom its study is."""
        said: dict[str, dict[UUID, Patient]] = {}
        for job in jobs:
            found = patient_of(job.header) if job.header is not None else None
            if found is not None and job.locator.study_uid:
                said.setdefault(job.locator.study_uid, {})[job.guid] = found[1]
        decided: dict[UUID, Patient] = {}
        for study_uid, of_study in sorted(said.items()):
            decided |= dict.fromkeys(of_study, self._statements.decide_patient(study_uid, of_study))
        return decided

    def _end_generation(self, batch: Batch, job: Job, state: State, reason: str = "") -> None:
        _log.warning("a GUID ends", extra={"guid": str(job.guid), "state": str(state), "reason": reason})
        self._queue.end_generation(batch.lease_id, job, state, reason)

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
        acl_id = works[0].acl_id
        if any(batch.by_guid[work.guid].restoring for work in works):
            self._site_ready = False
            self._studies_ready.pop(acl_id, None)
        self._ensure_acls(acl_id)
        errors = dict(self._grid.keys.create_keys([work.guid for work in works], acl_id))
        # Of another study until now; of a key that we never made nobody knows who has it.
        moved = [guid for guid, error in errors.items() if error and error.reason == _OTHER_ACL and batch.by_guid[guid].keyed]
        return {**errors, **(self._grid.keys.move(moved, acl_id) if moved else {})}

    def _store_metadata(self, batch: Batch, works: Sequence[Description]) -> Outcomes:
        self._ensure_acls(works[0].acl_id)
        found = self._grid.metadata.upsert(self._names.collection(IMAGES), [work.image for work in works])
        errors = {work.guid: error for work, error in zip(works, found, strict=True)}
        stored = [work for work in works if errors[work.guid] is None]
        keys = self._statements.state(batch.lease_id, {work.guid: work.statements for work in stored})
        if any(batch.by_guid[work.guid].restoring for work in stored):
            self._statements.forget_written(keys)
        self._shared.write(keys)
        return errors

    def _publish(self, batch: Batch, works: Sequence[Description]) -> Outcomes:
        self._ensure_acls(works[0].acl_id)
        catalog = self._grid.catalog
        catalog.ensure_directories(list(dict.fromkeys(directory for work in works for directory in work.directories)))
        new = [work.file for work in works if not batch.by_guid[work.guid].keyed]
        known = [work.file for work in works if batch.by_guid[work.guid].keyed]
        found = (catalog.register(new) if new else []) + (catalog.replace(known) if known else [])
        errors = {file.guid: error for file, error in zip([*new, *known], found, strict=True)}
        # Before the new name is kept, so that a process killed here does it again.
        left = [batch.by_guid[file.guid].lfn for file in known if batch.by_guid[file.guid].lfn not in ("", file.lfn)]
        catalog.prune(list(dict.fromkeys(path for lfn in left for path in self._names.directories_above(lfn))))
        self._queue.note_lfns({work.guid: work.file.lfn for work in works if errors[work.guid] is None})
        return errors

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
