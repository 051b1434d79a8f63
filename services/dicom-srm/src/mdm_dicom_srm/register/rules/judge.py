"""Judging instances: as they arrive, and again where what was kept of them does not say."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import replace

from mdm_deid import Patient
from mdm_deid.outcome import Outcome
from mdm_wire.errors import Invalid, Unavailable

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.part10 import header_of
from mdm_dicom_srm.pacs.port import Pacs
from mdm_dicom_srm.register.rules.model import Job
from mdm_dicom_srm.register.rules.port import Judge

_SECONDS = 300.0
#: Decides of whom the study of a job is that has its header; None where the header does not say of which study it is.
PatientOf = Callable[[Job], Patient | None]


class PooledJudge:
    """Has instances judged by staging's de-identifiers; see `port.Judge`."""

    def __init__(self, submit: "Callable[[bytes, Patient | None], Future[Judgement]]", rules: str, seconds: float = _SECONDS) -> None:
        """Wait at most `seconds` for a judgement."""
        self.rules = rules
        self._submit = submit
        self._seconds = seconds

    def judge(self, part10: bytes, patient: Patient | None) -> Judgement:
        """Return what becomes of a complete Part 10 file of `patient`'s study.

        Raises:
            Unavailable: not in time, or the service ends.
        """
        try:
            return replace(self._submit(part10, patient).result(self._seconds), rules=self.rules, patient=patient)
        except (NotInTime, CancelledError, RuntimeError):
            raise Unavailable("JUDGE_BUSY", "The instance cannot be judged now; send it again later.") from None


class Rejudge:
    """Brings a job to a judgement under the present rules, as one of the patient of whom its study is now."""

    def __init__(self, judge: Judge, pacs: Pacs) -> None:
        self._judge = judge
        self._pacs = pacs

    def is_due(self, job: Job, patient: Patient | None) -> bool:
        """Return whether a job has to be judged again. One that the PACS cannot be asked for, without its UIDs, never has."""
        if not (job.locator.study_uid and job.locator.series_uid):
            return False
        judgement = job.judgement
        return judgement is None or job.header is None or judgement.rules != self._judge.rules or judgement.patient != patient

    def __call__(self, job: Job, patient_of: PatientOf) -> Job:
        """Retrieve the instance and return the job with its header, size and judgement.

        Raises:
            Unavailable: the PACS is away.
        """
        instance = next((found for found in self._pacs.retrieve([job.locator]) if found.sop_uid == job.locator.sop_uid), None)
        if instance is None:
            return replace(job, judgement=Judgement(Outcome.FAILED, "NOT_IN_PACS"))
        try:
            found = replace(job, header=header_of(instance.part10).part10, size=len(instance.part10))
        except Invalid as error:
            judgement = self._judge.judge(instance.part10, None)
            failed = judgement if judgement.outcome is Outcome.FAILED else Judgement(Outcome.FAILED, error.reason, rules=judgement.rules)
            return replace(job, judgement=failed)
        return replace(found, judgement=self._judge.judge(instance.part10, patient_of(found)))
