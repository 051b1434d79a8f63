"""Judging instances: as they arrive, and again where what was kept of them does not say; and describing what was judged."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, replace
from uuid import UUID

from mdm_deid import Patient
from mdm_deid.outcome import Outcome
from mdm_deid.rules.patient import patient_of
from mdm_wire.errors import Invalid, MdmError, Unavailable

from mdm_dicom_srm.judgement import RELEASABLE, Judgement
from mdm_dicom_srm.pacs.header import header_of
from mdm_dicom_srm.pacs.port import MissingInstance, Pacs, RetrievedInstance
from mdm_dicom_srm.register.rules.arrival import Arrivals
from mdm_dicom_srm.register.rules.description import Describer, Description, Verdict
from mdm_dicom_srm.register.rules.model import Job, State
from mdm_dicom_srm.register.rules.port import Judge

_log = logging.getLogger(__name__)
_SECONDS = 300.0
#: Instances of a retrieval that are judged at a time; so many are in memory.
_AT_ONCE = 4
UNREADABLE = "HEADERUNREADABLE"
_UNREADABLE = Judgement(Outcome.FAILED, UNREADABLE)
#: Returns the patient of a study, given the patients that its registrations name; see `SharedEntryStore.decide_patient`.
DecidePatient = Callable[[str, Mapping[UUID, Patient]], Patient]


class PooledJudge:
    """Has instances judged by staging's de-identifiers; see `port.Judge`."""

    def __init__(
        self,
        submit: "Callable[[bytes | memoryview, Patient | None, frozenset[str]], Future[Judgement]]",
        rules: str,
        released: Callable[[bytes | memoryview], frozenset[str]],
        seconds: float = _SECONDS,
    ) -> None:
        """Wait at most `seconds` for a judgement; `released` returns the reasons that a curator has settled for a Part 10 file."""
        self.rules = rules
        self._submit = submit
        self._released = released
        self._seconds = seconds

    def begin(self, part10: bytes | memoryview, patient: Patient | None) -> "Future[Judgement]":
        """Begin to judge a complete Part 10 file of `patient`'s study, whatever a curator has settled.

        Raises:
            RuntimeError: the service is being stopped.
        """
        return self._begin(part10, patient, frozenset())

    def judge(self, part10: bytes | memoryview, patient: Patient | None) -> Judgement:
        """Return what becomes of a complete Part 10 file of `patient`'s study.

        Raises:
            Unavailable: not in time, or the service is being stopped.
        """
        try:
            judgement = self._begin(part10, patient, frozenset()).result(self._seconds)
            if self.is_settled(judgement, part10):
                judgement = self._begin(part10, patient, self._released(part10)).result(self._seconds)
        except (NotInTime, CancelledError, RuntimeError):
            raise Unavailable("JUDGE_BUSY", "The instance cannot be judged now; send it again later.") from None
        return judgement

    def is_settled(self, judgement: Judgement, part10: bytes | memoryview) -> bool:
        """Return whether a curator has settled the reason for which an instance with this header is held back."""
        releasable = judgement.outcome is Outcome.QUARANTINED and judgement.reason in RELEASABLE
        return releasable and judgement.reason in self._released(part10)

    def _begin(self, part10: bytes | memoryview, patient: Patient | None, released: frozenset[str]) -> "Future[Judgement]":
        judged: Future[Judgement] = Future()

        def finish(done: "Future[Judgement]") -> None:
            if done.cancelled():
                judged.cancel()
                judged.set_running_or_notify_cancel()
            elif (error := done.exception()) is not None:
                judged.set_exception(error)
            else:
                judged.set_result(replace(done.result(), rules=self.rules, patient=patient))

        self._submit(part10, patient, released).add_done_callback(finish)
        return judged


@dataclass(frozen=True, slots=True)
class _Judging:
    """A retrieved instance that is being judged, its job before and with what was retrieved."""

    before: Job
    found: Job
    judgement: "Future[Judgement]"
    part10: bytes | memoryview


