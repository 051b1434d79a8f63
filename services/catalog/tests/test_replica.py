"""Replicas: adding, changing, counting accesses, removing, listing."""

import pytest
from mdm.catalog.v1 import catalog_pb2 as pb

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study"
FILE = f"{BASE}/1/1.dcm"


def _add(client, *pairs):
    replicas = [pb.NewReplica(file=pb.Target(lfn=lfn), replica=replica) for lfn, replica in pairs]
    return [status.reason for status in client.catalog.AddReplicas(pb.AddReplicasRequest(replicas=replicas)).statuses]


def _change(client, surl, **fields):
    request = pb.ChangeReplicasRequest(changes=[pb.ReplicaChange(surl=surl, **fields)])
    return client.catalog.ChangeReplicas(request).statuses[0].reason


def _remove(client, *surls):
    return [status.reason for status in client.catalog.RemoveReplicas(pb.RemoveReplicasRequest(surls=surls)).statuses]


def _list(client, *targets):
    return [item for answer in client.catalog.ListReplicas(pb.ListReplicasRequest(targets=targets)) for item in answer.results]


def _search(client, **conditions):
    answers = client.catalog.FindReplicas(pb.FindReplicasRequest(**conditions))
    return [(found.lfn, found.replica.surl) for answer in answers for found in answer.replicas]


def test_replicas_are_added_with_every_attribute_and_listed_by_any_name(catalog, study):
    copy = pb.Replica(
        surl="srm://copy:8443/1",
        status=pb.REPLICA_STATUS_POPULATING,
        type=pb.REPLICA_TYPE_SECONDARY,
        set_name="challenge-2026",
    )
    assert _add(catalog.dicom_srm, (FILE, copy), (FILE, copy)) == ["", ""]
    guid = catalog.alice.stat(FILE)[0].entry.guid
    by_name = _list(catalog.alice, pb.Target(lfn=FILE), pb.Target(guid=guid), pb.Target(surl=copy.surl), pb.Target(lfn=BASE), pb.Target())
    assert [item.status.reason for item in by_name] == ["", "", "", "NOT_A_FILE", "TARGET_MISSING"]
    assert by_name[0] == by_name[1] == by_name[2]
    assert (by_name[0].lfn, by_name[0].guid) == (FILE, guid)
    first, second = by_name[0].replicas
    assert (first.type, first.status, first.set_name) == (pb.REPLICA_TYPE_PRIMARY, pb.REPLICA_STATUS_AVAILABLE, "")
    assert (second.host, second.type, second.status, second.set_name) == ("copy", copy.type, copy.status, "challenge-2026")
    assert (second.rev, second.access_count, second.HasField("access_time"), second.HasField("create_time")) == (1, 0, False, True)
    assert list(catalog.alice.resolve(pb.Target(lfn=FILE))[0].surls) == [first.surl], "what is being populated cannot be read"


def test_replicas_change_with_a_matching_rev_and_accesses_are_counted(catalog, study):
    surl = "srm://copy/1"
    assert _add(catalog.dicom_srm, (FILE, pb.Replica(surl=surl, status=pb.REPLICA_STATUS_POPULATING))) == [""]
    assert _change(catalog.dicom_srm, surl, status=pb.REPLICA_STATUS_AVAILABLE, if_rev=1) == ""
    assert _change(catalog.dicom_srm, surl, host="x", if_rev=1) == "REV_CHANGED"
    assert _change(catalog.dicom_srm, surl, type=pb.REPLICA_TYPE_SECONDARY, set_name="s", host="other", accesses=2) == ""
    assert _change(catalog.alice, surl, accesses=3) == "", "who reads may say so"
    assert _change(catalog.alice, surl, set_name="mine", accesses=1) == "PERMISSION_MISSING"
    replica = _list(catalog.alice, pb.Target(surl=surl))[0].replicas[1]
    assert (replica.status, replica.type, replica.set_name, replica.host) == (1, 2, "s", "other")
    assert (replica.access_count, replica.rev, replica.HasField("access_time")) == (5, 3, True)
    assert catalog.alice.stat(FILE)[0].entry.HasField("access_time")
    assert surl in catalog.alice.resolve(pb.Target(lfn=FILE))[0].surls


def test_a_replica_is_for_those_who_may_write_the_file_and_unknown_to_others(catalog, study):
    surl, new = f"srm://hospital-a/{catalog.alice.stat(FILE)[0].entry.guid}", pb.Replica(surl="srm://x/1")
    assert (_add(catalog.alice, (FILE, new)), _add(catalog.mallory, (FILE, new))) == (["PERMISSION_MISSING"], ["ENTRY_NOT_FOUND"])
    assert (_remove(catalog.alice, surl), _remove(catalog.mallory, surl)) == (["PERMISSION_MISSING"], ["ENTRY_NOT_FOUND"])
    assert (_change(catalog.mallory, surl, accesses=1), _change(catalog.mallory, "srm://x/none")) == ("ENTRY_NOT_FOUND",) * 2
    assert [item.status.reason for item in _list(catalog.mallory, pb.Target(lfn=FILE), pb.Target(surl=surl))] == ["ENTRY_NOT_FOUND"] * 2
    assert _search(catalog.mallory, host="hospital-a") == []
    assert len(_search(catalog.alice, host="hospital-a")) == 4


