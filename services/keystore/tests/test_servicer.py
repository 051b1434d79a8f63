"""Malformed messages, one keystore over real mutual TLS."""

import os
from uuid import uuid4

import grpc
import psycopg
import pytest
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.keystore.v1 import keystore_pb2, keystore_pb2_grpc
from mdm_crypto import shamir
from mdm_keystore.rules.seal import Sealer
from mdm_testing.keystore import serve_keystore
from mdm_testing.server import channel

pytestmark = pytest.mark.integration

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def address(keystore_conninfo, real_keys, pki):
    """Where keystore 2 listens."""
    identity = pki.issue(pki.subject("keystore"))
    sealer = Sealer([os.urandom(32)])
    roles = {"operator": (pki.subject("operator"),), "service.dicom-srm": (pki.subject("srm"),)}
    with serve_keystore(keystore_conninfo, identity, 2, namespace=pki.namespace, sealer=sealer, roles=roles) as running:
        yield running.address


@pytest.fixture
def srm(address, pki):
    """A channel of dicom-srm."""
    with channel(address, pki.issue(pki.subject("srm"))) as opened:
        yield opened


@pytest.fixture
def stub(srm) -> keystore_pb2_grpc.KeystoreServiceStub:
    return keystore_pb2_grpc.KeystoreServiceStub(srm)


def message_of(share: shamir.Share, **changes) -> keystore_pb2.Share:
    fields = {
        "guid": str(share.guid),
        "epoch": share.epoch,
        "x": share.x,
        "value": share.value,
        "commitments": share.commitments,
        "threshold": share.threshold,
        "total": share.total,
    }
    return keystore_pb2.Share(**{**fields, **changes})


def test_the_server_tells_its_name_and_index(stub):
    info = stub.GetServerInfo(keystore_pb2.GetServerInfoRequest())
    assert (info.name, info.share_index) == ("keystore-2", 2)


def test_malformed_items_fail_alone_and_in_place(stub, srm):
    acl_id = str(uuid4())
    acl_pb2_grpc.AclServiceStub(srm).CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
    share = shamir.split(None, 2, 3, uuid4())[1]
    keys = [
        keystore_pb2.NewKey(share=message_of(share, guid="no uuid"), acl_id=acl_id),
        keystore_pb2.NewKey(share=message_of(share), acl_id="{" + acl_id + "}"),
        keystore_pb2.NewKey(share=message_of(share), acl_id=acl_id),
        keystore_pb2.NewKey(acl_id=acl_id),
    ]
    response = stub.CreateKeys(keystore_pb2.CreateKeysRequest(keys=keys))
    assert [status.reason for status in response.statuses] == ["GUID_MALFORMED", "ACL_ID_MALFORMED", "", "GUID_MALFORMED"]
    reference = keystore_pb2.KeyRef(guid=str(share.guid), epoch=0, public_key=share.public_key)
    confirmed = stub.ConfirmKeys(keystore_pb2.ConfirmKeysRequest(keys=[keystore_pb2.KeyRef(guid="x"), reference]))
    assert [status.reason for status in confirmed.statuses] == ["GUID_MALFORMED", ""]
    upper = str(share.guid).upper()
    released = stub.GetShares(keystore_pb2.GetSharesRequest(guids=["", upper, str(share.guid)])).results
    assert [result.status.reason for result in released] == ["GUID_MALFORMED", "GUID_MALFORMED", ""]
    assert released[2].share == message_of(share)
    attributes = stub.GetKeyAttributes(keystore_pb2.GetKeyAttributesRequest(guids=[str(share.guid), "?"])).results
    assert attributes[0].attributes.state == keystore_pb2.KEY_STATE_CONFIRMED
    assert attributes[0].attributes.create_time.seconds > 0
    assert attributes[1].status.reason == "GUID_MALFORMED"
    assignment = keystore_pb2.AclAssignment(guid=str(share.guid), acl_id="nothing")
    assigned = stub.AssignAcls(keystore_pb2.AssignAclsRequest(assignments=[assignment])).statuses
    assert [status.reason for status in assigned] == ["ACL_ID_MALFORMED"]
    deleted = stub.DeleteKeys(keystore_pb2.DeleteKeysRequest(guids=["?", str(share.guid)])).statuses
    assert [status.reason for status in deleted] == ["GUID_MALFORMED", ""]


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("CreateKeys", keystore_pb2.CreateKeysRequest(keys=[keystore_pb2.NewKey()] * 1001)),
        ("ConfirmKeys", keystore_pb2.ConfirmKeysRequest(keys=[keystore_pb2.KeyRef()] * 1001)),
        ("GetShares", keystore_pb2.GetSharesRequest(guids=["x"] * 1001)),
        ("DeleteKeys", keystore_pb2.DeleteKeysRequest(guids=["x"] * 1001)),
        ("GetKeyAttributes", keystore_pb2.GetKeyAttributesRequest(guids=["x"] * 1001)),
        ("AssignAcls", keystore_pb2.AssignAclsRequest(assignments=[keystore_pb2.AclAssignment()] * 1001)),
        ("ListKeys", keystore_pb2.ListKeysRequest(page_size=-1)),
        ("ListKeys", keystore_pb2.ListKeysRequest(page_size=1001)),
        ("ListKeys", keystore_pb2.ListKeysRequest(page_token="x' OR true")),
    ],
)
def test_requests_beyond_the_limits_are_refused(stub, method, request_message):
    with pytest.raises(grpc.RpcError) as error:
        getattr(stub, method)(request_message)
    assert error.value.code() is INVALID


