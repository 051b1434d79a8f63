"""One query over two sites equals the same query over one collection that has the entries of both."""

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_client.cli import main
from mdm_client.client import Client
from mdm_client.federation.query import query_sites
from mdm_client.metadata.client import MetadataClient
from mdm_wire.channel import open_channel
from mdm_wire.errors import Invalid, MdmError
from mdm_wire.retry import RetryPolicy

from .commandline import configuration
from .conftest import Failed, attribute, entry
from .test_replication import Site

pytestmark = pytest.mark.integration

READ = 4
NAMES = ("east", "west")


class Grid:
    """Two sites whose `/site/images` hold different entries, and `/all/images` at the first with those of both."""

    def __init__(self, postgres: Any, pki: Any, folder: Path, stack: ExitStack) -> None:
        self.sites = {name: Site(name, postgres, pki, stack) for name in NAMES}
        self.alice = pki.issue(pki.subject("alice"))
        self._stack = stack
        choose = random.Random(11)
        loaders = {name: site.client("loader") for name, site in self.sites.items()}
        places = [(loaders[name], f"/{name}", name) for name in NAMES] + [(loaders["east"], "/all", "")]
        everything = []
        for name in NAMES:
            for n in range(60):
                values = {
                    "i": choose.choice([None, *range(-3, 4)]),
                    "f": choose.choice([None, 0.5, -1.5, 2.0]),
                    "n": choose.choice([None, "1.10", "1.1", "2.05", "-3", "-0.00007"]),
                    "t": choose.choice([None, "CT", "MR", "ct", "é", "z"]),
                    "d": choose.choice([None, "2024-01-31", "1999-12-31"]),
                    "z": choose.choice([None, "2024-01-31T10:00:00Z", "2024-01-31T10:00:00.5Z"]),
                    "b": choose.choice([None, True, False]),
                }
                everything.append((name, f"{name}{n:02}", n % 9 == 0, values))
        for loader, path, only in places:
            acl, hidden = loader.acl({f"dn:{pki.subject('alice')}": READ}), loader.acl({})
            kinds = (("i", "INT"), ("f", "FLOAT"), ("n", "NUMERIC"), ("t", "TEXT"), ("d", "DATE"), ("z", "TIMESTAMP"), ("b", "BOOL"))
            loader.create(
                pb.Collection(path=path, acl_id=acl, default_acl_id=acl),
                pb.Collection(path=f"{path}/images", attributes=[attribute(*kind) for kind in kinds]),
            )
            chosen = [entry(key, hidden if closed else "", **v) for name, key, closed, v in everything if only in ("", name)]
            assert not any(loader.upsert(f"{path}/images", *chosen))
        ports = {name: site.port for name, site in self.sites.items()}
        self.config = configuration(pki, "alice", ports["east"], folder, ports)

    def clients(self) -> dict[str, MetadataClient]:
        files = self.alice
        found = {}
        for name, site in self.sites.items():
            opened = open_channel([f"127.0.0.1:{site.port}"], files)
            self._stack.callback(opened.close)
            found[name] = MetadataClient(opened, RetryPolicy(call_seconds=10, retry_seconds=0.2))
        return found


