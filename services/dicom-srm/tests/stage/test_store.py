"""What every request store does, on the fake of the other tests and on PostgreSQL."""

from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from mdm_dicom_srm.site_secret import RecordSealer
from mdm_dicom_srm.stage.rules.model import TIMED_OUT, Kind, Request, StagedFile, State
from mdm_dicom_srm.stage.rules.port import FileChange, RequestChange
from mdm_dicom_srm.stage.store.request import PostgresRequestStore
from mdm_dicom_srm.stage.store.transaction import unhurried
from mdm_service import database as databases
from psycopg_pool import ConnectionPool

SECRET = b"secret of the test site, 32 bytes"


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def store(request, make_world):
    if request.param == "memory":
        yield make_world().store
        return
    database = request.getfixturevalue("database")
    databases.migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
    with ConnectionPool(database.conninfo, min_size=1, open=True) as pool:
        yield PostgresRequestStore(pool, "hospital-a", "srm-1", RecordSealer(SECRET), SECRET)


def file_of(guid, **values):
    return StagedFile(f"srm://hospital-a/{guid}", guid, **({"state": State.REQUEST_QUEUED, "holder": "srm-1"} | values))


def request_of(count=2, created=1_700_000_000.5, owner="CN=Jürgen Ørsted"):
    digest = uuid4().bytes + uuid4().bytes
    return Request(digest, owner, 3600, created, [file_of(uuid4()) for _ in range(count)], home="srm-1")


def test_what_was_added_is_loaded_oldest_first(store):
    late, early = request_of(created=1_700_000_100.25), request_of(created=1_700_000_000.5)
    store.add(late, "token", "")
    store.add(early, "token", "")
    assert sorted(store.load(), key=lambda r: r.created) == [early, late]


def test_saved_changes_and_aborts_are_loaded(store):
    request, other = request_of(3), request_of()
    store.add(request, "token", "")
    store.add(other, "token", "")
    pinned = replace(request.files[0], state=State.FILE_PINNED, size=526_000, pin_until=1_700_003_600.75)
    lost = replace(request.files[2], state=State.FILE_LOST, reason="NOT_IN_PACS")
    store.save([FileChange(request.digest, 0, pinned), FileChange(request.digest, 2, lost)], [RequestChange(other.digest, True, False)])
    loaded = {r.digest: r for r in store.load()}
    assert loaded[request.digest].files == [pinned, request.files[1], lost]
    assert loaded[other.digest].aborted and not loaded[request.digest].aborted
    assert loaded[request.digest].pending == 1


def test_removed_requests_are_gone_and_removing_them_again_is_no_error(store):
    request, other = request_of(), request_of()
    store.add(request, "token", "")
    store.add(other, "token", "")
    for _ in range(2):
        store.remove([request.digest])
    assert [r.digest for r in store.load()] == [other.digest]


@pytest.fixture
def kept(database):
    databases.migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
    with ConnectionPool(database.conninfo, min_size=1, open=True) as pool:
        yield PostgresRequestStore(pool, "hospital-a", "srm-1", RecordSealer(SECRET), SECRET)


@pytest.mark.integration
def test_names_times_and_kinds_are_loaded_as_they_were(kept):
    request = replace(request_of(2), kind=Kind.BRING_ONLINE, start=1_700_000_500.25, seconds=77.0, suspended=True)
    request.files[1] = StagedFile("srm://hospital-a/biomed/hospital-a/P%20x/s/1.dcm", uuid4(), State.REQUEST_QUEUED, holder="srm-1")
    request = replace(request, positions={})
    kept.add(request, "token", "")
    kept.save([], [RequestChange(request.digest, aborted=False, suspended=True)])
    assert kept.load() == [request]


@pytest.mark.integration
def test_requests_are_found_again_by_their_owner_and_description_alone(kept):
    first, second, other = request_of(3, created=1.0), request_of(1, created=2.0), request_of(owner="CN=other")
    for request, token, description in ((first, "one", "cohort 7"), (second, "two", ""), (other, "three", "cohort 7")):
        kept.add(request, token, description)
    pinned, late = replace(first.files[0], state=State.FILE_PINNED), replace(first.files[1], state=State.FILE_UNAVAILABLE, reason=TIMED_OUT)
    kept.save([FileChange(first.digest, 0, pinned), FileChange(first.digest, 1, late)], [])
    owner = first.owner
    [two, one] = kept.summaries(owner, None, "", 10)
    assert (two.token, two.description, two.files) == ("two", "", {State.REQUEST_QUEUED: 1})
    assert (one.token, one.description, one.created, one.timed_out) == ("one", "cohort 7", 1.0, True)
    assert one.files == {State.FILE_PINNED: 1, State.FILE_UNAVAILABLE: 1, State.REQUEST_QUEUED: 1}
    assert [item.token for item in kept.summaries(owner, None, "cohort 7", 10)] == ["one"]
    assert [item.token for item in kept.summaries(owner, None, "", 1)] == ["two"]
    assert [item.token for item in kept.summaries(owner, [first.digest, other.digest], "", 10)] == ["one"]
    assert kept.summaries(owner, None, "cohort", 10) == []


@pytest.mark.integration
def test_the_tables_show_neither_tokens_nor_descriptions_nor_names(kept, database):
    request = request_of(1)
    request.files[0] = StagedFile("srm://hospital-a/biomed/hospital-a/Doe/1.dcm", uuid4(), State.REQUEST_QUEUED)
    kept.add(request, "the-token", "for Doe")
    with psycopg.connect(database.conninfo) as connection:
        rows = repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("stage_request", "stage_file")])
    assert "Doe" not in rows and "the-token" not in rows


@pytest.mark.integration
def test_only_its_own_transaction_does_not_wait_for_the_disk(database):
    # The server of the tests waits for no disk at all.
    waiting = {"options": "-c synchronous_commit=on"}
    with ConnectionPool(database.conninfo, kwargs=waiting, min_size=1, max_size=1, open=True) as pool:
        with unhurried(pool) as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
        with pool.connection() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
