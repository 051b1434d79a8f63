"""Reading keys: any k of n keystores, the fastest first, none of them trusted alone."""

import logging
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from mdm.keystore.v1 import keystore_pb2
from mdm_crypto import shamir
from mdm_crypto.shamir import Share
from mdm_wire.errors import Corrupt, MdmError, NotFound, Unavailable
from mdm_wire.retry import is_transient

from mdm_client.keystore.calls import KeystoreServer, Replies, Reply, item_answers
from mdm_client.keystore.shares import from_result, is_other_version, resolve

_log = logging.getLogger("mdm_client.keystore.client")

KEY_SHARES_CHANGING = "KEY_SHARES_CHANGING"
_AVOID_SLOW_SECONDS = 30.0
_AVOID_WRONG_SECONDS = 300.0


class Preference:
    """Remembers which keystores answer fast, and which failed; shared by threads."""

    def __init__(self, servers: Sequence[KeystoreServer]) -> None:
        self._lock = threading.Lock()
        shuffled = list(servers)
        random.shuffle(shuffled)  # so that clients that start share the load
        self._seconds = dict.fromkeys(shuffled, math.inf)
        self._avoid_until = dict.fromkeys(shuffled, 0.0)

    def order(self) -> list[KeystoreServer]:
        """Return all keystores: the fastest first, then those never asked; one that failed comes last for a while."""
        now = time.monotonic()
        with self._lock:
            return sorted(self._seconds, key=lambda server: (self._avoid_until[server] > now, self._seconds[server]))

    def answered(self, server: KeystoreServer, seconds: float) -> None:
        """Note a good answer and how long it took."""
        with self._lock:
            before = self._seconds[server]
            self._seconds[server] = 0.7 * before + 0.3 * seconds if before < math.inf else seconds

    def avoid(self, server: KeystoreServer, seconds: float) -> None:
        """Put a keystore last for some time."""
        with self._lock:
            self._avoid_until[server] = max(self._avoid_until[server], time.monotonic() + seconds)


class Reading:
    """One batch being read.

    k keystores are asked first. Another one is asked when one has not answered within the hedging delay, has
    failed, refuses a key, or gives a share that does not fit. The reading ends when every key is known or cannot become known.
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
        """Return each key, or why there is none."""
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
        """Ask the next keystore for all that is still open."""
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
        answers = item_answers(reply, guids, lambda response: response.results, from_result)
        for guid, answer in answers.items():
            if not isinstance(answer, MdmError):
                self._shares[guid][server.index] = answer
            else:
                self._refusals[guid].append(answer)
        for guid in [guid for guid in guids if guid in self._open]:
            self._settle(guid)

    def _settle(self, guid: UUID) -> None:
        """Close a key that is known now, or cannot become known."""
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
        """Return whether the calls under way cannot complete every open key."""
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
        """Explain why a key could not be had."""
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
        """Return whether keystores were asked before and after they replaced their shares, so that too few are of one version."""
        shares = [share for given in self._shares[guid].values() for share in given]
        return any(is_other_version(shares[0], other) for other in shares[1:])


def _common_refusal(refusals: Sequence[MdmError]) -> MdmError:
    """One error for what several keystores said: the first that is not just `not found`, else that."""
    telling = [error for error in refusals if not isinstance(error, NotFound)]
    return telling[0] if telling else NotFound("KEY_NOT_FOUND", "no such key, or you may not use it")
