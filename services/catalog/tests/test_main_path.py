"""What users and dicom-srm do every day, over mutual TLS against PostgreSQL."""

import uuid

import pytest
from mdm.catalog.v1 import catalog_pb2

pytestmark = pytest.mark.integration


def test_a_registered_file_is_resolved_for_those_who_may_read_it(catalog, study, new_file):
    file = new_file("/biomed/hospital-a/p/study/1/3.dcm", size=7, sha256=b"d" * 32, comment="a comment")
    assert catalog.dicom_srm.register(file) == [""]
    for target in (
        catalog_pb2.Target(lfn=file.lfn),
        catalog_pb2.Target(guid=file.guid),
        catalog_pb2.Target(surl=file.replicas[0].surl),
    ):
        [result] = catalog.alice.resolve(target)
        assert (result.status.code, result.guid, result.lfn, list(result.surls), result.size) == (
            0,
            file.guid,
            file.lfn,
            [file.replicas[0].surl],
            7,
        )
        [refused] = catalog.mallory.resolve(target)
        assert (refused.status.code, refused.status.reason, refused.guid) == (5, "ENTRY_NOT_FOUND", "")


def test_stat_shows_every_attribute(catalog, study, new_file):
    file = new_file("/biomed/hospital-a/p/study/1/3.dcm", size=0, sha256=b"d" * 32, comment="a comment")
    catalog.dicom_srm.register(file)
    [result] = catalog.alice.stat(file.lfn, replicas=True)
    entry = result.entry
    assert (entry.lfn, entry.kind, entry.guid, entry.size, entry.sha256, entry.comment) == (
        file.lfn,
        catalog_pb2.ENTRY_KIND_FILE,
        file.guid,
        0,
        b"d" * 32,
        "a comment",
    )
    assert (entry.owner, entry.acl_id, entry.default_acl_id, entry.rev) == (catalog.dicom_srm.dn, study, "", 1)
    assert entry.HasField("size") and entry.create_time.seconds > 0
    assert entry.permissions == 4 + 16 + 32 + 64
    assert [(replica.surl, replica.status, replica.host) for replica in entry.replicas] == [
        (file.replicas[0].surl, catalog_pb2.REPLICA_STATUS_AVAILABLE, "hospital-a")
    ]


def test_what_is_below_a_study_refers_to_its_acl(catalog, study, connection):
    rows = connection.execute("SELECT kind, count(*) FROM entry WHERE acl_id = %s GROUP BY kind ORDER BY kind", (study,)).fetchall()
    assert rows == [(1, 3), (2, 4)]
    assert catalog.alice.stat("/biomed/hospital-a/p/study/1")[0].entry.default_acl_id == study


def test_a_listing_is_depth_first_by_bytes_of_name_and_resumes_anywhere(catalog, study):
    srm = catalog.dicom_srm
    assert srm.mkdir("/biomed/hospital-a/p/study/1-b", "/biomed/hospital-a/p/study/é", "/biomed/hospital-a/p/study/1/Z") == [""] * 3
    base = "/biomed/hospital-a/p/study"
    order = [f"{base}/{name}" for name in ("1", "1/1.dcm", "1/2.dcm", "1/Z", "1-b", "2", "2/1.dcm", "2/2.dcm", "é")]
    assert catalog.alice.ls(base) == [order[0], order[4], order[5], order[8]]
    assert catalog.alice.ls(base, recursive=True) == order
    for index, path in enumerate(order):
        assert catalog.alice.ls(base, recursive=True, after=path) == order[index + 1 :]
    assert catalog.alice.ls(base, recursive=True, after=f"{base}/1/1.dcm/gone") == order[2:]
    assert catalog.alice.ls(base, after=f"{base}/1/2.dcm") == [order[4], order[5], order[8]]
    assert catalog.alice.ls(base, recursive=True, after=base) == order
    assert catalog.alice.ls(f"{base}/1/1.dcm") == [f"{base}/1/1.dcm"]
    assert catalog.alice.ls(f"{base}/1/1.dcm", after=f"{base}/1/1.dcm") == []


def test_a_long_listing_comes_in_batches(catalog, study, new_file):
    base = "/biomed/hospital-a/p/study/1"
    files = [new_file(f"{base}/n{number:05}") for number in range(2500)]
    assert set(catalog.dicom_srm.register(*files)) == {""}
    batches = list(catalog.alice.catalog.List(catalog_pb2.ListRequest(lfn=base, with_replicas=True)))
    assert [len(batch.entries) for batch in batches] == [1000, 1000, 502]
    assert all(len(entry.replicas) == 1 for batch in batches for entry in batch.entries)
    assert catalog.alice.ls(base, after=f"{base}/n02498") == [f"{base}/n02499"]


