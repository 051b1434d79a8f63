"""Several instances of one site: requests are answered by each, files staged by one, and what a lost one held ends."""

import time
from uuid import uuid4

import grpc
import psycopg
import pytest
from mdm.srm.v1 import srm_pb2
from mdm_dicom_srm.stage.rules.port import Beat, Usage, Welcome
from mdm_dicom_srm.stage.store.instance import PostgresInstances
from mdm_service.settings import ConfigurationError
from mdm_testing.process import eventually
from mdm_wire.errors import Unavailable
from psycopg_pool import ConnectionPool

from .test_stage_integration import Site, fakes

__all__ = ["fakes"]
pytestmark = pytest.mark.integration

PINNED, QUEUED = srm_pb2.STATUS_CODE_FILE_PINNED, srm_pb2.STATUS_CODE_REQUEST_QUEUED


@pytest.fixture
def sites(tmp_path, database, pki, fakes):
    """Two instances of one site, on one PACS and one database."""
    made = [Site(tmp_path / name, database, pki, fakes, name, lost_seconds=3, processes=0) for name in ("srm-1", "srm-2")]
    made[1].locators = made[0].locators
    yield made
    for site in made:
        site.stop()


def status(site, token):
    return site.srm().StatusOfGetRequest(srm_pb2.StatusOfGetRequestRequest(token=token), timeout=20)


def states(site, token):
    return [file.status for file in status(site, token).files]


def surl(guid):
    return f"srm://hospital-a/{guid}"


def kill(site):
    """Let an instance be silent, as after kill -9: it holds its name and its rows, and does nothing more."""
    stage = site.stage
    stage._instance._stopped.set()
    stage._journal._stopped.set()
    stage._journal.flush = lambda: None


def test_every_instance_answers_for_a_request_and_its_owner_alone(sites):
    one, two = sites
    guids = one.images(3, size=64)
    token = one.prepare(guids).token
    assert token.startswith("srm-1-")
    files, _ = two.finished(token)
    assert [file.status for file in files.values()] == [PINNED] * 3
    assert all(file.turl.startswith("mdm+grpc://hospital-a/srm-1-") for file in files.values())
    released = two.srm().ReleaseFiles(srm_pb2.ReleaseFilesRequest(token=token, surls=[surl(guids[0])])).files
    assert [file.status for file in released] == [srm_pb2.STATUS_CODE_RELEASED]
    extended = two.srm().ExtendFileLifeTime(srm_pb2.ExtendFileLifeTimeRequest(token=token, surls=[surl(guids[1])], pin_seconds=77)).files
    assert extended[0].remaining_pin_seconds in (76, 77)
    eventually(lambda: states(one, token) == [srm_pb2.STATUS_CODE_RELEASED, PINNED, PINNED])
    eventually(lambda: status(one, token).files[1].remaining_pin_seconds < 100)
    assert two.srm().AbortRequest(srm_pb2.AbortRequestRequest(token=token)).status == srm_pb2.STATUS_CODE_ABORTED
    eventually(lambda: status(one, token).status == srm_pb2.STATUS_CODE_ABORTED)
    eventually(lambda: one.stage.spool.usage().pinned == 0)
    for call in (two.srm("bob").StatusOfGetRequest,):
        with pytest.raises(grpc.RpcError) as caught:
            call(srm_pb2.StatusOfGetRequestRequest(token=token))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_file_that_is_wanted_at_two_instances_is_staged_once_and_read_where_it_is(sites):
    one, two = sites
    one.pacs.gate.clear()
    guids = one.images(4, size=64)
    first, second = one.prepare(guids).token, two.prepare([*guids[2:], (extra := two.image(64))], "bob").token
    one.pacs.gate.set()
    one.finished(first)
    files, state = two.finished(second, "bob")
    assert state == srm_pb2.STATUS_CODE_SUCCESS
    assert sorted(uid for retrieval in one.pacs.retrievals for uid in retrieval) == sorted(
        locator.sop_uid for locator in one.locators.values()
    )
    shared = files[str(guids[2])].turl
    assert shared == f"mdm+grpc://hospital-a/srm-1-{second[-43:]}/{guids[2]}"
    assert files[str(extra)].turl.split("/")[3].startswith("srm-2-")
    assert one.read(shared, name="bob")
    with pytest.raises(grpc.RpcError) as caught:
        two.read(shared, name="bob")
    assert (caught.value.code(), "OTHER_INSTANCE" in str(caught.value.trailing_metadata())) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert one.srm().ReleaseFiles(srm_pb2.ReleaseFilesRequest(token=first)).files
    assert one.read(shared, name="bob"), "bob's pin stays"
    released = one.srm("bob").ReleaseFiles(srm_pb2.ReleaseFilesRequest(surls=[surl(guid) for guid in guids[2:]])).files
    assert [file.status for file in released] == [srm_pb2.STATUS_CODE_RELEASED] * 2
    eventually(lambda: one.stage.spool.usage().pinned == 0)


