"""Converters of the messages between keystores; both ends of a call use them."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from mdm.acl.v1 import acl_pb2
from mdm.common.v1 import common_pb2
from mdm.keystore.v1 import admin_pb2, peer_pb2
from mdm_crypto.audit import SignedHead, WitnessedHead
from mdm_crypto.resharing import Sharing, Subshare
from mdm_service.access.acl import Acl, AclEntry
from mdm_wire import dn, status
from mdm_wire.errors import Conflict, FailedPrecondition, Failure, Forbidden, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.permission import canonical_principal, valid_permissions
from mdm_wire.url import canonical_uuid

from mdm_keystore.rules.resharing.model import Deal, HeldKey, HeldSharing, Part, Parts, Unprepared

_canonical = lru_cache(maxsize=1024)(dn.canonical)  # the same few creators stand in thousands of parts
_OF_THE_REQUEST = (Invalid, NotFound, Conflict, Forbidden, FailedPrecondition)


def uuid_from_proto(text: str, reason: str = "UUID_MALFORMED", what: str = "GUID or id") -> UUID:
    """Return a UUID from its canonical text.

    Raises:
        Invalid: it is not one, with this reason; `what` names it.
    """
    found = canonical_uuid(text)
    if found is None:
        raise Invalid(reason, f"The {what} must be a UUID in canonical lower-case text.")
    return found


def failure_from_proto(message: common_pb2.ItemStatus) -> Failure:
    """Return an item's error, None where it succeeded."""
    failure = status.from_item(message)
    return None if failure is None else peer_failure(failure)


def peer_failure(error: MdmError) -> MdmError:
    """Return another keystore's error unchanged if it is about the keys, any other as a transient one."""
    return error if isinstance(error, _OF_THE_REQUEST) else Unavailable(error.reason, error.message)


def sharing_to_proto(sharing: Sharing, readable: bool = True) -> peer_pb2.Sharing:
    """Return a sharing as it is sent."""
    return peer_pb2.Sharing(
        version=sharing.version,
        threshold=sharing.threshold,
        total=sharing.total,
        commitments=sharing.commitments,
        readable=readable,
    )


def sharing_from_proto(message: peer_pb2.Sharing) -> Sharing:
    """Return a received sharing, unchecked."""
    return Sharing(message.version, message.threshold, message.total, tuple(message.commitments))


def held_key_to_proto(key: HeldKey) -> peer_pb2.HeldKey:
    """Return the description of a key as it is sent, without secrets."""
    current, previous = (None if held is None else sharing_to_proto(held.sharing, held.readable) for held in (key.current, key.previous))
    return peer_pb2.HeldKey(guid=str(key.guid), epoch=key.epoch, confirmed=key.confirmed, current=current, previous=previous)


def held_key_from_proto(message: peer_pb2.HeldKey) -> HeldKey:
    """Return a received description of a key."""
    current = HeldSharing(sharing_from_proto(message.current), message.current.readable)
    previous = HeldSharing(sharing_from_proto(message.previous), message.previous.readable) if message.HasField("previous") else None
    return HeldKey(uuid_from_proto(message.guid), message.epoch, message.confirmed, current, previous)


def deal_to_proto(deal: Deal) -> peer_pb2.DealKey:
    """Return a key to deal as it is sent."""
    return peer_pb2.DealKey(guid=str(deal.guid), base=sharing_to_proto(deal.base), version=deal.version)


def deal_from_proto(message: peer_pb2.DealKey) -> Deal:
    """Return a received key to deal."""
    return Deal(uuid_from_proto(message.guid), sharing_from_proto(message.base), message.version)


