"""KeystorePeerService over gRPC: messages to model and back."""

import grpc
from mdm.keystore.v1 import peer_pb2, peer_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire import status
from mdm_wire.batch import MAX_KEYS, check_batch
from mdm_wire.errors import Invalid

from mdm_keystore.peer.message import (
    deal_from_proto,
    head_from_proto,
    held_key_to_proto,
    parts_from_proto,
    prepared_to_proto,
    uuid_from_proto,
    witnessed_head_to_proto,
)
from mdm_keystore.rules.audit import AuditTrail
from mdm_keystore.rules.resharing.model import RoundTerms
from mdm_keystore.rules.resharing.participant import Participant

FULL_NAME = "mdm.keystore.v1.KeystorePeerService"


class PeerServicer(peer_pb2_grpc.KeystorePeerServiceServicer):
    """Converts messages of other keystores and calls the rules."""

    def __init__(self, participant: Participant, trail: AuditTrail) -> None:
        self._participant = participant
        self._trail = trail

    def ListHeldKeys(self, request: peer_pb2.ListHeldKeysRequest, context: grpc.ServicerContext) -> peer_pb2.ListHeldKeysResponse:
        """List the keys that this keystore has."""
        check_batch(request.guids, MAX_KEYS)
        if not 0 <= request.page_size <= MAX_KEYS:
            raise Invalid("PAGE_SIZE_WRONG", f"A page has 1 to {MAX_KEYS} keys.", fields={"page_size": "out of range"})
        if request.guids:
            held = self._participant.held_keys([uuid_from_proto(guid) for guid in request.guids])
        else:
            after = uuid_from_proto(request.page_token) if request.page_token else None
            held = self._participant.held_page(after, request.page_size or MAX_KEYS)
        return peer_pb2.ListHeldKeysResponse(keys=[held_key_to_proto(key) for key in held])

    def Deal(self, request: peer_pb2.DealRequest, context: grpc.ServicerContext) -> peer_pb2.DealResponse:
        """Split shares anew."""
        check_batch(request.keys, MAX_KEYS)
        terms = RoundTerms(uuid_from_proto(request.round_id), tuple(request.helpers), request.threshold, request.total)
        failures = self._participant.deal(current_caller(), terms, [deal_from_proto(key) for key in request.keys])
        return peer_pb2.DealResponse(statuses=[status.to_item(failure) for failure in failures])

    def TakeSubshares(self, request: peer_pb2.TakeSubsharesRequest, context: grpc.ServicerContext) -> peer_pb2.TakeSubsharesResponse:
        """Store a helper's parts."""
        check_batch(request.subshares, MAX_KEYS)
        self._participant.take(current_caller(), parts_from_proto(request))
        return peer_pb2.TakeSubsharesResponse()

    def Prepare(self, request: peer_pb2.PrepareRequest, context: grpc.ServicerContext) -> peer_pb2.PrepareResponse:
        """Add up new shares."""
        check_batch(request.guids, MAX_KEYS)
        guids = [uuid_from_proto(guid) for guid in request.guids]
        results = self._participant.prepare(
            current_caller(), uuid_from_proto(request.round_id), request.coordinator, tuple(request.helpers), guids
        )
        return peer_pb2.PrepareResponse(results=[prepared_to_proto(result) for result in results])

    def Commit(self, request: peer_pb2.CommitRequest, context: grpc.ServicerContext) -> peer_pb2.CommitResponse:
        """Make prepared shares the present ones."""
        check_batch(request.guids, MAX_KEYS)
        failures = self._participant.commit(
            current_caller(), uuid_from_proto(request.round_id), [uuid_from_proto(guid) for guid in request.guids]
        )
        return peer_pb2.CommitResponse(statuses=[status.to_item(failure) for failure in failures])

    def Retire(self, request: peer_pb2.RetireRequest, context: grpc.ServicerContext) -> peer_pb2.RetireResponse:
        """Destroy old shares."""
        check_batch(request.guids, MAX_KEYS)
        failures = self._participant.retire(current_caller(), request.total, [uuid_from_proto(guid) for guid in request.guids])
        return peer_pb2.RetireResponse(statuses=[status.to_item(failure) for failure in failures])

    def Discard(self, request: peer_pb2.DiscardRequest, context: grpc.ServicerContext) -> peer_pb2.DiscardResponse:
        """Abandon a round."""
        self._participant.discard(current_caller(), uuid_from_proto(request.round_id))
        return peer_pb2.DiscardResponse()

    def GetRound(self, request: peer_pb2.GetRoundRequest, context: grpc.ServicerContext) -> peer_pb2.GetRoundResponse:
        """Return the decision on a round."""
        decision = self._participant.decision(uuid_from_proto(request.round_id))
        return peer_pb2.GetRoundResponse(undecided=decision.undecided, guids=[str(guid) for guid in decision.guids])

    def WitnessHead(self, request: peer_pb2.WitnessHeadRequest, context: grpc.ServicerContext) -> peer_pb2.WitnessHeadResponse:
        """Countersign the head of a peer's audit chain."""
        caller = current_caller()
        witnessed = self._trail.witness(caller, self._participant.shareholders.index_of(caller), head_from_proto(request.head))
        return peer_pb2.WitnessHeadResponse(head=witnessed_head_to_proto(witnessed))