def test_each_item_of_a_batch_fails_by_itself(catalog, study):
    taken = f"srm://hospital-a/{catalog.alice.stat(f'{BASE}/2/1.dcm')[0].entry.guid}"
    pairs = [
        (FILE, pb.Replica(surl="srm://x/1")),
        (FILE, pb.Replica(surl=taken)),
        (BASE, pb.Replica(surl="srm://x/2")),
        (FILE, pb.Replica(surl="no surl")),
        (f"{BASE}/2/1.dcm", pb.Replica(surl="srm://x/1")),
        (FILE, pb.Replica(surl="srm://x/3", status=9)),
        (FILE, pb.Replica(surl="srm://x/3", type=9)),
        (FILE, pb.Replica(surl="srm://x/3", set_name="s" * 256)),
    ]
    assert _add(catalog.dicom_srm, *pairs) == [
        "",
        "SURL_TAKEN",
        "NOT_A_FILE",
        "SURL_INVALID",
        "SURL_TAKEN",
        "REPLICA_STATUS_UNKNOWN",
        "REPLICA_TYPE_UNKNOWN",
        "SET_NAME_INVALID",
    ]
    assert _change(catalog.dicom_srm, "srm://x/1", accesses=-1) == "ACCESSES_INVALID"
    assert _remove(catalog.dicom_srm, "srm://x/1", "srm://x/1", "srm://x/none") == ["", "", "ENTRY_NOT_FOUND"]
    assert _remove(catalog.dicom_srm, "srm://x/1") == ["ENTRY_NOT_FOUND"]


def test_a_file_has_a_hundred_replicas_at_most(catalog, study):
    pairs = [(FILE, pb.Replica(surl=f"srm://x/{number}")) for number in range(100)]
    reasons = _add(catalog.dicom_srm, *pairs)
    assert reasons == [""] * 99 + ["REPLICAS_TOO_MANY"]


def test_sets_and_hosts_are_listed_in_order_and_resumed(catalog, study, new_file):
    replicas = [[pb.Replica(surl=f"srm://many/{number:05}", set_name="big")] for number in range(1500)]
    files = [new_file(f"{BASE}/1/m{number}", replicas=own) for number, own in enumerate(replicas)]
    assert set(catalog.dicom_srm.register(*files)) == {""}
    found = _search(catalog.alice, set_name="big")
    assert [surl for _, surl in found] == [own[0].surl for own in replicas]
    assert found[7][0] == f"{BASE}/1/m7"
    assert _search(catalog.alice, host="many", set_name="big", after="srm://many/01497") == found[1498:]
    assert _search(catalog.alice, host="many", statuses=[pb.REPLICA_STATUS_DELETING]) == []
    assert _search(catalog.alice, host="elsewhere", set_name="big") == []
    with pytest.raises(Exception) as caught:
        _search(catalog.alice)
    assert caught.value.code().name == "INVALID_ARGUMENT"


def test_ten_thousand_replicas_are_added_listed_and_removed_in_one_call_each(catalog, study, new_file):
    files = [new_file(f"{BASE}/1/m{number:05}", replicas=[]) for number in range(10_000)]
    assert set(catalog.dicom_srm.register(*files)) == {""}
    assert set(_add(catalog.dicom_srm, *((file.lfn, pb.Replica(surl=f"srm://x/{file.guid}")) for file in files))) == {""}
    listed = _list(catalog.alice, *(pb.Target(guid=file.guid) for file in files))
    assert [item.replicas[0].surl for item in listed] == [f"srm://x/{file.guid}" for file in files]
    assert set(_remove(catalog.dicom_srm, *(f"srm://x/{file.guid}" for file in files))) == {""}
    with pytest.raises(Exception) as caught:
        _remove(catalog.dicom_srm, *["srm://x/1"] * 10_001)
    assert caught.value.code().name == "INVALID_ARGUMENT"


def test_repeating_a_registration_adds_replicas_only_for_who_may_write_the_file(catalog, study, new_file):
    srm = catalog.dicom_srm
    assert srm.mkdir("/biomed/shared", acl=srm.new_acl(alice="wxl", _biomed_neuro="lx"), default=study) == [""]
    file = new_file("/biomed/shared/f")
    assert srm.register(file) == [""]
    assert catalog.alice.register(file) == [""], "nothing is added"
    file.replicas.add(surl="srm://elsewhere/1")
    assert catalog.alice.register(file) == ["PERMISSION_MISSING"]
    assert len(_list(srm, pb.Target(guid=file.guid))[0].replicas) == 1
    assert srm.register(file) == [""]
    assert len(_list(srm, pb.Target(guid=file.guid))[0].replicas) == 2


def test_registering_a_file_again_does_not_give_it_more_replicas_than_it_may_have(catalog, study):
    guid = catalog.alice.stat(FILE)[0].entry.guid

    def again(first, count):
        replicas = [pb.Replica(surl=f"srm://copy/{number}") for number in range(first, first + count)]
        return catalog.dicom_srm.register(pb.NewFile(lfn=FILE, guid=guid, replicas=replicas))

    assert [again(0, 60), again(60, 40), again(60, 39), again(0, 99)] == [[""], ["REPLICAS_TOO_MANY"], [""], [""]]
