"""The query room by itself: what is allowed, what is refused and where, what the SQL is made of."""

import re
import time
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_metadata.__main__ import MIGRATIONS
from mdm_metadata.rules.model import Attribute, AttributeType, Collection, StoredCollection, assign_slots
from mdm_metadata.rules.query.binding.change import bind_change, bind_condition
from mdm_metadata.rules.query.binding.select import bind, collection_paths
from mdm_metadata.rules.query.sql.render import is_total
from mdm_metadata.rules.query.sql.statement import Statement, compile_change, compile_query
from mdm_metadata.rules.query.syntax.parse import parse, parse_change
from mdm_metadata.rules.query.syntax.tree import Readable
from mdm_service.database import migrate
from mdm_service.identity.caller import Caller
from mdm_testing.postgres import fresh_databases
from mdm_wire.errors import Invalid

T = AttributeType
KINDS = {"i": T.INT, "f": T.FLOAT, "n": T.NUMERIC, "t": T.TEXT, "b": T.BOOL, "d": T.DATE, "z": T.TIMESTAMP, "u": T.UUID}
SCHEMA = tuple(Attribute(name, kind) for name, kind in KINDS.items())
COLLECTIONS = {
    path: StoredCollection(number, Collection(path, SCHEMA), assign_slots(SCHEMA), 255) for number, path in enumerate(("/a", "/b"), 101)
}
MARKER = "zq_marker"
#: Every construct of the language; each is executed on PostgreSQL too, where a type that does not fit shows.
EXPRESSIONS = [
    "i, f, n, t, b, d, z, u, entry",
    "NULL + NULL, -NULL, NULL % 2, ABS(NULL), COALESCE(NULL, NULL), NULL = NULL, NULL IN (NULL), GREATEST(NULL, NULL)",
    "-i * 2 + 1 - f / 3, i % 2, n - 1.5, -9223372036854775808, 1e3, .5",
    "COUNT(*), COUNT(DISTINCT t), MIN(d), MAX(z), SUM(f), AVG(n)",
    "LOWER(t) || UPPER(t) || TRIM(t), LENGTH(t), SUBSTRING(t, 1, 2), SUBSTRING(t FROM 2)",
    "COALESCE(i, 0), NULLIF(t, ''), GREATEST(i, f), LEAST(d, '2020-01-01')",
    "ABS(i), ROUND(f), ROUND(n, 2), FLOOR(f), CEIL(i), SQRT(i)",
    "CASE WHEN b THEN 1 ELSE 2.5 END, CASE t WHEN 'x' THEN d END",
    "CAST(t AS INT), t::DATE, CAST(i AS TEXT), CAST(z AS DATE), CAST(d AS TIMESTAMP), b::INT, i::BOOL, CAST(t AS UUID)",
    "EXTRACT(YEAR FROM d), EXTRACT(SECOND FROM z), d + 30, d - 1, d - DATE '2020-01-01'",
    "i IN (1, 2, NULL), t NOT IN ('x'), i IN (f, 2), f BETWEEN 1 AND i, d NOT BETWEEN '2020-01-01' AND '2021-01-01'",
    "t LIKE 'x%', t NOT ILIKE '%y' ESCAPE '!', t IS NULL, i IS NOT NULL, b IS TRUE, b IS NOT FALSE, NOT b",
]


def readable(path: str) -> Readable | None:
    return Readable(COLLECTIONS[path], Caller("CN=alice")) if path in COLLECTIONS else None


def compiled(sql: str) -> Statement:
    tree = parse(sql)
    collection_paths(tree, sql)
    return compile_query(bind(tree, sql, readable, {}))


@pytest.fixture(scope="module")
def conninfo(postgres) -> Iterator[str]:
    with fresh_databases(postgres, "metadata") as (found,):
        migrate(found, MIGRATIONS)
        yield found


def refusal(sql: str) -> str:
    with pytest.raises(Invalid) as raised:
        compiled(sql)
    return raised.value.message


def test_constants_become_parameters_and_no_text_of_the_user_reaches_the_sql():
    statement = compiled(
        f"""SELECT t AS {MARKER}, '{MARKER}' AS x FROM "/A" {MARKER}x WHERE {MARKER}x.t = '{MARKER}' OR t LIKE '{MARKER}%'"""
    )
    assert MARKER not in statement.sql
    assert list(statement.parameters.values()).count(MARKER) == 1
    assert f"{MARKER}%" in statement.parameters.values()


