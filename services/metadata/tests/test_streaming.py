"""Streams: batches, limits, and queries that end early."""

import threading

import grpc
import psycopg
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_testing.process import eventually

pytestmark = pytest.mark.integration

READ = 4
#: Seconds: a caller's patience, and then how soon the work is to have stopped; together less than the service's own limit.
DEADLINE, SOON = 4.0, 3.0
ENDLESS = 'SELECT COUNT(*) FROM "/many" a CROSS JOIN "/many" b CROSS JOIN "/many" c WHERE a.n + b.n + c.n < 0'


@pytest.fixture
def loader(service):
    """The owner of `/many`: 2,500 entries, every third without a value."""
    loader = service.client("loader")
    acl = loader.acl({"authenticated": READ})
    loader.create(pb.Collection(path="/many", attributes=[service.attribute("n", "INT")], acl_id=acl, default_acl_id=acl))
    entries = [service.entry(f"{n:05}", n=None if n % 3 == 0 else n) for n in range(2_500)]
    assert set(loader.upsert("/many", *entries)) == {""}
    return loader


def queries_running(service) -> int:
    with psycopg.connect(service.conninfo) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchone()
    return row[0]


def test_rows_arrive_in_batches_of_a_thousand_with_nulls_marked(service, loader):
    responses = list(loader.metadata.Query(pb.QueryRequest(sql='SELECT n, entry FROM "/many" ORDER BY entry')))
    assert [response.HasField("header") for response in responses] == [True, False, False]
    assert [response.rows.count for response in responses] == [1_000, 1_000, 500]
    first = responses[0].rows.columns
    assert list(first[0].ints[:5]) == [0, 1, 2, 0, 4]
    assert first[0].nulls[0] == 0b01001001
    assert first[1].nulls == b""
    assert len(loader.rows('SELECT n, entry FROM "/many"')) == 2_500


@pytest.mark.parametrize(
    ("clause", "count"), [("LIMIT 0", 0), ("LIMIT 3", 3), ("LIMIT 1000", 1_000), ("LIMIT 1001", 1_001), ("OFFSET 2499", 1)]
)
def test_limit_and_offset_hold_on_both_sides_of_a_batch(service, loader, clause, count):
    answer = loader.query(f'SELECT entry FROM "/many" ORDER BY entry {clause}')
    assert answer.names == ["entry"]
    assert len(answer.rows) == count


def test_rows_too_large_for_one_message_are_sent_in_several(service, loader):
    acl = loader.acl({})
    loader.create(pb.Collection(path="/wide", attributes=[service.attribute("t", "TEXT")], acl_id=acl, default_acl_id=acl))
    loader.upsert("/wide", *(service.entry(f"{n:03}", t="x" * 60_000) for n in range(200)))
    responses = list(loader.metadata.Query(pb.QueryRequest(sql='SELECT entry, t FROM "/wide" ORDER BY entry')))
    assert max(response.ByteSize() for response in responses) < 4 * 1024 * 1024
    assert [key for response in responses for key in response.rows.columns[0].texts] == [f"{n:03}" for n in range(200)]
    with pytest.raises(service.failed) as raised:
        loader.rows(f'SELECT {", ".join(["t"] * 100)} FROM "/wide" LIMIT 1')
    assert raised.value.reason == "QUERY_ROW_TOO_LARGE"


def test_an_empty_answer_has_its_header(service, loader):
    answer = loader.query('SELECT n AS x, COUNT(*) FROM "/many" WHERE n < 0 GROUP BY n')
    assert (answer.names, answer.rows) == (["x", "count"], [])


def test_a_query_that_takes_too_long_is_stopped_and_told(service, loader):
    with pytest.raises(service.failed) as raised:
        loader.rows(ENDLESS)
    assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUERY_TIMEOUT")
    assert queries_running(service) == 0


def test_too_many_rows_end_the_stream_with_an_error(service, loader):
    with pytest.raises(service.failed) as raised:
        loader.rows('SELECT a.n FROM "/many" a CROSS JOIN "/many" b')
    assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUERY_TOO_MANY_ROWS")


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_client_that_goes_away_stops_the_database(service, loader, how):
    call = loader.metadata.Query(pb.QueryRequest(sql=ENDLESS), timeout=DEADLINE if how == "deadline" else 30)
    waiter = threading.Thread(target=lambda: _drain(call))
    waiter.start()
    eventually(lambda: queries_running(service) == 1)
    if how == "cancel":
        call.cancel()
    waiter.join()
    eventually(lambda: queries_running(service) == 0, SOON)
    assert loader.rows('SELECT COUNT(*) FROM "/many"') == [(2_500,)]


def test_a_stream_left_in_the_middle_gives_its_connection_back(service, loader):
    for _ in range(12):  # more than there are connections
        call = loader.metadata.Query(pb.QueryRequest(sql='SELECT a.entry, b.n FROM "/many" a CROSS JOIN "/many" b'), timeout=30)
        assert next(call).rows.count == 1_000
        call.cancel()
    assert loader.rows('SELECT COUNT(*) FROM "/many"') == [(2_500,)]


def _drain(call) -> None:
    try:
        list(call)
    except grpc.RpcError:
        return
