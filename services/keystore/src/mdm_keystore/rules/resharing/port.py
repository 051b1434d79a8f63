"""The ports of resharing: this server's store, and the other servers."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import UUID

from mdm_crypto.audit import AuditEntry
from mdm_crypto.resharing import Sharing
from mdm_service.access.acl import Acl
from mdm_wire.errors import Failure, Unavailable

from mdm_keystore.rules.model import KeyRecord
from mdm_keystore.rules.resharing.model import Deal, Decision, HeldKey, Job, JobState, Parts, PreparedShare, Round, RoundTerms, Unprepared


class PeerUnavailable(Unavailable):
    """Another keystore does not answer now; safe to retry."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__("PEER_UNAVAILABLE", f"Keystore {index} cannot be asked ({why}); it must be up.")


class Peer(Protocol):
    """One keystore, for another one; see KeystorePeerService for what each call does.

    Raises:
        PeerUnavailable: it does not answer now. MdmError: it refuses the whole call.
    """

    def held_keys(self, guids: Sequence[UUID]) -> list[HeldKey]:
        """Return what it holds of these keys."""

    def held_page(self, after: UUID | None, limit: int) -> list[HeldKey]:
        """Return the keys it holds behind `after`, in order of GUID."""

    def deal(self, terms: RoundTerms, deals: Sequence[Deal]) -> list[Failure]:
        """Make it split its shares and send each target its parts."""

    def take(self, parts: Parts) -> None:
        """Give it a helper's parts."""

    def prepare(self, round_id: UUID, coordinator: int, helpers: Sequence[int], guids: Sequence[UUID]) -> list[Sharing | Unprepared]:
        """Make it add up its new shares and store them beside the present ones."""

    def commit(self, round_id: UUID, guids: Sequence[UUID]) -> list[Failure]:
        """Make these prepared shares the present ones, and forget the others of the round."""

    def retire(self, total: int, guids: Sequence[UUID]) -> list[Failure]:
        """Make it destroy old shares, once it has seen that every target has its new one."""

    def discard(self, round_id: UUID) -> None:
        """Make it forget what a round has prepared."""

    def decision(self, round_id: UUID) -> Decision:
        """Return the decision on a round that it coordinates."""


class SharingChange(Protocol):
    """One atomic change; changes run one after the other, so what it reads stays true until it ends."""

    def records(self, guids: Sequence[UUID]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        """Return each key's present record and the one before, pending keys included."""

    def acls(self, acl_ids: Sequence[UUID]) -> Mapping[UUID, Acl]:
        """Return those of the ACLs that exist."""

    def add_acls(self, acls: Sequence[Acl]) -> None:
        """Store ACLs that do not exist."""

    def prepared(self, guids: Sequence[UUID]) -> Sequence[PreparedShare]:
        """Return what is prepared for these keys."""

    def prepare(self, shares: Sequence[PreparedShare]) -> None:
        """Store prepared shares, replacing any of the same GUIDs."""

    def commit(self, round_id: UUID, coordinator: int, guids: Sequence[UUID]) -> set[UUID]:
        """Make a round's prepared shares of these keys the present ones, keep what they were made from as the ones before, and
        forget what else that round prepared. Return which of the keys have the round's share now or had it already.
        """

    def retire(self, guids: Sequence[UUID]) -> None:
        """Destroy the shares before the present ones."""

    def remove(self, guids: Sequence[UUID]) -> None:
        """Destroy keys."""

    def discard(self, round_id: UUID, coordinator: int) -> None:
        """Forget what a round has prepared."""

    def audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append to the audit chain, as part of the change."""


class Sharings(Protocol):
    """This server's keys, as far as giving them new shares needs them."""

    def change(self) -> AbstractContextManager[SharingChange]:
        """Open a change: committed when the block ends, undone when it raises."""

    def records(self, guids: Sequence[UUID]) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        """Return each key's present record and the one before, pending keys included."""

    def page(self, after: UUID | None, limit: int) -> Mapping[UUID, tuple[KeyRecord, KeyRecord | None]]:
        """Return the next keys behind `after` in order of GUID, pending ones included."""


class PartStore(Protocol):
    """Parts that helpers have sent to this target, until it adds them up. A round whose parts are lost is begun again."""

    def put(self, parts: Parts) -> None:
        """Keep a helper's parts; of too many rounds the oldest is forgotten."""

    def of(self, round_id: UUID) -> Mapping[int, Parts]:
        """Return a round's parts by helper."""

    def forget(self, round_id: UUID) -> None:
        """Drop a round's parts."""


class Jobs(Protocol):
    """The jobs that this server drives and their rounds."""

    def driving(self) -> AbstractContextManager[bool]:
        """Hold the right to drive jobs during the block, which one process of this keystore has at a time; False: another one has it."""

    def begin(self, job: Job, entry: AuditEntry) -> Job | None:
        """Store a new job and audit it. Return the job of that id if there is one; None if another one runs."""

    def get(self, job_id: UUID | None) -> Job | None:
        """Return a job, None: the one begun last."""

    def running(self) -> Job | None:
        """Return the job that has not ended."""

    def failures(self, job_id: UUID, limit: int) -> Sequence[tuple[UUID, str]]:
        """Return the first keys that failed, with reasons."""

    def set_state(self, job_id: UUID, state: JobState, entry: AuditEntry) -> None:
        """Change the state of a job that has not ended, and audit that."""

    def set_message(self, job_id: UUID, message: str) -> None:
        """Note what a job waits for."""

    def audit(self, entry: AuditEntry) -> None:
        """Append to the audit chain what changes nothing else."""

    def rounds(self, job_id: UUID) -> Sequence[Round]:
        """Return the rounds under way, in the order in which they were opened."""

    def round(self, round_id: UUID) -> Round | None:
        """Return a round under way."""

    def open_page(self, new: Round, cursor: UUID) -> None:
        """Open a round for the next keys, and move its job's cursor behind them."""

    def replace(self, old: Round, new: Sequence[Round], failures: Mapping[UUID, str], keys_done: int = 0) -> None:
        """Put rounds in the place of one (one of the same id: its next state), note failures and count keys that are done; all at once.

        Raises:
            Conflict: ROUND_CHANGED, another process has advanced it.
        """