@pytest.fixture(scope="module")
def grid(postgres: Any, pki: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    with ExitStack() as stack:
        yield Grid(postgres, pki, tmp_path_factory.mktemp("federation"), stack)


def ask(grid: Grid, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    with query_sites(grid.clients(), sql.replace("IMAGES", '"/{site}/images"')) as answer:
        rows = [row for batch in answer.batches() for row in batch]
        assert not answer.failures
        return [column.name for column in answer.columns], rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT entry, i, t FROM IMAGES ORDER BY i DESC NULLS LAST, t NULLS FIRST, entry",
        "SELECT entry FROM IMAGES WHERE i > 0 OR NOT b ORDER BY z, n DESC, f, d, entry LIMIT 20 OFFSET 7",
        "SELECT DISTINCT t, b FROM IMAGES ORDER BY t, b",
        "SELECT DISTINCT i FROM IMAGES ORDER BY 1 LIMIT 3 OFFSET 1",
        "SELECT COUNT(*), COUNT(i), SUM(i), MIN(t), MAX(z), MIN(d), SUM(n), MAX(n) FROM IMAGES",
        "SELECT t, COUNT(*) AS c, AVG(i), MIN(i), MAX(f) FROM IMAGES GROUP BY t ORDER BY c DESC, t",
        "SELECT COUNT(*) FROM IMAGES GROUP BY t, b ORDER BY b NULLS FIRST, t",
        "SELECT i % 2 AS odd, SUM(f) FROM IMAGES GROUP BY i % 2 ORDER BY odd LIMIT 2",
        "SELECT entry FROM IMAGES WHERE i = 99",
        "SELECT SUM(i), AVG(f), COUNT(*) FROM IMAGES WHERE i = 99",
        "SELECT b, AVG(f) FROM IMAGES GROUP BY b ORDER BY AVG(f), b",
        "SELECT t, COUNT(*) FROM IMAGES GROUP BY t HAVING COUNT(*) > 12 ORDER BY t",
        "SELECT t FROM IMAGES GROUP BY t HAVING SUM(i) > 0 AND NOT MAX(f) IS NULL OR t = 'CT' ORDER BY COUNT(*), t",
        "SELECT SUM(i) / COUNT(*), SUM(i) * 1.0 / COUNT(i), -SUM(n) + COUNT(*), MAX(i) / 2, MAX(i) % 2, SUM(n) % 3, AVG(n) FROM IMAGES",
        "SELECT t, SUM(f) / COUNT(f), ROUND(AVG(f), 3) FROM IMAGES GROUP BY t ORDER BY t",
        "SELECT t, ROUND(AVG(n)), CAST(SUM(n) AS INT), CAST(SUM(n) AS FLOAT) FROM IMAGES GROUP BY t ORDER BY 1",
        "SELECT b, SUM(n) / SUM(i) FROM IMAGES WHERE i > 0 GROUP BY b HAVING SUM(i) <> 0 ORDER BY SUM(n) / SUM(i) DESC, b",
        "SELECT COUNT(DISTINCT t), COUNT(DISTINCT n), COUNT(DISTINCT z), COUNT(*) FROM IMAGES",
        "SELECT SUM(DISTINCT i), AVG(DISTINCT i), AVG(DISTINCT n), COUNT(*) FROM IMAGES",
        "SELECT b, COUNT(DISTINCT i), SUM(DISTINCT n), MAX(DISTINCT f), COUNT(i), AVG(i) FROM IMAGES GROUP BY b ORDER BY b",
        "SELECT t, COUNT(DISTINCT t) FROM IMAGES GROUP BY t HAVING COUNT(DISTINCT i) > 2 ORDER BY COUNT(DISTINCT b), t",
        "SELECT t, COUNT(DISTINCT i + 1) * 2 FROM IMAGES GROUP BY t ORDER BY t",
        "SELECT COUNT(DISTINCT t), SUM(DISTINCT i), AVG(DISTINCT f) FROM IMAGES WHERE i = 99",
        "SELECT COUNT(*) FROM IMAGES WHERE i = 99 HAVING COUNT(*) > 0",
        "SELECT t FROM IMAGES HAVING COUNT(*) > 0 AND TRUE GROUP BY t",
        "SELECT CAST(n AS FLOAT), COUNT(*) FROM IMAGES GROUP BY n ORDER BY n",
        "SELECT i % 2 + 1, 7, 'x', NULLIF(i % 2, 0), COUNT(*) IN (1, 30, NULL) FROM IMAGES GROUP BY i % 2 ORDER BY i % 2",
        "SELECT CASE WHEN COUNT(*) > 14 THEN 'many' ELSE 'few' END AS kind FROM IMAGES GROUP BY t ORDER BY t",
        "SELECT CASE t WHEN 'CT' THEN MAX(z) ELSE MIN(z) END FROM IMAGES GROUP BY t ORDER BY t",
        "SELECT COALESCE(t, 'none'), GREATEST(MIN(i), MAX(i), 1) FROM IMAGES GROUP BY t ORDER BY t",
        "SELECT LEAST(AVG(f), MIN(n)), COUNT(*) BETWEEN 5 AND 20 FROM IMAGES GROUP BY t ORDER BY t",
        "SELECT MAX(d) - MIN(d), MIN(d) + COUNT(*), MAX(d) - 1, ABS(SUM(i)), FLOOR(AVG(n)), CEIL(AVG(f)), SQRT(COUNT(*)) FROM IMAGES",
        "SELECT b, MIN(t) < MAX(t), MIN(d) = MAX(d), MAX(z) > '2024-01-31T10:00:00+00:00', MIN(i) = -3.0 FROM IMAGES GROUP BY b ORDER BY b",
        "SELECT a.entry, COUNT(*) FROM IMAGES a JOIN IMAGES c ON a.i = c.i AND a.entry = c.entry GROUP BY a.entry ORDER BY 1",
    ],
)
def test_a_query_over_sites_equals_one_over_all_their_entries(grid, sql):
    names, rows = ask(grid, sql)
    expected = grid.sites["east"].client("alice").query(sql.replace("IMAGES", '"/all/images"'))
    assert names == expected.names
    assert [tuple(_plain(v) for v in row) for row in rows] == [tuple(_plain(v) for v in row) for row in expected.rows]