def parts_to_proto(parts: Parts) -> peer_pb2.TakeSubsharesRequest:
    """Return a helper's parts as they are sent."""
    request = peer_pb2.TakeSubsharesRequest(round_id=str(parts.round_id), helper=parts.helper, threshold=parts.threshold, total=parts.total)
    for part in parts.parts:
        message = request.subshares.add(
            key=deal_to_proto(part.deal),
            value=part.subshare.value,
            commitments=part.subshare.commitments,
            epoch=part.epoch,
            creator=part.creator,
            acl_id=str(part.acl_id),
        )
        message.create_time.FromDatetime(part.create_time)
    for acl in parts.acls:
        entries = [acl_pb2.AclEntry(principal=entry.principal, permissions=int(entry.permissions)) for entry in acl.entries]
        request.acls.add(id=str(acl.id), owner=acl.owner, entries=entries)
    return request


def parts_from_proto(request: peer_pb2.TakeSubsharesRequest) -> Parts:
    """Return received parts; names in them are made canonical, as in ACLs that users give."""
    parts = tuple(
        Part(
            deal_from_proto(message.key),
            Subshare(message.value, tuple(message.commitments)),
            message.epoch,
            _canonical(message.creator),
            uuid_from_proto(message.acl_id),
            message.create_time.ToDatetime(tzinfo=UTC),
        )
        for message in request.subshares
    )
    acls = tuple(
        Acl(
            uuid_from_proto(acl.id),
            dn.canonical(acl.owner),
            tuple(AclEntry(canonical_principal(entry.principal), valid_permissions(entry.permissions)) for entry in acl.entries),
        )
        for acl in request.acls
    )
    return Parts(uuid_from_proto(request.round_id), request.helper, request.threshold, request.total, parts, acls)


def prepared_to_proto(result: Sharing | Unprepared) -> peer_pb2.PreparedResult:
    """Return the result of preparing a key as it is sent."""
    if isinstance(result, Unprepared):
        failed = status.failed(FailedPrecondition(result.reason, result.message))
        return peer_pb2.PreparedResult(status=failed, guilty=result.guilty)
    return peer_pb2.PreparedResult(status=status.ok(), sharing=sharing_to_proto(result))


def prepared_from_proto(message: peer_pb2.PreparedResult) -> Sharing | Unprepared:
    """Return a received result of preparing a key."""
    if message.status.code:
        return Unprepared(message.status.reason, message.status.message, message.guilty)
    return sharing_from_proto(message.sharing)


def head_to_proto(head: SignedHead) -> admin_pb2.SignedHead:
    """Return a head as it is sent."""
    message = admin_pb2.SignedHead(share_index=head.index, chain_id=str(head.chain_id), seq=head.seq, hash=head.hash)
    message.signature, message.signing_key = head.signature, head.signing_key
    message.time.FromDatetime(head.time)
    return message


def head_from_proto(message: admin_pb2.SignedHead) -> SignedHead:
    """Return a received head, its signature unchecked.

    Raises:
        Invalid: HEAD_MALFORMED.
    """
    lengths = (len(message.hash), len(message.signature), len(message.signing_key))
    chain_id = canonical_uuid(message.chain_id)
    if chain_id is None or lengths != (32, 64, 32) or not 1 <= message.share_index <= 16 or message.seq >= 1 << 63:
        raise Invalid("HEAD_MALFORMED", "This is not the signed head of an audit chain.")
    time = datetime.fromtimestamp(0, UTC) + timedelta(seconds=message.time.seconds, microseconds=message.time.nanos // 1000)
    return SignedHead(message.share_index, chain_id, message.seq, message.hash, time, message.signature, message.signing_key)


def witnessed_head_to_proto(witnessed: WitnessedHead) -> admin_pb2.WitnessedHead:
    """Return a witnessed head as it is sent."""
    return admin_pb2.WitnessedHead(
        head=head_to_proto(witnessed.head),
        witness_index=witnessed.witness,
        signature=witnessed.signature,
        signing_key=witnessed.signing_key,
    )


def witnessed_head_from_proto(message: admin_pb2.WitnessedHead) -> WitnessedHead:
    """Return a received witnessed head, its signatures unchecked."""
    return WitnessedHead(head_from_proto(message.head), message.witness_index, message.signature, message.signing_key)
