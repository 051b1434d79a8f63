"""Clients at once never leave a broken tree."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from mdm.catalog.v1 import catalog_pb2

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study/1"


def _together(*calls):
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def _check_tree(conninfo):
    with psycopg.connect(conninfo) as connection:
        orphans = "SELECT count(*) FROM entry e LEFT JOIN entry p ON p.id = e.parent_id WHERE e.id <> 0 AND p.id IS NULL"
        assert connection.execute(orphans).fetchone() == (0,)


def test_of_two_registrations_of_one_lfn_one_wins(catalog, study, new_file):
    client = catalog.dicom_srm
    for number in range(10):
        files = [new_file(f"{BASE}/r{number}") for _ in range(4)]
        reasons = _together(*(lambda file=file: client.register(file)[0] for file in files))
        assert sorted(reasons) == ["", "LFN_TAKEN", "LFN_TAKEN", "LFN_TAKEN"]
        winner = files[reasons.index("")]
        assert client.resolve(catalog_pb2.Target(lfn=winner.lfn))[0].guid == winner.guid


def test_crossing_batches_agree_on_names_guids_and_surls(catalog, study, new_file):
    client = catalog.dicom_srm
    client.mkdir(f"{BASE}/x", f"{BASE}/y")
    for number in range(5):
        guids = [str(uuid.uuid4()) for _ in range(50)]
        first = [new_file(f"{BASE}/x/{number}-{index}", guid) for index, guid in enumerate(guids)]
        second = [new_file(f"{BASE}/y/{number}-{index}", guid) for index, guid in enumerate(guids)]
        one, two = _together(lambda batch=first: client.register(*batch), lambda batch=second[::-1]: client.register(*batch))
        for left, right in zip(one, two[::-1], strict=True):
            assert sorted([left, right]) in (["", "GUID_TAKEN"], ["", "SURL_TAKEN"])


def test_removal_and_registration_exclude_each_other(catalog, study, new_file):
    client = catalog.dicom_srm
    for number in range(15):
        directory = f"{BASE}/d{number}"
        assert client.mkdir(directory) == [""]
        recursive = number % 2 == 0
        [removed], [registered], [made] = _together(
            lambda path=directory, deep=recursive: client.remove(path, recursive=deep),
            lambda path=directory: client.register(new_file(f"{path}/f")),
            lambda path=directory: client.mkdir(f"{path}/s"),
        )
        _check_tree(catalog.conninfo)
        remaining = set(client.ls(BASE, recursive=True))
        if removed == "":
            assert not {path for path in remaining if path.startswith(directory + "/") or path == directory}
        else:
            assert removed == "DIRECTORY_NOT_EMPTY" and not recursive
            assert {f"{directory}/f"} & remaining or registered
            assert {f"{directory}/s"} & remaining or made
        assert {registered, made} <= {"", "ENTRY_NOT_FOUND"}


def test_concurrent_updates_with_one_rev_apply_once(catalog, study):
    target = catalog_pb2.Target(lfn=f"{BASE}/1.dcm")

    def change(size):
        item = catalog_pb2.FileAttributes(target=target, size=size, if_rev=1)
        return catalog.dicom_srm.catalog.SetFileAttributes(catalog_pb2.SetFileAttributesRequest(attributes=[item])).statuses[0].reason

    assert catalog.dicom_srm.dn
    assert sorted(_together(*(lambda size=size: change(size) for size in range(4)))) == ["", *["REV_CHANGED"] * 3]


def _rename(client, old, new):
    renaming = catalog_pb2.Renaming(source=catalog_pb2.Target(lfn=old), lfn=new)
    return client.catalog.Rename(catalog_pb2.RenameRequest(renamings=[renaming])).statuses[0].reason


def test_two_directories_never_move_below_each_other(catalog, study):
    client = catalog.dicom_srm
    for number in range(12):
        one, two = f"{BASE}/one{number}", f"{BASE}/two{number}"
        assert client.mkdir(f"{one}/x", f"{two}/y", parents=True) == ["", ""]
        reasons = _together(lambda a=one, b=two: _rename(client, a, f"{b}/y/a"), lambda a=one, b=two: _rename(client, b, f"{a}/x/b"))
        assert sorted(reasons)[0] == "" and sorted(reasons)[1] in ("ENTRY_NOT_FOUND", "MOVE_INTO_ITSELF")
        found = client.ls(BASE, recursive=True)
        assert len([path for path in found if f"one{number}" in path or f"two{number}" in path]) == 4, "all four are below the study"


def test_what_is_made_while_its_directory_moves_is_in_it_or_refused(catalog, study, new_file):
    client = catalog.dicom_srm
    assert client.mkdir(f"{BASE}/to") == [""]
    for number in range(12):
        old, new = f"{BASE}/m{number}", f"{BASE}/to/m{number}"
        assert client.mkdir(old) == [""]
        moved, [registered], [removed] = _together(
            lambda a=old, b=new: _rename(client, a, b),
            lambda path=old: client.register(new_file(f"{path}/f")),
            lambda path=old: client.remove(path),
        )
        _check_tree(catalog.conninfo)
        there = set(client.ls(BASE, recursive=True))
        assert (f"{new}/f" in there or f"{old}/f" in there) == (registered == "")
        assert (old in there, new in there) == (moved != "" and removed != "", moved == "" and removed != "")


def test_one_name_is_given_once_and_lists_change_as_a_whole(catalog, study):
    client = catalog.dicom_srm
    for number in range(8):
        paths = [f"{BASE}/w{number}-{index}" for index in range(3)]
        assert client.mkdir(*paths) == [""] * 3
        reasons = _together(*(lambda path=path, number=number: _rename(client, path, f"{BASE}/won{number}") for path in paths))
        assert sorted(reasons) == ["", "LFN_TAKEN", "LFN_TAKEN"]


def test_sums_are_right_after_many_changed_them_at_once(catalog, study, new_file, connection):
    client = catalog.dicom_srm
    assert client.mkdir(f"{BASE}/a", f"{BASE}/b") == ["", ""]

    def work(number):
        for turn in range(5):
            files = [new_file(f"{BASE}/{'ab'[(number + turn) % 2]}/{number}-{turn}-{index}", size=index) for index in range(20)]
            assert set(client.register(*files)) == {""}
            client.remove(*(file.lfn for file in files[:10]))
            _rename(client, files[11].lfn, f"{BASE}/{'ba'[(number + turn) % 2]}/moved-{number}-{turn}")

    _together(*(lambda number=number: work(number) for number in range(4)))
    rows = connection.execute(
        "SELECT d.directory_id, d.files, d.bytes FROM directory_content d JOIN entry e ON e.id = d.directory_id"
        " WHERE e.name IN ('a', 'b') ORDER BY 1"
    ).fetchall()
    counted = connection.execute(
        "SELECT p.id, count(*), sum(c.size) FROM entry p JOIN entry c ON c.parent_id = p.id"
        " WHERE p.name IN ('a', 'b') GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert rows == counted
    assert sum(row[1] for row in rows) == 200
