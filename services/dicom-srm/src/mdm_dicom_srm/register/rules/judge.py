"""Judging instances: as they arrive, and again where what was kept of them does not say."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import replace

from mdm_deid.outcome import Outcome
from mdm_wire.errors import Invalid, Unavailable

from mdm_dicom_srm.judgement import Judgement
from mdm_dicom_srm.pacs.part10 import header_of
from mdm_dicom_srm.pacs.port import Pacs
from mdm_dicom_srm.register.rules.model import Job
from mdm_dicom_srm.register.rules.port import Judge

_SECONDS = 300.0


class PooledJudge:
    """Has instances judged by staging's de-identifiers; see `port.Judge`."""

    def __init__(self, submit: "Callable[[bytes], Future[Judgement]]", rules: str, seconds: float = _SECONDS) -> None:
        """Wait at most `seconds` for a judgement."""
        self.rules = rules
        self._submit = submit
        self._seconds = seconds

    def judge(self, part10: bytes) -> Judgement:
        """Return what becomes of a complete Part 10 file.

        Raises:
            Unavailable: not in time, or the service ends.
        """
        try:
            return replace(self._submit(part10).result(self._seconds), rules=self.rules)
        except (NotInTime, CancelledError, RuntimeError):
            raise Unavailable("JUDGE_BUSY", "The instance cannot be judged now; send it again later.") from None


class Rejudge:
    """Brings a job to a judgement under the present rules."""

    def __init__(self, judge: Judge, pacs: Pacs) -> None:
        self._judge = judge
        self._pacs = pacs

    def is_due(self, job: Job) -> bool:
        """Return whether a job has to be judged again. One that the PACS cannot be asked for, without its UIDs, never has."""
        if not (job.locator.study_uid and job.locator.series_uid):
            return False
        return job.judgement is None or job.header is None or job.judgement.rules != self._judge.rules

    def __call__(self, job: Job) -> Job:
        """Retrieve the instance and return the job with its header and judgement.

        Raises:
            Unavailable: the PACS is away.
        """
        instance = next((found for found in self._pacs.retrieve([job.locator]) if found.sop_uid == job.locator.sop_uid), None)
        if instance is None:
            return replace(job, judgement=Judgement(Outcome.FAILED, "NOT_IN_PACS"))
        judgement = self._judge.judge(instance.part10)
        try:
            return replace(job, header=header_of(instance.part10).part10, judgement=judgement)
        except Invalid as error:
            failed = judgement if judgement.outcome is Outcome.FAILED else Judgement(Outcome.FAILED, error.reason, rules=judgement.rules)
            return replace(job, judgement=failed)
