"""Reading keys from any k of n keystores, none of them trusted alone: the order of asking, and finding shares that agree."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mdm.keystore.v1 import keystore_pb2
from mdm_crypto import shamir
from mdm_crypto.shamir import Share, ShareError
from mdm_wire.errors import Corrupt, MdmError, NotFound, Unavailable
from mdm_wire.retry import is_transient

from mdm_client.keystore.calls import KeystoreServer, Preference, Replies, Reply, item_answers, uuid_of

_log = logging.getLogger("mdm_client.keystore.client")

KEY_SHARES_CHANGING = "KEY_SHARES_CHANGING"
_AVOID_SLOW_SECONDS = 30.0
_AVOID_WRONG_SECONDS = 300.0


class KeyReading:
    """The reading of one batch of keys.

    k keystores are asked first. Another one is asked when one has not answered within the hedging delay, has
    failed, refuses a key, or returns a share that does not fit. The reading ends when each key is known or cannot become known.
    """

    def __init__(self, guids: Sequence[UUID], threshold: int, preference: Preference, timeout: float, hedge_delay: float) -> None:
        self._threshold = threshold
        self._preference = preference
        self._hedge_delay = hedge_delay
        self._deadline = time.monotonic() + timeout
        self._waiting = preference.order()
        self._allowed_refusals = len(self._waiting) - threshold
        self._replies = Replies()
        self._asked: dict[KeystoreServer, tuple[float, tuple[UUID, ...]]] = {}
        self._open = dict.fromkeys(guids)
        self._shares: dict[UUID, dict[int, tuple[Share, ...]]] = {guid: {} for guid in guids}
        self._best = dict.fromkeys(guids, 0)
        self._needed = dict.fromkeys(guids, threshold)
        self._refusals: dict[UUID, list[MdmError]] = {guid: [] for guid in guids}
        self._failures: dict[KeystoreServer, MdmError] = {}
        self._faulty: dict[KeystoreServer, str] = {}
        self._results: dict[UUID, bytes | MdmError] = {}

    def run(self) -> Mapping[UUID, bytes | MdmError]:
        """Return each key, or the error."""
        for _ in range(self._threshold):
            self._ask_next()
        hedge_at = time.monotonic() + self._hedge_delay
        while self._open and self._replies.running:
            now = time.monotonic()
            limit = min(self._deadline, hedge_at) if self._waiting else self._deadline
            reply = self._replies.next(limit - now)
            if reply is not None:
                self._take(reply)
                while self._lacks_servers() and self._waiting:
                    self._ask_next()
            elif self._waiting and time.monotonic() < self._deadline:
                self._hedge()
                hedge_at = time.monotonic() + self._hedge_delay
            else:
                break
        self._finish()
        return self._results

    def _ask_next(self) -> None:
        """Ask the next keystore for all keys that are still open."""
        server = self._waiting.pop(0)
        guids = tuple(self._open)
        now = time.monotonic()
        self._asked[server] = (now, guids)
        request = keystore_pb2.GetSharesRequest(guids=[str(guid) for guid in guids])
        self._replies.start(server, server.keys.GetShares, request, max(0.001, self._deadline - now))

    def _hedge(self) -> None:
        for server in self._replies.running:
            self._preference.avoid(server, _AVOID_SLOW_SECONDS)
            _log.info("%s is slow to answer; asking another one", server.place)
        self._ask_next()

    def _take(self, reply: Reply) -> None:
        server = reply.server
        started, guids = self._asked[server]
        if reply.error is not None:
            self._failures[server] = reply.error
            self._preference.avoid(server, _AVOID_SLOW_SECONDS)
            _log.warning("%s failed: %s", server.place, reply.error.reason)
            return
        self._preference.answered(server, time.monotonic() - started)
        answers = item_answers(reply, guids, from_result)
        for guid, answer in answers.items():
            if not isinstance(answer, MdmError):
                self._shares[guid][server.index] = answer
            else:
                self._refusals[guid].append(answer)
        for guid in [guid for guid in guids if guid in self._open]:
            self._settle(guid)

    def _settle(self, guid: UUID) -> None:
        """Close a key if it is known now, or cannot become known."""
        shares = self._shares[guid]
        if len(shares) >= self._threshold:
            resolution = resolve(guid, shares, self._threshold)
            self._best[guid], self._needed[guid] = resolution.best, max(self._threshold, resolution.needed)
            self._blame(resolution.faults)
            if resolution.scalar is not None:
                self._close(guid, shamir.file_key(resolution.scalar, guid, resolution.agreeing[0].epoch))
                return
        else:
            self._best[guid] = len(shares)
        if len(self._refusals[guid]) > self._allowed_refusals:
            self._close(guid, _common_refusal(self._refusals[guid]))

    def _blame(self, faults: Mapping[int, str]) -> None:
        for server in self._asked:
            if server.index in faults and server not in self._faulty:
                self._faulty[server] = faults[server.index]
                self._preference.avoid(server, _AVOID_WRONG_SECONDS)
                _log.warning("%s %s: tell its operator", server.place, faults[server.index])

    def _lacks_servers(self) -> bool:
        """Return whether the running calls cannot complete every open key."""
        coming = dict.fromkeys(self._open, 0)
        for server in self._replies.running:
            for guid in self._asked[server][1]:
                if guid in coming:
                    coming[guid] += 1
        return any(self._best[guid] + count < self._needed[guid] for guid, count in coming.items())

    def _close(self, guid: UUID, result: bytes | MdmError) -> None:
        self._results[guid] = result
        del self._open[guid]

    def _finish(self) -> None:
        for server in self._replies.running:
            if self._open:
                self._failures[server] = Unavailable("DEADLINE_EXCEEDED", f"{server.place}: no answer in time")
        self._replies.cancel()
        for guid in list(self._open):
            self._close(guid, self._why(guid))

    def _why(self, guid: UUID) -> MdmError:
        """Return the error of a key that could not be read."""
        if self._faulty:
            names = ", ".join(f"{server.place} {fault}" for server, fault in self._faulty.items())
            message = f"too few keystores agree on this key ({names}); tell their operators"
            return Corrupt("KEY_SHARES_DISAGREE", message)
        lasting = [error for error in self._failures.values() if not is_transient(error)]
        if lasting and len(lasting) == len(self._failures):
            return lasting[0]
        if not self._failures and self._refusals[guid]:
            return _common_refusal(self._refusals[guid])
        if self._is_changing(guid):
            return Unavailable(KEY_SHARES_CHANGING, "the keystores are giving this key new shares; try again")
        if len(self._shares[guid]) >= self._needed[guid]:
            return Corrupt("KEY_SHARES_DISAGREE", "the keystores contradict each other about this key; tell their operators")
        reasons = "; ".join(error.message for error in self._failures.values())
        return Unavailable("KEYSTORES_UNAVAILABLE", f"{self._needed[guid]} keystores are needed to read a key: {reasons}")

    def _is_changing(self, guid: UUID) -> bool:
        """Return whether some keystores were asked before they replaced their shares and some after, so that too few are of one version."""
        shares = [share for given in self._shares[guid].values() for share in given]
        return any(is_other_version(shares[0], other) for other in shares[1:])


def _common_refusal(refusals: Sequence[MdmError]) -> MdmError:
    """Return one error for those of several keystores: the first that is not `NotFound`, else `NotFound`."""
    absent = NotFound("KEY_NOT_FOUND", "no such key, or you may not use it")
    return next((error for error in refusals if not isinstance(error, NotFound)), absent)


@dataclass(frozen=True)
class Resolution:
    """The result of combining shares of one key.

    `scalar` is the key's, None when too few shares agree; `agreeing` are shares that together prove it; `faults` says, by
    share index, what is wrong with the others; `best` is the largest number that agreed, and `needed` the number that these require.
    """

    scalar: bytes | None = field(default=None, repr=False)
    agreeing: tuple[Share, ...] = ()
    faults: Mapping[int, str] = field(default_factory=dict)
    best: int = 0
    needed: int = 0


def resolve(guid: UUID, shares: Mapping[int, Sequence[Share]], threshold: int) -> Resolution:
    """Combine the shares that keystores (by the index each must hold) gave for one key.

    A keystore gives two while the key's shares are being replaced. Only shares of the same epoch, version, parameters and
    commitments count together, so that fewer than `threshold` liars can neither replace a key nor hide it. A share made with a lower
    threshold than the client's is a fault; another version of the same key is not.
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
    """Return whether two shares are of one key, one from before its shares were replaced and one from after."""
    return (one.epoch, one.commitments[:1]) == (other.epoch, other.commitments[:1]) and one.version != other.version


def _combine(group: list[Share], faults: dict[int, str]) -> tuple[bytes | None, list[Share]]:
    """Combine shares of the same commitments, without those that are wrong."""
    remaining = list(group)
    while remaining and len(remaining) >= max(2, remaining[0].threshold):
        try:
            return shamir.combine(remaining), remaining
        except ShareError as error:
            if error.x is None:
                return None, []
            faults[error.x] = f"gave a wrong share ({error.reason})"
            remaining = [share for share in remaining if share.x != error.x]
    return None, remaining


def to_proto(share: Share) -> keystore_pb2.Share:
    """Return the message of a share."""
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
    """Return the share of a result, and the previous one where that is still given; unchecked."""
    share = from_proto(result.share)
    return (share, from_proto(result.previous)) if result.HasField("previous") else (share,)


def from_proto(message: keystore_pb2.Share) -> Share:
    """Return a received share, unchecked."""
    return Share(
        guid=uuid_of(message.guid),
        epoch=message.epoch,
        x=message.x,
        value=message.value,
        commitments=tuple(message.commitments),
        threshold=message.threshold,
        total=message.total,
        version=message.share_version,
    )
