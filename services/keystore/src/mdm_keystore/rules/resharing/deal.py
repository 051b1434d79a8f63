"""Choosing the deals: which sharing of each key to deal from, the helpers and the targets, from the reports of all keystores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mdm_crypto.resharing import Sharing
from mdm_crypto.shamir import MAX_VERSION

from mdm_keystore.rules.resharing.model import Deal, HeldKey, Job, Kind

#: What each keystore, by index, holds of the keys of a batch.
HeldKeys = Mapping[int, Mapping[UUID, HeldKey]]


@dataclass(frozen=True, slots=True)
class DealGroup:
    """Keys that the same helpers deal to the same servers with the same threshold."""

    helpers: tuple[int, ...]
    threshold: int
    total: int
    deals: tuple[Deal, ...]


@dataclass
class Deals:
    """The deals of a batch, and the reasons of keys that cannot be dealt; a key in neither needs no deal."""

    groups: list[DealGroup] = field(default_factory=list)
    failures: dict[UUID, str] = field(default_factory=dict)


class Unshareable(Exception):
    """Why a key cannot be given new shares now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def choose_deals(job: Job, guids: Sequence[UUID], held: HeldKeys, distrusted: frozenset[int] = frozenset()) -> Deals:
    """Choose the deals of a batch. Keys that were deleted, are being created, or that a repair finds sound are left out.

    Only a repair gives a share to a keystore that lacks the key, and only to those that it names: on any other one its owner may have
    deleted the key a moment ago.
    """
    chosen_deals = Deals()
    groups: dict[tuple[tuple[int, ...], int, int], list[Deal]] = {}
    for guid in guids:
        by_index = {index: keys[guid] for index, keys in held.items() if guid in keys}
        try:
            chosen = _choose(job, guid, by_index, distrusted)
        except Unshareable as error:
            chosen_deals.failures[guid] = error.reason
            continue
        if chosen is not None:
            terms, deal = chosen
            groups.setdefault(terms, []).append(deal)
    chosen_deals.groups = [DealGroup(*terms, tuple(deals)) for terms, deals in groups.items()]
    return chosen_deals


def _choose(
    job: Job, guid: UUID, by_index: Mapping[int, HeldKey], distrusted: frozenset[int]
) -> tuple[tuple[tuple[int, ...], int, int], Deal] | None:
    confirmed = {index: key for index, key in by_index.items() if key.confirmed}
    holders = _holders(confirmed)
    bases = [sharing for sharing, having in holders.items() if len(having) >= sharing.threshold]
    if not bases:
        if len(confirmed) < len(by_index) or not confirmed:
            return None
        raise Unshareable("SHARES_TOO_FEW")
    base = max(bases, key=lambda sharing: sharing.version)
    if job.kind is Kind.REPAIR and not any(_is_lost(base, by_index.get(x)) for x in job.lost if x <= base.total):
        return None
    threshold, total = (job.threshold, job.total) if job.kind is Kind.RESHARE else (base.threshold, base.total)
    if any(x not in by_index and x not in job.lost for x in range(1, min(total, base.total) + 1)):
        raise Unshareable("SHARE_MISSING")
    willing = sorted(holders[base] - distrusted, key=lambda index: (index > total, index in job.lost, index))
    if len(willing) < base.threshold:
        raise Unshareable("SHARES_TOO_FEW")
    version = 1 + max(held.sharing.version for key in by_index.values() for held in key.sharings)
    if version > MAX_VERSION:
        raise Unshareable("VERSIONS_EXHAUSTED")
    helpers = tuple(sorted(willing[: base.threshold]))
    return (helpers, threshold, total), Deal(guid, base, version)


def _holders(confirmed: Mapping[int, HeldKey]) -> dict[Sharing, set[int]]:
    """Return, by sharing, the keystores that hold a share of it that they can open."""
    holders: dict[Sharing, set[int]] = {}
    for index, key in confirmed.items():
        for held in key.sharings:
            if held.readable and index <= held.sharing.total:
                holders.setdefault(held.sharing, set()).add(index)
    return holders


def _is_lost(base: Sharing, key: HeldKey | None) -> bool:
    """Return whether a keystore lacks its share of the sharing that the others hold."""
    return key is None or not key.confirmed or not key.current.readable or key.current.sharing != base
