"""Counts for those who may not read: small groups are absent, the others rounded down, and nothing picks out one entry."""

from collections import Counter
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm.metadata.v1 import metadata_pb2 as pb

from .conftest import read_answer
from .test_access import PROPERTY, conditions, qualified

pytestmark = pytest.mark.integration

READ, WRITE, LIST = 4, 8, 32
FIELDS = (None, "i", "j", "t", "b")


@pytest.fixture
def people(service):
    """`/people`: bob may list but not read; 40 entries, some of which even `l` does not reach."""
    loader = service.client("loader")
    bob = service.client("bob")
    listed, closed = loader.acl({f"dn:{bob.dn}": LIST}), loader.acl({})
    attributes = [service.attribute(name, kind) for name, kind in (("i", "INT"), ("j", "INT"), ("t", "TEXT"), ("b", "BOOL"))]
    attributes.append(service.attribute("code", "TEXT", unique=True))
    loader.create(pb.Collection(path="/people", attributes=attributes, acl_id=listed, default_acl_id=listed, min_cell=3))
    rows: list[dict[str, Any]] = []
    for n in range(40):
        values: dict[str, Any] = {
            "i": (None, 1, 2, 3, 4)[n % 5],
            "j": n % 7 - 3,
            "t": ("CT", "MR", "ct", None)[n % 4],
            "b": (True, False, None)[n % 3],
        }
        loader.upsert("/people", service.entry(f"e{n:02}", closed if n % 8 == 0 else "", code=f"c{n}", **values))
        if n % 8:
            rows.append({"entry": f"e{n:02}", **values})
    return service, rows


