"""What operators do with jobs: begin, watch, cancel."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from mdm_crypto.audit import AuditEntry
from mdm_crypto.shamir import MAX_SHARES
from mdm_service.identity.caller import Caller
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound

from mdm_keystore.rules.resharing.driver import name_of
from mdm_keystore.rules.resharing.model import Job, JobState, Kind, Shareholders
from mdm_keystore.rules.resharing.port import Jobs

MAX_FAILURES = 100


class JobControl:
    """The jobs of one keystore, for its operators; `wake` makes the driver look for a new job."""

    def __init__(self, jobs: Jobs, shareholders: Shareholders, wake: Callable[[], None]) -> None:
        self._jobs = jobs
        self._indexes = shareholders.subjects.keys()
        self._minimum_threshold = shareholders.minimum_threshold
        self._wake = wake

    def begin(self, caller: Caller, job_id: UUID, kind: Kind, threshold: int, total: int, lost: Sequence[int]) -> Job:
        """Begin a job; if there is one of this id, return it as it is.

        Raises:
            Invalid: RESHARING_INVALID. FailedPrecondition: PEERS_UNKNOWN. Conflict: RESHARING_RUNNING, another one is under way.
        """
        self._check(kind, threshold, total, lost)
        now = datetime.now(UTC)
        job = Job(job_id, kind, JobState.RUNNING, threshold, total, tuple(sorted(lost)), caller.dn, now, None, None, 0, 0, "")
        action = f"{name_of(kind)}-begin"
        found = self._jobs.begin(job, self._entry(caller, action, job_id))
        if found is None:
            error = Conflict("RESHARING_RUNNING", "Another refresh, repair or reshare is under way: wait for its end, or cancel it.")
            raise self._refused(caller, action, job_id, error)
        self._wake()
        return found

    def get(self, job_id: UUID | None) -> tuple[Job, Sequence[tuple[UUID, str]]]:
        """Return a job (None: the latest) and its first failures.

        Raises:
            NotFound: RESHARING_NOT_FOUND.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound("RESHARING_NOT_FOUND", "This keystore has no such job.")
        return job, self._jobs.failures(job.id, MAX_FAILURES)

    def cancel(self, caller: Caller, job_id: UUID) -> Job:
        """Stop a job after the batch under way.

        Raises:
            NotFound: RESHARING_NOT_FOUND. Forbidden: RESHARING_FORBIDDEN, another one began it. FailedPrecondition: RESHARING_ENDED.
        """
        job, _ = self.get(job_id)
        action = f"{name_of(job.kind)}-cancel"
        if job.begun_by != caller.dn:
            error = Forbidden("RESHARING_FORBIDDEN", "Only who began a job may cancel it; mdm key job shows who that is.")
            raise self._refused(caller, action, job_id, error)
        if job.state in (JobState.DONE, JobState.CANCELLED):
            raise self._refused(caller, action, job_id, FailedPrecondition("RESHARING_ENDED", "The job has ended already."))
        self._jobs.set_state(job_id, JobState.CANCELLING, self._entry(caller, action, job_id))
        self._wake()
        return replace(job, state=JobState.CANCELLING)

    def _check(self, kind: Kind, threshold: int, total: int, lost: Sequence[int]) -> None:
        if len(self._indexes) < 2:
            raise FailedPrecondition("PEERS_UNKNOWN", "This keystore knows no others: add [[keystore.peers]] to its configuration.")
        if kind is Kind.RESHARE:
            if not self._minimum_threshold <= threshold <= total <= MAX_SHARES:
                raise Invalid("RESHARING_INVALID", f"Needs {self._minimum_threshold} ≤ threshold ≤ total ≤ {MAX_SHARES}.")
            unknown = sorted(set(range(1, total + 1)) - self._indexes)
            if unknown:
                raise FailedPrecondition("PEERS_UNKNOWN", f"Keystore {unknown[0]} is not among the configured peers.")
        elif threshold or total:
            raise Invalid("RESHARING_INVALID", "Threshold and total are for a reshare.")
        if (kind is Kind.REPAIR) != bool(lost) or len(set(lost)) != len(lost) or not set(lost) <= self._indexes:
            raise Invalid("RESHARING_INVALID", "A repair, and nothing else, names keystores that lost their shares, each once.")

    def _refused(self, caller: Caller, action: str, job_id: UUID, error: MdmError) -> MdmError:
        """Audit a refusal and return it."""
        self._jobs.audit(self._entry(caller, action, job_id, error.reason))
        return error

    def _entry(self, caller: Caller, action: str, job_id: UUID, outcome: str = "OK") -> AuditEntry:
        return AuditEntry(datetime.now(UTC), caller.dn, action, job_id, outcome)
