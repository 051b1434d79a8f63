"""Creating keys on all keystores in two phases: after a crash or a race at any step, the creation can be completed or undone.

Phase one stores fresh shares as pending everywhere. Phase two confirms them, first on the keystore of the lowest
index: it arbitrates between creators of the same key, because only one of them finds its own share there. Confirmed keys are never
replaced. The remains of an interrupted creation are completed from k confirmed shares or, when fewer were ever confirmed (so that
nobody can have read the key), withdrawn and made anew.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from mdm.keystore.v1 import keystore_pb2
from mdm_crypto import shamir
from mdm_crypto.shamir import Share
from mdm_wire.errors import Aborted, Conflict, Corrupt, MdmError
from mdm_wire.retry import Backoff

from mdm_client.keystore.calls import KeystoreServer, call_all, item_answers, item_errors
from mdm_client.keystore.reading import from_result, resolve, to_proto

_log = logging.getLogger("mdm_client.keystore.client")

_ROUNDS = 7
_EPOCH = 0

Errors = Mapping[KeystoreServer, Mapping[UUID, MdmError | None]]
Shares = Mapping[UUID, Sequence[Share]]
Remains = tuple[tuple[int, bytes], ...]


class Creation:
    """The creation of one batch of keys under one ACL."""

    def __init__(self, servers: Sequence[KeystoreServer], threshold: int, acl_id: UUID, timeout: float) -> None:
        self._servers = sorted(servers, key=lambda server: server.index)
        self._threshold = threshold
        self._acl_id = acl_id
        self._timeout = timeout
        self._results: dict[UUID, MdmError | None] = {}
        self._abandoned: dict[UUID, Remains] = {}

    def run(self, guids: Sequence[UUID]) -> Mapping[UUID, MdmError | None]:
        """Return None for each key that is confirmed on every keystore, else the error."""
        todo = list(guids)
        backoff = Backoff(0.3, 1.8)
        for attempt in range(_ROUNDS):
            if attempt:
                time.sleep(backoff.pause())
            self._round(todo)
            todo = [guid for guid in todo if guid not in self._results]
            if not todo:
                break
        for guid in todo:
            self._results[guid] = Aborted("KEY_CONTENDED", "others are creating this key at the same time; try again")
        return self._results

    def _round(self, guids: Sequence[UUID]) -> None:
        """Try once to create all keys; those that are neither created nor failed are left for the next round."""
        shares = {guid: shamir.split(None, self._threshold, len(self._servers), guid, _EPOCH) for guid in guids}
        existing: list[UUID] = []
        created = self._create(self._servers, shares)
        fresh = self._sort(guids, created, existing)
        arbiter, *others = self._servers
        won = self._sort(fresh, self._confirm([arbiter], {guid: shares[guid] for guid in fresh}), existing)
        mine = {guid: shares[guid] for guid in won}
        confirmed = {server: dict(errors) for server, errors in self._confirm(others, mine).items()}
        for server, errors in confirmed.items():
            lost = {guid: mine[guid] for guid, error in errors.items() if error and error.reason in _OVERTAKEN}
            if lost:
                self._create([server], lost)
                errors.update(self._confirm([server], lost)[server])
        for guid in self._sort(won, confirmed, existing):
            self._results[guid] = None
        if existing:
            self._mend(existing)

    def _sort(self, guids: Iterable[UUID], errors: Errors, existing: list[UUID]) -> list[UUID]:
        """Return the keys without an error; add those that exist already to `existing`, and record the errors of the others."""
        good = []
        for guid in guids:
            found = [of_server[guid] for of_server in errors.values() if of_server.get(guid) is not None]
            final = next((error for error in found if error and error.reason not in _OVERTAKEN), None)
            if final is not None:
                self._results[guid] = final
            elif found:
                existing.append(guid)
            else:
                good.append(guid)
        return good

    def _create(self, servers: Sequence[KeystoreServer], shares: Shares) -> Errors:
        acl_id = str(self._acl_id)

        def request(server: KeystoreServer) -> keystore_pb2.CreateKeysRequest:
            mine = (next(share for share in of_key if share.x == server.index) for of_key in shares.values())
            keys = [keystore_pb2.NewKey(share=to_proto(share), acl_id=acl_id) for share in mine]
            return keystore_pb2.CreateKeysRequest(keys=keys)

        return self._asked(servers, list(shares), lambda server: server.keys.CreateKeys, request)

    def _confirm(self, servers: Sequence[KeystoreServer], shares: Shares) -> Errors:
        refs = [
            keystore_pb2.KeyRef(guid=str(guid), epoch=of_key[0].epoch, public_key=of_key[0].public_key) for guid, of_key in shares.items()
        ]
        request = keystore_pb2.ConfirmKeysRequest(keys=refs)
        return self._asked(servers, list(shares), lambda server: server.keys.ConfirmKeys, lambda _: request)

    def _asked(
        self,
        servers: Sequence[KeystoreServer],
        guids: Sequence[UUID],
        method: Callable[[KeystoreServer], Callable[..., object]],
        request: Callable[[KeystoreServer], object],
    ) -> Errors:
        replies = call_all(servers, method, request, self._timeout) if guids else {}
        return {server: item_errors(reply, guids) for server, reply in replies.items()}

    def _mend(self, guids: Sequence[UUID]) -> None:
        """Examine keys that some keystore has already: record those that are complete or failed, complete the others."""
        texts = [str(guid) for guid in guids]
        request = keystore_pb2.GetKeyAttributesRequest(guids=texts)
        replies = call_all(self._servers, lambda server: server.keys.GetKeyAttributes, lambda _: request, self._timeout)
        attributes = {server: item_answers(reply, guids, lambda result: result.attributes) for server, reply in replies.items()}
        incomplete: dict[UUID, list[KeystoreServer]] = {}
        for guid in guids:
            answers = {server: of_server[guid] for server, of_server in attributes.items()}
            failed = next((a for a in answers.values() if isinstance(a, MdmError) and a.reason != "KEY_NOT_FOUND"), None)
            found = {server: answer for server, answer in answers.items() if not isinstance(answer, MdmError)}
            confirmed = [server for server, key in found.items() if key.state == keystore_pb2.KEY_STATE_CONFIRMED]
            if failed is not None:
                self._results[guid] = failed
            elif any(found[server].acl_id != str(self._acl_id) for server in confirmed):
                # Somebody else may have made it, and know it: nothing of ours may be encrypted under it.
                self._results[guid] = Conflict("KEY_GUARDED_OTHERWISE", "a key with this GUID exists under another ACL")
            elif len(confirmed) == len(self._servers):
                self._results[guid] = None
            elif confirmed:
                incomplete[guid] = confirmed
            elif not found:
                self._results[guid] = Conflict("KEY_EXISTS", "a key with this GUID exists and is not yours")
        if incomplete:
            self._complete(incomplete)

    def _complete(self, incomplete: Mapping[UUID, Sequence[KeystoreServer]]) -> None:
        """Give the keystores that lack a confirmed key their shares, computed from those of the others."""
        shares = self._read(list(incomplete))
        missing: dict[KeystoreServer, dict[UUID, Sequence[Share]]] = {}
        remains: dict[UUID, Remains] = {}
        for guid, confirmed in incomplete.items():
            resolution = resolve(guid, shares[guid], self._threshold)
            if resolution.scalar is None:
                remains[guid] = tuple((x, given[0].public_key) for x, given in sorted(shares[guid].items()))
            elif resolution.faults:
                names = ", ".join(s.place for s in self._servers if s.index in resolution.faults)
                self._results[guid] = Corrupt("KEY_SHARES_DISAGREE", f"{names}: holds a wrong share; tell its operator")
            else:
                for server in self._servers:
                    if server not in confirmed:
                        recovered = shamir.recover(resolution.agreeing, server.index)
                        missing.setdefault(server, {})[guid] = [recovered]
        for server, recovered_shares in missing.items():
            errors = {**self._create([server], recovered_shares)[server]}
            stored = {guid: share for guid, share in recovered_shares.items() if errors[guid] is None}
            errors.update(self._confirm([server], stored).get(server, {}))
            self._sort(recovered_shares, {server: errors}, [])
            _log.warning("%s lacked %d keys of an interrupted creation: completed", server.place, len(stored))
        # The next round checks that they are complete.
        self._withdraw(remains)

    def _read(self, guids: Sequence[UUID]) -> dict[UUID, dict[int, tuple[Share, ...]]]:
        request = keystore_pb2.GetSharesRequest(guids=[str(guid) for guid in guids])
        replies = call_all(self._servers, lambda server: server.keys.GetShares, lambda _: request, self._timeout)
        shares: dict[UUID, dict[int, tuple[Share, ...]]] = {guid: {} for guid in guids}
        for server, reply in replies.items():
            for guid, answer in item_answers(reply, guids, from_result).items():
                if not isinstance(answer, MdmError):
                    shares[guid][server.index] = answer
        return shares

    def _withdraw(self, remains: Mapping[UUID, Remains]) -> None:
        """Delete confirmed shares that are too few to make a key and were so in the round before.

        A rival that was confirming has completed its key by then, or completes it in spite of the deletion.
        """
        abandoned = [guid for guid, found in remains.items() if found and self._abandoned.get(guid) == found]
        self._abandoned = {guid: found for guid, found in remains.items() if guid not in abandoned}
        if not abandoned:
            return
        _log.warning("%d keys of an interrupted creation were never complete: made anew", len(abandoned))
        for server in self._servers:
            here = {guid: dict(remains[guid])[server.index] for guid in abandoned if server.index in dict(remains[guid])}
            errors = self._delete(server, here)
            for guid in here:
                error = errors[server][guid]
                if error is not None and error.reason not in _OVERTAKEN:
                    self._results[guid] = error

    def _delete(self, server: KeystoreServer, public_keys: Mapping[UUID, bytes]) -> Errors:
        """Delete keys unless they were replaced meanwhile; new keys have epoch 0."""
        refs = [keystore_pb2.KeyRef(guid=str(guid), epoch=_EPOCH, public_key=key) for guid, key in public_keys.items()]
        request = keystore_pb2.DeleteKeysRequest(keys=refs)
        return self._asked([server], list(public_keys), lambda server: server.keys.DeleteKeys, lambda _: request)


#: The reasons that a creation meets when another one, or an earlier one of its own, was first.
_OVERTAKEN = frozenset({"KEY_EXISTS", "KEY_REPLACED", "KEY_NOT_FOUND"})