def test_the_sql_names_no_table_but_entries_and_acls():
    statement = compiled('SELECT a.t, count(*) FROM "/a" a LEFT JOIN "/b" ON a.i = "/b".i WHERE a.b GROUP BY a.t')
    assert set(re.findall(r"(?:FROM|JOIN) (\w+)", statement.sql)) == {"entry", "acl", "acl_entry"}
    assert statement.sql.count("acl.id = e.acl_id AND acl.owner = %(caller)s") == 2


def test_equal_constants_share_a_parameter_so_that_grouping_by_an_expression_works():
    statement = compiled('SELECT i + 7, count(*) FROM "/a" GROUP BY i + 7')
    assert list(statement.parameters.values()).count(7) == 1


def test_what_can_fail_is_kept_behind_a_barrier_and_what_cannot_is_not():
    assert "OFFSET 0" not in compiled("""SELECT t FROM "/a" WHERE i = 1 OR NOT t LIKE 'x%'""").sql
    for failing in ("1 / i > 0", "CAST(t AS INT) = 1", "i + 1 > 0", "SQRT(f) > 1", "t LIKE t", "SUBSTRING(t, 1, i) = 'x'"):
        assert " OFFSET 0) AS s0" in compiled(f'SELECT t FROM "/a" WHERE {failing}').sql
    assert " OFFSET 0) AS s0" in compiled('SELECT 1 / i FROM "/a"').sql
    assert " OFFSET 0) AS s0" in compiled('SELECT t FROM "/a" ORDER BY CAST(t AS DATE)').sql
    both = compiled('SELECT x.t FROM "/a" x JOIN "/b" y ON x.t = y.t WHERE 1 / y.i = 1 AND x.i = 5').sql
    assert both.count(" OFFSET 0)") == 2
    assert "::bigint = %(p0)s::bigint) OFFSET 0) AS s0" in both  # what cannot fail still goes inside, for the index


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_language_is_as_documented(expression):
    assert compiled(f'SELECT {expression} FROM "/a"').outputs


@pytest.mark.integration
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_database_evaluates_what_is_documented(expression, conninfo):
    statement = compiled(f'SELECT {expression} FROM "/a"')
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(statement.sql.encode(), statement.parameters).fetchall()
    assert rows in ([], [(0, 0, *[None] * 4)])  # of no entries; an aggregate gives one row


