"""UPDATE and DELETE by condition, and the atomic take."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

DELETE, READ, WRITE, LIST = 2, 4, 8, 32


@pytest.fixture
def jobs(service):
    """`/jobs`: everyone may read and write; alice's entries are hidden from bob; bob may delete only his."""
    loader = service.client("loader")
    alice, bob = service.client("alice"), service.client("bob")
    everyone = loader.acl({"authenticated": READ | WRITE})
    hers, his = loader.acl({f"dn:{alice.dn}": READ | DELETE}), loader.acl({"authenticated": READ, f"dn:{bob.dn}": READ | DELETE})
    attributes = [
        service.attribute("state", "VARCHAR", length=10, indexed=True, not_null=True),
        service.attribute("n", "INT"),
        service.attribute("price", "NUMERIC"),
        service.attribute("day", "DATE"),
        service.attribute("at", "TIMESTAMP"),
        service.attribute("code", "TEXT", unique=True),
        service.attribute("f", "FLOAT"),
        service.attribute("u", "UUID"),
        service.attribute("b", "BOOL"),
    ]
    loader.create(pb.Collection(path="/jobs", attributes=attributes, acl_id=everyone, default_acl_id=everyone))
    loader.upsert(
        "/jobs",
        service.entry("a1", hers, state="new", n=1, code="x", day="2024-02-28", at="2024-02-28T01:02:03Z"),
        service.entry("a2", hers, state="new", n=0, code="y"),
        service.entry("b1", his, state="new", n=2, code="z"),
        service.entry("b2", his, state="old", n=3),
    )
    return service


def test_a_change_concerns_exactly_the_entries_that_the_caller_may_read(jobs):
    bob, loader = jobs.client("bob"), jobs.client("loader")
    assert bob.change("""UPDATE "/Jobs" j SET N = n + 10, State = 'seen' WHERE NOT j.state = 'old' OR n = 0""") == (1, [])
    assert loader.rows('SELECT entry, n, state FROM "/jobs" ORDER BY entry') == [
        ("a1", 1, "new"),
        ("a2", 0, "new"),
        ("b1", 12, "seen"),
        ("b2", 3, "old"),
    ]


def test_what_fails_on_hidden_entries_does_not_fail_for_the_caller(jobs):
    assert jobs.client("bob").change("""UPDATE "/jobs" SET state = 'x' WHERE 6 / n >= 1""")[0] == 2
    assert jobs.client("bob").change('UPDATE "/jobs" SET n = 12 / n WHERE TRUE')[0] == 2
    with pytest.raises(jobs.failed) as raised:
        jobs.client("alice").change("""UPDATE "/jobs" SET state = 'x' WHERE 1 / n = 1""")
    assert raised.value.reason == "QUERY_VALUE"


def test_deleting_needs_the_right_on_each_entry(jobs):
    assert jobs.client("bob").change('DELETE FROM "/jobs" WHERE TRUE') == (2, [])
    assert jobs.client("alice").change("""DELETE FROM "/jobs" WHERE state = 'new' OR TRUE""") == (2, [])
    assert jobs.client("loader").rows('SELECT COUNT(*) FROM "/jobs"') == [(0,)]


def test_every_type_can_be_computed_and_set(jobs):
    alice = jobs.client("alice")
    count, rows = alice.change(
        """UPDATE "/jobs" SET day = day + 1, price = n, at = '2024-02-29T00:00:00+01:00', f = n, b = NOT n IS NULL,
        u = '0190b0a0-1234-4abc-8def-0123456789ab', code = code || '!' WHERE code = 'x' RETURNING entry, day, price, at, f, b, u, code"""
    )
    assert (count, rows) == (
        1,
        [("a1", "2024-02-29", "1", "2024-02-28T23:00:00Z", 1.0, True, "0190b0a0-1234-4abc-8def-0123456789ab", "x!")],
    )
    assert alice.change('UPDATE "/jobs" SET day = NULL, at = at WHERE code IS NOT NULL RETURNING *')[0] == 3
    assert alice.rows("SELECT day, at FROM \"/jobs\" WHERE entry = 'a1'") == [(None, "2024-02-28T23:00:00Z")]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("UPDATE \"/jobs\" SET state = 'far too long for it' WHERE TRUE", "VALUE_LENGTH"),
        ('UPDATE "/jobs" SET state = NULL WHERE n = 1', "VALUE_MISSING"),
        ("UPDATE \"/jobs\" SET code = 'same' WHERE TRUE", "VALUE_NOT_UNIQUE"),
        ("UPDATE \"/jobs\" SET n = '5' WHERE TRUE", "QUERY_INVALID"),
        ('UPDATE "/jobs" SET n = 1.5 WHERE TRUE', "QUERY_INVALID"),
        ("UPDATE \"/jobs\" SET entry = 'x' WHERE TRUE", "QUERY_INVALID"),
        ('UPDATE "/jobs" SET n = 1, N = 2 WHERE TRUE', "QUERY_INVALID"),
        ('UPDATE "/jobs" SET n = COUNT(*) WHERE TRUE', "QUERY_INVALID"),
        ('UPDATE "/jobs" SET n = 1', "QUERY_INVALID"),
        ('DELETE FROM "/jobs"', "QUERY_INVALID"),
        ('UPDATE "/jobs" SET n = 1 FROM "/x" WHERE TRUE', "QUERY_INVALID"),
        ('UPDATE "/jobs" SET WHERE TRUE', "QUERY_INVALID"),
        ('DELETE FROM "/jobs" USING "/x" WHERE TRUE', "QUERY_INVALID"),
        ('DELETE FROM "/jobs" WHERE n = (SELECT 1)', "QUERY_INVALID"),
        ("DELETE FROM entry WHERE TRUE", "QUERY_INVALID"),
        ('SELECT n FROM "/jobs"', "QUERY_INVALID"),
        ('DELETE FROM "/absent" WHERE TRUE', "COLLECTION_NOT_FOUND"),
    ],
)
def test_a_change_that_is_not_allowed_changes_nothing(jobs, sql, reason):
    before = jobs.client("loader").rows('SELECT * FROM "/jobs" ORDER BY entry')
    with pytest.raises(jobs.failed) as raised:
        jobs.client("alice").change(sql)
    assert raised.value.reason == reason
    assert jobs.client("loader").rows('SELECT * FROM "/jobs" ORDER BY entry') == before


