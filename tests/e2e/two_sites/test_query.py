"""Queries over two sites are answered as one site would, each site under the caller's rights there."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mdm_testing.process import eventually
from mdm_testing.stack import Result

from tests.e2e.two_sites.conftest import CollectionPair

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NUMBERS = {
    "hospital-a": [("a1", "CT", 512, "1.25", "2024-01-31"), ("a2", "MR", 64, "0.5", None), ("a3", "CT", 128, None, "2023-12-31")],
    "hospital-b": [("b1", "CT", 512, "2.5", "2024-02-01"), ("b2", "US", 64, "10", "2024-01-31"), ("b3", "MR", 32, "0.25", None)],
}


@pytest.fixture(scope="module")
def numbers(pair: CollectionPair) -> Iterator[list[tuple[Any, ...]]]:
    """Entries at both sites, and alice of hospital A among the researchers of hospital B."""
    for site in (pair.a, pair.b):
        path = f"/biomed/{site.stack.name}/{pair.name}"
        site.run("alice", "meta", "update", f'DELETE FROM "{path}" WHERE TRUE')
        for key, kind, rows, dose, day in NUMBERS[site.stack.name]:
            values = (f"Kind={kind}", f"Rows={rows}", f"Dose={dose or ''}", f"Day={day or ''}")
            site.run("alice", "meta", "entry", "set", path, key, *values)
    alice = pair.a.dn("alice")
    pair.b.join("/biomed/neuro", alice)
    yield NUMBERS["hospital-a"] + NUMBERS["hospital-b"]
    pair.b.leave("/biomed/neuro", alice)


def _values(result: Result) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in result.rows()]


def test_a_query_over_both_sites_is_merged_as_if_it_were_one(pair: CollectionPair, numbers: list[tuple[Any, ...]]):
    def ask(query: str) -> list[tuple[Any, ...]]:
        result = pair.over_sites(query)
        assert result.code == 0, result.err
        return _values(result)

    assert eventually(lambda: len(_values(pair.over_sites("SELECT entry FROM BOTH"))) == 6)
    by_rows = sorted(numbers, key=lambda row: (-row[2], row[0]))
    assert ask("SELECT entry, Rows FROM BOTH ORDER BY Rows DESC, entry") == [(row[0], row[2]) for row in by_rows]
    assert ask("SELECT entry FROM BOTH ORDER BY Rows DESC, entry LIMIT 3 OFFSET 1") == [(row[0],) for row in by_rows[1:4]]
    assert ask("SELECT entry FROM BOTH ORDER BY Day DESC NULLS LAST, entry LIMIT 4") == [("b1",), ("a1",), ("b2",), ("a3",)]
    assert ask("SELECT DISTINCT Kind FROM BOTH ORDER BY Kind") == [("CT",), ("MR",), ("US",)]
    assert ask("SELECT DISTINCT Rows FROM BOTH WHERE Kind <> 'US' ORDER BY 1 LIMIT 2") == [(32,), (64,)]
    assert ask("SELECT COUNT(*), COUNT(Dose), SUM(Rows), MIN(Day), MAX(Dose) FROM BOTH") == [(6, 5, 1312, "2023-12-31", 10)]
    assert ask("SELECT Kind, COUNT(*), AVG(Rows) FROM BOTH GROUP BY Kind ORDER BY 2 DESC, Kind") == [
        ("CT", 3, pytest.approx(384.0)),
        ("MR", 2, pytest.approx(48.0)),
        ("US", 1, pytest.approx(64.0)),
    ]
    assert ask("SELECT '{site}', COUNT(*) FROM BOTH GROUP BY 1 ORDER BY 1") == [("hospital-a", 3), ("hospital-b", 3)]


def test_a_user_with_rights_at_one_site_sees_its_rows_only(pair: CollectionPair, numbers: list[tuple[Any, ...]]):
    a, b = pair.a, pair.b
    query = "SELECT entry FROM BOTH ORDER BY entry"
    only_a, only_b = ([(row[0],) for row in NUMBERS[site]] for site in ("hospital-a", "hospital-b"))
    assert _values(pair.over_sites(query, site=b)) == only_b, "alice of hospital B is a researcher there only"
    assert _values(pair.over_sites(query, user="mallory")) == []
    b.leave("/biomed/neuro", a.dn("alice"))
    try:
        assert eventually(lambda: _values(pair.over_sites(query)) == only_a)
        assert pair.over_sites("SELECT COUNT(*) FROM BOTH").rows() == [{"count": 3}]
    finally:
        b.join("/biomed/neuro", a.dn("alice"))
    assert eventually(lambda: _values(pair.over_sites(query)) == only_a + only_b)


def test_a_site_that_is_down_is_reported_and_the_rows_of_the_other_are_returned(pair: CollectionPair, numbers: list[tuple[Any, ...]]):
    query = "SELECT entry FROM BOTH ORDER BY entry"
    pair.b.stack.stop("metadata")
    try:
        result = pair.over_sites(query)
        (told,) = (json.loads(line) for line in result.err.splitlines())
        assert (result.code, _values(result)) == (1, [(row[0],) for row in NUMBERS["hospital-a"]])
        assert (told["item"], told["reason"], told["code"]) == ("hospital-b", "UNAVAILABLE", "UNAVAILABLE")
        assert pair.over_sites(query, sites="hospital-b").code == 4, "nobody answers"
    finally:
        pair.b.stack.start("metadata")
    assert pair.over_sites(query).code == 0
