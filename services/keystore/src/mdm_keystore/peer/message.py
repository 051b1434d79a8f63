"""What keystores tell each other, between protobuf and model; both ends of a call use it."""

from datetime import UTC
from functools import lru_cache
from uuid import UUID

from mdm.acl.v1 import acl_pb2
from mdm.common.v1 import common_pb2
from mdm.keystore.v1 import peer_pb2
from mdm_crypto.resharing import Sharing, Subshare
from mdm_service.access.acl import Acl, AclEntry
from mdm_wire import dn, status
from mdm_wire.errors import Conflict, FailedPrecondition, Forbidden, Invalid, MdmError, NotFound, Unavailable
from mdm_wire.permission import canonical_principal, valid_permissions

from mdm_keystore.rules.resharing.model import Deal, HeldKey, HeldSharing, Part, Parts, Unprepared
from mdm_keystore.rules.service import Failure

_canonical = lru_cache(maxsize=1024)(dn.canonical)  # the same few creators stand in thousands of parts
_ERRORS: dict[int, type[MdmError]] = {error.code: error for error in (Invalid, NotFound, Conflict, Forbidden, FailedPrecondition)}


def to_uuid(text: str) -> UUID:
    """Read a UUID in its one canonical spelling.

    Raises:
        Invalid: UUID_MALFORMED.
    """
    try:
        found = UUID(text)
    except ValueError:
        found = None
    if found is None or str(found) != text:
        raise Invalid("UUID_MALFORMED", "A GUID or id must be a UUID in canonical lower-case text.")
    return found


def of_failure(failure: Failure) -> common_pb2.ItemStatus:
    """Return the status of an item."""
    return status.ok() if failure is None else status.failed(failure)


def to_failure(message: common_pb2.ItemStatus) -> Failure:
    """Return an item's error, None where it succeeded."""
    return None if message.code == 0 else to_error(message.code, message.reason, message.message)


def to_error(code: int, reason: str, text: str) -> MdmError:
    """Return an error that another keystore told of; of kinds that have no meaning here, one that may pass."""
    return _ERRORS.get(code, Unavailable)(reason, text)


def of_sharing(sharing: Sharing, readable: bool = True) -> peer_pb2.Sharing:
    """Return a sharing as it is sent."""
    return peer_pb2.Sharing(
        version=sharing.version,
        threshold=sharing.threshold,
        total=sharing.total,
        commitments=sharing.commitments,
        readable=readable,
    )


def to_sharing(message: peer_pb2.Sharing) -> Sharing:
    """Return a received sharing, unchecked."""
    return Sharing(message.version, message.threshold, message.total, tuple(message.commitments))


def of_held(key: HeldKey) -> peer_pb2.HeldKey:
    """Return what is not secret about a key as it is sent."""
    current, previous = (None if held is None else of_sharing(held.sharing, held.readable) for held in (key.current, key.previous))
    return peer_pb2.HeldKey(guid=str(key.guid), epoch=key.epoch, confirmed=key.confirmed, current=current, previous=previous)


def to_held(message: peer_pb2.HeldKey) -> HeldKey:
    """Return a received description of a key."""
    current = HeldSharing(to_sharing(message.current), message.current.readable)
    previous = HeldSharing(to_sharing(message.previous), message.previous.readable) if message.HasField("previous") else None
    return HeldKey(to_uuid(message.guid), message.epoch, message.confirmed, current, previous)


def of_deal(deal: Deal) -> peer_pb2.DealKey:
    """Return a key to deal as it is sent."""
    return peer_pb2.DealKey(guid=str(deal.guid), base=of_sharing(deal.base), version=deal.version)


def to_deal(message: peer_pb2.DealKey) -> Deal:
    """Return a received key to deal."""
    return Deal(to_uuid(message.guid), to_sharing(message.base), message.version)


def of_parts(parts: Parts) -> peer_pb2.TakeSubsharesRequest:
    """Return a helper's parts as they are sent."""
    request = peer_pb2.TakeSubsharesRequest(round_id=str(parts.round_id), helper=parts.helper, threshold=parts.threshold, total=parts.total)
    for part in parts.parts:
        message = request.subshares.add(
            key=of_deal(part.deal),
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


def to_parts(request: peer_pb2.TakeSubsharesRequest) -> Parts:
    """Return received parts; names in them are made canonical, as in ACLs that users give."""
    parts = tuple(
        Part(
            to_deal(message.key),
            Subshare(message.value, tuple(message.commitments)),
            message.epoch,
            _canonical(message.creator),
            to_uuid(message.acl_id),
            message.create_time.ToDatetime(tzinfo=UTC),
        )
        for message in request.subshares
    )
    acls = tuple(
        Acl(
            to_uuid(acl.id),
            dn.canonical(acl.owner),
            tuple(AclEntry(canonical_principal(entry.principal), valid_permissions(entry.permissions)) for entry in acl.entries),
        )
        for acl in request.acls
    )
    return Parts(to_uuid(request.round_id), request.helper, request.threshold, request.total, parts, acls)


def of_prepared(result: Sharing | Unprepared) -> peer_pb2.PreparedResult:
    """Return what became of preparing a key."""
    if isinstance(result, Unprepared):
        failed = status.failed(FailedPrecondition(result.reason, result.message))
        return peer_pb2.PreparedResult(status=failed, guilty=result.guilty)
    return peer_pb2.PreparedResult(status=status.ok(), sharing=of_sharing(result))


def to_prepared(message: peer_pb2.PreparedResult) -> Sharing | Unprepared:
    """Return what a target says of preparing a key."""
    if message.status.code:
        return Unprepared(message.status.reason, message.status.message, message.guilty)
    return to_sharing(message.sharing)
