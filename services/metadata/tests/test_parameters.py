"""Parameters of queries and changes: `:name` in the text, its value beside it."""

import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

UUID = "0190b0a0-1234-4abc-8def-0123456789ab"
VALUES = {
    "i": 512,
    "f": 0.5,
    "n": "12345678901234567890.125",
    "t": "Robert'); DROP TABLE entry; --",
    "b": True,
    "d": "2024-02-29",
    "z": "2024-02-29T12:00:00Z",
    "u": UUID,
}
KINDS = {"i": "INT", "f": "FLOAT", "n": "NUMERIC", "t": "TEXT", "b": "BOOL", "d": "DATE", "z": "TIMESTAMP", "u": "UUID"}


@pytest.fixture
def loader(service):
    """The owner of `/all`, with one entry that has every value and one that has none."""
    loader = service.client("loader")
    acl = loader.acl({})
    attributes = [service.attribute(name, kind) for name, kind in KINDS.items()]
    loader.create(pb.Collection(path="/all", attributes=attributes, acl_id=acl, default_acl_id=acl))
    assert loader.upsert("/all", service.entry("full", **VALUES), service.entry("empty")) == ["", ""]
    return loader


@pytest.mark.parametrize("name", KINDS)
def test_a_value_meets_an_attribute_of_each_type(loader, name):
    for _ in range(2):  # the second time without parsing
        assert loader.rows(f'SELECT entry FROM "/all" WHERE {name} = :x', x=VALUES[name]) == [("full",)]


@pytest.mark.parametrize("name", KINDS)
def test_the_text_of_a_value_becomes_what_it_meets(loader, name):
    text = str(VALUES[name]).lower() if name == "b" else str(VALUES[name])
    assert loader.rows(f'SELECT entry FROM "/all" WHERE {name} = :x LIMIT 5', x=text) == [("full",)]


def test_the_same_text_is_answered_for_other_values(loader):
    sql = 'SELECT entry FROM "/all" WHERE i BETWEEN :low AND :high OR entry IN (:a, :b) ORDER BY entry'
    assert loader.rows(sql, low=1, high=600, a="x", b="y") == [("full",)]
    assert loader.rows(sql, low=1, high=2, a="x", b="empty") == [("empty",)]
    assert loader.rows(sql, low="1", high=600, a="x", b="empty") == [("empty",), ("full",)]
    assert loader.rows(sql, low=None, high=600, a="x", b=None) == []


def test_a_pattern_can_be_given(loader):
    sql = 'SELECT entry FROM "/all" WHERE t LIKE :pattern'
    assert loader.rows(sql, pattern="Robert%") == [("full",)]
    assert loader.rows(sql, pattern="nobody%") == []


def test_a_value_is_never_read_as_sql(loader):
    assert loader.rows('SELECT :x AS x FROM "/all" WHERE entry = :x', x="' OR TRUE --") == []
    assert loader.rows('SELECT :x AS x FROM "/all" LIMIT 1', x='"; %(caller)s :y') == [('"; %(caller)s :y',)]


def test_values_can_be_set(loader):
    assert loader.change('UPDATE "/all" SET t = :t, n = :n, d = :d WHERE i = :i RETURNING entry', t="new", n="2.5", d=None, i=512) == (
        1,
        [("full",)],
    )
    assert loader.rows('SELECT t, n, d FROM "/all" WHERE entry = :e', e="full") == [("new", "2.5", None)]


def test_groups_and_order_take_them_too(loader):
    assert loader.rows('SELECT i + :one, COUNT(*) FROM "/all" WHERE i > 0 GROUP BY i + :one ORDER BY i + :one', one=1) == [(513, 1)]


@pytest.mark.parametrize(
    ("sql", "values", "reason", "told"),
    [
        ('SELECT entry FROM "/all" WHERE i = :x', {}, "PARAMETER_MISSING", ":x"),
        ('SELECT entry FROM "/all" WHERE i = :x', {"x": 1, "y": 2}, "PARAMETER_UNUSED", ":y"),
        ('SELECT entry FROM "/all" WHERE d = :x', {"x": "yesterday"}, "QUERY_INVALID", "YYYY-MM-DD"),
        ('SELECT entry FROM "/all" WHERE i = :x', {"x": "1.5"}, "QUERY_INVALID", "64-bit integer"),
        ('SELECT entry FROM "/all" WHERE b = :x', {"x": 1}, "QUERY_INVALID", "BOOL"),
        ('SELECT entry FROM "/all" WHERE t = :x', {"x": "a\0b"}, "PARAMETER_INVALID", "NUL"),
        ('SELECT entry FROM "/all" LIMIT :x', {"x": 1}, "QUERY_INVALID", "LIMIT"),
        ("SELECT entry FROM :x WHERE TRUE", {"x": "/all"}, "QUERY_INVALID", "FROM"),
        ('SELECT entry FROM "/all" WHERE i = ?', {"x": 1}, "QUERY_INVALID", ":name"),
        ('SELECT entry FROM "/all" WHERE i = 1', {"not a name": 1}, "PARAMETER_INVALID", "name of a parameter"),
    ],
)
def test_what_is_wrong_with_a_parameter_is_told_without_its_value(service, loader, sql, values, reason, told):
    if "y" not in values and reason == "QUERY_INVALID" and "= :x" in sql and sql.count("d = "):
        loader.rows(sql, x="2024-01-01")  # remembered: the error is the same
    with pytest.raises(service.failed) as raised:
        loader.query(sql, **values)
    assert raised.value.reason == reason
    assert told in raised.value.message
    assert not any(str(value) in raised.value.message for value in values.values() if isinstance(value, str) and len(value) > 4)


def test_checks_and_views_take_none(service, loader):
    with pytest.raises(service.failed) as raised:
        loader.alter("/all", add_check=pb.Check(name="c", condition="i > :x"))
    assert raised.value.reason == "PARAMETER_MISSING"
