"""A caller sees exactly what the ACLs allow, whatever the query: compared with an oracle that filters first and evaluates after."""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

READ = 4
TEXTS = ("CT", "MR", "US", "ct", "a%b", "")
CALLERS = ("loader", "alice", "bob", "mallory")
Row = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """An expression: its SQL and its value for a row, with None for NULL."""

    sql: str
    value: Callable[[Row], Any]


def attribute(side: str, name: str) -> Node:
    return Node(f"{side}.{name}", lambda row: row[f"{side}.{name}"])


def strict(sql: str, compute: Callable[..., Any], *parts: Node) -> Node:
    def value(row: Row) -> Any:
        values = [part.value(row) for part in parts]
        return None if None in values else compute(*values)

    return Node(sql.format(*(part.sql for part in parts)), value)


def both(left: Node, right: Node) -> Node:
    def value(row: Row) -> bool | None:
        values = (left.value(row), right.value(row))
        return False if False in values else None if None in values else True

    return Node(f"({left.sql} AND {right.sql})", value)


def either(left: Node, right: Node) -> Node:
    def value(row: Row) -> bool | None:
        values = (left.value(row), right.value(row))
        return True if True in values else None if None in values else False

    return Node(f"({left.sql} OR {right.sql})", value)


def matches(text: str, pattern: str, flags: int = 0) -> bool:
    expression = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    return re.fullmatch(expression, text, flags | re.DOTALL) is not None


SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def numbers(sides: tuple[str, ...]) -> st.SearchStrategy[Node]:
    leaves = st.one_of(
        st.sampled_from([attribute(side, name) for side in sides for name in ("i", "j")]),
        st.integers(-5, 5).map(lambda n: Node(str(n), lambda row: n)),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda p: strict("({} + {})", lambda a, b: a + b, *p)),
            st.tuples(inner, inner).map(lambda p: strict("({} * {})", lambda a, b: a * b, *p)),
            inner.map(lambda n: strict("ABS({})", abs, n)),
            st.tuples(inner, inner).map(
                lambda p: Node(
                    f"COALESCE({p[0].sql}, {p[1].sql})", lambda row: p[1].value(row) if p[0].value(row) is None else p[0].value(row)
                )
            ),
        ),
        max_leaves=4,
    )


def texts(sides: tuple[str, ...]) -> st.SearchStrategy[Node]:
    literals = st.sampled_from(TEXTS).map(lambda text: Node(f"'{text}'", lambda row: text))
    attributes = st.sampled_from([attribute(side, name) for side in sides for name in ("t", "entry")])
    return st.one_of(attributes, literals, attributes.map(lambda n: strict("LOWER({})", str.lower, n)))


def conditions(sides: tuple[str, ...]) -> st.SearchStrategy[Node]:
    def compared(operands: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        return st.tuples(operands, st.sampled_from(sorted(SIGNS)), operands).map(
            lambda p: strict(f"({{}} {p[1]} {{}})", SIGNS[p[1]], p[0], p[2])
        )

    leaves = st.one_of(
        compared(numbers(sides)),
        compared(texts(sides)),
        st.sampled_from([attribute(side, "b") for side in sides]),
        st.one_of(numbers(sides), texts(sides)).map(lambda n: Node(f"({n.sql} IS NULL)", lambda row: n.value(row) is None)),
        st.tuples(numbers(sides), st.integers(-5, 0), st.integers(0, 5)).map(
            lambda p: strict(f"({{}} BETWEEN {p[1]} AND {p[2]})", lambda a: p[1] <= a <= p[2], p[0])
        ),
        st.tuples(texts(sides), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3)).map(
            lambda p: strict("({} IN (" + ", ".join(f"'{text}'" for text in p[1]) + "))", lambda a: a in p[1], p[0])
        ),
        st.tuples(texts(sides), st.sampled_from(("C%", "_T", "%", "a\\%b"))).map(
            lambda p: strict(f"({{}} LIKE '{p[1]}')", lambda a: a == "a%b" if "\\" in p[1] else matches(a, p[1]), p[0])
        ),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda p: both(*p)),
            st.tuples(inner, inner).map(lambda p: either(*p)),
            inner.map(lambda n: strict("(NOT {})", lambda a: not a, n)),
        ),
        max_leaves=6,
    )


@dataclass
class World:
    """Two collections, who may read which entry, and what is in them."""

    client: Callable[[str], Any]
    rows: dict[str, list[Row]]
    readers: dict[str, dict[str, frozenset[str]]]

    def visible(self, collection: str, caller: str) -> list[Row]:
        return [row for row in self.rows[collection] if caller in self.readers[collection][row["entry"]]]