def test_decimals_that_are_equal_are_one_value_however_they_are_written(grid):
    _, rows = ask(grid, "SELECT DISTINCT n FROM IMAGES ORDER BY n DESC NULLS LAST")
    assert [None if n is None else Decimal(n) for (n,) in rows] == [Decimal("2.05"), Decimal("1.1"), Decimal("-0.00007"), Decimal(-3), None]


#: No constant alone: of constants PostgreSQL computes, and refuses, also what no branch reaches.
CONSTANTS = (f"(COUNT(*) * 0 + {constant})" for constant in ("0.7", "3", "-12345.678", "0", "1e3"))
NUMBERS = ("SUM(i)", "COUNT(*)", "MAX(f)", "SUM(n)", "AVG(n)", "AVG(i)", "MIN(i)", "SUM(f)", *CONSTANTS)


def number(choose: random.Random, depth: int) -> str:
    """A random expression over aggregates whose value is a number."""
    if not depth:
        return choose.choice(NUMBERS)
    one, other, third = (number(choose, depth - 1) for _ in range(3))
    return choose.choice(
        [
            *(f"({one} {sign} {other})" for sign in "+-*/" * 3),
            f"CAST({one} AS INT) % CAST({other} AS INT)",
            f"CAST({one} AS NUMERIC)",
            f"CAST({one} AS FLOAT)",
            f"ROUND({one}, {choose.randint(-3, 5)})",
            f"ROUND({one})",
            f"ABS({one})",
            f"-({one})",
            f"FLOOR({one})",
            f"CEIL({one})",
            f"SQRT(ABS({one}))",
            f"COALESCE({one}, {other})",
            f"NULLIF({one}, {other})",
            f"GREATEST({one}, {other}, {third})",
            f"LEAST({one}, {other})",
            f"CASE WHEN {one} {choose.choice(['<', '>=', '=', '<>'])} {other} THEN {third} ELSE {one} END",
            f"CASE WHEN {one} BETWEEN {other} AND {third} OR NOT {one} IN ({other}, {third}) THEN {third} END",
        ]
    )


def answered(act: Callable[[], list[tuple[Any, ...]]]) -> Any:
    try:
        return act()
    except (Failed, MdmError) as error:
        return error.reason


def test_what_is_computed_of_aggregates_is_what_postgresql_computes(grid):
    choose = random.Random(5)
    alice = grid.sites["east"].client("alice")
    failed = 0
    for _ in range(150):
        sql = f"SELECT b, {number(choose, choose.randint(1, 3))} FROM IMAGES GROUP BY b ORDER BY b"
        merged = answered(lambda sql=sql: ask(grid, sql)[1])
        whole = answered(lambda sql=sql: alice.rows(sql.replace("IMAGES", '"/all/images"')))
        failed += isinstance(whole, str)
        assert _near(merged) == _near(whole), (sql, merged, whole)
    assert failed < 75


def _near(rows: Any) -> Any:
    """Doubles to 9 digits: sums of doubles depend on their order."""
    if isinstance(rows, str):
        return rows
    return [tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in row) for row in rows]