def test_repeating_a_registration_succeeds_and_adds_missing_replicas(catalog, study, new_file):
    file = new_file("/biomed/hospital-a/p/study/1/3.dcm")
    assert catalog.dicom_srm.register(file, file) == ["", ""]
    file.replicas.add(surl="srm://second/copy", status=catalog_pb2.REPLICA_STATUS_POPULATING)
    assert catalog.dicom_srm.register(file) == [""]
    [result] = catalog.alice.stat(file.lfn, replicas=True)
    assert [replica.surl for replica in result.entry.replicas] == [file.replicas[0].surl, "srm://second/copy"]
    [resolved] = catalog.alice.resolve(catalog_pb2.Target(lfn=file.lfn))
    assert list(resolved.surls) == [file.replicas[0].surl]


def test_a_taken_name_guid_or_surl_fails_its_item_only(catalog, study, new_file):
    base = "/biomed/hospital-a/p/study/1"
    guid, taken = str(uuid.uuid4()), new_file(f"{base}/t")
    assert catalog.dicom_srm.register(taken) == [""]
    reasons = catalog.dicom_srm.register(
        new_file(f"{base}/a", guid),
        new_file(f"{base}/t"),
        new_file(f"{base}/b", taken.guid),
        new_file(f"{base}/c", replicas=taken.replicas),
        new_file(f"{base}/d", guid, replicas=[]),
        new_file(f"{base}", replicas=[]),
        new_file("/biomed/hospital-a/none/e"),
        new_file("/"),
        new_file(f"{base}/f"),
    )
    assert reasons == ["", "LFN_TAKEN", "GUID_TAKEN", "SURL_TAKEN", "GUID_TAKEN", "LFN_TAKEN", "ENTRY_NOT_FOUND", "LFN_TAKEN", ""]
    assert catalog.alice.ls(base) == [f"{base}/{name}" for name in ("1.dcm", "2.dcm", "a", "f", "t")]


def test_attributes_change_with_a_matching_rev_only(catalog, study):
    lfn = "/biomed/hospital-a/p/study/1/1.dcm"
    target = catalog_pb2.Target(lfn=lfn)

    def change(client, **fields):
        request = catalog_pb2.SetFileAttributesRequest(attributes=[catalog_pb2.FileAttributes(target=target, **fields)])
        return client.catalog.SetFileAttributes(request).statuses[0]

    assert change(catalog.dicom_srm, size=5, sha256=b"s" * 32, comment="c", if_rev=1).code == 0
    assert change(catalog.dicom_srm, size=6, if_rev=1).reason == "REV_CHANGED"
    assert change(catalog.dicom_srm, comment="", if_rev=2).code == 0
    assert change(catalog.alice, size=6).code == 7
    assert change(catalog.mallory, size=6).code == 5
    [result] = catalog.alice.stat(lfn)
    assert (result.entry.size, result.entry.sha256, result.entry.comment, result.entry.rev) == (5, b"s" * 32, "", 3)
    both = [
        catalog_pb2.FileAttributes(target=target, size=1),
        catalog_pb2.FileAttributes(target=catalog_pb2.Target(guid=result.entry.guid)),
    ]
    answer = catalog.dicom_srm.catalog.SetFileAttributes(catalog_pb2.SetFileAttributesRequest(attributes=both))
    assert [status.reason for status in answer.statuses] == ["", "ENTRY_TWICE"]


def test_check_access_uses_the_catalogs_own_groups_and_is_for_services_only(catalog, study, connection):
    guid = str(connection.execute("SELECT guid FROM entry WHERE kind = 2 LIMIT 1").fetchone()[0])

    def check(client, subject, bits, **target):
        request = catalog_pb2.CheckAccessRequest(
            subject=subject, targets=[catalog_pb2.Target(**(target or {"guid": guid}))], permissions=bits
        )
        return client.catalog.CheckAccess(request).results[0]

    srm = catalog.dicom_srm
    assert check(srm, catalog.alice.dn, 4).guid == guid
    assert check(srm, catalog.alice.dn, 4, surl=f"srm://hospital-a/{guid}").status.code == 0
    assert check(srm, catalog.alice.dn, 4 | 2).status.code == 7
    assert check(srm, catalog.mallory.dn, 4).status.code == 5
    assert check(srm, catalog.alice.dn, 4, guid=str(uuid.uuid4())).status.code == 5
    for request, code in (
        (lambda: check(catalog.alice, catalog.alice.dn, 4), "PERMISSION_DENIED"),
        (lambda: check(srm, "nobody", 4), "INVALID_ARGUMENT"),
        (lambda: check(srm, catalog.alice.dn, 0), "INVALID_ARGUMENT"),
        (lambda: check(srm, catalog.alice.dn, 256), "INVALID_ARGUMENT"),
    ):
        with pytest.raises(Exception) as caught:
            request()
        assert caught.value.code().name == code


