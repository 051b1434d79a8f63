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
