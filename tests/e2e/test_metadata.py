"""Collections of metadata through the mdm command: made, filled, changed, queried, copied and taken from."""

import csv
import io
import json
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet
import pytest
from mdm_testing.stack import Mdm, Result
from pyarrow import ipc

pytestmark = pytest.mark.e2e


class Tree:
    """A subtree of collections that the operator owns, alice may read and write, and mallory may not."""

    def __init__(self, mdm: Mdm) -> None:
        self.mdm = mdm
        self.path = f"/test-{uuid4().hex[:8]}"
        self.alice = self.mdm("alice", "--json", "whoami").rows()[0]["dn"]
        self.acl = self.run("operator", "meta", "acl", "create", f"dn:{self.alice}=rwdl").out.strip()
        self.run("operator", "meta", "mkdir", self.path, "--acl", self.acl, "--default-acl", self.acl)
        self.images = f"{self.path}/images"
        attributes = (
            "Modality:varchar(16):index:required",
            "Rows:int:unit={pixels}",
            "Price:numeric",
            "Day:date",
            "At:timestamp",
            "guid:uuid",
        )
        self.run("operator", "meta", "mkdir", self.images, *attributes)

    def run(self, user: str, *arguments: str) -> Result:
        result = self.mdm(user, *arguments)
        assert result.code == 0, (arguments, result.err)
        return result

    def refused(self, user: str, *arguments: str) -> str:
        result = self.mdm(user, "--json", *arguments)
        assert result.code != 0, arguments
        return str(json.loads(result.err.splitlines()[0])["reason"])

    def fill(self, count: int = 4) -> None:
        for number in range(count):
            values = (f"Modality={('CT', 'MR')[number % 2]}", f"Rows={64 * number}", f"Day=2024-01-0{number + 1}", "Price=1.50")
            self.run("alice", "meta", "entry", "set", self.images, f"i{number}", *values)


@pytest.fixture
def tree(mdm: Mdm) -> Tree:
    return Tree(mdm)


def test_a_collection_is_made_filled_described_and_removed(tree: Tree):
    tree.fill(2)
    shown = tree.run("alice", "meta", "describe", tree.images).out
    assert "Modality" in shown
    assert "varchar(16)" in shown
    assert "[{pixels}]" in shown
    assert tree.run("alice", "meta", "ls", tree.path).out.split() == [tree.path, tree.images]
    assert "Rows                          64 {pixels}" in tree.run("alice", "meta", "entry", "get", tree.images, "i1").out
    tree.run("alice", "meta", "entry", "set", tree.images, "i1", "Rows=")
    assert tree.mdm.query("alice", f"SELECT Rows FROM \"{tree.images}\" WHERE entry = 'i1'") == [{"Rows": None}]
    assert tree.refused("alice", "meta", "entry", "set", tree.images, "i9", "Rows=1") == "VALUE_MISSING"
    assert tree.refused("alice", "meta", "entry", "set", tree.images, "i9", "Modality=CT", "Rows=many") == "VALUE_TYPE"
    tree.run("alice", "meta", "entry", "rm", tree.images, "i0", "i1")
    assert tree.refused("mallory", "query", f'SELECT * FROM "{tree.images}"') == "COLLECTION_NOT_FOUND"
    assert tree.refused("operator", "meta", "rmdir", tree.path) == "COLLECTION_NOT_EMPTY"
    tree.run("operator", "meta", "rmdir", tree.images, tree.path)