def _plain(value: Any) -> Any:
    return round(value, 9) if isinstance(value, float) else value


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT LOWER(MIN(t)) FROM IMAGES",
        "SELECT t || 'x' FROM IMAGES GROUP BY t",
        "SELECT COUNT(*) FROM IMAGES HAVING CAST(SUM(i) AS TEXT) = '1'",
    ],
)
def test_what_cannot_be_merged_is_refused(grid, sql):
    with pytest.raises(Invalid) as raised:
        ask(grid, sql)
    assert raised.value.reason == "QUERY_NOT_MERGEABLE"


def test_a_value_that_does_not_exist_is_told_as_by_one_site(grid):
    with pytest.raises(Invalid) as raised:
        ask(grid, "SELECT t, SUM(i) / (COUNT(*) - COUNT(*)) FROM IMAGES GROUP BY t")
    assert raised.value.reason == "QUERY_VALUE"


def test_a_name_of_the_site_beside_an_aggregate_is_told_to_belong_into_group_by(grid):
    with query_sites(grid.clients(), """SELECT '{site}', COUNT(*) FROM "/{site}/images" """) as answer:
        assert len([row for batch in answer.batches() for row in batch]) == 1
        assert [error.reason for error in answer.failures.values()] == ["SCHEMA_DIFFERS"]
        assert "GROUP BY" in str(next(iter(answer.failures.values())))


def mdm(grid: Grid, *arguments: str) -> Any:
    return CliRunner().invoke(main, ["--config", str(grid.config), "--json", "query", *arguments])


def test_the_command_asks_all_sites_and_tells_which_did_not_answer(grid):
    sql = """SELECT '{site}' AS site, COUNT(*) AS n FROM "/{site}/images" GROUP BY 1 ORDER BY site"""
    result = mdm(grid, sql, "--sites", "all")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, [row["site"] for row in rows]) == (0, ["east", "west"])
    grid.sites["west"].stop()
    try:
        result = mdm(grid, sql, "--sites", "east,west")
        assert result.exit_code == 1
        assert [json.loads(line)["site"] for line in result.stdout.splitlines()] == ["east"]
        (told,) = [json.loads(line) for line in result.stderr.splitlines()]
        assert told["item"] == "west"
        with pytest.raises(MdmError), query_sites({"west": grid.clients()["west"]}, sql):
            pass
    finally:
        grid.sites["west"].start()
    assert json.loads(mdm(grid, sql, "--sites", "nowhere").stderr)["reason"] == "SITE_UNKNOWN"
    assert mdm(grid, 'SELECT entry FROM "/{site}/nothing"', "--sites", "all").exit_code != 0