@pytest.fixture
def world(service):
    """60 entries in `/x` and 25 in `/y`, under four ACLs each with other readers."""
    loader = service.client("loader")
    alice, mallory = service.client("alice"), service.client("mallory")
    everyone = loader.acl({"authenticated": READ})
    acls = [
        (loader.acl({}), {"loader"}),
        (loader.acl({"group:/biomed/neuro": READ}), {"loader", "alice", "bob"}),
        (loader.acl({f"dn:{alice.dn}": READ, f"dn:{mallory.dn}": 32}), {"loader", "alice"}),
        (alice.acl({f"dn:{mallory.dn}": READ}), {"alice", "mallory"}),
    ]
    attributes = [
        service.attribute("i", "INT", indexed=True),
        service.attribute("j", "INT"),
        service.attribute("t", "TEXT", indexed=True),
        service.attribute("b", "BOOL"),
    ]
    for path in ("/x", "/y"):
        loader.create(pb.Collection(path=path, attributes=attributes, acl_id=everyone, default_acl_id=everyone))
    choose = random.Random(20)
    rows, readers = {}, {}
    for path, count in (("/x", 60), ("/y", 25)):
        rows[path], readers[path], entries = [], {}, []
        for number in range(count):
            values = {
                "i": choose.choice([None, *range(-4, 5)]),
                "j": choose.choice([None, *range(-4, 5)]),
                "t": choose.choice([None, *TEXTS]),
                "b": choose.choice([None, True, False]),
            }
            acl, names = choose.choice(acls)
            rows[path].append({"entry": f"e{number:02}", **values})
            readers[path][f"e{number:02}"] = frozenset(names)
            entries.append(service.entry(f"e{number:02}", acl, **values))
        assert set(loader.upsert(path, *entries)) == {""}
    return World(service.client, rows, readers)


def qualified(side: str, row: Row | None, names: tuple[str, ...] = ("entry", "i", "j", "t", "b")) -> Row:
    return {f"{side}.{name}": None if row is None else row[name] for name in names}


def check(world: World, sql: str, caller: str, expected: list[tuple[Any, ...]]) -> None:
    assert Counter(world.client(caller).rows(sql)) == Counter(expected), sql


PROPERTY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@PROPERTY
@given(condition=conditions(("q",)), caller=st.sampled_from(CALLERS))
def test_rows_equal_those_of_an_oracle_that_filters_by_acl_first(world, condition, caller):
    expected = [(row["entry"],) for row in world.visible("/x", caller) if condition.value(qualified("q", row)) is True]
    check(world, f'SELECT entry FROM "/x" q WHERE {condition.sql}', caller, expected)


@PROPERTY
@given(condition=conditions(("q",)), group=numbers(("q",)), caller=st.sampled_from(CALLERS))
def test_aggregates_equal_those_of_the_oracle(world, condition, group, caller):
    groups: dict[Any, list[Row]] = {}
    for row in world.visible("/x", caller):
        if condition.value(qualified("q", row)) is True:
            groups.setdefault(group.value(qualified("q", row)), []).append(row)
    expected = []
    for value, members in groups.items():
        known = [row["j"] for row in members if row["j"] is not None]
        summed = str(sum(known)) if known else None
        distinct = len({row["t"] for row in members if row["t"] is not None})
        expected.append((value, len(members), len(known), min(known, default=None), max(known, default=None), summed, distinct))
    columns = f"{group.sql} AS g, COUNT(*), COUNT(q.j), MIN(q.j), MAX(q.j), SUM(q.j), COUNT(DISTINCT q.t)"
    check(world, f'SELECT {columns} FROM "/x" q WHERE {condition.sql} GROUP BY g', caller, expected)


@PROPERTY
@given(
    on=conditions(("q", "r")),
    condition=conditions(("q", "r")),
    kind=st.sampled_from(("JOIN", "LEFT JOIN", "CROSS JOIN")),
    caller=st.sampled_from(CALLERS),
)
def test_joins_equal_those_of_the_oracle(world, on, condition, kind, caller):
    expected = []
    right = world.visible("/y", caller)
    for left in world.visible("/x", caller):
        pairs = [{**qualified("q", left), **qualified("r", other)} for other in right]
        joined = pairs if kind == "CROSS JOIN" else [pair for pair in pairs if on.value(pair) is True]
        if kind == "LEFT JOIN" and not joined:
            joined = [{**qualified("q", left), **qualified("r", None)}]
        expected += [(pair["q.entry"], pair["r.entry"]) for pair in joined if condition.value(pair) is True]
    joining = f'"/x" q {kind} "/y" r' + ("" if kind == "CROSS JOIN" else f" ON {on.sql}")
    check(world, f"SELECT q.entry, r.entry FROM {joining} WHERE {condition.sql}", caller, expected)