def test_what_one_has_pinned_is_not_staged_again_by_another(sites):
    one, two = sites
    guids = one.images(3, size=64)
    one.finished(one.prepare(guids).token)
    eventually(lambda: _count(one, "stage_claim") == 3)
    files, _ = two.finished(two.prepare(guids, "bob").token, "bob")
    assert [file.status for file in files.values()] == [PINNED] * 3
    assert len(one.pacs.retrievals) == 1
    listed = [entry for message in two.srm().Ls(srm_pb2.LsRequest(surls=[surl(guids[0])])) for entry in message.entries]
    assert [entry.status for entry in listed] == [srm_pb2.STATUS_CODE_INVALID_PATH], "the fake catalog has no names"


def test_claims_end_with_the_last_pin(sites):
    one, two = sites
    guids = one.images(3, size=64)
    token = one.prepare(guids).token
    one.finished(token)
    one.srm().ReleaseFiles(srm_pb2.ReleaseFilesRequest(token=token))
    eventually(lambda: _count(one, "stage_claim") == 0)
    assert two.finished(two.prepare(guids).token)[1] == srm_pb2.STATUS_CODE_SUCCESS
    assert two.stage.spool.usage().files == 3


def test_what_a_lost_instance_held_ends_and_another_stages_it(sites):
    one, two = sites
    one.pacs.gate.clear()
    guids = one.images(2, size=64)
    ready = one.image(64)
    token = one.prepare(guids).token
    shared = two.prepare([*guids, ready], "bob").token
    eventually(lambda: _count(one, "stage_claim") == 3)
    kill(one)
    eventually(lambda: states(two, token) == [srm_pb2.STATUS_CODE_FILE_UNAVAILABLE] * 2, timeout=20)
    assert "INSTANCE_LOST" in status(two, token).files[0].explanation
    one.pacs.gate.set()
    files, _ = two.finished(shared, "bob")
    assert files[str(ready)].status == PINNED
    again, _ = two.finished(two.prepare(guids).token)
    assert [file.status for file in again.values()] == [PINNED] * 2
    assert [space.token for space in two.srm().GetSpaceMetaData(srm_pb2.GetSpaceMetaDataRequest()).spaces] == ["srm-2"]


def test_an_instance_that_was_silent_finds_its_requests_ended(sites):
    one, two = sites
    token = one.prepare(one.images(2, size=64)).token
    one.finished(token)
    instance = one.stage._instance
    instance.beat, beat = (lambda: None), instance.beat
    instance._threads[0]._args = (lambda: instance.beat(), 1.0)
    with psycopg.connect(one.database.conninfo, autocommit=True) as connection:
        connection.execute("UPDATE srm_instance SET beat_at = now() - interval '1 minute' WHERE name = 'srm-1'")
    two.stage._instance._beating_since = time.monotonic() - 100
    two.stage._instance.beat()
    beat()
    # Its own beat may have been under way, and have found out first.
    assert eventually(lambda: states(one, token) == [srm_pb2.STATUS_CODE_FILE_UNAVAILABLE] * 2)
    assert one.stage.spool.usage().pinned == 0


