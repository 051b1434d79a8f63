"""This keystore as one of the peers: the driver and the helpers ask it as they ask the others."""

from collections.abc import Sequence
from uuid import UUID

from mdm_crypto.resharing import Sharing
from mdm_service.identity.caller import Caller

from mdm_keystore.rules.model import Failure
from mdm_keystore.rules.resharing.model import Deal, Decision, HeldKey, Parts, RoundTerms, Unprepared
from mdm_keystore.rules.resharing.participant import Participant


class LocalPeer:
    """Calls a participant in this process, in the name of another one or of itself."""

    def __init__(self, participant: Participant, subject: str) -> None:
        self._participant = participant
        self._caller = Caller(subject)

    def held_keys(self, guids: Sequence[UUID]) -> list[HeldKey]:
        """Return what it holds of these keys."""
        return self._participant.held_keys(guids)

    def held_page(self, after: UUID | None, limit: int) -> list[HeldKey]:
        """Return the keys it holds behind `after`."""
        return self._participant.held_page(after, limit)

    def deal(self, terms: RoundTerms, deals: Sequence[Deal]) -> list[Failure]:
        """Make it split its shares and send each target its parts."""
        return self._participant.deal(self._caller, terms, deals)

    def take(self, parts: Parts) -> None:
        """Give it a helper's parts."""
        self._participant.take(self._caller, parts)

    def prepare(self, round_id: UUID, coordinator: int, helpers: Sequence[int], guids: Sequence[UUID]) -> list[Sharing | Unprepared]:
        """Make it add up its new shares."""
        return self._participant.prepare(self._caller, round_id, coordinator, helpers, guids)

    def commit(self, round_id: UUID, guids: Sequence[UUID]) -> list[Failure]:
        """Make these prepared shares the present ones."""
        return self._participant.commit(self._caller, round_id, guids)

    def retire(self, total: int, guids: Sequence[UUID]) -> list[Failure]:
        """Make it destroy old shares."""
        return self._participant.retire(self._caller, total, guids)

    def discard(self, round_id: UUID) -> None:
        """Make it forget what a round prepared."""
        self._participant.discard(self._caller, round_id)

    def decision(self, round_id: UUID) -> Decision:
        """Ask what became of a round that it coordinates."""
        return self._participant.decision(round_id)
