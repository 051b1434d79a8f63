"""Bad input gives one clear error where it stands, and nothing else fails."""

import uuid

import grpc
import pytest
from mdm.catalog.v1 import catalog_pb2

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study/1"


def test_a_bad_item_fails_alone(catalog, study, new_file):
    bad = [
        new_file("relative"),
        new_file(f"{BASE}/../x"),
        new_file("/" + "x" * 1999),
        new_file(f"{BASE}/a\x00b"),
        new_file(f"{BASE}/e\u0301"),
        new_file(f"{BASE}/x", "not-a-guid"),
        new_file(f"{BASE}/x", size=-1),
        new_file(f"{BASE}/x", sha256=b"short"),
        new_file(f"{BASE}/x", comment="c" * 256),
        new_file(f"{BASE}/x", acl_id="acl"),
        new_file(f"{BASE}/x", acl_id=str(uuid.uuid4())),
        new_file(f"{BASE}/x", replicas=[catalog_pb2.Replica(surl="nowhere")]),
        new_file(f"{BASE}/x", replicas=[catalog_pb2.Replica(surl="srm://h/x", status=9)]),
    ]
    answer = catalog.dicom_srm.catalog.RegisterFiles(catalog_pb2.RegisterFilesRequest(files=[*bad, new_file(f"{BASE}/good")]))
    assert [status.reason for status in answer.statuses] == [
        *["LFN_INVALID"] * 5,
        "GUID_INVALID",
        "SIZE_INVALID",
        "SHA256_INVALID",
        "COMMENT_INVALID",
        "ACL_ID_INVALID",
        "ACL_NOT_FOUND",
        "SURL_INVALID",
        "REPLICA_STATUS_UNKNOWN",
        "",
    ]
    assert {status.code for status in answer.statuses[:10]} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert all("\n" not in status.message for status in answer.statuses)
    assert catalog.alice.ls(BASE)[-1] == f"{BASE}/good"


def test_a_target_needs_a_name(catalog):
    results = catalog.alice.resolve(
        catalog_pb2.Target(), catalog_pb2.Target(guid="x"), catalog_pb2.Target(surl="x"), catalog_pb2.Target(lfn="/..")
    )
    assert [result.status.reason for result in results] == ["TARGET_MISSING", "GUID_INVALID", "SURL_INVALID", "LFN_INVALID"]


def test_a_directory_is_not_resolved_as_a_file(catalog, study):
    [result] = catalog.alice.resolve(catalog_pb2.Target(lfn=BASE))
    assert (result.status.code, result.status.reason) == (3, "NOT_A_FILE")


def test_a_batch_holds_at_most_ten_thousand(catalog, new_file):
    targets = [catalog_pb2.Target(lfn="/a")] * 10_001
    stub = catalog.dicom_srm.catalog
    for call in (
        lambda: stub.Resolve(catalog_pb2.ResolveRequest(targets=targets)),
        lambda: stub.Stat(catalog_pb2.StatRequest(targets=targets)),
        lambda: stub.Remove(catalog_pb2.RemoveRequest(targets=targets)),
        lambda: stub.CheckAccess(catalog_pb2.CheckAccessRequest(subject="CN=a", targets=targets, permissions=4)),
        lambda: stub.RegisterFiles(catalog_pb2.RegisterFilesRequest(files=[new_file("/a")] * 10_001)),
        lambda: stub.MakeDirectories(catalog_pb2.MakeDirectoriesRequest(directories=[catalog_pb2.NewDirectory(lfn="/a")] * 10_001)),
        lambda: catalog.dicom_srm.mkdir(
            *(f"/biomed{'/d' * 400}{number}" for number in range(30)), *(f"/{n}" + "/x" * 500 for n in range(30)), parents=True
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "10,000" in caught.value.details()


def test_empty_batches_are_fine(catalog):
    assert catalog.alice.stat() == catalog.alice.resolve() == catalog.alice.mkdir() == catalog.alice.register() == []


@pytest.mark.parametrize("after", ["/biomed", "/other", "/biomed/hospital-a/p/study/10"])
def test_a_listing_resumes_only_below_its_start(catalog, study, after):
    with pytest.raises(grpc.RpcError) as caught:
        catalog.alice.ls(BASE, after=after)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_deepest_path_is_made_listed_and_removed(catalog, study):
    deep = "/biomed/hospital-a" + "/d" * 502
    assert len(deep) < 1023
    assert catalog.dicom_srm.mkdir(deep, parents=True) == [""]
    assert catalog.dicom_srm.ls("/biomed/hospital-a/d", recursive=True)[-1] == deep
    assert catalog.dicom_srm.remove("/biomed/hospital-a/d", recursive=True) == [""]
