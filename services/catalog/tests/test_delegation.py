"""A job at the catalog: it sees the paths of its token and what is below them, reads under the lists of its token, changes nothing."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.delegation.v1 import delegation_pb2, delegation_pb2_grpc
from mdm_testing.delegation import token_for
from mdm_wire.delegation import METADATA_KEY, Delegation
from mdm_wire.path import Lfn
from mdm_wire.permission import Permission, format_permissions
from mdm_wire.tls import secure_channel

from .conftest import Client

pytestmark = pytest.mark.integration
STUDY = "/biomed/hospital-a/p/study"


@pytest.fixture
def job(catalog, pki) -> Iterator:
    """Return a function that opens the catalog as a job of alice's with a token for paths and lists."""
    with ExitStack() as stack:

        def opened(paths, acls, delegation_id="") -> Client:
            job, alice = (pki.issue(pki.subject(name), name=name) for name in ("job", "alice"))
            token = token_for(job, alice, paths, acls, delegation_id)
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(secure_channel(catalog.address, job, options, (METADATA_KEY, lambda: token)))
            return Client(
                pki.subject("job"), catalog_pb2_grpc.CatalogServiceStub(channel), delegation_pb2_grpc.DelegationServiceStub(channel)
            )

        yield opened


def reasons(results) -> list[str]:
    return [result.status.reason for result in results]


def test_a_job_sees_its_path_and_below_and_not_a_name_that_begins_alike(catalog, study, job, new_file):
    assert catalog.dicom_srm.mkdir(f"{STUDY}/11") == [""]
    assert catalog.dicom_srm.register(new_file(f"{STUDY}/11/1.dcm")) == [""]
    one = job([f"{STUDY}/1"], [study])
    assert one.ls(f"{STUDY}/1") == [f"{STUDY}/1/1.dcm", f"{STUDY}/1/2.dcm"]
    seen = one.stat(f"{STUDY}/1", f"{STUDY}/1/1.dcm", f"{STUDY}/2/1.dcm", f"{STUDY}/11/1.dcm", STUDY, "/biomed", "/", f"{STUDY}/none")
    assert reasons(seen) == ["", "", *["ENTRY_NOT_FOUND"] * 6]
    assert format_permissions(seen[1].entry.permissions) == "rlxg"
    for lfn in (STUDY, "/biomed", f"{STUDY}/2"):
        with pytest.raises(grpc.RpcError) as refusal:
            one.ls(lfn)
        assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


def test_guids_and_surls_outside_the_path_look_absent(catalog, study, job, connection):
    inside, outside = _by_series(connection)
    one = job([f"{STUDY}/1"], [study])
    targets = [catalog_pb2.Target(guid=guid) for guid in (*inside, *outside, str(uuid.uuid4()))]
    assert reasons(one.resolve(*targets)) == ["", "", *["ENTRY_NOT_FOUND"] * 3]
    assert reasons(one.resolve(catalog_pb2.Target(surl=f"srm://hospital-a/{outside[0]}"))) == ["ENTRY_NOT_FOUND"]


def _by_series(connection) -> tuple[list[str], list[str]]:
    rows = connection.execute("SELECT e.guid, p.name FROM entry e JOIN entry p ON p.id = e.parent_id WHERE e.kind = 2").fetchall()
    return [str(guid) for guid, name in rows if name == "1"], [str(guid) for guid, name in rows if name == "2"]


def test_under_a_list_that_the_token_leaves_out_names_are_seen_and_nothing_is_read(catalog, study, job, connection):
    one = job([f"{STUDY}/1"], [str(uuid.uuid4())])
    inside, _ = _by_series(connection)
    assert len(one.ls(f"{STUDY}/1")) == 2
    assert reasons(one.resolve(catalog_pb2.Target(guid=inside[0]))) == ["PERMISSION_MISSING"]


def test_a_token_gives_no_more_than_its_user_has(catalog, study, job):
    closed = catalog.dicom_srm.new_acl()
    assert catalog.dicom_srm.mkdir("/biomed/hospital-a/closed", acl=closed) == [""]
    one = job(["/biomed/hospital-a/closed", "/"], [closed, study])
    assert reasons(one.stat("/biomed/hospital-a/closed")) == reasons(catalog.alice.stat("/biomed/hospital-a/closed"))
    assert reasons(one.stat(f"{STUDY}/1")) == [""]


def test_a_job_changes_nothing_and_asks_nothing_but_reading(catalog, study, job):
    one = job([f"{STUDY}/1"], [study])
    target = catalog_pb2.Target(lfn=f"{STUDY}/1")
    calls = (
        lambda: one.mkdir(f"{STUDY}/1/x"),
        lambda: one.remove(f"{STUDY}/1/1.dcm"),
        lambda: one.catalog.ListSubtreeAcls(catalog_pb2.ListSubtreeAclsRequest(target=target)),
        lambda: one.catalog.CheckAccess(catalog_pb2.CheckAccessRequest(subject=one.dn, targets=[target], permissions=4)),
        lambda: list(one.catalog.GetUsage(catalog_pb2.GetUsageRequest(lfn=f"{STUDY}/1"))),
        lambda: one.acls.RevokeDelegation(delegation_pb2.RevokeDelegationRequest(id="A" * 24)),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as refusal:
            call()
        assert refusal.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_dicom_srm_asks_for_a_job_and_hears_what_the_job_may(catalog, study, job, connection):
    inside, outside = _by_series(connection)
    made = Delegation(catalog.alice.dn, "CN=job,O=MDM Test", "B" * 24, 4_000_000_000, (Lfn(f"{STUDY}/1"),))
    targets = [catalog_pb2.Target(guid=guid) for guid in (inside[0], outside[0])]
    request = catalog_pb2.CheckAccessRequest(subject=made.subject, targets=targets, permissions=int(Permission.READ))
    assert reasons(catalog.dicom_srm.catalog.CheckAccess(request).results) == ["", "ENTRY_NOT_FOUND"]
    request.subject = made.subject.replace('"expires":4000000000', '"expires":1')
    assert set(reasons(catalog.dicom_srm.catalog.CheckAccess(request).results)) == {"DELEGATION_EXPIRED"}
    request.subject = "delegation:{}"
    with pytest.raises(grpc.RpcError) as refusal:
        catalog.dicom_srm.catalog.CheckAccess(request)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_only_its_user_revokes_a_token_and_two_tokens_are_none(catalog, study, job, pki):
    one = job([f"{STUDY}/1"], [study], "C" * 24)
    request = delegation_pb2.RevokeDelegationRequest(id="C" * 24)
    for name, after in (("mallory", ""), ("alice", "DELEGATION_REVOKED")):
        with secure_channel(catalog.address, pki.issue(pki.subject(name), name=f"{name}-2")) as opened:
            for _ in range(2):
                delegation_pb2_grpc.DelegationServiceStub(opened).RevokeDelegation(request)
        try:
            found = reasons(one.stat(f"{STUDY}/1"))[0]
        except grpc.RpcError as error:
            found = "DELEGATION_REVOKED" if "revoked" in error.details() else error.details()
        assert found == after
    fresh = job([f"{STUDY}/1"], [study])
    with pytest.raises(grpc.RpcError) as refusal:
        fresh.catalog.Stat(catalog_pb2.StatRequest(), metadata=((METADATA_KEY, "another"),))
    assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