def test_an_operator_lists_page_by_page_and_gets_no_share(stub, srm, address, pki):
    acl_id = str(uuid4())
    acl_pb2_grpc.AclServiceStub(srm).CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
    shares = [shamir.split(None, 2, 3, uuid4())[1] for _ in range(3)]
    keys = [keystore_pb2.NewKey(share=message_of(share), acl_id=acl_id) for share in shares]
    assert {s.code for s in stub.CreateKeys(keystore_pb2.CreateKeysRequest(keys=keys)).statuses} == {0}
    with channel(address, pki.issue(pki.subject("operator"))) as opened:
        operator = keystore_pb2_grpc.KeystoreServiceStub(opened)
        seen: list[str] = []
        token = ""
        for _ in range(3):
            page = operator.ListKeys(keystore_pb2.ListKeysRequest(page_size=2, page_token=token))
            seen += [key.guid for key in page.keys]
            token = page.next_page_token
            if not token:
                break
        assert seen == sorted(str(share.guid) for share in shares)
        with pytest.raises(grpc.RpcError) as error:
            operator.GetShares(keystore_pb2.GetSharesRequest(guids=seen))
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_list_of_several_keys_is_changed_for_those_that_are_meant_or_when_shared(srm, pki):
    shares = [shamir.split(None, 2, 3, uuid4())[1] for _ in range(3)]
    acls, acl_id = acl_pb2_grpc.AclServiceStub(srm), str(uuid4())
    assert acls.CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)])).statuses[0].code == 0
    keys = [keystore_pb2.NewKey(share=message_of(share), acl_id=acl_id) for share in shares]
    stub = keystore_pb2_grpc.KeystoreServiceStub(srm)
    assert {s.code for s in stub.CreateKeys(keystore_pb2.CreateKeysRequest(keys=keys)).statuses} == {0}
    guids = [str(share.guid) for share in shares]
    entry = acl_pb2.AclEntry(principal=f"dn:{pki.subject('mallory')}", permissions=4)
    change = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_GRANT, entry=entry)

    def modify(**more) -> str:
        status = acls.ModifyAcls(acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[change], **more)).results[0].status
        return status.message if status.reason == "ACL_SHARED" else status.reason

    others = len(guids) - 1
    assert f"guards {others} other object" in modify()
    assert f"guards {others} other object" in modify(scope=acl_pb2.AclScope(keys=guids[:1]))
    assert f"guards {len(guids)} other objects" in modify(scope=acl_pb2.AclScope(keys=[str(uuid4())]))
    assert modify(scope=acl_pb2.AclScope(keys=guids)) == ""
    assert modify(shared=True) == ""
    own = str(uuid4())
    acls.CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=own)]))
    assert (
        stub.AssignAcls(keystore_pb2.AssignAclsRequest(assignments=[keystore_pb2.AclAssignment(guid=guids[0], acl_id=own)]))
        .statuses[0]
        .code
        == 0
    )
    assert acls.ModifyAcls(acl_pb2.ModifyAclsRequest(ids=[own], changes=[change])).results[0].status.code == 0


def test_what_is_done_to_acls_and_what_is_refused_is_in_the_audit(srm, address, pki, real_keys):
    acls, acl_id = acl_pb2_grpc.AclServiceStub(srm), str(uuid4())
    assert acls.CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)])).statuses[0].code == 0
    entry = acl_pb2.AclEntry(principal=f"dn:{pki.subject('alice')}", permissions=4)
    change = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_GRANT, entry=entry)
    request = acl_pb2.ModifyAclsRequest(ids=[acl_id], changes=[change])
    assert acls.ModifyAcls(request).results[0].status.code == 0
    assert acls.ModifyAcls(request).results[0].status.code == 0
    with channel(address, pki.issue(pki.subject("mallory"))) as opened:
        assert acl_pb2_grpc.AclServiceStub(opened).ModifyAcls(request).results[0].status.code != 0
    entries = [(item.entry.who, item.entry.action, item.entry.outcome) for item in real_keys.chain() if str(item.entry.guid) == acl_id]
    assert entries == [
        (pki.subject("srm"), "acl-create", "OK"),
        (pki.subject("srm"), "acl-modify", "OK"),
        (pki.subject("mallory"), "acl-modify", "ACL_NOT_FOUND"),
    ]


def test_without_audit_no_acl_is_changed(srm, real_keys):
    acls, acl_id = acl_pb2_grpc.AclServiceStub(srm), str(uuid4())
    real_keys.refuse_audit()
    with pytest.raises(grpc.RpcError, match="audit log cannot be written"):
        acls.CreateAcls(acl_pb2.CreateAclsRequest(acls=[acl_pb2.Acl(id=acl_id)]))
    with psycopg.connect(real_keys.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM acl").fetchone() == (0,)