def test_a_service_sees_names_as_a_subject_would_see_them(catalog, study):
    srm, base = catalog.dicom_srm.catalog, "/biomed/hospital-a/p/study/1"

    def stat(subject):
        targets = [catalog_pb2.Target(lfn=lfn) for lfn in (f"{base}/1.dcm", base, f"{base}/none")]
        return srm.StatFor(catalog_pb2.StatForRequest(subject=subject, targets=targets)).results

    def listing(subject, **options):
        answers = srm.ListFor(catalog_pb2.ListForRequest(subject=subject, **({"lfn": "/biomed/hospital-a"} | options)))
        return [entry.lfn for answer in answers for entry in answer.entries]

    mine = catalog.alice.stat(f"{base}/1.dcm", base, f"{base}/none")
    assert list(stat(catalog.alice.dn)) == mine
    assert [result.status.code for result in stat(catalog.mallory.dn)] == [5, 5, 5]
    assert listing(catalog.alice.dn) == catalog.alice.ls("/biomed/hospital-a", recursive=True)
    assert listing(catalog.alice.dn, levels=1) == catalog.alice.ls("/biomed/hospital-a")
    assert listing(catalog.alice.dn, limit=2) == listing(catalog.alice.dn)[:2]
    after = listing(catalog.alice.dn)[2]
    assert listing(catalog.alice.dn, after=after) == listing(catalog.alice.dn)[3:]
    for request, code in (
        (lambda: listing(catalog.mallory.dn), "NOT_FOUND"),
        (lambda: listing("nobody"), "INVALID_ARGUMENT"),
        (lambda: listing(catalog.alice.dn, levels=-1), "INVALID_ARGUMENT"),
        (lambda: listing(catalog.alice.dn, limit=100_001), "INVALID_ARGUMENT"),
        (lambda: stat("nobody"), "INVALID_ARGUMENT"),
        (lambda: catalog.alice.catalog.StatFor(catalog_pb2.StatForRequest(subject=catalog.alice.dn)), "PERMISSION_DENIED"),
        (lambda: list(catalog.alice.catalog.ListFor(catalog_pb2.ListForRequest(subject=catalog.alice.dn))), "PERMISSION_DENIED"),
    ):
        with pytest.raises(Exception) as caught:
            request()
        assert caught.value.code().name == code


def test_directories_are_made_with_their_parents_and_inherit(catalog, study):
    srm = catalog.dicom_srm
    deep = "/biomed/hospital-a/q/r/s"
    assert srm.mkdir(deep) == ["ENTRY_NOT_FOUND"]
    assert srm.mkdir(deep, deep, parents=True) == ["", ""]
    assert srm.mkdir(deep) == ["LFN_TAKEN"]
    assert srm.mkdir(deep, "/biomed/hospital-a/q", "/", parents=True) == ["", "", ""]
    assert srm.mkdir("/biomed/hospital-a/t/u", "/biomed/hospital-a/t", "/biomed/hospital-a/t") == ["", "", "LFN_TAKEN"]
    assert srm.mkdir("/biomed/hospital-a/t", "/biomed/hospital-a/t/v", "/biomed/none/w", "/biomed/none") == ["LFN_TAKEN", "", "", ""]
    acls = {result.entry.acl_id for result in srm.stat("/biomed/hospital-a", deep, "/biomed/hospital-a/t/u")}
    assert len(acls) == 1
    own, default = srm.new_acl(alice="lxg"), srm.new_acl(alice="g")
    assert srm.mkdir("/biomed/v/w/x", acl=own, default=default, parents=True) == [""]
    assert srm.mkdir("/biomed/v/w/x/y") == [""]
    shown = [(result.entry.acl_id, result.entry.default_acl_id) for result in srm.stat("/biomed/v/w/x", "/biomed/v/w/x/y")]
    assert shown == [(own, default), (default, default)]
    assert srm.mkdir("/biomed/hospital-a/p/study/1/1.dcm", "/biomed/hospital-a/p/study/1/1.dcm/below", parents=True) == [
        "LFN_TAKEN",
        "LFN_TAKEN",
    ]


