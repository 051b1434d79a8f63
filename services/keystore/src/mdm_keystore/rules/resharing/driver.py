"""Driving a job to its end: batch after batch, in two phases, continuing where the last process stopped.

A batch is a round: keys are dealt and prepared everywhere; then the driver records which of them every target has prepared alike,
which decides the round; then those are committed everywhere, and then old shares are retired. An undecided round is abandoned
and begun again under another id; a decided one is carried through.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid4

from mdm_crypto.audit import AuditEntry
from mdm_crypto.resharing import Sharing
from mdm_wire.errors import MdmError, NotFound

from mdm_keystore.rules.resharing.deal import DealGroup, HeldKeys, choose_deals
from mdm_keystore.rules.resharing.model import Job, JobState, Kind, Round, RoundState, RoundTerms, Unprepared
from mdm_keystore.rules.resharing.participant import Participant
from mdm_keystore.rules.resharing.port import Jobs, Peer

BATCH = 500
MAX_ATTEMPTS = 5
#: Reasons that another attempt may overcome, with other helpers or once another change has ended.
_RETRIED = frozenset({"PARTS_MISSING", "RESHARING_UNDER_WAY", "SHARING_ABSENT", "SHARE_UNREADABLE", "VERSION_OLD", "KEY_NOT_FOUND"})

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Driver:
    """Drives the job of one keystore, by one thread of one of its processes; with an executor it asks several keystores at once."""

    def __init__(
        self, jobs: Jobs, participant: Participant, executor: Executor | None = None, batch: int = BATCH, pause: float = 0.1
    ) -> None:
        """Take as `pause` the seconds before keys are tried again; it doubles with each attempt."""
        self._jobs = jobs
        self._participant = participant
        self._executor = executor
        self._batch = batch
        self._pause = pause
        self._distrusted: set[int] = set()

    def step(self) -> bool:
        """Do the next piece of the job that runs; return whether there may be more to do at once.

        If a keystore does not answer or refuses, the job's message says so, and the next step tries again.
        """
        if self._jobs.running() is None:
            self._distrusted.clear()
            return False
        with self._jobs.driving() as mine:
            job = self._jobs.running() if mine else None
            return job is not None and self._attempt(job)

    def _attempt(self, job: Job) -> bool:
        try:
            self._advance(job)
        except MdmError as error:
            if job.message != error.message:
                _log.warning("resharing waits", extra={"job": str(job.id), "reason": error.reason})
                self._jobs.set_message(job.id, error.message)
            return False
        if job.message:
            self._jobs.set_message(job.id, "")
        return True

    def _advance(self, job: Job) -> None:
        rounds = self._jobs.rounds(job.id)
        if rounds:
            self._drive(job, rounds[0])
        elif job.state is JobState.CANCELLING:
            self._end(job, JobState.CANCELLED)
        elif page := self._next_page(job.cursor):
            self._jobs.open_page(Round(uuid4(), job.id, RoundState.DEALING, 0, tuple(page), 0), page[-1])
        else:
            self._end(job, JobState.DONE)

    def _drive(self, job: Job, current: Round) -> None:
        if current.state is RoundState.DEALING:
            if current.total:
                self._discard(current)
            if current.attempt:
                time.sleep(self._pause * 2 ** (current.attempt - 1))
            if job.state is JobState.CANCELLING:
                self._jobs.replace(current, [], {})
            else:
                self._begin(job, current)
        else:
            self._carry_through(job, current)

    def _next_page(self, cursor: UUID | None) -> list[UUID]:
        """Return the next GUIDs that any keystore has, up to the end of the shortest full page, so that none is missing."""
        pages = self._everywhere(lambda peer: peer.held_page(cursor, self._batch)).values()
        limit = min((page[-1].guid for page in pages if len(page) == self._batch), default=UUID(int=(1 << 128) - 1))
        return sorted({key.guid for page in pages for key in page if key.guid <= limit})[: self._batch]

    def _begin(self, job: Job, current: Round) -> None:
        """Choose the deals of a round, replace it by a round for each group of similar keys, and drive these as far as possible."""
        found = self._everywhere(lambda peer: peer.held_keys(current.guids))
        held: HeldKeys = {index: {key.guid: key for key in keys} for index, keys in found.items()}
        deals = choose_deals(job, current.guids, held, frozenset(self._distrusted))
        rounds = [
            Round(uuid4(), job.id, RoundState.DEALING, current.attempt, tuple(deal.guid for deal in group.deals), group.total)
            for group in deals.groups
        ]
        self._jobs.replace(current, rounds, deals.failures)
        for opened, group in zip(rounds, deals.groups, strict=True):
            decided = self._decide(opened, group)
            if decided is not None:
                self._carry_through(job, decided)

    def _decide(self, current: Round, group: DealGroup) -> Round | None:
        """Have a round dealt and prepared, and decide it: what every target has prepared alike will be committed."""
        terms = RoundTerms(current.id, group.helpers, group.threshold, group.total)
        reasons: dict[UUID, str] = {}
        for failures in self._ask(group.helpers, lambda peer: peer.deal(terms, group.deals)).values():
            reasons.update({guid: failure.reason for guid, failure in zip(current.guids, failures, strict=True) if failure is not None})
        dealt = [guid for guid in current.guids if guid not in reasons]
        good: list[UUID] = []
        if dealt:
            own = self._participant.index
            answers = self._ask(range(1, group.total + 1), lambda peer: peer.prepare(current.id, own, group.helpers, dealt))
            for guid, *of_targets in zip(dealt, *answers.values(), strict=True):
                reason = self._refusal_of(of_targets, group.helpers)
                if reason is None:
                    good.append(guid)
                else:
                    reasons[guid] = reason
        return self._record(current, good, reasons)

    def _refusal_of(self, answers: Sequence[Sharing | Unprepared], helpers: Sequence[int]) -> str | None:
        """Return why targets have not all prepared the same sharing of a key, None if they have; distrust helpers that cheat."""
        for answer in answers:
            if isinstance(answer, Unprepared):
                if answer.guilty in helpers and answer.guilty not in self._distrusted:
                    self._distrusted.add(answer.guilty)
                    _log.error("a keystore deals wrong shares", extra={"keystore": answer.guilty, "reason": answer.reason})
                return "HELPER_GUILTY" if answer.guilty in helpers else answer.reason
        return None if len(set(answers)) == 1 else "HELPERS_DISAGREE"

    def _record(self, current: Round, good: Sequence[UUID], reasons: dict[UUID, str]) -> Round | None:
        """Record the decision; keys that another attempt may get through go into a round of their own."""
        last = current.attempt + 1 >= MAX_ATTEMPTS
        again = [] if last else [guid for guid, reason in reasons.items() if reason in _RETRIED or reason == "HELPER_GUILTY"]
        decided = Round(current.id, current.job_id, RoundState.COMMITTING, current.attempt, tuple(good), current.total) if good else None
        new = [decided] if decided else []
        if again:
            new.append(Round(uuid4(), current.job_id, RoundState.DEALING, current.attempt + 1, tuple(again), 0))
        self._jobs.replace(current, new, {guid: reason for guid, reason in reasons.items() if guid not in again})
        if decided is None:
            self._discard(current)
        return decided

    def _carry_through(self, job: Job, current: Round) -> None:
        if current.state is RoundState.COMMITTING:
            current = self._commit(job, current)
        self._retire(current)

    def _commit(self, job: Job, current: Round) -> Round:
        """Commit a round on all targets, last on those that lacked the key: one that was deleted meanwhile must not come back there."""
        deleted = set(current.deleted)
        for index in sorted(range(1, current.total + 1), key=lambda index: (index in job.lost, index)):
            wanted = [guid for guid in current.guids if guid not in deleted]
            failures = self._participant.peers[index].commit(current.id, wanted)
            missing = {guid for guid, failure in zip(wanted, failures, strict=True) if isinstance(failure, NotFound)}
            if missing:
                deleted |= missing
                current = self._put(current, RoundState.COMMITTING, deleted)
        return self._put(current, RoundState.RETIRING, deleted)

    def _put(self, current: Round, state: RoundState, deleted: Iterable[UUID]) -> Round:
        changed = Round(current.id, current.job_id, state, current.attempt, current.guids, current.total, tuple(sorted(deleted)))
        self._jobs.replace(current, [changed], {})
        return changed

    def _retire(self, current: Round) -> None:
        """Have old shares destroyed everywhere, and count the keys."""
        guids = [guid for guid in current.guids if guid not in current.deleted]
        reasons: dict[UUID, str] = {}
        for failures in self._everywhere(lambda peer: peer.retire(current.total, guids)).values():
            reasons.update({guid: failure.reason for guid, failure in zip(guids, failures, strict=True) if failure is not None})
        self._jobs.replace(current, [], reasons, len(guids) - len(reasons))

    def _discard(self, current: Round) -> None:
        """Have every keystore forget an abandoned round; one that cannot be reached asks about it before it prepares those keys again."""
        for peer in self._participant.peers.values():
            try:
                peer.discard(current.id)
            except MdmError as error:
                _log.info("discard is left to the keystore", extra={"reason": error.reason})

    def _end(self, job: Job, state: JobState) -> None:
        entry = AuditEntry(
            datetime.now(UTC), self._participant.shareholders.subject, f"{name_of(job.kind)}-{state.name.lower()}", job.id, "OK"
        )
        self._jobs.set_state(job.id, state, entry)

    def _everywhere(self, ask: Callable[[Peer], Result]) -> dict[int, Result]:
        return self._ask(sorted(self._participant.peers), ask)

    def _ask(self, indexes: Iterable[int], ask: Callable[[Peer], Result]) -> dict[int, Result]:
        """Ask keystores, at the same time where there is an executor; all have ended when the first failure is raised."""
        peers = self._participant.peers
        if self._executor is None:
            return {index: ask(peers[index]) for index in indexes}
        futures = {index: self._executor.submit(ask, peers[index]) for index in indexes}
        failed = next((error for error in [future.exception() for future in futures.values()] if error is not None), None)
        if failed is not None:
            raise failed
        return {index: future.result() for index, future in futures.items()}


def name_of(kind: Kind) -> str:
    """Return a kind of job as the audit names it."""
    return kind.name.lower()
