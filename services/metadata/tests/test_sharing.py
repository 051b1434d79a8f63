"""A list that guards several collections and entries is changed for those that are meant, or when told so."""

import pytest
from mdm.acl.v1 import acl_pb2
from mdm.metadata.v1 import metadata_pb2 as pb

from .commandline import Mdm, configuration

pytestmark = pytest.mark.integration
ALL = 255
READ = 4


@pytest.fixture
def alice(service, pki, tmp_path):
    """The command of the owner of `/vo` and, by its default list, of everything made in it."""
    loader = service.client("loader")
    mine = service.client("alice").acl({f"dn:{pki.subject('loader')}": ALL})
    assert loader.create(pb.Collection(path="/vo", acl_id=mine, default_acl_id=mine)) == [""]
    assert loader.create(*(pb.Collection(path=f"/vo/{name}", attributes=[service.attribute("A", "INT")]) for name in ("x1", "x2"))) == [
        "",
        "",
    ]
    for name in ("x1", "x2"):
        assert loader.upsert(f"/vo/{name}", *(service.entry(key, A=1) for key in ("a", "b"))) == ["", ""]
    return Mdm(configuration(pki, "alice", int(service.address.rpartition(":")[2]), tmp_path), pki.subject("alice"), [])


def _open_to(service, name):
    """Return the collections that a user sees, and how many entries in each."""
    client = service.client(name)
    listed = client.call("ListCollections", pb.ListCollectionsRequest(path="/vo")).collections
    return {item.path: len(client.rows(f'SELECT entry FROM "{item.path}"')) for item in listed if item.attributes}


def test_a_grant_on_one_collection_does_not_open_the_one_beside_it(service, pki, alice):
    mallory = f"'dn:{pki.subject('mallory')}'"
    assert alice.refused(f"mdm meta acl grant /vo/x1 {mallory} rlg") == ["ACL_SHARED"]
    assert alice.refused(f"mdm meta acl grant /vo/x1 {mallory} rlg --default") == ["ACL_SHARED"]
    assert alice.refused(f"mdm meta acl revoke /vo/x1 'dn:{pki.subject('loader')}'") == ["ACL_SHARED"]
    assert _open_to(service, "mallory") == {}
    assert alice.refused(f"mdm meta acl grant /vo/x1 {mallory} rlg --own --shared") == ["USAGE"]
    alice(f"mdm meta acl grant /vo/x1 {mallory} rlg --own")
    assert _open_to(service, "mallory") == {"/vo/x1": 0}, "entries stay under the list they had"
    alice(f"mdm meta acl grant /vo/x1 {mallory} r --entry a --own")
    assert _open_to(service, "mallory") == {"/vo/x1": 1}
    alice(f"mdm meta acl grant /vo/x2 {mallory} rlg --shared")
    assert _open_to(service, "mallory") == {"/vo/x1": 2, "/vo/x2": 2}


def test_the_collection_that_holds_a_list_is_where_it_is_changed(service, pki, alice):
    alice(f"mdm meta acl grant /vo 'dn:{pki.subject('mallory')}' rlg")
    assert _open_to(service, "mallory") == {"/vo/x1": 2, "/vo/x2": 2}


def test_entries_that_share_a_list_alone_are_named_together(service, pki, alice):
    mallory, loader = f"'dn:{pki.subject('mallory')}'", service.client("loader")
    list_id = service.client("alice").acl({f"dn:{pki.subject('loader')}": ALL})
    assignments = [pb.AclAssignment(collection="/vo/x1", key=key, acl_id=list_id) for key in ("a", "b")]
    assert [item.reason for item in loader.call("AssignAcls", pb.AssignAclsRequest(assignments=assignments)).statuses] == ["", ""]
    alice("mdm meta acl grant /vo 'dn:" + pki.subject("alice") + "' rlgp")
    assert alice.refused(f"mdm meta acl grant /vo/x1 {mallory} r --entry a") == ["ACL_SHARED"]
    alice(f"mdm meta acl grant /vo/x1 {mallory} r --entry a --entry b")


def test_own_lists_leave_the_former_owner_in_control(service, pki, alice):
    alice(f"mdm meta acl grant /vo 'dn:{pki.subject('bob')}' pg")
    before = service.client("loader").describe("/vo/x1").acl_id
    bob = Mdm(alice.configured.with_name(alice.configured.name.replace("alice", "bob")), pki.subject("bob"), [])
    configuration(pki, "bob", int(service.address.rpartition(":")[2]), alice.configured.parent)
    bob("mdm meta acl grant /vo/x1 authenticated l --own")
    [own] = bob("mdm meta acl get /vo/x1")
    assert own["acl_id"] != before
    assert own["entries"][f"dn:{pki.subject('alice')}"] == "pdrwlxgs"


@pytest.mark.parametrize(
    ("scope", "others"),
    [
        (None, 6),
        (acl_pb2.AclScope(path="/vo"), 0),
        (acl_pb2.AclScope(path="/"), 0),
        (acl_pb2.AclScope(path="/VO/X1"), 4),
        (acl_pb2.AclScope(path="/vo/x"), 7),
        (acl_pb2.AclScope(path="/vo/none"), 7),
        (acl_pb2.AclScope(path="/vo/x1", keys=["a"]), 6),
        (acl_pb2.AclScope(path="/vo/x1", keys=["a", "b", "none"]), 5),
        (acl_pb2.AclScope(keys=["a"]), 6),
    ],
)
def test_what_shares_a_list_is_counted(service, alice, scope, others):
    list_id = service.client("loader").describe("/vo").acl_id
    entry = acl_pb2.AclEntry(principal="authenticated", permissions=16)
    change = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_GRANT, entry=entry)
    request = acl_pb2.ModifyAclsRequest(ids=[list_id], changes=[change], scope=scope)
    status = service.client("alice").acls.ModifyAcls(request).results[0].status
    assert status.reason == ("ACL_SHARED" if others else "")
    assert not others or f"guards {others} other objects" in status.message


def test_a_collection_given_to_nobody_can_still_be_dropped(service, pki, alice):
    nobody = acl_pb2.AclEntry(principal="dn:CN=never existed,O=MDM Test")
    list_id = service.client("alice").acl({})
    loader, client = service.client("loader"), service.client("alice")
    assert loader.create(pb.Collection(path="/vo/gone", acl_id=list_id, default_acl_id=list_id)) == [""]

    def modify(*changes):
        request = acl_pb2.ModifyAclsRequest(ids=[list_id], changes=[acl_pb2.AclChange(action=a, entry=e) for a, e in changes])
        return client.acls.ModifyAcls(request).results[0].status.reason

    keep = acl_pb2.AclEntry(principal=f"dn:{pki.subject('alice')}", permissions=3)
    assert modify((4, nobody)) == "ACL_CONTROL_LOST"
    assert modify((1, keep), (4, nobody)) == ""
    assert modify((2, keep)) == "ACL_CONTROL_LOST"
    dropped = client.call("DropCollections", pb.DropCollectionsRequest(paths=["/vo/gone"]))
    assert [item.reason for item in dropped.statuses] == [""]