class Assessor:
    """Brings jobs to a judgement under the present rules and for the present patient of their study, and describes them."""

    def __init__(
        self,
        judge: Judge,
        arrivals: Arrivals,
        pacs: Pacs,
        describer: Describer,
        decide_patient: DecidePatient,
        look_for: Callable[[Sequence[UUID]], object],
    ) -> None:
        """Have instances judged; those that the PACS does not have are handed to `look_for`."""
        self._judge = judge
        self._arrivals = arrivals
        self._pacs = pacs
        self._describer = describer
        self._decide_patient = decide_patient
        self._look_for = look_for

    def decide_patients(self, jobs: Sequence[Job]) -> dict[UUID, Patient]:
        """Return the patient of the study of each instance that names its study and patient."""
        said: dict[str, dict[UUID, Patient]] = {}
        for job in jobs:
            found = patient_of(job.header) if job.header is not None else None
            if found is not None and job.locator.study_uid:
                said.setdefault(job.locator.study_uid, {})[job.guid] = found[1]
        decided: dict[UUID, Patient] = {}
        for study_uid, of_study in sorted(said.items()):
            decided |= dict.fromkeys(of_study, self._decide_patient(study_uid, of_study))
        return decided

    def judge(self, jobs: Sequence[Job], patients: Mapping[UUID, Patient]) -> Iterator[tuple[Job, Job | MdmError]]:
        """Yield each job, and the same with its judgement: as it is kept, as it arrived, or else retrieved and judged again.

        An error says that it cannot be judged now.
        """
        again = []
        for job in jobs:
            judged = self._arrived(job)
            if self._is_due(judged, patients.get(job.guid)):
                again.append(job)
            else:
                yield job, judged
        yield from self._judge_again(again, patients)

    def _arrived(self, job: Job) -> Job:
        """Return a job with the judgement of its arrival, if there is one that stands."""
        if job.judgement is not None or job.header is None or job.digest is None:
            return job
        judgement = self._arrivals.take((job.locator.sop_uid, job.digest), _SECONDS)
        if judgement is None or self._judge.is_settled(judgement, job.header):
            return job
        return replace(job, judgement=judgement)

    def _is_due(self, job: Job, patient: Patient | None) -> bool:
        """Return whether a job has to be judged again. One without the UIDs by which the PACS is asked never has."""
        if not (job.locator.study_uid and job.locator.series_uid):
            return False
        judgement = job.judgement
        return judgement is None or job.header is None or judgement.rules != self._judge.rules or judgement.patient != patient

    def _judge_again(self, jobs: Sequence[Job], patients: Mapping[UUID, Patient]) -> Iterator[tuple[Job, Job | MdmError]]:
        """Retrieve instances, several at a time, and yield the jobs with header, size and judgement."""
        due = {job.locator.sop_uid: job for job in jobs}
        judging: deque[_Judging] = deque()
        error: MdmError = Unavailable("PACS_NOT_DELIVERED", "The PACS cannot deliver this instance now.")
        try:
            for instance in self._pacs.retrieve([job.locator for job in jobs]) if jobs else ():
                job = due.pop(instance.sop_uid, None)
                if job is None:
                    continue
                begun = self._begin(job, instance, patients)
                if not isinstance(begun, _Judging):
                    yield job, begun
                    continue
                judging.append(begun)
                if len(judging) == _AT_ONCE:
                    yield self._end(judging.popleft())
        except MdmError as failure:
            error = failure
        for one in judging:
            yield self._end(one)
        for job in due.values():
            yield job, error

    def _begin(
        self, job: Job, instance: RetrievedInstance | MissingInstance, patients: Mapping[UUID, Patient]
    ) -> "_Judging | Job | MdmError":
        """Begin to judge what was retrieved, or return what is known without."""
        if isinstance(instance, MissingInstance) and instance.gone:
            self._look_for((job.guid,))
            return replace(job, judgement=Judgement(Outcome.FAILED, instance.reason))
        if not isinstance(instance, RetrievedInstance):
            return Unavailable(instance.reason, "The PACS cannot deliver this instance now.")
        try:
            # The PACS that has it is asked from now on.
            locator = replace(job.locator, pacs=instance.pacs or job.locator.pacs)
            found = replace(job, locator=locator, header=header_of(instance.part10).part10, size=len(instance.part10))
            changed = found.header != job.header
            patient = self.decide_patients([found]).get(job.guid) if changed else patients.get(job.guid)
            return _Judging(job, found, self._judge.begin(instance.part10, patient), instance.part10)
        except Invalid as error:
            judgement = self._judge.judge(instance.part10, None)
            failed = judgement if judgement.outcome is Outcome.FAILED else Judgement(Outcome.FAILED, error.reason, rules=judgement.rules)
            return replace(job, judgement=failed)
        except MdmError as error:
            return error
        except Exception as error:
            return self._defect(job, error)

    def _end(self, judging: _Judging) -> tuple[Job, Job | MdmError]:
        """Await a judgement; if a curator has settled what it says, judge again."""
        try:
            judgement = judging.judgement.result(_SECONDS)
            if self._judge.is_settled(judgement, judging.part10):
                judgement = self._judge.judge(judging.part10, judgement.patient)
        except (NotInTime, CancelledError, RuntimeError):
            return judging.before, Unavailable("JUDGE_BUSY", "The instance cannot be judged now.")
        except MdmError as error:
            return judging.before, error
        except Exception as error:
            return judging.before, self._defect(judging.before, error)
        return judging.before, replace(judging.found, judgement=judgement)

    @staticmethod
    def _defect(job: Job, error: Exception) -> Job:
        _log.error("an instance could not be judged again", extra={"guid": str(job.guid), "error": type(error).__name__})
        return replace(job, judgement=_UNREADABLE)

    def describe(self, job: Job) -> Description | Verdict:
        """Describe an instance that was judged, or say why it is not registered; never raises."""
        try:
            return self._describer.describe(job)
        except Exception as error:
            _log.error("a header could not be read", extra={"guid": str(job.guid), "error": type(error).__name__})
            return Verdict(State.FAILED, UNREADABLE)
