"""Admission: a target of a round accepts only proven shares, of keys that it knows or that all helpers describe alike."""

from collections.abc import Mapping
from uuid import UUID

from mdm_crypto import resharing
from mdm_crypto.resharing import Sharing
from mdm_crypto.shamir import MAX_VERSION, Share, ShareError, verify
from mdm_service.access.acl import Acl

from mdm_keystore.rules.model import KeyRecord, KeyState
from mdm_keystore.rules.resharing.model import Part, RoundParts, Shareholders, Unprepared
from mdm_keystore.rules.seal import Sealer, open_share, seal_share

Own = tuple[KeyRecord, KeyRecord | None]


class Admission:
    """Checks what others deal to one keystore."""

    def __init__(self, sealer: Sealer, shareholders: Shareholders) -> None:
        self._sealer = sealer
        self._index = shareholders.index
        self._minimum_threshold = shareholders.minimum_threshold

    def assemble(self, guid: UUID, round_parts: RoundParts) -> Share | Unprepared:
        """Return the sum of the helpers' parts of a key, proven, unsealed."""
        parts = round_parts.parts(guid)
        first = round_parts.first(guid)
        if first is None or len(parts) < round_parts.helpers:
            return Unprepared("PARTS_MISSING", "A helper has dealt no part of this key.")
        if not round_parts.alike or any((part.deal, part.epoch) != (first.deal, first.epoch) for part in parts.values()):
            return Unprepared("HELPERS_DISAGREE", "The helpers describe this key differently.")
        base, version = first.deal.base, first.deal.version
        if not base.version < version <= MAX_VERSION or base.threshold != len(base.commitments):
            return Unprepared("DEAL_INVALID", "The deal does not fit the sharing that it is made from.")
        if min(base.threshold, round_parts.threshold) < self._minimum_threshold or round_parts.total < self._index:
            return Unprepared("THRESHOLD_INVALID", f"This keystore takes no sharing below the threshold {self._minimum_threshold}.")
        place = Share(guid, first.epoch, self._index, b"", (), round_parts.threshold, round_parts.total, version)
        try:
            return resharing.assemble(place, base, {helper: part.subshare for helper, part in parts.items()})
        except ShareError as error:
            return Unprepared(reason_of(error), f"The parts of this key are refused: {error}.", error.x or 0)

    def admit(
        self,
        share: Share | Unprepared,
        parts: Mapping[int, Part],
        own: Own | None,
        present_acls: Mapping[UUID, Acl],
        dealt_acls: Mapping[UUID, Acl],
    ) -> KeyRecord | Unprepared:
        """Check a new share against what this server knows of the key, and seal it.

        A server that holds the sharing dealt from keeps the key's ACL as it has it. Otherwise anybody may have put a record or an ACL with
        that id here meanwhile: all helpers must agree on ACL and creator, and what is here must not contradict them.
        """
        if isinstance(share, Unprepared):
            return share
        part = next(iter(parts.values()))
        if own is not None and (own[0].epoch, own[0].public_key) != (share.epoch, share.public_key) and self._is_sound(own[0]):
            return Unprepared("KEY_DIFFERS", "This keystore holds another key under this GUID.")
        if own is not None and own[0].version >= share.version:
            return Unprepared("VERSION_OLD", "This keystore holds a newer share already.")
        if not self._holds(part.deal.base, own) and not _acl_agreed(list(parts.values()), own, present_acls, dealt_acls):
            return Unprepared("ACL_DISAGREES", "The keystores do not agree on the ACL of this key: set it alike on all of them.")
        return self._record(share, part, own)

    def _record(self, share: Share, part: Part, own: Own | None) -> KeyRecord:
        known = own[0] if own else part
        return seal_share(
            self._sealer,
            share,
            state=KeyState.CONFIRMED,
            creator=known.creator,
            acl_id=known.acl_id,
            create_time=known.create_time,
            expire_time=None,
        )

    def _is_sound(self, record: KeyRecord) -> bool:
        share = open_share(self._sealer, record)
        return share is not None and verify(share)

    def _holds(self, base: Sharing, own: Own | None) -> bool:
        """Return whether a confirmed share of a sharing is here and opens; only its dealer can have put it here."""
        records = [record for record in own or () if record is not None and record.state is KeyState.CONFIRMED]
        return any(sharing_of(record) == base and open_share(self._sealer, record) is not None for record in records)


def _acl_agreed(parts: list[Part], own: Own | None, present: Mapping[UUID, Acl], dealt: Mapping[UUID, Acl]) -> bool:
    acl_id = parts[0].acl_id
    if acl_id not in dealt or any((part.acl_id, part.creator) != (acl_id, parts[0].creator) for part in parts):
        return False
    if own is not None and (own[0].acl_id, own[0].creator) != (acl_id, parts[0].creator):
        return False
    here, there = present.get(acl_id), dealt[acl_id]
    return here is None or (here.owner, set(here.entries)) == (there.owner, set(there.entries))


def sharing_of(record: KeyRecord) -> Sharing:
    """Return the sharing that a stored share belongs to."""
    return Sharing(record.version, record.threshold, record.total, record.commitments)


def reason_of(error: ShareError) -> str:
    """Return the reason that callers get for a share's error."""
    return error.reason.upper().replace("-", "_")