@pytest.mark.parametrize("order", ["", " ORDER BY entry"])
def test_a_site_that_gives_no_row_is_told_for_rights_may_be_missing_there(grid, order):
    """Every ninth entry is not for alice: at east she sees nothing of what is asked for, and cannot know whether it exists."""
    sql = """SELECT '{site}' AS site FROM "/{site}/images" WHERE entry = 'east09' OR entry LIKE 'west%'""" + order
    result = mdm(grid, sql, "--sites", "all")
    assert {json.loads(line)["site"] for line in result.stdout.splitlines()} == {"west"}
    (told,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert (result.exit_code, told["reason"], told["item"]) == (0, "SITE_EMPTY", "east")
    shown = CliRunner().invoke(main, ["--config", str(grid.config), "query", sql, "--sites", "all"])
    assert shown.stderr == "mdm: note: east: no rows: nothing there matches, or you may not read what does\n"


def test_a_collection_that_is_not_for_the_caller_at_one_site_is_named_with_the_site(grid):
    result = mdm(grid, 'SELECT entry FROM "/{site}/x"', "--sites", "all")
    (error,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert (result.exit_code, error["reason"]) == (3, "COLLECTION_NOT_FOUND")
    assert error["message"].startswith("east: metadata: line 1, column 19: /east/x: no such collection, or you may not read it.")
    assert error["message"].endswith("no other site answers either")
    only_east = mdm(grid, 'SELECT entry FROM "/east/images" LIMIT 3', "--sites", "all")
    (told,) = [json.loads(line) for line in only_east.stderr.splitlines()]
    assert (only_east.exit_code, told["item"]) == (1, "west")
    assert "/east/images: no such collection" in told["message"]


@pytest.fixture
def away() -> Iterator[dict[str, list[str]]]:
    """Sites that are away, with names before those that are there: at closed ports, and at one that is connected to and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        addresses = {"closed": f"127.0.0.1:{port}", "silent": f"127.0.0.1:{silent.getsockname()[1]}"}
        yield {f"a-{kind}-{number}": [address] for number in (1, 2, 3) for kind, address in addresses.items()}


def configured(grid: Grid, folder: Path, sites: dict[str, list[str]], head: str = "") -> Path:
    """The grid's client configuration with further sites."""
    path = folder / "client.toml"
    path.write_text(head + grid.config.read_text() + "".join(f"{name} = {json.dumps(found)}\n" for name, found in sites.items()))
    return path


@pytest.mark.parametrize(
    "sql",
    [
        """SELECT '{site}' AS site FROM "/{site}/images" WHERE entry LIKE '%07'""",
        """SELECT '{site}' AS site FROM "/{site}/images" WHERE entry LIKE '%07' ORDER BY entry""",
        """SELECT '{site}' AS site, COUNT(*) AS n FROM "/{site}/images" GROUP BY 1""",
    ],
)
def test_sites_that_are_away_are_told_after_two_seconds_together(grid, away, tmp_path, sql):
    config = configured(grid, tmp_path, away)
    begun = time.monotonic()
    result = CliRunner().invoke(main, ["--config", str(config), "--json", "query", sql, "--sites", "all"])
    assert time.monotonic() - begun < 4
    assert result.exit_code == 1
    assert sorted(json.loads(line)["site"] for line in result.stdout.splitlines()) == list(NAMES)
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(line["item"], line["reason"]) for line in told] == [(site, "UNAVAILABLE") for site in sorted(away)]


def test_rows_of_sites_that_answer_do_not_wait_for_one_that_is_away(grid, away, tmp_path):
    with Client.load(configured(grid, tmp_path, away, "site_seconds = 3\n")) as client:
        begun = time.monotonic()
        clients = {site: client.metadata_at(site) for site in [*away, *NAMES]}
        with query_sites(clients, 'SELECT entry FROM "/{site}/images"') as answer:
            batches = answer.batches()
            there = [next(batches), next(batches)]
            assert time.monotonic() - begun < 1.5
            assert {row[0][:4] for batch in there for row in batch} == set(NAMES)
            assert list(batches) == []
            assert 2.5 < time.monotonic() - begun < 5
            assert list(answer.failures) == list(away)


def test_a_site_that_is_away_is_told_also_where_others_had_all_rows_that_were_wanted(grid, away, tmp_path):
    config = configured(grid, tmp_path, away, "site_seconds = 0.5\n")
    sql = 'SELECT entry FROM "/{site}/images" LIMIT 3'
    begun = time.monotonic()
    result = CliRunner().invoke(main, ["--config", str(config), "--json", "query", sql, "--sites", "a-silent-1,east"])
    assert time.monotonic() - begun < 1.5
    assert (result.exit_code, len(result.stdout.splitlines()), json.loads(result.stderr)["item"]) == (1, 3, "a-silent-1")
    result = CliRunner().invoke(main, ["--config", str(config), "--json", "query", sql, "--sites", "a-silent-1,a-closed-1"])
    assert (result.exit_code, result.stdout) == (4, "")


def test_a_site_answers_at_its_second_address_while_the_first_is_away(grid, away, tmp_path):
    both = {f"east-{site}": [*addresses, f"127.0.0.1:{grid.sites['east'].port}"] for site, addresses in away.items()}
    config = configured(grid, tmp_path, both)
    sql = 'SELECT COUNT(*) AS n FROM "/east/images"'
    result = CliRunner().invoke(main, ["--config", str(config), "--json", "query", sql, "--sites", ",".join(both)])
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_site_whose_schema_differs_is_left_out_and_told(grid):
    for name, kind in (("east", "INT"), ("west", "TEXT")):
        loader = grid.sites[name].client("loader")
        acl = loader.acl({"authenticated": READ})
        loader.create(pb.Collection(path="/differs", acl_id=acl, default_acl_id=acl, attributes=[attribute("x", kind)]))
    with query_sites(grid.clients(), 'SELECT x FROM "/differs"') as answer:
        assert [row for batch in answer.batches() for row in batch] == []
        assert [(site, error.reason) for site, error in answer.failures.items()] == [("west", "SCHEMA_DIFFERS")]