def test_answers_are_written_in_every_format(tree: Tree, tmp_path: Path):
    tree.fill()
    sql = f'SELECT entry, Rows, Day, Price, At FROM "{tree.images}" ORDER BY entry'
    lines = tree.run("alice", "query", sql, "--format", "csv").out
    assert list(csv.reader(io.StringIO(lines)))[:2] == [["entry", "Rows", "Day", "Price", "At"], ["i0", "0", "2024-01-01", "1.50", ""]]
    assert json.loads(tree.run("alice", "query", sql, "--format", "jsonl").out.splitlines()[1])["Rows"] == 64
    tree.run("alice", "query", sql, "--format", "parquet", "-o", str(tmp_path / "rows.parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "date32[day]", "string", "timestamp[us, tz=UTC]"]
    assert table.column("Rows").to_pylist() == [0, 64, 128, 192]
    assert table.schema.field("Rows").metadata == {b"unit": b"{pixels}"}
    tree.run("alice", "query", sql, "--format", "arrow", "-o", str(tmp_path / "rows.arrow"))
    assert ipc.open_stream(tmp_path / "rows.arrow").read_all().column("entry").to_pylist() == ["i0", "i1", "i2", "i3"]
    assert tree.refused("alice", "query", "SELECT", "--format", "parquet", "-o", str(tmp_path / "no.parquet"))
    assert not (tmp_path / "no.parquet").exists()


def test_a_schema_changes_by_command(tree: Tree):
    tree.fill()
    tree.run("operator", "meta", "attr", "add", tree.images, "Columns:int:unit={pixels}")
    tree.run("operator", "meta", "attr", "rename", tree.images, "Rows", "Height")
    tree.run("operator", "meta", "attr", "set", tree.images, "Height", "--description", "rows of the image")
    tree.run("operator", "meta", "attr", "rm", tree.images, "guid")
    tree.run("operator", "meta", "index", "add", tree.images, "Height")
    tree.run("operator", "meta", "constraint", "add", tree.images, "check", "plausible", "Height < 1000")
    tree.run("operator", "meta", "constraint", "add", tree.images, "unique", "Height")
    assert tree.refused("alice", "meta", "entry", "set", tree.images, "x", "Modality=CT", "Height=2000") == "VALUE_CHECK"
    assert tree.refused("alice", "meta", "entry", "set", tree.images, "x", "Modality=CT", "Height=64") == "VALUE_NOT_UNIQUE"
    assert tree.refused("alice", "meta", "attr", "rm", tree.images, "Height") == "COLLECTION_FORBIDDEN"
    (described,) = tree.run("alice", "--json", "meta", "describe", tree.images).rows()
    assert described["checks"] == {"plausible": "Height < 1000"}
    height = next(attribute for attribute in described["attributes"] if attribute["name"] == "Height")
    assert (height["indexed"], height["unique"], height["description"]) == (True, True, "rows of the image")
    plan = tree.run("operator", "meta", "explain", f'SELECT entry FROM "{tree.images}" WHERE Height = 64').out
    assert "entry" in plan
    tree.run("operator", "meta", "constraint", "rm", tree.images, "unique", "Height")
    tree.run("operator", "meta", "constraint", "rm", tree.images, "check", "plausible")
    tree.run("operator", "meta", "index", "rm", tree.images, "Height")
    assert tree.mdm.query("alice", f'SELECT SUM(Height) AS s FROM "{tree.images}"') == [{"s": 384.0}]


def test_work_is_taken_once_and_numbers_are_given_once(tree: Tree):
    tree.fill(3)
    taken = []
    for _ in range(3):
        result = tree.run(
            "alice", "--json", "meta", "take", tree.images, "Modality=TAKEN", "--where", "Modality <> 'TAKEN'", "--order-by", "Rows DESC"
        )
        taken += [row["entry"] for row in result.rows()]
    assert taken == ["i2", "i1", "i0"]
    assert tree.mdm("alice", "meta", "take", tree.images, "Modality=TAKEN", "--where", "Modality <> 'TAKEN'").code == 1
    assert tree.run("alice", "meta", "update", f'UPDATE "{tree.images}" SET Rows = Rows + 1 WHERE Rows > 0').out == "2 entries\n"
    tree.run("alice", "meta", "sequence", "create", tree.images, "run", "--start", "10")
    assert tree.run("alice", "meta", "sequence", "next", tree.images, "run", "-n", "2").out.split() == ["10", "11"]
    assert tree.run("alice", "meta", "sequence", "ls", tree.images).out == "run\n"
    tree.run("alice", "meta", "sequence", "rm", tree.images, "run")


def test_rights_views_and_links_by_command(tree: Tree):
    tree.fill()
    mallory = tree.mdm("mallory", "--json", "whoami").rows()[0]["dn"]
    acl = tree.run("operator", "meta", "acl", "create", f"dn:{mallory}=rl").out.strip()
    shown = f"{tree.path}/shown"
    tree.run("operator", "meta", "view", shown, tree.images, "Rows=Height", "--where", "Modality = 'CT'", "--acl", acl)
    assert tree.mdm.query("mallory", f'SELECT * FROM "{shown}" ORDER BY 1') == [{"Height": 0}, {"Height": 128}]
    tree.run("operator", "meta", "link", f"{tree.path}/link", tree.images)
    assert tree.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{tree.path}/link"') == [{"n": 4}]
    tree.run("operator", "meta", "acl", "set", tree.images, acl, "--entry", "i0")
    assert tree.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{tree.images}"') == [{"n": 3}]
    tree.run("operator", "meta", "acl", "grant", tree.images, f"dn:{tree.alice}", "r", "--entry", "i0", "--own")
    assert tree.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{tree.images}"') == [{"n": 4}]
    assert tree.alice in tree.run("operator", "meta", "acl", "get", tree.images, "i0").out
    tree.run("operator", "meta", "acl", "revoke", tree.images, f"dn:{tree.alice}", "--entry", "i0")
    assert tree.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{tree.images}"') == [{"n": 3}]


def test_a_dump_is_loaded_again_and_csv_and_tables_are_imported(tree: Tree, tmp_path: Path):
    tree.fill()
    file = tmp_path / "images.jsonl"
    tree.run("alice", "meta", "dump", tree.images, "-o", str(file))
    copy = f"{tree.path}/copy"
    assert tree.run("operator", "meta", "load", copy, str(file), "--create").out == "4 entries stored\n"
    everything = 'SELECT * FROM "{}" ORDER BY entry'
    assert tree.mdm.query("alice", everything.format(copy)) == tree.mdm.query("alice", everything.format(tree.images))
    whole = tmp_path / "all.jsonl"
    tree.run("alice", "meta", "dump", tree.path, "-R", "-o", str(whole))
    assert tree.run("operator", "meta", "load", f"{tree.path}/again", str(whole), "--create").out == "8 entries stored\n"
    assert tree.mdm.query("alice", everything.format(f"{tree.path}/again/copy")) == tree.mdm.query("alice", everything.format(copy))
    table = tmp_path / "more.csv"
    table.write_text("key,modality,Rows,Day\nc1,US,7,2024-02-29\nc2,,8,\nc3,CT,,\n")
    result = tree.mdm("alice", "meta", "load", copy, str(table), "--key", "key")
    assert (result.code, result.out) == (1, "2 entries stored, 1 not\n")
    assert "line 3" in result.err
    assert tree.mdm.query("alice", f"SELECT entry, Rows FROM \"{copy}\" WHERE Day = '2024-02-29'") == [{"entry": "c1", "Rows": 7}]
    table.write_text("key,Nothing\nc1,1\n")
    assert tree.refused("alice", "meta", "load", copy, str(table), "--key", "key") == "ATTRIBUTE_UNKNOWN"
    file.write_text("nonsense\n")
    assert tree.refused("alice", "meta", "load", copy, str(file)) == "DUMP_MALFORMED"
    imported = f"{tree.path}/imported"
    source = ("--postgres", tree.mdm.stack.database("catalog"), "--table", "schema_migration", "--key", "name")
    assert "entries stored" in tree.run("operator", "meta", "load", imported, *source, "--create").out
    assert tree.mdm.query("alice", f'SELECT MIN(number) AS n FROM "{imported}"') == [{"n": 1}]