@pytest.mark.parametrize(
    ("sql", "where", "what"),
    [
        ("", "1:1", "only SELECT"),
        ('DELETE FROM "/a"', "1:1", "only SELECT"),
        ('EXPLAIN SELECT i FROM "/a"', "1:1", "only SELECT"),
        ('WITH x AS (SELECT 1) SELECT i FROM "/a"', "1:1", "only SELECT"),
        ('SELECT i FROM "/a"; DROP TABLE entry', "1:19", "one statement"),
        ('SELECT i FROM "/a" UNION SELECT i FROM "/b"', "1:1", "without UNION"),
        ('SELECT i FROM "/a" -- x', "1:15", "comments"),
        ('SELECT i /* x */ FROM "/a"', "1:8", "comments"),
        ('SELECT (SELECT 1) FROM "/a"', "1:16", "sub-selects"),
        ('SELECT i FROM "/a" WHERE i IN (SELECT 1)', "1:26", "sub-selects"),
        ('SELECT i FROM "/a" WHERE EXISTS (SELECT 1)', "1:41", "sub-selects"),
        ('SELECT i FROM (SELECT i FROM "/a") x', "1:23", "sub-selects"),
        ("SELECT i FROM entry", "1:15", "quoted identifiers"),
        ('SELECT i FROM "entry"', "1:15", "quoted identifiers"),
        ("SELECT i FROM pg_catalog.pg_class", "1:15", "quoted identifiers"),
        ('SELECT i FROM public."/a"', "1:15", "quoted identifiers"),
        ("SELECT i FROM generate_series(1, 9)", "1:15", "quoted identifiers"),
        ("SELECT 1", "1:8", "FROM is missing"),
        ('SELECT\n  pg_sleep(1)\nFROM "/a"', "2:3", "function"),
        ('SELECT current_user FROM "/a"', "1:26", "function"),
        ('SELECT t ~ t FROM "/a"', "1:8", "function"),
        ('SELECT COUNT(*) OVER () FROM "/a"', "1:8", "not allowed"),
        ('SELECT $1 FROM "/a"', "1:9", ":name"),
        ('SELECT %(caller)s FROM "/a"', "1:10", ":name"),
        ('SELECT i::regclass FROM "/a"', "1:8", "CAST is allowed to"),
        ('SELECT i::int[] FROM "/a"', "1:14", "brackets"),
        ("SELECT E'x' FROM \"/a\"", "1:8", "not allowed"),
        ('SELECT i INTO x FROM "/a"', "1:8", "INTO"),
        ('SELECT i FROM "/a" FOR UPDATE', "1:8", "LOCKS"),
        ('SELECT i FROM "/a" TABLESAMPLE SYSTEM (1)', "1:15", "SAMPLE"),
        ('SELECT DISTINCT ON (i) i FROM "/a"', "1:21", "ON"),
        ('SELECT i FROM "/a" GROUP BY ROLLUP (i)', "1:37", "not allowed"),
        ('SELECT i FROM "/a" LIMIT 1 + 1', "1:26", "integer constant"),
        ('SELECT i FROM "/a" NATURAL JOIN "/b"', "1:33", "METHOD"),
        ('SELECT x.i FROM "/a" x RIGHT JOIN "/b" y ON x.i = y.i', "1:35", "joins are"),
        ('SELECT i FROM "/a" WHERE t = 5', "1:26", "CAST one of them"),
        ('SELECT i FROM "/a" WHERE i', "1:26", "BOOL is expected"),
        ("SELECT i FROM \"/a\" WHERE d > 'tomorrow'", "1:26", "YYYY-MM-DD"),
        ("SELECT i FROM \"/a\" WHERE t LIKE 'x\\'", "1:33", "escape character"),
        ('SELECT i FROM "/a" WHERE COUNT(*) > 1', "1:26", "aggregates"),
        ('SELECT MAX(COUNT(*)) FROM "/a"', "1:12", "aggregates"),
        ('SELECT t, COUNT(*) FROM "/a"', "1:8", "GROUP BY"),
        ('SELECT DISTINCT t FROM "/a" ORDER BY i', "1:38", "DISTINCT"),
        ('SELECT ctid FROM "/a"', "1:8", "no attribute"),
        ('SELECT i FROM "/a" x JOIN "/b" y ON x.i = y.i', "1:8", "two collections"),
        ('SELECT i FROM "/secret"', "1:15", "/secret: no such collection, or you may not read it"),
    ],
)
def test_a_refusal_says_where_and_what(sql, where, what):
    message = refusal(sql)
    line, column = where.split(":")
    assert message.startswith(f"line {line}, column {column}: ")
    assert what in message


def test_two_thousand_terms_are_understood_and_a_hundred_thousand_are_refused():
    assert compiled('SELECT i FROM "/a" WHERE ' + " OR ".join(f"i = {number}" for number in range(2_000))).parameters["p1999"]
    assert compiled('SELECT i FROM "/a" WHERE ' + " AND ".join(f"NOT t = '{number}'" for number in range(2_000)))
    assert "at most" in refusal('SELECT i FROM "/a" WHERE i IN (' + ",".join(["1"] * 10_001) + ")")
    assert "at most" in refusal('SELECT i FROM "/a" WHERE ' + " OR ".join(f"i = {number}" for number in range(100_000)))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 3_000,
        "SELECT " + "(" * 30 + "i" + ")" * 30 + "+1" * 3_000 + ' FROM "/a"',
        "SELECT " + "NOT " * 3_000 + 'b FROM "/a"',
        "SELECT " + "- " * 3_000 + 'i FROM "/a"',
        "SELECT i" + "::int" * 3_000 + ' FROM "/a"',
        "SELECT " + "interval " * 3_000,
        "SELECT " + "case " * 3_000,
        "SELECT i FROM " + "(" * 40 + '"/a"',
        'SELECT i FROM "/a" ' + "JOIN " * 3_000,
        'SELECT i FROM "/a" WHERE ' + "i IN (i, f, " * 39 + "1" + ")" * 39,
        'SELECT i FROM "/a" WHERE ' + "(CASE WHEN " * 18 + "b" + " THEN 1 END BETWEEN 0 AND 1)" * 18,
    ],
)
def test_deep_nesting_is_refused_at_once(sql):
    started = time.monotonic()
    refusal(sql)
    assert time.monotonic() - started < 5


