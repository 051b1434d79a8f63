"""From shares that may lie to a key: which of them agree, which are wrong, and whose they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mdm.keystore.v1 import keystore_pb2
from mdm_crypto import shamir
from mdm_crypto.shamir import Share, ShareError


@dataclass(frozen=True)
class Resolution:
    """What shares of one key amount to.

    `scalar` is the key's, None when too few agree; `agreeing` are shares that together prove it; `faults` says, by
    share index, what is wrong with the others; `best` is how many agreed at most and `needed` how many it takes of those.
    """

    scalar: bytes | None = field(default=None, repr=False)
    agreeing: tuple[Share, ...] = ()
    faults: Mapping[int, str] = field(default_factory=dict)
    best: int = 0
    needed: int = 0


def resolve(guid: UUID, shares: Mapping[int, Sequence[Share]], threshold: int) -> Resolution:
    """Combine the shares that keystores (by the index each must hold) gave for one key.

    A keystore gives two while the key's shares are being replaced. Shares count together only when they agree in epoch, version,
    parameters and commitments, so that fewer than `threshold` liars can neither replace a key nor hide it; a share made with a lower
    threshold than the client's is a fault, another version of the same key is not.
    """
    faults: dict[int, str] = {}
    groups: dict[tuple[object, ...], list[Share]] = {}
    for index, share in ((index, share) for index, given in shares.items() for share in given):
        if share.guid != guid or share.x != index:
            faults[index] = "gave the share of another key or server"
        elif share.threshold < threshold:
            faults[index] = f"gave a share that combines below the configured threshold of {threshold}"
        else:
            group = groups.setdefault((share.epoch, share.version, share.threshold, share.total, share.commitments), [])
            group += [share] if all(share.x != other.x for other in group) else []
    best = needed = 0
    for group in sorted(groups.values(), key=lambda group: (-len(group), group[0].commitments)):
        scalar, agreeing = _combine(group, faults)
        lacking = group[0].threshold - len(agreeing)
        if agreeing and (not best or (lacking, -len(agreeing)) < (needed - best, -best)):
            best, needed = len(agreeing), group[0].threshold
        if scalar is not None:
            for share in (share for other in groups.values() if other is not group for share in other):
                if not is_other_version(share, agreeing[0]):
                    faults.setdefault(share.x, "gave a share that contradicts the other keystores")
            return Resolution(scalar, tuple(agreeing), faults, best, needed)
    return Resolution(None, (), faults, best, needed)


def is_other_version(one: Share, other: Share) -> bool:
    """Return whether two shares are of the same key from before and after its shares were replaced."""
    return (one.epoch, one.commitments[:1]) == (other.epoch, other.commitments[:1]) and one.version != other.version


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


def to_proto(share: Share) -> keystore_pb2.Share:
    """Return a share as it is sent."""
    return keystore_pb2.Share(
        guid=str(share.guid),
        epoch=share.epoch,
        x=share.x,
        value=share.value,
        commitments=share.commitments,
        threshold=share.threshold,
        total=share.total,
        share_version=share.version,
    )


def from_result(result: keystore_pb2.ShareResult) -> tuple[Share, ...]:
    """Return the share of a result, and the one before it where that is still given; unchecked."""
    share = from_proto(result.share)
    return (share, from_proto(result.previous)) if result.HasField("previous") else (share,)


def from_proto(message: keystore_pb2.Share) -> Share:
    """Return a received share, unchecked; a malformed GUID becomes the nil UUID, which belongs to no key."""
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
        version=message.share_version,
    )
