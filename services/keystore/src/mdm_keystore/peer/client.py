"""Peers of a keystore: another one over mutual TLS, and this one in its own process."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import grpc
from mdm.common.v1 import common_pb2
from mdm.keystore.v1 import peer_pb2, peer_pb2_grpc
from mdm_crypto.audit import SignedHead, WitnessedHead
from mdm_crypto.resharing import Sharing
from mdm_service.identity.caller import Caller
from mdm_service.settings import TlsSettings
from mdm_wire.errors import Code, Failure
from mdm_wire.status import from_rpc_error
from mdm_wire.tls import secure_channel

from mdm_keystore.peer import message
from mdm_keystore.rules.resharing.model import Deal, Decision, HeldKey, Parts, RoundTerms, Unprepared
from mdm_keystore.rules.resharing.participant import Participant
from mdm_keystore.rules.resharing.port import PeerUnavailable

TIMEOUT_SECONDS = 60.0
_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_AWAY = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNAUTHENTICATED)

Answer = TypeVar("Answer")


def open_channel(address: str, tls: TlsSettings) -> grpc.Channel:
    """Open a channel to a keystore at host:port, with this keystore's own certificate."""
    return secure_channel(address, tls, _OPTIONS)


class RemotePeer:
    """Calls another keystore's KeystorePeerService; see `Peer`. Safe for threads."""

    def __init__(self, index: int, channel: grpc.Channel, timeout: float = TIMEOUT_SECONDS) -> None:
        self._index = index
        self._stub = peer_pb2_grpc.KeystorePeerServiceStub(channel)
        self._timeout = timeout

    def held_keys(self, guids: Sequence[UUID]) -> list[HeldKey]:
        if not guids:
            return []
        request = peer_pb2.ListHeldKeysRequest(guids=_texts(guids))
        return [message.held_key_from_proto(key) for key in self._call(self._stub.ListHeldKeys, request).keys]

    def held_page(self, after: UUID | None, limit: int) -> list[HeldKey]:
        request = peer_pb2.ListHeldKeysRequest(page_size=limit, page_token=str(after) if after else "")
        return [message.held_key_from_proto(key) for key in self._call(self._stub.ListHeldKeys, request).keys]

    def deal(self, terms: RoundTerms, deals: Sequence[Deal]) -> list[Failure]:
        keys = [message.deal_to_proto(deal) for deal in deals]
        request = peer_pb2.DealRequest(
            round_id=str(terms.id), helpers=terms.helpers, threshold=terms.threshold, total=terms.total, keys=keys
        )
        return self._failures(self._call(self._stub.Deal, request).statuses, len(deals))

    def take(self, parts: Parts) -> None:
        self._call(self._stub.TakeSubshares, message.parts_to_proto(parts))

    def prepare(self, round_id: UUID, coordinator: int, helpers: Sequence[int], guids: Sequence[UUID]) -> list[Sharing | Unprepared]:
        request = peer_pb2.PrepareRequest(round_id=str(round_id), coordinator=coordinator, helpers=helpers, guids=_texts(guids))
        results = [message.prepared_from_proto(result) for result in self._call(self._stub.Prepare, request).results]
        return self._complete(results, len(guids))

    def commit(self, round_id: UUID, guids: Sequence[UUID]) -> list[Failure]:
        request = peer_pb2.CommitRequest(round_id=str(round_id), guids=_texts(guids))
        return self._failures(self._call(self._stub.Commit, request).statuses, len(guids))

    def retire(self, total: int, guids: Sequence[UUID]) -> list[Failure]:
        request = peer_pb2.RetireRequest(total=total, guids=_texts(guids))
        return self._failures(self._call(self._stub.Retire, request).statuses, len(guids))

    def discard(self, round_id: UUID) -> None:
        self._call(self._stub.Discard, peer_pb2.DiscardRequest(round_id=str(round_id)))

    def decision(self, round_id: UUID) -> Decision:
        response = self._call(self._stub.GetRound, peer_pb2.GetRoundRequest(round_id=str(round_id)))
        return Decision(response.undecided, tuple(message.uuid_from_proto(guid) for guid in response.guids))

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        return call(self._index, method, request, self._timeout)

    def _failures(self, statuses: Sequence[common_pb2.ItemStatus], count: int) -> list[Failure]:
        return self._complete([message.failure_from_proto(status) for status in statuses], count)

    def _complete(self, answers: list[Answer], count: int) -> list[Answer]:
        if len(answers) != count:
            raise PeerUnavailable(self._index, f"it returned {len(answers):,} results for {count:,} items")
        return answers


class RemoteWitness:
    """Has another keystore countersign heads of this one's audit chain."""

    def __init__(self, index: int, channel: grpc.Channel, timeout: float = TIMEOUT_SECONDS) -> None:
        self._index = index
        self._stub = peer_pb2_grpc.KeystorePeerServiceStub(channel)
        self._timeout = timeout

    def witness(self, head: SignedHead) -> WitnessedHead:
        request = peer_pb2.WitnessHeadRequest(head=message.head_to_proto(head))
        return message.witnessed_head_from_proto(call(self._index, self._stub.WitnessHead, request, self._timeout).head)


def call(index: int, method: Callable[..., Any], request: Any, timeout: float = TIMEOUT_SECONDS) -> Any:
    """Call a method of keystore `index`.

    Raises:
        PeerUnavailable: it does not answer now. MdmError: it refuses; the message names it.
    """
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as error:
        failure = from_rpc_error(error)
        if failure.code in _AWAY and failure.reason not in ("PEER_UNAVAILABLE", "AUDIT_UNAVAILABLE"):
            raise PeerUnavailable(index, failure.reason) from None
        raise message.peer_failure(failure).at(f"Keystore {index}") from None


def _texts(guids: Sequence[UUID]) -> list[str]:
    return [str(guid) for guid in guids]


class LocalPeer:
    """Calls a participant in this process, as the keystore of `subject`; see `Peer`."""

    def __init__(self, participant: Participant, subject: str) -> None:
        self._participant = participant
        self._caller = Caller(subject)

    def held_keys(self, guids: Sequence[UUID]) -> list[HeldKey]:
        return self._participant.held_keys(guids)

    def held_page(self, after: UUID | None, limit: int) -> list[HeldKey]:
        return self._participant.held_page(after, limit)

    def deal(self, terms: RoundTerms, deals: Sequence[Deal]) -> list[Failure]:
        return self._participant.deal(self._caller, terms, deals)

    def take(self, parts: Parts) -> None:
        self._participant.take(self._caller, parts)

    def prepare(self, round_id: UUID, coordinator: int, helpers: Sequence[int], guids: Sequence[UUID]) -> list[Sharing | Unprepared]:
        return self._participant.prepare(self._caller, round_id, coordinator, helpers, guids)

    def commit(self, round_id: UUID, guids: Sequence[UUID]) -> list[Failure]:
        return self._participant.commit(self._caller, round_id, guids)

    def retire(self, total: int, guids: Sequence[UUID]) -> list[Failure]:
        return self._participant.retire(self._caller, total, guids)

    def discard(self, round_id: UUID) -> None:
        self._participant.discard(self._caller, round_id)

    def decision(self, round_id: UUID) -> Decision:
        return self._participant.decision(round_id)
