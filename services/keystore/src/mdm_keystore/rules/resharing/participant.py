"""One keystore's role in resharing: as helper it deals, as target it prepares, commits and retires.

It trusts no other keystore alone. Shares that it stores are proven against the commitments it knows or, for a key it lacks, that all k
helpers agree on; and it destroys an old share only after it has itself seen the new sharing on every target.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from mdm_crypto import resharing
from mdm_crypto.audit import AuditEntry
from mdm_crypto.resharing import Sharing
from mdm_crypto.shamir import MAX_SHARES, ShareError
from mdm_service.identity.caller import Caller
from mdm_wire.batch import MAX_KEYS, check_batch
from mdm_wire.errors import Conflict, FailedPrecondition, Failure, Forbidden, Invalid, MdmError, NotFound, Unavailable

from mdm_keystore.rules.audit import audit_entries
from mdm_keystore.rules.model import KeyRecord, KeyState
from mdm_keystore.rules.resharing.admission import Admission, reason_of, sharing_of
from mdm_keystore.rules.resharing.model import (
    Deal,
    Decision,
    HeldKey,
    HeldSharing,
    Part,
    Parts,
    PreparedShare,
    RoundParts,
    RoundState,
    RoundTerms,
    Shareholders,
    Unprepared,
)
from mdm_keystore.rules.resharing.port import Jobs, PartStore, Peer, Sharings
from mdm_keystore.rules.seal import Sealer, open_share


class Participant:
    """This keystore among its peers."""

    def __init__(self, sharings: Sharings, jobs: Jobs, part_store: PartStore, sealer: Sealer, shareholders: Shareholders) -> None:
        self._sharings = sharings
        self._jobs = jobs
        self._sealer = sealer
        self._admission = Admission(sealer, shareholders)
        self._part_store = part_store
        self.shareholders = shareholders
        self.index = shareholders.index
        #: Every keystore by index, this one included; set once, when they are all made.
        self.peers: Mapping[int, Peer] = {}

    def held_keys(self, guids: Sequence[UUID]) -> list[HeldKey]:
        """Return these keys without secrets, in order of GUID; unknown ones are left out."""
        check_batch(guids, MAX_KEYS)
        found = self._sharings.records(guids)
        return [self._held(*found[guid]) for guid in sorted(found)]

    def held_page(self, after: UUID | None, limit: int) -> list[HeldKey]:
        """Return the keys after `after`, in order of GUID."""
        return [self._held(*pair) for pair in self._sharings.page(after, limit).values()]

    def deal(self, caller: Caller, terms: RoundTerms, deals: Sequence[Deal]) -> list[Failure]:
        """Split shares anew and send each target its parts; audited before anything leaves.

        Raises:
            PeerUnavailable: a target does not accept its parts now.
        """
        self.shareholders.index_of(caller)
        check_batch(deals, MAX_KEYS)
        self._check_terms(terms)
        found = self._sharings.records([deal.guid for deal in deals])
        failures: list[Failure] = []
        dealt: dict[int, list[Part]] = {x: [] for x in range(1, terms.total + 1)}
        acl_ids: set[UUID] = set()
        for deal in deals:
            try:
                record, parts = self._split(deal, terms, found.get(deal.guid))
            except MdmError as error:
                failures.append(error)
                continue
            failures.append(None)
            acl_ids.add(record.acl_id)
            for x, part in enumerate(parts, start=1):
                dealt[x].append(part)
        with self._sharings.change() as change:
            acls = tuple(change.acls(list(acl_ids)).values())
            change.audit(audit_entries(caller, "deal", [deal.guid for deal in deals], failures))
        sent = [Parts(terms.id, self.index, terms.threshold, terms.total, tuple(dealt[x]), acls) for x in sorted(dealt)]
        for x, of_target in enumerate(sent, start=1):
            self.peers[x].take(of_target)
        return failures

    def take(self, caller: Caller, parts: Parts) -> None:
        """Store a helper's parts until Prepare.

        Raises:
            Forbidden: PEER_WRONG, the caller is not the helper that it claims to be.
        """
        self._check_peer(caller, parts.helper)
        check_batch(parts.parts, MAX_KEYS)
        if parts.total < self.index:
            raise Invalid("TARGET_WRONG", "This keystore is not among the targets.")
        self._part_store.put(parts)

    def prepare(
        self, caller: Caller, round_id: UUID, coordinator: int, helpers: Sequence[int], guids: Sequence[UUID]
    ) -> list[Sharing | Unprepared]:
        """Add up the helpers' parts, prove the sums, and store them beside the present shares.

        Raises:
            Forbidden: PEER_WRONG. FailedPrecondition: PARTS_MISSING, a helper has sent nothing: begin the round again.
            PeerUnavailable: an earlier round is in doubt and its coordinator cannot be asked.
        """
        self._check_peer(caller, coordinator)
        check_batch(guids, MAX_KEYS)
        by_helper = self._part_store.of(round_id)
        if not set(helpers) <= by_helper.keys() or not helpers:
            raise FailedPrecondition("PARTS_MISSING", "Parts of this round are missing: begin it again.")
        round_parts = RoundParts([by_helper[helper] for helper in helpers])
        assembled = {guid: self._admission.assemble(guid, round_parts) for guid in guids}
        blocked = self._settle_doubts(round_id, guids)
        with self._sharings.change() as change:
            known, acls = change.records(guids), change.acls(list(round_parts.acl_ids))
            blocked |= {share.record.guid for share in change.prepared(guids) if share.round_id != round_id}
            results = [
                Unprepared("RESHARING_UNDER_WAY", "Another round has prepared this key.")
                if guid in blocked
                else Unprepared("KEY_NOT_FOUND", "The key was deleted meanwhile.")
                if guid not in known and self.index in helpers
                else self._admission.admit(assembled[guid], round_parts.parts(guid), known.get(guid), acls, round_parts.acls)
                for guid in guids
            ]
            records = [result for result in results if isinstance(result, KeyRecord)]
            missing = {record.acl_id for record in records if record.guid not in known} - acls.keys()
            change.add_acls([round_parts.acls[acl_id] for acl_id in sorted(missing)])
            change.prepare([PreparedShare(r, round_id, coordinator, b"".join(round_parts.base(r.guid).commitments)) for r in records])
            refusals = [FailedPrecondition(r.reason, r.message) if isinstance(r, Unprepared) else None for r in results]
            change.audit(audit_entries(caller, "prepare", guids, refusals))
        self._part_store.forget(round_id)
        return [result if isinstance(result, Unprepared) else sharing_of(result) for result in results]

    def commit(self, caller: Caller, round_id: UUID, guids: Sequence[UUID]) -> list[Failure]:
        """Make prepared shares the present ones, keep the old ones as previous, delete the other shares that the round has prepared.

        Repeating it changes nothing. NotFound: the key was deleted meanwhile.
        """
        check_batch(guids, MAX_KEYS)
        coordinator = self.shareholders.index_of(caller)
        return self._commit(caller, round_id, coordinator, guids)

    def retire(self, caller: Caller, total: int, guids: Sequence[UUID]) -> list[Failure]:
        """Destroy old shares of keys whose new sharing every target has; if this server is not a target, its present ones.

        Raises:
            PeerUnavailable: a target cannot be asked.
        """
        check_batch(guids, MAX_KEYS)
        self.shareholders.index_of(caller)
        if not 2 <= total <= MAX_SHARES or any(x not in self.peers for x in range(1, total + 1)):
            raise Invalid("TARGETS_WRONG", "A target is not among this keystore's peers.")
        seen = self._sharings_of_others(total, guids)
        with self._sharings.change() as change:
            records = change.records(guids)
            failures = [_refusal_of_retirement(records.get(guid), self.index, total, seen[guid]) for guid in guids]
            done = [guid for guid, failure in zip(guids, failures, strict=True) if failure is None and guid in records]
            if self.index <= total:
                change.retire(done)
            else:
                change.remove(done)
            change.audit(audit_entries(caller, "retire", guids, failures))
        return failures

    def discard(self, caller: Caller, round_id: UUID) -> None:
        """Delete the shares that a round of the caller has prepared."""
        coordinator = self.shareholders.index_of(caller)
        self._part_store.forget(round_id)
        with self._sharings.change() as change:
            change.discard(round_id, coordinator)
            change.audit([AuditEntry(datetime.now(UTC), caller.dn, "discard", round_id, "OK")])

    def decision(self, round_id: UUID) -> Decision:
        """Return the decision on a round that this keystore coordinates; one that it does not know was abandoned."""
        found = self._jobs.round(round_id)
        if found is None:
            return Decision(False)
        if found.state is RoundState.DEALING:
            return Decision(True)
        return Decision(False, tuple(guid for guid in found.guids if guid not in found.deleted))

    def _held(self, record: KeyRecord, previous: KeyRecord | None) -> HeldKey:
        sharings = [None if r is None else HeldSharing(sharing_of(r), open_share(self._sealer, r) is not None) for r in (record, previous)]
        current, before = sharings
        assert current is not None
        return HeldKey(record.guid, record.epoch, record.state is KeyState.CONFIRMED, current, before)

    def _split(self, deal: Deal, terms: RoundTerms, pair: tuple[KeyRecord, KeyRecord | None] | None) -> tuple[KeyRecord, list[Part]]:
        records = [r for r in pair or () if r is not None and r.state is KeyState.CONFIRMED]
        record = next((r for r in records if sharing_of(r) == deal.base), None)
        if record is None:
            raise NotFound("SHARING_ABSENT", "This keystore has no share of that sharing.")
        share = open_share(self._sealer, record)
        if share is None:
            raise Unavailable("SHARE_UNREADABLE", "This keystore cannot open its share: its operator must repair it.")
        try:
            subshares = resharing.deal(share, terms.helpers, terms.threshold, terms.total)
        except ShareError as error:
            raise Invalid(reason_of(error), f"The share cannot be dealt: {error}.") from None
        return record, [Part(deal, s, record.epoch, record.creator, record.acl_id, record.create_time) for s in subshares]

    def _settle_doubts(self, round_id: UUID, guids: Sequence[UUID]) -> set[UUID]:
        """Commit or delete shares left prepared by earlier rounds, as their coordinators decided; return the keys still undecided."""
        with self._sharings.change() as change:
            others = [share for share in change.prepared(guids) if share.round_id != round_id]
        blocked: set[UUID] = set()
        for other_round, coordinator in {(share.round_id, share.coordinator) for share in others}:
            decision = self.peers[coordinator].decision(other_round) if coordinator in self.peers else Decision(False)
            if decision.undecided:
                blocked |= {share.record.guid for share in others if share.round_id == other_round}
            else:
                self._commit(Caller(self.shareholders.subject), other_round, coordinator, decision.guids)
        return blocked

    def _commit(self, caller: Caller, round_id: UUID, coordinator: int, guids: Sequence[UUID]) -> list[Failure]:
        with self._sharings.change() as change:
            done = change.commit(round_id, coordinator, guids)
            failures: list[Failure] = [None if guid in done else _deleted() for guid in guids]
            change.audit(audit_entries(caller, "commit", guids, failures))
        return failures

    def _sharings_of_others(self, total: int, guids: Sequence[UUID]) -> dict[UUID, list[Sharing | None]]:
        """Return the present sharing (None: no such key) of each key on every other target."""
        answers = [self.peers[x].held_keys(guids) for x in range(1, total + 1) if x != self.index]
        present = [{key.guid: key.current.sharing for key in answer if key.confirmed} for answer in answers]
        return {guid: [of_target.get(guid) for of_target in present] for guid in guids}

    def _check_terms(self, terms: RoundTerms) -> None:
        least = self.shareholders.minimum_threshold
        if not least <= terms.threshold <= terms.total <= MAX_SHARES:
            raise Invalid("THRESHOLD_INVALID", f"Needs {least} ≤ threshold ≤ total ≤ {MAX_SHARES}.")
        unknown = [x for x in range(1, terms.total + 1) if x not in self.peers]
        if unknown:
            raise FailedPrecondition("PEERS_UNKNOWN", f"Keystore {unknown[0]} is not among the peers that keystore {self.index} knows.")

    def _check_peer(self, caller: Caller, index: int) -> None:
        if self.shareholders.index_of(caller) != index:
            raise Forbidden("PEER_WRONG", "The caller is not the keystore of this share index.")


def _refusal_of_retirement(
    own: tuple[KeyRecord, KeyRecord | None] | None, index: int, total: int, others: Sequence[Sharing | None]
) -> Failure:
    """Refuse unless all targets that know the key have the same new sharing, and are enough to read it."""
    if own is None:
        return None
    record = own[0]
    present = {sharing for sharing in others if sharing is not None} | ({sharing_of(record)} if index <= total else set())
    holders = sum(sharing is not None for sharing in others) + (index <= total)
    agreed = len(present) == 1 and all(
        sharing.total == total and holders >= sharing.threshold >= 2 and sharing.commitments[0] == record.public_key for sharing in present
    )
    if index > total:
        agreed = agreed and all(sharing.version > record.version for sharing in present)
    return None if agreed else Conflict("SHARING_DISAGREES", "The targets do not all hold the new sharing: the old share stays.")


def _deleted() -> NotFound:
    return NotFound("KEY_NOT_FOUND", "The key was deleted meanwhile.")