def test_a_reader_who_may_not_write_changes_nothing_and_a_writer_who_may_not_read_learns_nothing(service):
    loader, alice = service.client("loader"), service.client("alice")
    readable, writable = loader.acl({"authenticated": READ | LIST}), loader.acl({"authenticated": WRITE | LIST})
    loader.create(
        pb.Collection(path="/r", acl_id=readable, default_acl_id=readable, attributes=[service.attribute("n", "INT")]),
        pb.Collection(path="/w", acl_id=writable, default_acl_id=readable, attributes=[service.attribute("n", "INT")]),
    )
    told = []
    for path in ("/r", "/w", "/none"):
        with pytest.raises(service.failed) as raised:
            alice.change(f'UPDATE "{path}" SET n = 1 WHERE n = 1')
        told.append(raised.value.reason)
    assert told == ["COLLECTION_FORBIDDEN", "COLLECTION_NOT_FOUND", "COLLECTION_NOT_FOUND"]


def test_counters_lose_no_step_of_many_clients(service):
    loader = service.client("loader")
    acl = loader.acl({})
    loader.create(pb.Collection(path="/count", acl_id=acl, default_acl_id=acl, attributes=[service.attribute("n", "INT")]))
    loader.upsert("/count", service.entry("c", n=0))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: loader.change("""UPDATE "/count" SET n = n + 1 WHERE entry = 'c'"""), range(60)))
    assert loader.rows('SELECT n FROM "/count"') == [(60,)]


def test_a_work_queue_of_many_clients_gives_each_job_to_exactly_one(service):
    loader = service.client("loader")
    acl = loader.acl({"authenticated": READ | WRITE})
    attributes = [service.attribute("state", "TEXT", indexed=True), service.attribute("priority", "INT"), service.attribute("by", "TEXT")]
    loader.create(pb.Collection(path="/queue", acl_id=acl, default_acl_id=acl, attributes=attributes))
    loader.upsert("/queue", *(service.entry(f"job{n:03}", state="new", priority=n % 7) for n in range(200)))
    taken: list[str] = []
    lock = threading.Lock()

    takers = [service.client(name) for name in ("alice", "bob", "loader", "mallory")]

    def work(worker: int) -> None:
        client = takers[worker % 4]
        take = f"""UPDATE "/queue" SET state = 'taken', by = 'w{worker}' WHERE state = 'new'
                   ORDER BY priority DESC, entry LIMIT 3 RETURNING entry, priority"""
        while True:
            count, rows = client.change(take)
            if not count:
                return
            with lock:
                taken.extend(key for key, _ in rows)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sorted(taken) == [f"job{n:03}" for n in range(200)]
    assert loader.rows("""SELECT COUNT(*) FROM "/queue" WHERE state = 'taken' AND by LIKE 'w%'""") == [(200,)]


def test_a_take_gives_the_best_first(jobs):
    taken = [
        jobs.client("alice").change("""UPDATE "/jobs" SET state = 'taken' WHERE state = 'new' ORDER BY n DESC LIMIT 1 RETURNING entry""")
        for _ in range(4)
    ]
    assert taken == [(1, [("b1",)]), (1, [("a1",)]), (1, [("a2",)]), (0, [])]


def test_only_operators_see_how_a_query_is_answered(jobs):
    request = pb.ExplainRequest(sql="""SELECT n FROM "/jobs" WHERE state = 'new'""")
    lines = jobs.client("operator").call("Explain", request).lines
    assert any("entry" in line for line in lines)
    with pytest.raises(jobs.failed) as raised:
        jobs.client("alice").call("Explain", request)
    assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED
