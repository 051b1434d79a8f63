"""What callers can learn of entries they have no rights on: nothing."""

import uuid

import pytest
from mdm.catalog.v1 import catalog_pb2

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study"


def _list_code(client, lfn):
    try:
        client.ls(lfn, recursive=True)
    except Exception as error:
        return error.code().name, error.details()
    return "OK", ""


def _answers(client, lfn):
    """Every way to ask about a path; the answers that could show whether it exists."""
    target = catalog_pb2.Target(lfn=lfn)
    subtree = None
    try:
        client.catalog.ListSubtreeAcls(catalog_pb2.ListSubtreeAclsRequest(target=target))
    except Exception as error:
        subtree = (error.code().name, error.details())
    change = catalog_pb2.SetFileAttributesRequest(attributes=[catalog_pb2.FileAttributes(target=target, size=1)])
    assign = catalog_pb2.AssignAclsRequest(assignments=[catalog_pb2.AclAssignment(target=target, acl_id=str(uuid.uuid4()))])
    return (
        str(client.stat(lfn)),
        str(client.resolve(target)),
        client.remove(lfn),
        client.remove(lfn, recursive=True),
        client.mkdir(lfn),
        client.mkdir(lfn, parents=True),
        client.register(catalog_pb2.NewFile(lfn=lfn, guid=str(uuid.uuid4()))),
        _list_code(client, lfn),
        subtree,
        str(client.catalog.SetFileAttributes(change)),
        str(client.catalog.AssignAcls(assign)),
    )


@pytest.mark.parametrize("name", ["study", "study/1", "study/1/1.dcm"])
def test_hidden_and_absent_are_answered_alike(catalog, study, name):
    existing = _answers(catalog.mallory, f"/biomed/hospital-a/p/{name}")
    absent = _answers(catalog.mallory, f"/biomed/hospital-a/p/{name.replace('study', 'other')}")
    assert existing == absent
    assert "ENTRY_NOT_FOUND" in existing[0]


def test_a_hidden_guid_and_surl_are_answered_as_absent_ones(catalog, study, connection):
    guid = str(connection.execute("SELECT guid FROM entry WHERE kind = 2 LIMIT 1").fetchone()[0])
    answers = catalog.mallory.resolve(
        catalog_pb2.Target(guid=guid),
        catalog_pb2.Target(guid=str(uuid.uuid4())),
        catalog_pb2.Target(surl=f"srm://hospital-a/{guid}"),
        catalog_pb2.Target(surl="srm://hospital-a/none"),
    )
    assert len({str(answer) for answer in answers}) == 1


def test_an_untraversable_directory_bars_the_way_alike_whatever_lies_beyond(catalog, study):
    srm = catalog.dicom_srm
    shown, hidden = srm.new_acl(alice="lg"), srm.new_acl()
    assert srm.mkdir(f"{BASE}/shown", acl=shown) == srm.mkdir("/biomed/hidden", acl=hidden) == [""]
    assert srm.mkdir(f"{BASE}/shown/a", "/biomed/hidden/a", acl=srm.new_acl(alice="rwxlg")) == ["", ""]
    assert srm.mkdir(f"{BASE}/shown/a/deep") == [""]
    reasons = [result.status.reason for result in catalog.alice.stat(f"{BASE}/shown/a", f"{BASE}/shown/none", f"{BASE}/shown/a/deep")]
    assert reasons == ["TRAVERSE_FORBIDDEN"] * 3
    # Alice may list /biomed, so that it holds `hidden` is no secret to her; to mallory it is.
    reasons = [result.status.reason for result in catalog.alice.stat("/biomed/hidden/a", "/biomed/hidden/none")]
    assert reasons == ["TRAVERSE_FORBIDDEN"] * 2
    reasons = [result.status.reason for result in catalog.mallory.stat("/biomed/hidden/a", "/biomed/hidden/none", "/biomed/none/a")]
    assert reasons == ["ENTRY_NOT_FOUND"] * 3
    assert catalog.alice.ls(BASE, recursive=True)[-2:] == [f"{BASE}/shown", f"{BASE}/shown/a"]


