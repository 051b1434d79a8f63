"""Renaming, symbolic links, searching, summing up, comments."""

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mdm.catalog.v1 import catalog_pb2 as pb

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study"


def _rename(client, *pairs, replace=False):
    renamings = [pb.Renaming(source=pb.Target(lfn=old), lfn=new, replace=replace) for old, new in pairs]
    return [status.reason for status in client.catalog.Rename(pb.RenameRequest(renamings=renamings)).statuses]


def _link(client, *pairs, acl=""):
    links = [pb.NewLink(lfn=lfn, target=target, acl_id=acl) for lfn, target in pairs]
    return [status.reason for status in client.catalog.MakeLinks(pb.MakeLinksRequest(links=links)).statuses]


def _find(client, lfn, **condition):
    answers = client.catalog.Find(pb.FindRequest(lfn=lfn, **condition))
    return [entry.lfn for answer in answers for entry in answer.entries]


def _usage(client, lfn, depth=0):
    answers = client.catalog.GetUsage(pb.GetUsageRequest(lfn=lfn, depth=depth))
    found = [usage for answer in answers for usage in answer.usages]
    return {usage.lfn: (usage.files, usage.directories, usage.links, usage.bytes, usage.closed) for usage in found}


def _content(conninfo):
    """Return what is counted, and what counting gives."""
    with psycopg.connect(conninfo) as connection:
        counted = connection.execute("SELECT * FROM directory_content ORDER BY 1, 2").fetchall()
        there = connection.execute(
            "SELECT c.directory_id, c.acl_id, sum(c.files), sum(c.directories), sum(c.links), sum(c.defaults), sum(c.bytes) FROM entry e"
            " CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
    return counted, there


def test_a_renamed_directory_takes_everything_along_and_keeps_its_acls(catalog, study):
    srm = catalog.dicom_srm
    before = {entry.lfn: entry for entry in (result.entry for result in srm.stat(BASE, f"{BASE}/1", f"{BASE}/1/1.dcm"))}
    assert _rename(srm, (BASE, "/biomed/hospital-a/moved")) == [""]
    assert srm.ls("/biomed/hospital-a", recursive=True)[:3] == [
        f"/biomed/hospital-a/{name}" for name in ("moved", "moved/1", "moved/1/1.dcm")
    ]
    [file] = srm.stat("/biomed/hospital-a/moved/1/1.dcm")
    assert (file.entry.guid, file.entry.acl_id, file.entry.rev) == (before[f"{BASE}/1/1.dcm"].guid, study, 1)
    assert catalog.alice.resolve(pb.Target(guid=file.entry.guid))[0].lfn == "/biomed/hospital-a/moved/1/1.dcm"
    assert srm.stat("/biomed/hospital-a/moved")[0].entry.rev == 2


def test_renamings_apply_in_order_and_each_by_itself(catalog, study):
    srm = catalog.dicom_srm
    pairs = [
        (f"{BASE}/1/1.dcm", f"{BASE}/t"),
        (f"{BASE}/1/2.dcm", f"{BASE}/t"),
        (f"{BASE}/t", f"{BASE}/1/u"),
        (f"{BASE}/none", f"{BASE}/v"),
    ]
    assert _rename(srm, *pairs) == ["", "LFN_TAKEN", "", "ENTRY_NOT_FOUND"]
    assert srm.ls(f"{BASE}/1") == [f"{BASE}/1/2.dcm", f"{BASE}/1/u"]
    assert _rename(srm, (f"{BASE}/1/u", f"{BASE}/1/u"), ("/", f"{BASE}/r"), (f"{BASE}/1", "/")) == ["", "ROOT_FIXED", "LFN_TAKEN"]


def test_a_directory_does_not_move_into_itself(catalog, study):
    srm = catalog.dicom_srm
    assert _rename(srm, (BASE, f"{BASE}/1/below"), (BASE, f"{BASE}/below"), (f"{BASE}/1", f"{BASE}/2/1")) == [
        "MOVE_INTO_ITSELF",
        "MOVE_INTO_ITSELF",
        "",
    ]


def test_what_has_the_new_name_is_replaced_only_if_asked_and_only_by_its_kind(catalog, study, new_file):
    srm = catalog.dicom_srm
    assert srm.mkdir(f"{BASE}/empty", f"{BASE}/3") == ["", ""]
    assert _rename(srm, (f"{BASE}/1", f"{BASE}/2")) == ["LFN_TAKEN"]
    assert _rename(srm, (f"{BASE}/1", f"{BASE}/2"), (f"{BASE}/1", f"{BASE}/2/1.dcm"), (f"{BASE}/2/1.dcm", f"{BASE}/3"), replace=True) == [
        "DIRECTORY_NOT_EMPTY",
        "LFN_TAKEN",
        "LFN_TAKEN",
    ]
    gone = srm.stat(f"{BASE}/2/2.dcm")[0].entry.guid
    assert _rename(srm, (f"{BASE}/1", f"{BASE}/empty"), (f"{BASE}/2/1.dcm", f"{BASE}/2/2.dcm"), replace=True) == ["", ""]
    assert srm.ls(BASE, recursive=True) == [f"{BASE}/{name}" for name in ("2", "2/2.dcm", "3", "empty", "empty/1.dcm", "empty/2.dcm")]
    assert srm.resolve(pb.Target(guid=gone))[0].status.code == 5


def test_renaming_needs_rights_on_the_entry_and_on_both_directories(catalog, study):
    srm, other = catalog.dicom_srm, "/biomed/alice"
    assert srm.mkdir(other, acl=srm.new_acl(alice="wxl")) == [""]
    assert _rename(catalog.alice, (f"{BASE}/1/1.dcm", f"{other}/1")) == ["PERMISSION_MISSING"]
    assert _rename(catalog.mallory, (f"{BASE}/1/1.dcm", f"{BASE}/1/n")) == ["ENTRY_NOT_FOUND"]
    assert srm.mkdir("/biomed/in", acl=srm.new_acl(alice="rlxgdw")) == [""]
    assert srm.mkdir("/biomed/in/d") == [""]
    assert _rename(catalog.alice, ("/biomed/in/d", f"{BASE}/1/d")) == ["WRITE_FORBIDDEN"]
    assert _rename(catalog.alice, ("/biomed/in/d", "/biomed/in/e")) == [""]


def test_paths_below_a_renamed_directory_stay_within_their_limit(catalog, study):
    srm = catalog.dicom_srm
    deep = f"{BASE}/" + "/".join(["d" * 240] * 3) + "/" + "z" * 20
    assert srm.mkdir(deep, parents=True) == [""]
    start = f"{BASE}/{'d' * 240}"
    assert _rename(srm, (start, f"{BASE}/{'e' * 255}")) == [""]
    assert srm.mkdir(f"{BASE}/{'n' * 240}") == [""]
    assert _rename(srm, (f"{BASE}/{'e' * 255}", f"{BASE}/{'n' * 240}/{'e' * 255}")) == ["LFN_INVALID"]
    assert srm.stat(f"{BASE}/{'e' * 255}/{'d' * 240}/{'d' * 240}")[0].status.code == 0


def test_links_lead_to_files_and_directories_absolutely_and_relatively(catalog, study, new_file):
    srm, alice = catalog.dicom_srm, catalog.alice
    links = [
        (f"{BASE}/to-file", "1/1.dcm"),
        (f"{BASE}/to-directory", f"{BASE}/2"),
        ("/biomed/up", "hospital-a/p/study/to-directory"),
        (f"{BASE}/1/back", "../to-directory"),
    ]
    assert _link(srm, *links, acl=study) == [""] * 4
    guid = alice.stat(f"{BASE}/1/1.dcm")[0].entry.guid
    assert [item.guid for item in alice.resolve(pb.Target(lfn=f"{BASE}/to-file"), pb.Target(lfn=f"{BASE}/1/back/../x"))] == [guid, ""]
    second = alice.stat(f"{BASE}/2/1.dcm")[0].entry.guid
    for path in (f"{BASE}/to-directory/1.dcm", "/biomed/up/1.dcm", f"{BASE}/1/back/1.dcm"):
        assert alice.resolve(pb.Target(lfn=path))[0].guid == second
    assert alice.stat("/biomed/up")[0].entry.lfn == f"{BASE}/2"
    itself = alice.catalog.Stat(pb.StatRequest(targets=[pb.Target(lfn="/biomed/up")], no_follow=True)).results[0].entry
    assert (itself.lfn, itself.kind, itself.link_target) == ("/biomed/up", pb.ENTRY_KIND_SYMLINK, "hospital-a/p/study/to-directory")
    assert alice.ls("/biomed/up") == ["/biomed/up/1.dcm", "/biomed/up/2.dcm"]
    assert alice.ls("/biomed/up", after="/biomed/up/1.dcm") == ["/biomed/up/2.dcm"]
    assert f"{BASE}/to-directory/1.dcm" not in alice.ls(BASE, recursive=True), "a recursive listing does not leave its tree"
    assert srm.register(new_file("/biomed/up/3.dcm")) == [""]
    assert srm.mkdir("/biomed/up/sub/deeper", parents=True) == [""]
    assert srm.ls(f"{BASE}/2") == [f"{BASE}/2/{name}" for name in ("1.dcm", "2.dcm", "3.dcm", "sub")]


def test_links_are_removed_and_renamed_themselves(catalog, study):
    srm = catalog.dicom_srm
    assert _link(srm, (f"{BASE}/l", "2"), (f"{BASE}/l", "2"), (f"{BASE}/l", "1"), (f"{BASE}/1", "2")) == ["", "", "LFN_TAKEN", "LFN_TAKEN"]
    assert _rename(srm, (f"{BASE}/l", f"{BASE}/m")) == [""]
    assert srm.remove(f"{BASE}/m", recursive=True) == [""]
    assert srm.ls(f"{BASE}/2") == [f"{BASE}/2/1.dcm", f"{BASE}/2/2.dcm"]


def test_links_in_a_circle_end_with_an_error_and_dangling_ones_are_absent(catalog, study):
    srm = catalog.dicom_srm
    assert _link(srm, (f"{BASE}/a", "b"), (f"{BASE}/b", "a"), (f"{BASE}/c", "c/d"), (f"{BASE}/gone", "nowhere")) == [""] * 4
    results = srm.resolve(*(pb.Target(lfn=f"{BASE}/{name}") for name in ("a", "a/x", "c", "gone", "gone/x")))
    assert [item.status.reason for item in results] == ["LINK_LOOP", "LINK_LOOP", "LINK_LOOP", "ENTRY_NOT_FOUND", "ENTRY_NOT_FOUND"]
    assert srm.ls(f"{BASE}/gone") == [f"{BASE}/gone"]
    assert _link(srm, *((f"{BASE}/n{number}", f"n{number + 1}") for number in range(16)), (f"{BASE}/n16", "1/1.dcm")) == [""] * 17
    results = srm.resolve(pb.Target(lfn=f"{BASE}/n1"), pb.Target(lfn=f"{BASE}/n0"))
    assert [item.status.reason for item in results] == ["", "LINK_LOOP"]
    assert _link(srm, *((f"{BASE}/d{number}", f"d{number + 1}") for number in range(16)), (f"{BASE}/d16", "1")) == [""] * 17
    results = srm.resolve(pb.Target(lfn=f"{BASE}/d1/1.dcm"), pb.Target(lfn=f"{BASE}/d0/1.dcm"))
    assert [item.status.reason for item in results] == ["", "LINK_LOOP"]


def test_a_link_leads_nobody_where_they_may_not_go_and_is_nothing_to_those_who_may_not_see_it(catalog, study):
    srm = catalog.dicom_srm
    public = srm.new_acl(mallory="lxg")
    assert srm.mkdir("/biomed/public", acl=public) == [""]
    assert _link(srm, ("/biomed/public/study", BASE)) == [""]
    assert srm.mkdir("/biomed/dark", acl=srm.new_acl(mallory="x", alice="x")) == [""]
    assert _link(srm, ("/biomed/dark/study", "../public"), acl=srm.new_acl()) == [""]
    paths = ("/biomed/public/study", "/biomed/public/study/1/1.dcm", "/biomed/dark/study", "/biomed/dark/none")
    assert [result.status.reason for result in catalog.mallory.stat(*paths)] == ["ENTRY_NOT_FOUND"] * 4
    assert catalog.alice.stat("/biomed/dark/study/study")[0].status.reason == "ENTRY_NOT_FOUND"


@pytest.mark.parametrize("target", ["", "a//b", "a/../b", "a/", "./a", "../../", "\x07", "x" * 256, "/a/..", "e\u0301"])
def test_a_link_to_what_cannot_be_a_path_is_refused(catalog, study, target):
    assert _link(catalog.dicom_srm, (f"{BASE}/l", target)) == ["LFN_INVALID"]


def test_find_matches_names_kinds_sizes_times_and_depth(catalog, study, new_file):
    srm = catalog.dicom_srm
    assert (
        srm.register(new_file(f"{BASE}/2/big_[1]%.dat", size=5000), new_file(f"{BASE}/2/none.dat", size=0), new_file(f"{BASE}/Ü.dat"))
        == [""] * 3
    )
    assert _link(srm, (f"{BASE}/l.dcm", "1/1.dcm")) == [""]
    found = {
        "*.dcm": ["1/1.dcm", "1/2.dcm", "2/1.dcm", "2/2.dcm", "l.dcm"],
        "[!2].dcm": ["1/1.dcm", "2/1.dcm", "l.dcm"],
        "big_[[]1]%*": ["2/big_[1]%.dat"],
        "?.dat": ["Ü.dat"],
        "1": ["1"],
        "": ["1", "1/1.dcm", "1/2.dcm", "2", "2/1.dcm", "2/2.dcm", "2/big_[1]%.dat", "2/none.dat", "l.dcm", "Ü.dat"],
    }
    for pattern, expected in found.items():
        assert _find(catalog.alice, BASE, name_pattern=pattern) == [f"{BASE}/{name}" for name in expected], pattern
    assert _find(catalog.alice, BASE, kinds=[pb.ENTRY_KIND_DIRECTORY]) == [f"{BASE}/1", f"{BASE}/2"]
    assert _find(catalog.alice, BASE, kinds=[pb.ENTRY_KIND_SYMLINK, pb.ENTRY_KIND_DIRECTORY], max_depth=1) == [
        f"{BASE}/{n}" for n in ("1", "2", "l.dcm")
    ]
    assert _find(catalog.alice, BASE, min_size=1) == [f"{BASE}/2/big_[1]%.dat"]
    assert _find(catalog.alice, BASE, max_size=10) == [f"{BASE}/2/none.dat"]
    assert _find(catalog.alice, BASE, name_pattern="*.dcm", after=f"{BASE}/2/1.dcm") == [f"{BASE}/2/2.dcm", f"{BASE}/l.dcm"]
    now = catalog.alice.stat(f"{BASE}/Ü.dat")[0].entry.modify_time
    assert f"{BASE}/Ü.dat" in _find(catalog.alice, BASE, modified_since=now)
    assert f"{BASE}/Ü.dat" not in _find(catalog.alice, BASE, modified_before=now)
    for bad in ({"name_pattern": "a/b"}, {"name_pattern": "x" * 256}, {"kinds": [9]}, {"max_depth": -1}):
        with pytest.raises(Exception) as caught:
            _find(catalog.alice, BASE, **bad)
        assert caught.value.code().name == "INVALID_ARGUMENT"


def test_a_search_finds_nothing_that_the_caller_may_not_list(catalog, study, new_file):
    srm = catalog.dicom_srm
    assert srm.mkdir(f"{BASE}/closed", acl=srm.new_acl(alice="xg")) == [""]
    assert srm.register(new_file(f"{BASE}/closed/9.dcm")) == [""]
    assert f"{BASE}/closed/9.dcm" in _find(srm, "/biomed", name_pattern="*.dcm")
    assert f"{BASE}/closed/9.dcm" not in _find(catalog.alice, "/biomed", name_pattern="*.dcm")
    with pytest.raises(Exception) as caught:
        _find(catalog.mallory, BASE)
    assert caught.value.code().name == "NOT_FOUND"


def test_usage_sums_up_each_directory_with_everything_below(catalog, study, new_file):
    srm = catalog.dicom_srm
    files = [new_file(f"{BASE}/1/{number}", size=100 * number) for number in range(3)]
    assert srm.register(*files) == [""] * 3
    assert _link(srm, (f"{BASE}/1/l", "0")) == [""]
    assert srm.mkdir(f"{BASE}/closed", acl=srm.new_acl(alice="x")) == [""]
    assert srm.register(new_file(f"{BASE}/closed/secret", size=7)) == [""]
    assert _usage(catalog.alice, BASE) == {BASE: (7, 3, 1, 300, 1)}
    assert _usage(catalog.alice, BASE, 1) == {
        BASE: (7, 3, 1, 300, 1),
        f"{BASE}/1": (5, 0, 1, 300, 0),
        f"{BASE}/2": (2, 0, 0, 0, 0),
        f"{BASE}/closed": (0, 0, 0, 0, 1),
    }
    assert _usage(srm, "/biomed")["/biomed"] == (8, 6, 1, 307, 0)
    huge = [new_file(f"{BASE}/2/h{number}", size=2**63 - 1) for number in range(2)]
    assert srm.register(*huge) == ["", ""]
    assert _usage(srm, BASE)[BASE][3] == 2**63 - 1
    for client, lfn, code in ((catalog.mallory, BASE, "NOT_FOUND"), (srm, f"{BASE}/1/0", "INVALID_ARGUMENT")):
        with pytest.raises(Exception) as caught:
            _usage(client, lfn)
        assert caught.value.code().name == code


def test_what_is_counted_is_what_is_there_after_any_change(catalog, study, new_file):
    srm = catalog.dicom_srm
    other = srm.new_acl()
    assert srm.mkdir(f"{BASE}/3", acl=other, default=study) == [""]
    assert srm.register(new_file(f"{BASE}/3/f", size=9), new_file(f"{BASE}/3/g")) == ["", ""]
    change = pb.FileAttributes(target=pb.Target(lfn=f"{BASE}/3/g"), size=11)
    assert srm.catalog.SetFileAttributes(pb.SetFileAttributesRequest(attributes=[change])).statuses[0].code == 0
    assignments = [pb.AclAssignment(target=pb.Target(lfn=f"{BASE}/{name}"), acl_id=other) for name in ("3/f", "1", "1/1.dcm")]
    assert {item.code for item in srm.catalog.AssignAcls(pb.AssignAclsRequest(assignments=assignments)).statuses} == {0}
    assert _rename(srm, (f"{BASE}/3", f"{BASE}/1/3"), (f"{BASE}/2/1.dcm", f"{BASE}/1/x")) == ["", ""]
    counted, there = _content(catalog.conninfo)
    assert counted == there
    assert srm.remove(f"{BASE}/1", recursive=True) == [""]
    counted, there = _content(catalog.conninfo)
    assert counted == there


def test_comments_are_for_every_kind_and_file_attributes_for_files(catalog, study):
    srm = catalog.dicom_srm
    assert _link(srm, (f"{BASE}/l", "1")) == [""]

    def change(lfn, **fields):
        request = pb.SetFileAttributesRequest(attributes=[pb.FileAttributes(target=pb.Target(lfn=lfn), **fields)])
        return srm.catalog.SetFileAttributes(request).statuses[0].reason

    assert change(f"{BASE}/1", comment="the first series") == ""
    assert srm.stat(f"{BASE}/l")[0].entry.comment == "the first series"
    assert change(f"{BASE}/1", size=4) == "NOT_A_FILE"
    assert change(f"{BASE}/1/1.dcm", comment="é" * 128) == "COMMENT_INVALID"
    later, before_1970 = Timestamp(seconds=1_000_000_000, nanos=999_999_000), Timestamp(seconds=-2, nanos=500_000_000)
    assert change(f"{BASE}/1/1.dcm", modify_time=before_1970, access_time=later) == ""
    entry = srm.stat(f"{BASE}/1/1.dcm")[0].entry
    assert (entry.modify_time, entry.access_time) == (before_1970, later)
    assert change(f"{BASE}/1/1.dcm", modify_time={"seconds": 10**15}) == "TIME_INVALID"
