"""From shares that may lie to a key: which of them agree, which are wrong, and whose they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from mdm.keystore.v1 import keystore_pb2
from mdm_crypto import shamir
from mdm_crypto.shamir import Share, ShareError


@dataclass(frozen=True)
class Resolution:
    """What shares of one key amount to.

    `scalar` is the key's, None when too few agree; `agreeing` are shares that together prove it; `faults` tells, by
    share index, what is wrong with the others; `best` is how many agreed at most.
    """

    scalar: bytes | None = field(default=None, repr=False)
    agreeing: tuple[Share, ...] = ()
    faults: Mapping[int, str] = field(default_factory=dict)
    best: int = 0


def resolve(guid: UUID, shares: Mapping[int, Share], threshold: int) -> Resolution:
    """Combine the shares that keystores (by the index each must hold) gave for one key.

    Shares count together only when they agree in epoch, parameters and commitments, so that fewer than `threshold`
    liars can neither replace a key nor hide it; a share made with a lower threshold than the client's is a fault.
    """
    faults: dict[int, str] = {}
    groups: dict[tuple[object, ...], list[Share]] = {}
    for index, share in shares.items():
        if share.guid != guid or share.x != index:
            faults[index] = "gave the share of another key or server"
        elif share.threshold < threshold:
            faults[index] = f"gave a share that combines below the configured threshold of {threshold}"
        else:
            groups.setdefault((share.epoch, share.threshold, share.total, share.commitments), []).append(share)
    best = 0
    for group in sorted(groups.values(), key=lambda group: (-len(group), group[0].commitments)):
        scalar, agreeing = _combine(group, faults)
        best = max(best, len(agreeing))
        if scalar is not None:
            for share in (share for other in groups.values() if other is not group for share in other):
                faults.setdefault(share.x, "gave a share that contradicts the other keystores")
            return Resolution(scalar, tuple(agreeing), faults, best)
    return Resolution(None, (), faults, best)


def _combine(group: list[Share], faults: dict[int, str]) -> tuple[bytes | None, list[Share]]:
    """Combine shares with common commitments, leaving out each one that proves wrong."""
    remaining = list(group)
    while len(remaining) >= max(2, remaining[0].threshold if remaining else 0):
        try:
            return shamir.combine(remaining), remaining
        except ShareError as error:
            if error.x is None:
                return None, []
            faults[error.x] = f"gave a wrong share ({error.reason})"
            remaining = [share for share in remaining if share.x != error.x]
    return None, remaining


def to_message(share: Share) -> keystore_pb2.Share:
    """Return a share as it is sent."""
    return keystore_pb2.Share(
        guid=str(share.guid),
        epoch=share.epoch,
        x=share.x,
        value=share.value,
        commitments=share.commitments,
        threshold=share.threshold,
        total=share.total,
    )


def from_message(message: keystore_pb2.Share) -> Share:
    """Return a received share, unchecked; a GUID that is none becomes the nil UUID, which belongs to no key."""
    try:
        guid = UUID(message.guid)
    except ValueError:
        guid = UUID(int=0)
    return Share(
        guid=guid,
        epoch=message.epoch,
        x=message.x,
        value=message.value,
        commitments=tuple(message.commitments),
        threshold=message.threshold,
        total=message.total,
    )
