"""Storage Commitment: what is reported to whom about which instances (PS3.4 annex J)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID, uuid4

#: SOP Class UID and SOP Instance UID of an instance.
Reference = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Commitment:
    """The answer to a caller's request `transaction`: the instances that the registry has, and those that it does not."""

    id: UUID
    calling_ae: str
    transaction: str
    committed: tuple[Reference, ...] = field(repr=False)
    failed: tuple[Reference, ...] = field(repr=False)


def commit(calling_ae: str, transaction: str, references: Sequence[Reference], held: Callable[[Sequence[str]], set[str]]) -> Commitment:
    """Return the answer about instances, of which `held` returns those that the registry has durably."""
    known = held([sop_uid for _, sop_uid in references])
    committed = tuple(reference for reference in references if reference[1] in known)
    failed = tuple(reference for reference in references if reference[1] not in known)
    return Commitment(uuid4(), calling_ae, transaction, committed, failed)


class Commitments(Protocol):
    """The reports that their callers have not taken; `CommitmentStore` has each method's contract."""

    def add(self, commitment: Commitment, seconds: float) -> bool: ...
    def claim(self, seconds: float) -> Commitment | None: ...
    def reported(self, commitment_id: UUID) -> None: ...
    def postpone(self, commitment_id: UUID) -> None: ...
    def expire(self) -> int: ...