def test_copies_are_removed_at_every_instance_before_the_call_returns(sites):
    one, two = sites
    guid = one.image(64)
    token = one.prepare([guid]).token
    one.finished(token)
    two.stage.forget([guid])
    assert one.stage.spool.usage().files == 0
    with pytest.raises(grpc.RpcError):
        one.read(f"mdm+grpc://hospital-a/{token}/{guid}")


def test_a_lost_instance_removes_recalled_copies_when_it_is_back(sites):
    one, two = sites
    guid = one.image(64)
    one.finished(one.prepare([guid]).token)
    kill(one)
    two.stage.forget([guid])
    assert _count(one, "stage_recall") == 1, "one that is lost is not waited for"
    assert one.stage.spool.usage().files == 1
    one.stage._instance.register()
    assert (one.stage.spool.usage().files, _count(one, "stage_recall")) == (0, 0)


def test_an_instance_that_the_others_have_forgotten_empties_its_spool(sites):
    one, two = sites
    one.finished(one.prepare([one.image(64)]).token)
    kill(one)
    with psycopg.connect(one.database.conninfo, autocommit=True) as connection:
        connection.execute("UPDATE srm_instance SET lost = true, beat_at = now() - interval '8 days' WHERE name = 'srm-1'")
    two.stage._instance._beating_since = time.monotonic() - 100
    two.stage._instance.beat()
    assert _count(one, "srm_instance") == 1
    one.stage._instance.register()
    assert one.stage.spool.usage().files == 0


def test_a_removal_is_tried_again_later_where_an_instance_does_not_answer(sites, monkeypatch):
    one, two = sites
    monkeypatch.setattr(one.stage._instance, "_obey", lambda: None)
    with pytest.raises(Unavailable):
        two.stage.forget([uuid4()])


def test_a_request_is_suspended_and_resumed_at_another_instance(sites):
    one, two = sites
    one.pacs.gate.clear()
    token = one.prepare(one.images(2, size=64)).token
    assert two.srm().SuspendRequest(srm_pb2.SuspendRequestRequest(token=token)).status == srm_pb2.STATUS_CODE_REQUEST_SUSPENDED
    eventually(lambda: status(one, token).status == srm_pb2.STATUS_CODE_REQUEST_SUSPENDED)
    one.pacs.gate.set()
    time.sleep(0.5)
    assert states(one, token) == [QUEUED] * 2
    two.srm().ResumeRequest(srm_pb2.ResumeRequestRequest(token=token))
    eventually(lambda: states(one, token) == [PINNED] * 2)


def test_a_name_is_kept_from_another_machine_while_its_instance_serves(sites):
    with ConnectionPool(sites[0].database.conninfo, min_size=1, open=True) as pool:
        assert PostgresInstances(pool, "srm-1", "another machine").register(3) is Welcome.REFUSED
        third = PostgresInstances(pool, "srm-3", "another machine")
        assert [third.register(3) for _ in range(2)] == [Welcome.NEW, Welcome.KNOWN]
        assert third.beat(Usage(1, 2, 3, 4, 5)) is Beat.ALIVE
        assert third.usages()["srm-3"] == Usage(1, 2, 3, 4, 5)
        assert PostgresInstances(pool, "srm-3", "another machine").beat(Usage(1, 2, 3, 4, 5)) is Beat.REPLACED


def test_an_instance_whose_name_is_taken_does_not_start(sites, tmp_path):
    one, _ = sites
    with psycopg.connect(one.database.conninfo) as connection:
        connection.execute("UPDATE srm_instance SET host = 'another machine' WHERE name = 'srm-1'")
    with pytest.raises(ConfigurationError, match="another machine"):
        one.stage._instance.register()


def _count(site, table):
    with psycopg.connect(site.database.conninfo) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