@pytest.fixture
def trap(service):
    """`/trap`: alice may read one harmless entry; in the others, every function that can fail does."""
    loader = service.client("loader")
    everyone, hidden = loader.acl({"authenticated": READ}), loader.acl({})
    attributes = [
        service.attribute("i", "INT", indexed=True),
        service.attribute("t", "TEXT", indexed=True),
        service.attribute("f", "FLOAT"),
    ]
    loader.create(pb.Collection(path="/trap", attributes=attributes, acl_id=everyone, default_acl_id=hidden))
    loader.upsert(
        "/trap",
        service.entry("seen", everyone, i=1, t="7", f=1.0),
        *(service.entry(f"hidden{n}", i=0, t="secret\\", f=-1.0) for n in range(200)),
        *(service.entry(f"huge{n}", i=2**63 - 1, t="9" * 30, f=1e308) for n in range(200)),
    )
    return service


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT entry FROM "/trap" WHERE 1 / i = 1',
        'SELECT entry FROM "/trap" WHERE i = 1 OR 1 / i = 1',
        'SELECT entry FROM "/trap" WHERE NOT (10 / i = 2)',
        'SELECT entry FROM "/trap" WHERE i >= 0 AND CAST(t AS INT) = 7',
        'SELECT entry FROM "/trap" WHERE t LIKE t',
        'SELECT entry FROM "/trap" WHERE i + 1 > 0',
        'SELECT entry FROM "/trap" WHERE SQRT(f) = 1',
        'SELECT entry FROM "/trap" WHERE CASE WHEN i > 0 THEN 1 / i = 1 ELSE 1 / i > 0 END',
        'SELECT entry FROM "/trap" WHERE t IN (SUBSTRING(t, 1, i - 0)) OR TRUE',
        'SELECT entry FROM "/trap" ORDER BY 1 / i, CAST(t AS INT)',
        'SELECT a.entry FROM "/trap" a JOIN "/trap" b ON 1 / a.i = 1 / b.i WHERE a.t = \'7\'',
        'SELECT a.entry FROM "/trap" a LEFT JOIN "/trap" b ON a.i / b.i = 1',
        'SELECT MAX(entry) FROM "/trap" GROUP BY 1 / i HAVING SUM(i * i) > 0',
        'SELECT DISTINCT entry FROM "/trap" WHERE COALESCE(1 / i, 1) = 1',
    ],
)
def test_what_fails_on_hidden_rows_fails_for_nobody_who_may_not_read_them(trap, sql):
    assert trap.client("alice").rows(sql) == [("seen",)]


def test_what_fails_on_readable_rows_is_told_without_values(trap):
    with pytest.raises(trap.failed) as raised:
        trap.client("loader").rows('SELECT 1 / i FROM "/trap"')
    assert (raised.value.reason, "division by zero" in raised.value.message) == ("QUERY_VALUE", True)
    with pytest.raises(trap.failed) as raised:
        trap.client("loader").rows('SELECT CAST(t AS INT) FROM "/trap"')
    assert raised.value.reason == "QUERY_VALUE"
    assert "secret" not in raised.value.message


def test_the_readable_acls_are_those_of_the_shared_functions(world, service):
    """The query's own access rule against `acls_granting` of the service library."""
    for caller in CALLERS:
        for path in ("/x", "/y"):
            seen = {key for (key,) in world.client(caller).rows(f'SELECT entry FROM "{path}"')}
            assert seen == {row["entry"] for row in world.visible(path, caller)}


def test_an_unknown_and_a_forbidden_collection_are_told_alike(service):
    loader, mallory = service.client("loader"), service.client("mallory")
    acl = loader.acl({"group:/biomed/neuro": READ})
    loader.create(pb.Collection(path="/closed", acl_id=acl, default_acl_id=acl, attributes=[service.attribute("i", "INT")]))
    told = set()
    for path in ("/closed", "/absent"):
        for sql in (f'SELECT i FROM "{path}"', f'SELECT nonsense FROM "{path}"', f'SELECT COUNT(*) FROM "{path}"'):
            with pytest.raises(service.failed) as raised:
                mallory.rows(sql)
            told.add((raised.value.code, raised.value.reason, raised.value.message.partition(":")[2].replace(path, "")))
    assert len(told) == 1
    assert service.client("alice").rows('SELECT i FROM "/closed"') == []
