"""What every request store does, on the fake of the other tests and on PostgreSQL."""

from dataclasses import replace
from uuid import uuid4

import pytest
from mdm_dicom_srm.stage.rules.model import Request, StagedFile, State
from mdm_dicom_srm.stage.rules.port import FileChange
from mdm_dicom_srm.stage.store.request import PostgresRequestStore
from mdm_service import database as databases
from psycopg_pool import ConnectionPool


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def store(request, make_world):
    if request.param == "memory":
        yield make_world().store
        return
    database = request.getfixturevalue("database")
    databases.migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
    with ConnectionPool(database.conninfo, min_size=1, open=True) as pool:
        yield PostgresRequestStore(pool, "hospital-a")


def file_of(guid, **values):
    return StagedFile(f"srm://hospital-a/{guid}", guid, **({"state": State.REQUEST_QUEUED} | values))


def request_of(count=2, created=1_700_000_000.5, owner="CN=Jürgen Ørsted"):
    digest = uuid4().bytes + uuid4().bytes
    return Request(digest, owner, 3600, created, [file_of(uuid4()) for _ in range(count)])


def test_what_was_added_is_loaded_oldest_first(store):
    late, early = request_of(created=1_700_000_100.25), request_of(created=1_700_000_000.5)
    store.add(late)
    store.add(early)
    assert sorted(store.load(), key=lambda r: r.created) == [early, late]


def test_saved_changes_and_aborts_are_loaded(store):
    request, other = request_of(3), request_of()
    store.add(request)
    store.add(other)
    pinned = replace(request.files[0], state=State.FILE_PINNED, size=526_000, pin_until=1_700_003_600.75)
    lost = replace(request.files[2], state=State.FILE_LOST, reason="NOT_IN_PACS")
    store.save([FileChange(request.digest, 0, pinned), FileChange(request.digest, 2, lost)], [other.digest])
    loaded = {r.digest: r for r in store.load()}
    assert loaded[request.digest].files == [pinned, request.files[1], lost]
    assert loaded[other.digest].aborted and not loaded[request.digest].aborted
    assert loaded[request.digest].pending == 1


def test_removed_requests_are_gone_and_removing_them_again_is_no_error(store):
    request, other = request_of(), request_of()
    store.add(request)
    store.add(other)
    for _ in range(2):
        store.remove([request.digest])
    assert [r.digest for r in store.load()] == [other.digest]