def test_a_visible_entry_without_the_right_is_forbidden(catalog, study):
    lfn = f"{BASE}/1/1.dcm"
    [acl] = {result.entry.acl_id for result in catalog.alice.stat(lfn)}
    reader = catalog.bob
    assert reader.resolve(catalog_pb2.Target(lfn=lfn))[0].status.code == 0
    assert reader.remove(lfn) == ["PERMISSION_MISSING"]
    assert reader.mkdir(f"{BASE}/new") == ["WRITE_FORBIDDEN"]
    assert reader.mkdir(BASE, parents=True) == [""]
    assert acl == study


def test_a_listing_skips_what_may_not_be_listed_and_goes_on(catalog, study):
    srm = catalog.dicom_srm
    assert srm.mkdir(f"{BASE}/15", acl=srm.new_acl(alice="g")) == [""]
    assert srm.mkdir(f"{BASE}/15/inside") == [""]
    order = [f"{BASE}/{name}" for name in ("1", "1/1.dcm", "1/2.dcm", "15", "2", "2/1.dcm", "2/2.dcm")]
    assert catalog.alice.ls(BASE, recursive=True) == order
    assert catalog.alice.ls(BASE, recursive=True, after=f"{BASE}/15/aaa") == order[4:]
    assert _list_code(catalog.alice, f"{BASE}/15")[0] == "PERMISSION_DENIED"
    assert _list_code(catalog.mallory, BASE)[0] == "NOT_FOUND"


def test_somebody_elses_acl_cannot_be_put_on_ones_own_entries(catalog, study):
    theirs = catalog.alice.new_acl(dicom_srm="lxg")
    assert catalog.dicom_srm.mkdir(f"{BASE}/x", acl=theirs) == ["ACL_NOT_FOUND"]
    assert catalog.dicom_srm.mkdir(f"{BASE}/x", default=theirs) == ["ACL_NOT_FOUND"]
    file = catalog_pb2.NewFile(lfn=f"{BASE}/1/x", guid=str(uuid.uuid4()), acl_id=theirs)
    assert catalog.dicom_srm.register(file) == ["ACL_NOT_FOUND"]


def test_a_user_writes_only_where_allowed(catalog, study, new_file):
    assert catalog.alice.mkdir("/mine") == ["WRITE_FORBIDDEN"]
    assert catalog.alice.register(new_file(f"{BASE}/1/mine")) == ["WRITE_FORBIDDEN"]
    assert catalog.mallory.register(new_file(f"{BASE}/1/mine")) == ["ENTRY_NOT_FOUND"]
    assert catalog.dicom_srm.mkdir("/biomed/scratch", acl=catalog.dicom_srm.new_acl(alice="wxl")) == [""]
    assert catalog.alice.register(new_file("/biomed/scratch/mine")) == [""]


def test_the_operator_owns_the_root(catalog):
    assert catalog.operator.mkdir("/vo") == [""]
    assert catalog.operator.stat("/")[0].entry.permissions == 255
    assert catalog.alice.stat("/")[0].entry.permissions == 16


def test_listing_a_link_does_not_tell_whether_what_it_leads_to_is_hidden_or_absent(catalog, study):
    srm = catalog.dicom_srm
    assert srm.mkdir("/biomed/public", acl=srm.new_acl(mallory="wlxg")) == [""]
    links = [("hidden", BASE), ("file", f"{BASE}/1/1.dcm"), ("absent", f"{BASE}-none")]
    new = [catalog_pb2.NewLink(lfn=f"/biomed/public/{name}", target=target) for name, target in links]
    answer = catalog.mallory.catalog.MakeLinks(catalog_pb2.MakeLinksRequest(links=new))
    assert [status.reason for status in answer.statuses] == [""] * 3
    assert [catalog.mallory.ls(link.lfn) for link in new] == [[link.lfn] for link in new]
