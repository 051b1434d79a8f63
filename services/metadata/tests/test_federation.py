"""One query over two sites equals the same query over one collection that has the entries of both."""

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_client.calls import Patience
from mdm_client.channel import TlsFiles, open_channel
from mdm_client.cli import main
from mdm_client.errors import ClientError, Invalid
from mdm_client.federation import query_sites
from mdm_client.metadata import MetadataClient

from .conftest import attribute, entry
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
                    "n": choose.choice([None, "1.10", "2.05", "-3"]),
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
        self.config = folder / "client.toml"
        addresses = "\n".join(f'{name} = ["127.0.0.1:{site.port}"]' for name, site in self.sites.items())
        self.config.write_text(
            f'certificate = "{self.alice.certificate}"\nkey = "{self.alice.key}"\nca = "{self.alice.ca}"\nthreshold = 2\n'
            f'catalog = ["127.0.0.1:1"]\nmetadata = ["127.0.0.1:{self.sites["east"].port}"]\n'
            '[[keystores]]\nname = "a"\nindex = 1\naddresses = ["127.0.0.1:1"]\n'
            '[[keystores]]\nname = "b"\nindex = 2\naddresses = ["127.0.0.1:1"]\n'
            f"[metadata_sites]\n{addresses}\n"
        )

    def clients(self) -> dict[str, MetadataClient]:
        files = TlsFiles(Path(self.alice.certificate), Path(self.alice.key), Path(self.alice.ca))
        found = {}
        for name, site in self.sites.items():
            opened = open_channel([f"127.0.0.1:{site.port}"], files)
            self._stack.callback(opened.close)
            found[name] = MetadataClient(opened, Patience(call_seconds=10, retry_seconds=0.2))
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
        "SELECT a.entry, COUNT(*) FROM IMAGES a JOIN IMAGES c ON a.i = c.i AND a.entry = c.entry GROUP BY a.entry ORDER BY 1",
    ],
)
def test_a_query_over_sites_equals_one_over_all_their_entries(grid, sql):
    names, rows = ask(grid, sql)
    expected = grid.sites["east"].client("alice").query(sql.replace("IMAGES", '"/all/images"'))
    assert names == expected.names
    assert [tuple(_plain(v) for v in row) for row in rows] == [tuple(_plain(v) for v in row) for row in expected.rows]


def _plain(value: Any) -> Any:
    return round(value, 9) if isinstance(value, float) else value


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT t, COUNT(*) FROM IMAGES GROUP BY t HAVING COUNT(*) > 1",
        "SELECT SUM(i) / COUNT(*) FROM IMAGES",
        "SELECT COUNT(DISTINCT t) FROM IMAGES",
    ],
)
def test_what_cannot_be_merged_is_refused(grid, sql):
    with pytest.raises(Invalid) as raised:
        ask(grid, sql)
    assert raised.value.reason == "QUERY_NOT_MERGEABLE"


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
        with pytest.raises(ClientError), query_sites({"west": grid.clients()["west"]}, sql):
            pass
    finally:
        grid.sites["west"].start()
    assert json.loads(mdm(grid, sql, "--sites", "nowhere").stderr)["reason"] == "SITE_UNKNOWN"
    assert mdm(grid, 'SELECT entry FROM "/{site}/nothing"', "--sites", "all").exit_code != 0


def test_a_site_whose_schema_differs_is_left_out_and_told(grid):
    for name, kind in (("east", "INT"), ("west", "TEXT")):
        loader = grid.sites[name].client("loader")
        acl = loader.acl({"authenticated": READ})
        loader.create(pb.Collection(path="/differs", acl_id=acl, default_acl_id=acl, attributes=[attribute("x", kind)]))
    with query_sites(grid.clients(), 'SELECT x FROM "/differs"') as answer:
        assert [row for batch in answer.batches() for row in batch] == []
        assert [(site, error.reason) for site, error in answer.failures.items()] == [("west", "SCHEMA_DIFFERS")]
