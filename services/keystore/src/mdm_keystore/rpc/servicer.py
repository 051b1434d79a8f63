"""KeystoreService over gRPC: messages to model and back."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar
from uuid import UUID

import grpc
from mdm.common.v1 import common_pb2
from mdm.keystore.v1 import keystore_pb2, keystore_pb2_grpc
from mdm_crypto.shamir import Share
from mdm_service.identity.caller import current_caller
from mdm_wire import status
from mdm_wire.batch import MAX_KEYS, answer_batch, check_batch
from mdm_wire.errors import Failure, Invalid, MdmError

from mdm_keystore.peer.message import uuid_from_proto
from mdm_keystore.rules.model import AclAssignment, KeyRecord, KeyRef, KeyState, NewKey, Released
from mdm_keystore.rules.service import KeystoreService

FULL_NAME = "mdm.keystore.v1.KeystoreService"
_STATES = {
    KeyState.PENDING: keystore_pb2.KEY_STATE_PENDING,
    KeyState.CONFIRMED: keystore_pb2.KEY_STATE_CONFIRMED,
}

Message = TypeVar("Message")
Item = TypeVar("Item")
Result = TypeVar("Result")


class KeystoreServicer(keystore_pb2_grpc.KeystoreServiceServicer):
    """Converts messages and calls the rules; a malformed item fails alone, the others of its batch are processed."""

    def __init__(self, service: KeystoreService) -> None:
        self._service = service

    def GetServerInfo(
        self, request: keystore_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> keystore_pb2.GetServerInfoResponse:
        """Report which share this server holds."""
        return keystore_pb2.GetServerInfoResponse(name=self._service.name, share_index=self._service.index)

    def CreateKeys(self, request: keystore_pb2.CreateKeysRequest, context: grpc.ServicerContext) -> keystore_pb2.CreateKeysResponse:
        """Store shares as pending."""
        caller = current_caller()
        results = _batch(request.keys, _new_key_from_proto, lambda keys: self._service.create_keys(caller, keys))
        return keystore_pb2.CreateKeysResponse(statuses=_statuses(results))

    def ConfirmKeys(self, request: keystore_pb2.ConfirmKeysRequest, context: grpc.ServicerContext) -> keystore_pb2.ConfirmKeysResponse:
        """Make pending keys readable."""
        caller = current_caller()
        results = _batch(request.keys, _key_ref_from_proto, lambda refs: self._service.confirm_keys(caller, refs))
        return keystore_pb2.ConfirmKeysResponse(statuses=_statuses(results))

    def GetShares(self, request: keystore_pb2.GetSharesRequest, context: grpc.ServicerContext) -> keystore_pb2.GetSharesResponse:
        """Release shares."""
        caller = current_caller()
        released = _batch(request.guids, _guid_from_proto, lambda guids: self._service.release_shares(caller, guids))
        results = [
            keystore_pb2.ShareResult(status=status.failed(item)) if isinstance(item, MdmError) else _released_to_proto(item)
            for item in released
        ]
        return keystore_pb2.GetSharesResponse(results=results)

    def DeleteKeys(self, request: keystore_pb2.DeleteKeysRequest, context: grpc.ServicerContext) -> keystore_pb2.DeleteKeysResponse:
        """Destroy shares."""
        caller = current_caller()
        if request.guids and request.keys:
            raise Invalid("DELETION_AMBIGUOUS", "Send either guids or keys, not both.", fields={"keys": "given beside guids"})
        if request.keys:
            by_reference = _batch(request.keys, _key_ref_from_proto, lambda refs: self._service.delete_keys(caller, refs))
            return keystore_pb2.DeleteKeysResponse(statuses=_statuses(by_reference))
        results = _batch(request.guids, _guid_from_proto, lambda guids: self._service.delete_keys(caller, guids))
        return keystore_pb2.DeleteKeysResponse(statuses=_statuses(results))

    def GetKeyAttributes(
        self, request: keystore_pb2.GetKeyAttributesRequest, context: grpc.ServicerContext
    ) -> keystore_pb2.GetKeyAttributesResponse:
        """Return the attributes of keys that are not secret."""
        caller = current_caller()
        found = _batch(request.guids, _guid_from_proto, lambda guids: self._service.key_attributes(caller, guids))
        results = [
            keystore_pb2.KeyAttributesResult(status=status.failed(result))
            if isinstance(result, MdmError)
            else keystore_pb2.KeyAttributesResult(status=status.ok(), attributes=_attributes_to_proto(result))
            for result in found
        ]
        return keystore_pb2.GetKeyAttributesResponse(results=results)

    def AssignAcls(self, request: keystore_pb2.AssignAclsRequest, context: grpc.ServicerContext) -> keystore_pb2.AssignAclsResponse:
        """Point keys at other ACLs."""
        caller = current_caller()
        results = _batch(request.assignments, _assignment_from_proto, lambda items: self._service.assign_acls(caller, items))
        return keystore_pb2.AssignAclsResponse(statuses=_statuses(results))

    def ListKeys(self, request: keystore_pb2.ListKeysRequest, context: grpc.ServicerContext) -> keystore_pb2.ListKeysResponse:
        """List keys page by page; the token is the last GUID of the page before."""
        if not 0 <= request.page_size <= MAX_KEYS:
            raise Invalid("PAGE_SIZE_WRONG", f"A page has 1 to {MAX_KEYS} keys.", fields={"page_size": "out of range"})
        limit = request.page_size or MAX_KEYS
        after = _guid_from_proto(request.page_token) if request.page_token else None
        records = self._service.list_keys(current_caller(), after, limit)
        token = str(records[-1].guid) if len(records) == limit else ""
        return keystore_pb2.ListKeysResponse(keys=[_attributes_to_proto(record) for record in records], next_page_token=token)


def _batch(
    messages: Sequence[Message], from_proto: Callable[[Message], Item], answer: Callable[[Sequence[Item]], Sequence[Result | MdmError]]
) -> list[Result | MdmError]:
    check_batch(messages, MAX_KEYS)
    return answer_batch(messages, from_proto, answer)


def _statuses(failures: Iterable[Failure]) -> list[common_pb2.ItemStatus]:
    return [status.to_item(failure) for failure in failures]


def _guid_from_proto(text: str) -> UUID:
    return uuid_from_proto(text, "GUID_MALFORMED", "GUID")


def _acl_id_from_proto(text: str) -> UUID:
    return uuid_from_proto(text, "ACL_ID_MALFORMED", "ACL id")


def _new_key_from_proto(message: keystore_pb2.NewKey) -> NewKey:
    share = message.share
    return NewKey(
        Share(
            guid=_guid_from_proto(share.guid),
            epoch=share.epoch,
            x=share.x,
            value=share.value,
            commitments=tuple(share.commitments),
            threshold=share.threshold,
            total=share.total,
            version=share.share_version,
        ),
        _acl_id_from_proto(message.acl_id),
    )


def _key_ref_from_proto(message: keystore_pb2.KeyRef) -> KeyRef:
    return KeyRef(_guid_from_proto(message.guid), message.epoch, message.public_key)


def _assignment_from_proto(message: keystore_pb2.AclAssignment) -> AclAssignment:
    return AclAssignment(_guid_from_proto(message.guid), _acl_id_from_proto(message.acl_id))


def _released_to_proto(released: Released) -> keystore_pb2.ShareResult:
    previous = None if released.previous is None else _share_to_proto(released.previous)
    return keystore_pb2.ShareResult(status=status.ok(), share=_share_to_proto(released.share), previous=previous)


def _share_to_proto(share: Share) -> keystore_pb2.Share:
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


def _attributes_to_proto(record: KeyRecord) -> keystore_pb2.KeyAttributes:
    message = keystore_pb2.KeyAttributes(
        guid=str(record.guid),
        epoch=record.epoch,
        x=record.x,
        threshold=record.threshold,
        total=record.total,
        state=_STATES[record.state],
        acl_id=str(record.acl_id),
        public_key=record.public_key,
        share_version=record.version,
        creator=record.creator,
    )
    message.create_time.FromDatetime(record.create_time)
    return message
