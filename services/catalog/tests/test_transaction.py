"""Operations of any kind that apply wholly or not at all."""

import uuid

import pytest
from mdm.catalog.v1 import catalog_pb2 as pb

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study"


def _apply(client, *operations):
    answer = client.catalog.Apply(pb.ApplyRequest(operations=operations))
    return answer.status.reason, answer.failed


def _lfn(path):
    return pb.Target(lfn=f"{BASE}/{path}")


def _every_kind(new_file, acl):
    """One operation of each kind, each relying on those before."""
    guid = str(uuid.uuid4())
    return [
        pb.Operation(make_directory=pb.NewDirectory(lfn=f"{BASE}/new")),
        pb.Operation(make_directory=pb.NewDirectory(lfn=f"{BASE}/new/deep")),
        pb.Operation(register_file=new_file(f"{BASE}/new/deep/f", guid)),
        pb.Operation(make_link=pb.NewLink(lfn=f"{BASE}/l", target="new/deep")),
        pb.Operation(set_attributes=pb.FileAttributes(target=_lfn("l/f"), size=7, if_rev=1)),
        pb.Operation(set_attributes=pb.FileAttributes(target=_lfn("l/f"), comment="twice", if_rev=2)),
        pb.Operation(add_replica=pb.NewReplica(file=_lfn("l/f"), replica=pb.Replica(surl=f"srm://copy/{guid}"))),
        pb.Operation(change_replica=pb.ReplicaChange(surl=f"srm://copy/{guid}", set_name="s")),
        pb.Operation(remove_replica=f"srm://hospital-a/{guid}"),
        pb.Operation(assign_acl=pb.AclAssignment(target=_lfn("new"), acl_id=acl)),
        pb.Operation(rename=pb.Renaming(source=_lfn("new/deep/f"), lfn=f"{BASE}/2/f")),
        pb.Operation(remove=pb.Removal(target=_lfn("l"))),
        pb.Operation(remove=pb.Removal(target=_lfn("new"), recursive=True)),
    ]


def test_operations_of_every_kind_apply_together(catalog, study, new_file):
    operations = _every_kind(new_file, study)
    assert _apply(catalog.dicom_srm, *operations) == ("", 0)
    [result] = catalog.alice.stat(f"{BASE}/2/f", replicas=True)
    assert (result.entry.size, result.entry.comment, result.entry.rev) == (7, "twice", 4)
    assert [replica.set_name for replica in result.entry.replicas] == ["s"]
    assert catalog.alice.ls(BASE) == [f"{BASE}/1", f"{BASE}/2"]


def test_whichever_operation_fails_it_is_named_and_nothing_is_done(catalog, study, new_file):
    operations = _every_kind(new_file, study)
    before = catalog.alice.ls(BASE, recursive=True)
    failing = pb.Operation(remove=pb.Removal(target=_lfn("absent")))
    for index in range(len(operations) + 1):
        assert _apply(catalog.dicom_srm, *operations[:index], failing, *operations[index:]) == ("ENTRY_NOT_FOUND", index)
        assert catalog.alice.ls(BASE, recursive=True) == before
    assert _apply(catalog.dicom_srm, *operations[:3], pb.Operation()) == ("OPERATION_MISSING", 3)
    assert _apply(catalog.dicom_srm, *operations[:1], *operations[:1]) == ("LFN_TAKEN", 1)
    assert _apply(catalog.alice, *operations) == ("WRITE_FORBIDDEN", 0)
    assert catalog.alice.ls(BASE, recursive=True) == before


def test_an_item_in_the_middle_of_a_batch_of_one_kind_is_named(catalog, study, new_file):
    files = [pb.Operation(register_file=new_file(f"{BASE}/1/n{number}")) for number in range(100)]
    files[57].register_file.lfn = f"{BASE}/1/1.dcm"
    assert _apply(catalog.dicom_srm, *files) == ("LFN_TAKEN", 57)
    assert catalog.alice.ls(f"{BASE}/1") == [f"{BASE}/1/1.dcm", f"{BASE}/1/2.dcm"]


def test_a_swap_of_two_names_is_one_transaction(catalog, study):
    one, two = (result.entry.guid for result in catalog.alice.stat(f"{BASE}/1/1.dcm", f"{BASE}/2/1.dcm"))
    steps = [("1/1.dcm", "tmp"), ("2/1.dcm", "1/1.dcm"), ("tmp", "2/1.dcm")]
    renamings = [pb.Operation(rename=pb.Renaming(source=_lfn(old), lfn=f"{BASE}/{new}")) for old, new in steps]
    assert _apply(catalog.dicom_srm, *renamings) == ("", 0)
    assert [result.entry.guid for result in catalog.alice.stat(f"{BASE}/1/1.dcm", f"{BASE}/2/1.dcm")] == [two, one]


def test_too_many_operations_are_refused(catalog, study):
    link = pb.Operation(make_link=pb.NewLink(lfn=f"{BASE}/l", target="1"))
    rename = pb.Operation(rename=pb.Renaming(source=_lfn("1"), lfn=f"{BASE}/1"))
    for operations in ([link] * 10_001, [rename] * 1_001):
        with pytest.raises(Exception) as caught:
            _apply(catalog.dicom_srm, *operations)
        assert caught.value.code().name == "INVALID_ARGUMENT"
