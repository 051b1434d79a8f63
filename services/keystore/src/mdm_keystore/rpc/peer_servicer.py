"""KeystorePeerService over gRPC: messages to model and back."""

from collections.abc import Sequence

import grpc
from mdm.keystore.v1 import peer_pb2, peer_pb2_grpc
from mdm_service.identity.caller import current_caller
from mdm_wire.errors import Invalid

from mdm_keystore.peer import head_message
from mdm_keystore.peer.message import of_failure, of_held, of_prepared, to_deal, to_parts, to_uuid
from mdm_keystore.rules.audit import AuditTrail
from mdm_keystore.rules.resharing.model import RoundTerms
from mdm_keystore.rules.resharing.participant import Participant
from mdm_keystore.rules.service import MAX_BATCH

FULL_NAME = "mdm.keystore.v1.KeystorePeerService"


class PeerServicer(peer_pb2_grpc.KeystorePeerServiceServicer):
    """Translates the calls of other keystores."""

    def __init__(self, participant: Participant, trail: AuditTrail) -> None:
        self._participant = participant
        self._trail = trail

    def ListHeldKeys(self, request: peer_pb2.ListHeldKeysRequest, context: grpc.ServicerContext) -> peer_pb2.ListHeldKeysResponse:
        """Tell what is held."""
        _check(request.guids)
        if not 0 <= request.page_size <= MAX_BATCH:
            raise Invalid("PAGE_SIZE_WRONG", f"A page has 1 to {MAX_BATCH} keys.", fields={"page_size": "out of range"})
        if request.guids:
            held = self._participant.held_keys([to_uuid(guid) for guid in request.guids])
        else:
            after = to_uuid(request.page_token) if request.page_token else None
            held = self._participant.held_page(after, request.page_size or MAX_BATCH)
        return peer_pb2.ListHeldKeysResponse(keys=[of_held(key) for key in held])

    def Deal(self, request: peer_pb2.DealRequest, context: grpc.ServicerContext) -> peer_pb2.DealResponse:
        """Split shares anew."""
        _check(request.keys)
        terms = RoundTerms(to_uuid(request.round_id), tuple(request.helpers), request.threshold, request.total)
        failures = self._participant.deal(current_caller(), terms, [to_deal(key) for key in request.keys])
        return peer_pb2.DealResponse(statuses=[of_failure(failure) for failure in failures])

    def TakeSubshares(self, request: peer_pb2.TakeSubsharesRequest, context: grpc.ServicerContext) -> peer_pb2.TakeSubsharesResponse:
        """Keep a helper's parts."""
        _check(request.subshares)
        self._participant.take(current_caller(), to_parts(request))
        return peer_pb2.TakeSubsharesResponse()

    def Prepare(self, request: peer_pb2.PrepareRequest, context: grpc.ServicerContext) -> peer_pb2.PrepareResponse:
        """Add up new shares."""
        _check(request.guids)
        guids = [to_uuid(guid) for guid in request.guids]
        results = self._participant.prepare(current_caller(), to_uuid(request.round_id), request.coordinator, tuple(request.helpers), guids)
        return peer_pb2.PrepareResponse(results=[of_prepared(result) for result in results])

    def Commit(self, request: peer_pb2.CommitRequest, context: grpc.ServicerContext) -> peer_pb2.CommitResponse:
        """Make prepared shares the present ones."""
        _check(request.guids)
        failures = self._participant.commit(current_caller(), to_uuid(request.round_id), [to_uuid(guid) for guid in request.guids])
        return peer_pb2.CommitResponse(statuses=[of_failure(failure) for failure in failures])

    def Retire(self, request: peer_pb2.RetireRequest, context: grpc.ServicerContext) -> peer_pb2.RetireResponse:
        """Destroy old shares."""
        _check(request.guids)
        failures = self._participant.retire(current_caller(), request.total, [to_uuid(guid) for guid in request.guids])
        return peer_pb2.RetireResponse(statuses=[of_failure(failure) for failure in failures])

    def Discard(self, request: peer_pb2.DiscardRequest, context: grpc.ServicerContext) -> peer_pb2.DiscardResponse:
        """Give a round up."""
        self._participant.discard(current_caller(), to_uuid(request.round_id))
        return peer_pb2.DiscardResponse()

    def GetRound(self, request: peer_pb2.GetRoundRequest, context: grpc.ServicerContext) -> peer_pb2.GetRoundResponse:
        """Tell what became of a round."""
        decision = self._participant.decision(to_uuid(request.round_id))
        return peer_pb2.GetRoundResponse(undecided=decision.undecided, guids=[str(guid) for guid in decision.guids])

    def WitnessHead(self, request: peer_pb2.WitnessHeadRequest, context: grpc.ServicerContext) -> peer_pb2.WitnessHeadResponse:
        """Countersign the head of a peer's audit chain."""
        caller = current_caller()
        witnessed = self._trail.witness(caller, self._participant.index_of(caller), head_message.to_head(request.head))
        return peer_pb2.WitnessHeadResponse(head=head_message.of_witnessed(witnessed))


def _check(items: Sequence[object]) -> None:
    if len(items) > MAX_BATCH:
        raise Invalid("BATCH_TOO_LARGE", f"At most {MAX_BATCH} keys a call.")