def test_removal_asks_for_rights_on_everything_and_is_atomic(catalog, study, new_file, connection):
    srm, base = catalog.dicom_srm, "/biomed/hospital-a/p/study"
    assert srm.remove(base, f"{base}/1") == ["DIRECTORY_NOT_EMPTY", "DIRECTORY_NOT_EMPTY"]
    assert catalog.alice.remove(f"{base}/1/1.dcm") == ["PERMISSION_MISSING"]
    assert catalog.mallory.remove(f"{base}/1/1.dcm") == ["ENTRY_NOT_FOUND"]
    assert srm.remove("/") == ["ROOT_FIXED"]
    foreign = catalog.alice.new_acl()
    connection.execute(
        "UPDATE entry SET acl_id = %s WHERE name = '2.dcm' AND parent_id = (SELECT id FROM entry WHERE name = '2')", (foreign,)
    )
    connection.commit()
    assert srm.remove(base, recursive=True) == ["REMOVAL_FORBIDDEN"]
    assert len(srm.ls(base, recursive=True)) == 6
    assert srm.remove(f"{base}/1", f"{base}/1/2.dcm", f"{base}/1/1.dcm") == ["", "", ""]
    connection.execute("UPDATE entry SET acl_id = %s WHERE acl_id = %s", (study, foreign))
    connection.commit()
    assert srm.remove(base, f"{base}/2", f"{base}/none", recursive=True) == ["", "", "ENTRY_NOT_FOUND"]
    assert srm.ls("/biomed/hospital-a/p", recursive=True) == []
    assert connection.execute("SELECT count(*) FROM replica").fetchone() == (0,)


def test_one_grant_on_the_acls_of_a_subtree_reaches_all_of_it(catalog, study):
    srm = catalog.dicom_srm
    other = srm.new_acl()
    assert srm.mkdir("/biomed/hospital-a/p/study/3", acl=other) == [""]

    def subtree(client, lfn):
        return client.catalog.ListSubtreeAcls(catalog_pb2.ListSubtreeAclsRequest(target=catalog_pb2.Target(lfn=lfn)))

    answer = subtree(catalog.alice, "/biomed/hospital-a/p/study")
    assert [(acl.acl_id, acl.files, acl.directories, acl.outside) for acl in answer.acls] == [(study, 4, 3, 0)]
    assert answer.hidden == 1
    [series] = subtree(catalog.alice, "/biomed/hospital-a/p/study/1").acls
    assert (series.files, series.directories, series.outside) == (2, 1, 4)
    [file] = subtree(catalog.alice, "/biomed/hospital-a/p/study/1/1.dcm").acls
    assert (file.files, file.directories, file.outside) == (1, 0, 6)
    with pytest.raises(Exception) as caught:
        subtree(catalog.mallory, "/biomed/hospital-a/p/study")
    assert caught.value.code().name == "NOT_FOUND"


def test_a_subtree_tells_nothing_of_what_is_in_directories_that_the_caller_may_not_list(catalog, study):
    srm = catalog.dicom_srm
    closed = srm.new_acl()
    assert srm.mkdir("/biomed/hospital-b", acl=closed) == [""]

    def subtree(client, lfn):
        return client.catalog.ListSubtreeAcls(catalog_pb2.ListSubtreeAclsRequest(target=catalog_pb2.Target(lfn=lfn)))

    before = [subtree(catalog.mallory, "/"), subtree(catalog.alice, "/biomed")]
    for number in range(3):
        assert srm.mkdir(f"/biomed/hospital-b/{number}", acl=srm.new_acl()) == [""]
    assert [subtree(catalog.mallory, "/"), subtree(catalog.alice, "/biomed")] == before
    assert before[1].hidden, "that something was not shown is reported"


def test_an_acl_is_assigned_by_those_who_control_the_old_and_the_new_one(catalog, study):
    lfn = "/biomed/hospital-a/p/study/1"

    def assign(client, lfn, acl, default=""):
        item = catalog_pb2.AclAssignment(target=catalog_pb2.Target(lfn=lfn), acl_id=acl, default_acl_id=default)
        return client.catalog.AssignAcls(catalog_pb2.AssignAclsRequest(assignments=[item])).statuses[0].reason

    mine, theirs = catalog.dicom_srm.new_acl(mallory="lxg"), catalog.alice.new_acl()
    assert assign(catalog.alice, lfn, theirs) == "PERMISSION_MISSING"
    assert assign(catalog.mallory, lfn, theirs) == "ENTRY_NOT_FOUND"
    assert assign(catalog.dicom_srm, lfn, theirs) == "ACL_NOT_FOUND"
    assert assign(catalog.dicom_srm, lfn, str(uuid.uuid4())) == "ACL_NOT_FOUND"
    assert assign(catalog.dicom_srm, f"{lfn}/1.dcm", mine, mine) == "DEFAULT_ACL_OF_FILE"
    assert assign(catalog.operator, "/", mine) == "ROOT_FIXED"
    assert assign(catalog.dicom_srm, lfn, mine) == ""
    [result] = catalog.dicom_srm.stat(lfn)
    assert (result.entry.acl_id, result.entry.default_acl_id, result.entry.rev) == (mine, study, 2)
    assert assign(catalog.dicom_srm, lfn, mine, mine) == ""
    assert catalog.dicom_srm.stat(lfn)[0].entry.default_acl_id == mine
