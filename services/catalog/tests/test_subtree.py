"""Access control of whole subtrees: one change, and reports for auditors."""

import pytest
from mdm.acl.v1 import acl_pb2
from mdm.catalog.v1 import catalog_pb2 as pb

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study"


def _change(action, principal, permissions):
    entry = acl_pb2.AclEntry(principal=principal, permissions=permissions)
    return acl_pb2.AclChange(action=action, entry=entry)


def _modify(client, lfn, *changes, shared=False):
    request = pb.ModifySubtreeAclsRequest(target=pb.Target(lfn=lfn), changes=changes, shared=shared)
    return client.catalog.ModifySubtreeAcls(request)


def _report(client, lfn, permissions=0):
    answer = client.catalog.ReportAccess(pb.ReportAccessRequest(target=pb.Target(lfn=lfn), permissions=permissions))
    return {item.subject.split(",")[0].removeprefix("CN="): (item.files, list(item.by)) for item in answer.holders}, answer


def _readable(client, lfns):
    return [item.status.code == 0 for item in client.resolve(*(pb.Target(lfn=lfn) for lfn in lfns))]


@pytest.fixture
def site(catalog, study, new_file):
    """Ten studies of three files each below `/biomed/hospital-a/q`, each with an ACL of its own."""
    srm = catalog.dicom_srm
    assert srm.mkdir("/biomed/hospital-a/q") == [""]
    lfns = []
    for number in range(10):
        top = f"/biomed/hospital-a/q/{number}"
        assert srm.mkdir(top, acl=srm.new_acl()) == [""]
        files = [new_file(f"{top}/{index}") for index in range(3)]
        assert srm.register(*files) == [""] * 3
        lfns += [file.lfn for file in files]
    return lfns


def test_one_call_grants_and_revokes_on_every_list_of_a_subtree(catalog, site):
    mallory = f"dn:{catalog.mallory.dn}"
    answer = _modify(catalog.dicom_srm, "/biomed/hospital-a/q", _change(1, mallory, 4 | 16 | 32 | 64))
    reasons = sorted(item.status.reason for item in answer.results)
    assert reasons == [""] * 10 + ["ACL_SHARED"], "the directory's own list also guards its parent"
    assert _readable(catalog.mallory, site) == [True] * 30
    again = _modify(catalog.dicom_srm, "/biomed/hospital-a/q", _change(1, mallory, 4), shared=True)
    assert {item.acl.rev for item in again.results if item.subtree_acl.files} == {2}, "what changes nothing changes no rev"
    _modify(catalog.dicom_srm, "/biomed/hospital-a/q", _change(2, mallory, 255), shared=True)
    assert _readable(catalog.mallory, site) == [False] * 30


def test_lists_that_are_not_the_callers_to_change_stay_and_are_named(catalog, site):
    srm = catalog.dicom_srm
    own = srm.new_acl(alice="plxg")
    foreign = srm.new_acl(alice="lxg")
    assert srm.mkdir("/biomed/hospital-a/r", acl=own) == [""]
    assert srm.mkdir("/biomed/hospital-a/r/s", acl=foreign) == [""]
    answer = _modify(catalog.alice, "/biomed/hospital-a/r", _change(1, "group:/biomed/neuro", 4))
    assert {item.subtree_acl.acl_id: item.status.reason for item in answer.results} == {own: "", foreign: "ACL_CHANGE_FORBIDDEN"}
    with pytest.raises(Exception) as caught:
        _modify(catalog.mallory, "/biomed/hospital-a/r", _change(1, "authenticated", 4))
    assert caught.value.code().name == "NOT_FOUND"


def test_a_change_that_cannot_be_is_refused_as_a_whole(catalog, site):
    srm = catalog.dicom_srm
    many = [_change(1, f"dn:CN=u{number}", 4) for number in range(100)]
    for start in range(3):
        _modify(srm, "/biomed/hospital-a/q/3", *(_change(1, f"dn:CN=u{start}-{number}", 4) for number in range(100)))
    for changes in (many, [_change(9, "authenticated", 4)], [_change(4, "authenticated", 4)], [*many, many[0]]):
        with pytest.raises(Exception) as caught:
            _modify(srm, "/biomed/hospital-a/q", *changes)
        assert caught.value.code().name == "INVALID_ARGUMENT"
    report, _ = _report(srm, "/biomed/hospital-a/q/4")
    assert set(report) == {"dicom-srm"}


def test_a_list_is_given_to_another_owner_by_its_own(catalog, site):
    owner = _change(4, f"dn:{catalog.alice.dn}", 0)
    lost = _modify(catalog.dicom_srm, "/biomed/hospital-a/q/1", owner)
    assert [item.status.reason for item in lost.results] == ["ACL_CONTROL_LOST"]
    nobody = [_change(1, f"dn:{catalog.dicom_srm.dn}", 3), _change(4, "dn:CN=nobody,O=Inventory", 0)]
    with pytest.raises(Exception) as caught:
        _modify(catalog.dicom_srm, "/biomed/hospital-a/q/1", *nobody)
    assert caught.value.code().name == "INVALID_ARGUMENT"
    answer = _modify(catalog.dicom_srm, "/biomed/hospital-a/q/1", _change(1, f"dn:{catalog.dicom_srm.dn}", 3), owner)
    assert [item.acl.owner for item in answer.results] == [catalog.alice.dn]
    assert catalog.alice.stat("/biomed/hospital-a/q/1/0")[0].entry.owner == catalog.alice.dn


