"""The steps of registration for a batch of one series. Each may be repeated; each is recorded before the next begins."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError

from mdm_dicom_srm.register.rules.assessor import Assessor
from mdm_dicom_srm.register.rules.description import Description
from mdm_dicom_srm.register.rules.grid_writer import GridWriter
from mdm_dicom_srm.register.rules.model import Batch, Job, State
from mdm_dicom_srm.register.rules.port import Outcomes, Queue

_log = logging.getLogger(__name__)
_ORDER = {State.RECEIVED: 0, State.KEYED: 1, State.DESCRIBED: 2, State.PUBLISHED: 3}

#: A step: writes to the grid what some descriptions of a batch need, and returns what became of each.
Step = Callable[[Batch, Sequence[Description]], Outcomes]


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far the jobs of a batch are, and the judgements that are kept only if their registration does not end now."""

    batch: Batch
    states: dict[UUID, State]
    judged: dict[UUID, Job] = field(default_factory=dict)


class Pipeline:
    """Takes batches from RECEIVED to PUBLISHED, and from REMOVING to REMOVED. Safe for several threads, each with its own batch."""

    def __init__(self, queue: Queue, assessor: Assessor, writer: GridWriter, max_attempts: int) -> None:
        self._queue = queue
        self._assessor = assessor
        self._writer = writer
        self._prerequisites = writer.prerequisites
        self._max_attempts = max_attempts

    def prepare_site(self) -> bool:
        """Create the site's ACLs and collections, so that they can be queried before the first image; return whether they exist."""
        try:
            self._prerequisites.ensure_site()
        except MdmError as error:
            _log.warning("the site's collections cannot be created yet", extra={"reason": error.reason})
        return self._prerequisites.site_ready

    def tidy(self) -> None:
        """Write the shared entries that a process that ended has left unwritten; to be called from time to time."""
        try:
            self._writer.shared.write_left()
        except MdmError as error:
            _log.warning("shared entries are not written yet", extra={"reason": error.reason})

    def run(self, batch: Batch) -> None:
        """Bring each instance as far as it goes now; what cannot go on is settled or postponed, and no lease is kept.

        Errors of the queue are raised: then the lease runs out by itself, and every step may be repeated.
        """
        progress = _Progress(batch, {job.guid: job.state for job in batch.jobs})
        try:
            self._remove(progress)
            descriptions = self._describe(progress)
            for state, step in (
                (State.KEYED, self._writer.make_keys),
                (State.DESCRIBED, self._writer.store_metadata),
                (State.PUBLISHED, self._writer.publish),
            ):
                descriptions = self._do(progress, descriptions, state, step)
        except MdmError as error:
            _log.warning("registration cannot begin", extra={"reason": error.reason, "instances": len(batch.jobs)})
            self._postpone(progress, dict.fromkeys(progress.states, error.reason))
        except Exception as error:
            _log.error("registration stopped by a defect", extra={"error": type(error).__name__, "instances": len(batch.jobs)})
            self._postpone(progress, dict.fromkeys(progress.states, "INTERNAL"))
        self._queue.release(batch.lease_id)

    def _remove(self, progress: _Progress) -> None:
        """End generations."""
        batch = progress.batch
        jobs = [job for job in batch.jobs if job.state is State.REMOVING]
        if not jobs:
            return
        try:
            errors = self._writer.remove(jobs)
        except MdmError as error:
            _log.warning("removal failed", extra={"reason": error.reason, "instances": len(jobs)})
            self._postpone(progress, {job.guid: error.reason for job in jobs})
            return
        failed = {guid: error.reason for guid, error in errors.items() if error is not None}
        self._postpone(progress, failed)
        removed = self._queue.advance(batch.lease_id, [job.guid for job in jobs if job.guid not in failed], State.REMOVED)
        _log.info("removed", extra={"instances": len(removed)})

    def _describe(self, progress: _Progress) -> list[Description]:
        """Return what can be registered; the rest is settled by its verdict, ends its generation, or waits for the PACS."""
        batch = progress.batch
        jobs = self._writer.with_known_names([job for job in batch.jobs if job.state is not State.REMOVING])
        self._writer.remove_changed_copies(jobs)
        jobs = self._end_keyless(batch, jobs)
        descriptions: list[Description] = []
        errors: dict[UUID, MdmError] = {}
        verdicts: dict[State, dict[UUID, str]] = {}
        for job, judged in self._assessor.judge(jobs, self._assessor.decide_patients(jobs)):
            if isinstance(judged, MdmError):
                errors[job.guid] = judged
                continue
            self._note_judged(progress, job, judged)
            result = self._assessor.describe(judged)
            if isinstance(result, Description) and job.patient_key in ("", result.patient_key):
                descriptions.append(result)
            elif isinstance(result, Description):
                self._end_generation(batch, judged, State.RECEIVED)
            elif job.keyed and (job.changed or result.state is not State.FAILED):
                self._end_generation(batch, judged, result.state, result.reason)
            else:
                verdicts.setdefault(result.state, {})[job.guid] = result.reason
        for state, reasons in verdicts.items():
            self._settle(progress, reasons, state)
        self._settle_or_postpone(progress, errors)
        return descriptions

    def _note_judged(self, progress: _Progress, job: Job, judged: Job) -> None:
        """Remember a new judgement; one of another header than is kept, or from another PACS, is kept at once."""
        if (judged.header, judged.size, judged.locator) != (job.header, job.size, job.locator):
            self._queue.keep(progress.batch.lease_id, [judged])
        elif judged.judgement != job.judgement:
            progress.judged[job.guid] = judged

    def _end_keyless(self, batch: Batch, jobs: Sequence[Job]) -> list[Job]:
        """End the generations whose key was destroyed: a key made anew under an old GUID would bring it back. Return the other jobs."""
        keyless = self._writer.keyless(jobs)
        for job in jobs:
            if job.guid in keyless:
                self._end_generation(batch, job, State.RECEIVED)
        return [job for job in jobs if job.guid not in keyless]

    def _end_generation(self, batch: Batch, job: Job, state: State, reason: str = "") -> None:
        _log.warning("a GUID ends", extra={"guid": str(job.guid), "state": str(state), "reason": reason})
        self._queue.end_generation(batch.lease_id, job, state, reason)

    def _do(self, progress: _Progress, descriptions: list[Description], reached: State, step: Step) -> list[Description]:
        """Do one step for the instances that need it; return those that have reached its state."""
        batch, states = progress.batch, progress.states
        todo = [item for item in descriptions if _ORDER[states[item.guid]] < _ORDER[reached]]
        if not todo:
            return descriptions
        try:
            errors = step(batch, todo)
        except MdmError as error:
            self._prerequisites.invalidate(todo[0].acl_id)
            _log.warning("registration step failed", extra={"step": str(reached), "reason": error.reason, "instances": len(todo)})
            self._postpone(progress, {item.guid: error.reason for item in todo})
        else:
            self._settle_or_postpone(progress, {guid: error for guid, error in errors.items() if error is not None})
            done = [item for item in todo if errors.get(item.guid) is None]
            files = {item.guid: item.file for item in done} if reached is State.PUBLISHED else {}
            held = self._queue.advance(batch.lease_id, [item.guid for item in done], reached, files)
            states.update(dict.fromkeys(held, reached))
            _log.info("registered", extra={"step": str(reached), "instances": len(held)})
        return [item for item in descriptions if _ORDER[states[item.guid]] >= _ORDER[reached]]

    def _settle_or_postpone(self, progress: _Progress, errors: Mapping[UUID, MdmError]) -> None:
        """Settle as FAILED what cannot succeed, postpone the rest."""
        hopeless = {guid: error.reason for guid, error in errors.items() if isinstance(error, Invalid)}
        self._settle(progress, hopeless, State.FAILED)
        later = {guid: error.reason for guid, error in errors.items() if guid not in hopeless}
        for guid, reason in later.items():
            _log.warning("registration postponed", extra={"guid": str(guid), "reason": reason})
        self._postpone(progress, later)

    def _postpone(self, progress: _Progress, reasons: Mapping[UUID, str]) -> None:
        if reasons:
            self._keep(progress, reasons)
            self._queue.postpone(progress.batch.lease_id, reasons, self._max_attempts)

    def _settle(self, progress: _Progress, reasons: Mapping[UUID, str], state: State) -> None:
        for guid, reason in reasons.items():
            _log.warning("not registered", extra={"guid": str(guid), "state": str(state), "reason": reason})
        if reasons:
            self._keep(progress, reasons)
            self._queue.settle(progress.batch.lease_id, reasons, state)

    def _keep(self, progress: _Progress, guids: Mapping[UUID, str]) -> None:
        """Keep the judgements of instances whose registration does not end now."""
        jobs = [progress.judged.pop(guid) for guid in guids if guid in progress.judged]
        if jobs:
            self._queue.keep(progress.batch.lease_id, jobs)
