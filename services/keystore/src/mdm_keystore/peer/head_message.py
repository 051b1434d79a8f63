"""Signed and witnessed heads of audit chains, between protobuf and model."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from mdm.keystore.v1 import admin_pb2
from mdm_crypto.audit import SignedHead, WitnessedHead
from mdm_wire.errors import Invalid


def of_head(head: SignedHead) -> admin_pb2.SignedHead:
    """Return a head as it is sent."""
    message = admin_pb2.SignedHead(share_index=head.index, chain_id=str(head.chain_id), seq=head.seq, hash=head.hash)
    message.signature, message.signing_key = head.signature, head.signing_key
    message.time.FromDatetime(head.time)
    return message


def to_head(message: admin_pb2.SignedHead) -> SignedHead:
    """Return a received head, its signature unchecked.

    Raises:
        Invalid: HEAD_MALFORMED.
    """
    lengths = (len(message.hash), len(message.signature), len(message.signing_key))
    try:
        chain_id = UUID(message.chain_id)
    except ValueError:
        chain_id = UUID(int=0)
    if str(chain_id) != message.chain_id or lengths != (32, 64, 32) or not 1 <= message.share_index <= 16 or message.seq >= 1 << 63:
        raise Invalid("HEAD_MALFORMED", "This is not the signed head of an audit chain.")
    time = datetime.fromtimestamp(0, UTC) + timedelta(seconds=message.time.seconds, microseconds=message.time.nanos // 1000)
    return SignedHead(message.share_index, chain_id, message.seq, message.hash, time, message.signature, message.signing_key)


def of_witnessed(witnessed: WitnessedHead) -> admin_pb2.WitnessedHead:
    """Return a witnessed head as it is sent."""
    return admin_pb2.WitnessedHead(
        head=of_head(witnessed.head),
        witness_index=witnessed.witness,
        signature=witnessed.signature,
        signing_key=witnessed.signing_key,
    )


def to_witnessed(message: admin_pb2.WitnessedHead) -> WitnessedHead:
    """Return a received witnessed head, its signatures unchecked."""
    return WitnessedHead(to_head(message.head), message.witness_index, message.signature, message.signing_key)