def test_an_auditor_is_told_who_can_read_and_why(catalog, study, site):
    people, answer = _report(catalog.operator, "/biomed/hospital-a")
    assert people == {"alice": (4, ["group:/biomed/neuro"]), "bob": (4, ["group:/biomed/neuro"]), "dicom-srm": (34, ["owner"])}
    assert (answer.files, answer.hidden) == (34, 0)
    file, _ = _report(catalog.operator, f"{BASE}/1/1.dcm")
    assert file == {"alice": (1, ["group:/biomed/neuro"]), "bob": (1, ["group:/biomed/neuro"]), "dicom-srm": (1, ["owner"])}
    assert set(_report(catalog.operator, f"{BASE}/1/1.dcm", 8)[0]) == {"dicom-srm"}


def test_a_report_counts_the_way_and_strangers(catalog, study, new_file):
    srm = catalog.dicom_srm
    public, closed = srm.new_acl(authenticated="rx"), srm.new_acl(_biomed_neuro="lg")
    assert srm.mkdir("/biomed/open", acl=public) == [""]
    assert srm.register(new_file("/biomed/open/f")) == [""]
    assert srm.mkdir("/biomed/open/closed", acl=closed, default=public) == [""]
    assert srm.register(new_file("/biomed/open/closed/g")) == [""]
    people, answer = _report(catalog.operator, "/biomed/open")
    assert (people["authenticated"], people["alice"], answer.files) == ((1, ["authenticated"]), (1, ["authenticated"]), 2)
    assert _readable(catalog.mallory, ["/biomed/open/f", "/biomed/open/closed/g"]) == [True, False]


def test_a_report_agrees_with_what_the_catalog_lets_each_of_them_do(catalog, study, site):
    _modify(catalog.dicom_srm, "/biomed/hospital-a/q/2", _change(1, f"dn:{catalog.alice.dn}", 4 | 16))
    people, _ = _report(catalog.operator, "/biomed/hospital-a/q")
    for name, client in (("alice", catalog.alice), ("bob", catalog.bob), ("mallory", catalog.mallory)):
        assert people.get(name, (0,))[0] == sum(_readable(client, site)), name


def test_reports_are_for_operators_and_who_controls_the_entry(catalog, study, site):
    for client, code in ((catalog.alice, "PERMISSION_DENIED"), (catalog.mallory, "NOT_FOUND")):
        with pytest.raises(Exception) as caught:
            _report(client, BASE)
        assert caught.value.code().name == code
    srm = catalog.dicom_srm
    assert srm.mkdir("/biomed/mixed", acl=srm.new_acl(alice="plxg"), default=srm.new_acl(bob="r")) == [""]
    assert srm.mkdir("/biomed/mixed/d") == [""]
    people, answer = _report(catalog.alice, "/biomed/mixed")
    assert (people, answer.hidden) == ({}, 0)
    with pytest.raises(Exception) as caught:
        _report(catalog.operator, "/biomed/none")
    assert caught.value.code().name == "NOT_FOUND"


def test_a_directory_given_to_nobody_can_still_be_removed(catalog, study):
    srm = catalog.dicom_srm
    assert srm.mkdir("/biomed/hospital-a/gone", acl=srm.new_acl()) == [""]
    keep, give = _change(1, f"dn:{srm.dn}", 3 | 64), _change(4, "dn:CN=never existed,O=MDM Test", 0)
    answer = _modify(srm, "/biomed/hospital-a/gone", keep, give)
    assert [item.acl.owner for item in answer.results] == ["CN=never existed,O=MDM Test"]
    drop = _modify(srm, "/biomed/hospital-a/gone", _change(2, f"dn:{srm.dn}", 255))
    assert [item.status.reason for item in drop.results] == ["ACL_CONTROL_LOST"]
    assert _modify(srm, "/biomed/hospital-a/gone", _change(1, f"dn:{srm.dn}", 255)).results[0].status.code == 0
    removed = srm.catalog.Remove(pb.RemoveRequest(targets=[pb.Target(lfn="/biomed/hospital-a/gone")], recursive=True))
    assert [item.reason for item in removed.statuses] == [""]


def test_one_file_does_not_open_the_others_of_its_study(catalog, study):
    srm, mallory = catalog.dicom_srm, f"dn:{catalog.mallory.dn}"
    change = _change(1, mallory, 4 | 16 | 32 | 64)
    [refused] = _modify(srm, f"{BASE}/1/1.dcm", change).results
    assert (refused.status.reason, refused.subtree_acl.outside) == ("ACL_SHARED", 6)
    assert "guards 6 other objects" in refused.status.message
    [named] = srm.acls.ModifyAcls(acl_pb2.ModifyAclsRequest(ids=[study], changes=[change])).results
    assert named.status.reason == "ACL_SHARED", "by its id it is the same list"
    assert _readable(catalog.mallory, [f"{BASE}/1/1.dcm"]) == [False]
    [whole] = _modify(srm, BASE, change).results
    assert whole.status.code == 0, "the study's directory holds the study's list"


def test_how_many_share_a_list_is_told_only_to_who_controls_it(catalog, study):
    [refused] = _modify(catalog.alice, f"{BASE}/1/1.dcm", _change(1, "authenticated", 4)).results
    assert refused.status.reason == "ACL_CHANGE_FORBIDDEN"