@PROPERTY
@given(condition=conditions(("q",)), by=st.sampled_from(FIELDS))
def test_counts_are_those_of_the_oracle_rounded_down_and_small_groups_are_absent(people, condition, by):
    service, rows = people
    chosen = [row for row in rows if condition.value(qualified("q", row)) is True]
    groups = Counter(row[by] if by else None for row in chosen)
    expected = [((value, count // 3 * 3) if by else (count // 3 * 3,)) for value, count in groups.items() if count >= 3]
    columns, group = (f"{by}, COUNT(*)", f" GROUP BY {by}") if by else ("COUNT(*)", "")
    sql = f'SELECT {columns} FROM "/people" q WHERE {condition.sql}{group}'
    try:
        found = sorted(service.client("bob").rows(sql), key=str)
    except service.failed as error:
        assert error.reason == "QUERY_COUNTS_ONLY"
        assert any(word in condition.sql for word in ("+", "*", "ABS", "LOWER", "entry"))
    else:
        assert found == sorted(expected, key=str)


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT entry FROM "/people"',
        'SELECT * FROM "/people"',
        'SELECT i FROM "/people" GROUP BY i',
        'SELECT MIN(i), COUNT(*) FROM "/people"',
        'SELECT COUNT(i) FROM "/people"',
        'SELECT SUM(i) FROM "/people"',
        'SELECT COUNT(*) + 1 FROM "/people"',
        'SELECT COUNT(*) FROM "/people" HAVING COUNT(*) > 1',
        'SELECT COUNT(*) FROM "/people" HAVING MIN(i) = 1',
        'SELECT COUNT(*) FROM "/people" a CROSS JOIN "/people" b',
        'SELECT COUNT(*) FROM "/people" WHERE 1 / i = 1',
        'SELECT i, COUNT(*) FROM "/people" GROUP BY i ORDER BY MIN(j)',
        'SELECT DISTINCT COUNT(*) FROM "/people"',
        'SELECT COUNT(*) FROM "/people" a JOIN "/own" b ON TRUE',
        """SELECT COUNT(*) FROM "/people" WHERE i = 1 AND (b OR entry = 'e01')""",
        """SELECT COUNT(*) FROM "/people" WHERE NOT entry LIKE 'e0%'""",
        'SELECT entry, COUNT(*) FROM "/people" GROUP BY entry',
        'SELECT COUNT(*) FROM "/people" WHERE entry_acl IS NULL',
        'SELECT entry_acl, COUNT(*) FROM "/people" GROUP BY 1',
        """SELECT COUNT(*) FROM "/people" WHERE code < 'c2'""",
        'SELECT i, COUNT(*) FROM "/people" GROUP BY i, code',
    ],
)
def test_one_who_may_only_count_gets_counts_only(people, sql):
    service, _ = people
    bob = service.client("bob")
    own = service.client("loader").acl({"authenticated": READ})
    service.client("loader").create(pb.Collection(path="/own", acl_id=own, default_acl_id=own))
    with pytest.raises(service.failed) as raised:
        bob.rows(sql)
    assert raised.value.reason == "QUERY_COUNTS_ONLY"


def test_counts_need_the_list_right_and_a_cell_size_and_give_no_right_to_change(people):
    service, _ = people
    loader, mallory, bob = (service.client(name) for name in ("loader", "mallory", "bob"))
    with pytest.raises(service.failed) as raised:
        mallory.rows('SELECT COUNT(*) FROM "/people"')
    assert raised.value.reason == "COLLECTION_NOT_FOUND"
    for bad in (1, -1, 2_000_000):
        assert loader.create(pb.Collection(path="/bad", min_cell=bad)) == ["MIN_CELL"]
        with pytest.raises(service.failed) as raised:
            loader.alter("/people", min_cell=bad)
        assert raised.value.reason == "MIN_CELL"
    loader.alter("/people", min_cell=40)
    assert bob.rows('SELECT COUNT(*) FROM "/people"') == []
    writable = loader.acl({f"dn:{bob.dn}": LIST | WRITE})
    loader.alter("/people", acls=pb.CollectionAcls(acl_id=writable))
    for sql in ('DELETE FROM "/people" WHERE TRUE', 'UPDATE "/people" SET i = 1 WHERE TRUE RETURNING entry'):
        with pytest.raises(service.failed) as raised:
            bob.change(sql)
        assert raised.value.reason == "COLLECTION_NOT_FOUND"
    loader.alter("/people", min_cell=0)
    with pytest.raises(service.failed) as raised:
        bob.rows('SELECT COUNT(*) FROM "/people"')
    assert raised.value.reason == "COLLECTION_NOT_FOUND"
    assert len(loader.rows('SELECT entry FROM "/people"')) == 40


def counted(client: Any, by: str | None, condition: str = "TRUE", *, partial: bool = False) -> dict[Any, int]:
    """Return counts by group."""
    columns, group = (f"{by}, COUNT(*)", f" GROUP BY {by}") if by else ("COUNT(*)", "")
    request = pb.QueryRequest(sql=f'SELECT {columns} FROM "/people" q WHERE {condition}{group}', partial=partial)
    return {row[0] if by else None: row[-1] for row in read_answer(client.metadata.Query(request, timeout=30)).rows}


@settings(PROPERTY, max_examples=60)
@given(condition=conditions(("q",)), by=st.sampled_from(FIELDS), gone=st.integers(0, 34))
def test_one_entry_more_or_less_changes_one_group_by_one_step_at_most(people, condition, by, gone):
    service, rows = people
    bob, loader = service.client("bob"), service.client("loader")
    try:
        before = counted(bob, by, condition.sql)
    except grpc.RpcError:
        return  # of what could fail, or of the key
    entry = dict(rows[gone])
    loader.call("DeleteEntries", pb.DeleteEntriesRequest(collection="/people", keys=[entry["entry"]]))
    after = counted(bob, by, condition.sql)
    loader.upsert("/people", service.entry(entry.pop("entry"), **entry))
    changed = {group: before.get(group, 0) - after.get(group, 0) for group in before | after}
    assert [step for step in changed.values() if step] in ([], [3])


@pytest.mark.parametrize("by", FIELDS)
def test_a_part_for_several_sites_tells_no_more_than_a_whole_query(people, by):
    service, _ = people
    bob = service.client("bob")
    assert counted(bob, by, partial=True) == counted(bob, by)
    assert min(counted(bob, by, partial=True).values()) >= 3
    for sql in ('SELECT AVG(i), COUNT(*) FROM "/people"', 'SELECT COUNT(DISTINCT i) FROM "/people"', 'SELECT i FROM "/people"'):
        with pytest.raises(grpc.RpcError) as raised:
            read_answer(bob.metadata.Query(pb.QueryRequest(sql=sql, partial=True), timeout=30))
        assert service.failed(raised.value).reason == "QUERY_COUNTS_ONLY"


def test_a_link_counts_no_more_than_its_target_lets(people):
    service, _ = people
    loader, bob = service.client("loader"), service.client("bob")
    assert loader.view(path="/link", target="/people", is_link=True, with_key=True, acl_id=loader.acl({f"dn:{bob.dn}": LIST})) == ""
    loader.alter("/link", min_cell=2)
    assert bob.rows('SELECT COUNT(*) FROM "/link"') == [(33,)]
    loader.alter("/people", min_cell=0)
    with pytest.raises(service.failed) as raised:
        bob.rows('SELECT COUNT(*) FROM "/link"')
    assert raised.value.reason == "COLLECTION_NOT_FOUND"