VOCABULARY = (
    'SELECT FROM WHERE "/a" "/b" i t b , . ( ) * = <> + - / % || :: AND OR NOT IN BETWEEN LIKE ESCAPE IS NULL CASE WHEN THEN END CAST '
    "AS INT GROUP BY HAVING ORDER LIMIT OFFSET DISTINCT JOIN LEFT ON COUNT SUM 1 2.5 'x' 'it''s' ; -- /* */ $1 :x ? [ ] { } @ ~ ! # "
    "UNION ALL WITH EXISTS ARRAY ROW INTERVAL DATE EXTRACT COALESCE OVER FILTER WINDOW LATERAL VALUES "
    "TABLE FOR UPDATE E'x' $$x$$ U&'x' \\ ' \""
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text(max_size=40).map(lambda text: f'SELECT {text} FROM "/a"')))
def test_random_text_is_answered_or_refused_but_never_crashes(text):
    try:
        compiled(text)
    except Invalid as error:
        assert error.message


@settings(max_examples=800, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY.split()), max_size=25), st.booleans())
def test_random_words_are_answered_or_refused_but_never_crash(words, framed):
    text = f'SELECT i FROM "/a" WHERE {" ".join(words)}' if framed else " ".join(words)
    try:
        statement = compiled(text)
    except Invalid as error:
        assert error.message
    else:
        assert set(re.findall(r"(?:FROM|JOIN) (\w+)", statement.sql)) <= {"entry", "acl", "acl_entry", "s0", "s1"}


def changed(sql: str) -> Statement:
    return compile_change(bind_change(parse_change(sql), sql, readable, {}), 0, 10)


def test_a_change_looks_at_the_rule_before_what_can_fail():
    total = changed("""UPDATE "/a" SET i = 1 / i WHERE t = 'x'""").sql
    assert "CASE WHEN" not in total
    failing = changed("UPDATE \"/a\" SET t = 'x' WHERE 1 / i = 1 ORDER BY i LIMIT 3")
    rule = "EXISTS (SELECT FROM acl WHERE acl.id = e.acl_id"
    assert failing.sql.index(f"CASE WHEN e.collection_id = 101 AND ({rule}") > failing.sql.index(rule)
    assert failing.sql.endswith("FOR UPDATE OF e SKIP LOCKED")
    assert MARKER not in changed(f"""UPDATE "/a" {MARKER} SET t = '{MARKER}' WHERE {MARKER}.t = '{MARKER}' RETURNING t""").sql


def test_an_unknown_attribute_is_told_with_those_there_are():
    with pytest.raises(Invalid) as raised:
        compiled('SELECT nope FROM "/a"')
    assert "line 1, column 8: nope is no attribute of /a; there are entry, i, f, n" in raised.value.message


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from([*VOCABULARY.split(), "UPDATE", "SET", "DELETE", "RETURNING", "USING"]), max_size=20), st.integers(0, 3))
def test_random_changes_are_carried_out_or_refused_but_never_crash(words, frame):
    frames = ("{}", 'UPDATE "/a" SET i = {} WHERE TRUE', "UPDATE \"/a\" SET t = 'x' WHERE {}", 'DELETE FROM "/a" WHERE {}')
    text = frames[frame].replace("{}", " ".join(words))
    try:
        statement = changed(text)
    except Invalid as error:
        assert error.message
    else:
        assert set(re.findall(r"(?:FROM|JOIN|UPDATE) (\w+)", statement.sql)) <= {"entry", "acl", "acl_entry", "OF"}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY.split()), max_size=12))
def test_random_conditions_of_views_and_checks_are_total_or_refused(words):
    try:
        condition = bind_condition(" ".join(words), COLLECTIONS["/a"])
    except Invalid as error:
        assert error.message
    else:
        assert is_total(condition)
