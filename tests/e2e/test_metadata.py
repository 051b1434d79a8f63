"""Collections of metadata through the mdm command: made, filled, changed, queried, copied and taken from."""

import csv
import io
import json
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet
import pytest
from pyarrow import ipc

from tests.e2e.stack import Mdm, Result

pytestmark = pytest.mark.e2e


class Room:
    """A collection of the operator's that alice may read and write, and mallory may not."""

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
def room(mdm: Mdm) -> Room:
    return Room(mdm)


def test_a_collection_is_made_filled_described_and_removed(room: Room):
    room.fill(2)
    shown = room.run("alice", "meta", "describe", room.images).out
    assert "Modality" in shown
    assert "varchar(16)" in shown
    assert "[{pixels}]" in shown
    assert room.run("alice", "meta", "ls", room.path).out.split() == [room.path, room.images]
    assert "Rows                          64 {pixels}" in room.run("alice", "meta", "entry", "get", room.images, "i1").out
    room.run("alice", "meta", "entry", "set", room.images, "i1", "Rows=")
    assert room.mdm.query("alice", f"SELECT Rows FROM \"{room.images}\" WHERE entry = 'i1'") == [{"Rows": None}]
    assert room.refused("alice", "meta", "entry", "set", room.images, "i9", "Rows=1") == "VALUE_MISSING"
    assert room.refused("alice", "meta", "entry", "set", room.images, "i9", "Modality=CT", "Rows=many") == "VALUE_TYPE"
    room.run("alice", "meta", "entry", "rm", room.images, "i0", "i1")
    assert room.refused("mallory", "query", f'SELECT * FROM "{room.images}"') == "COLLECTION_NOT_FOUND"
    assert room.refused("operator", "meta", "rmdir", room.path) == "COLLECTION_NOT_EMPTY"
    room.run("operator", "meta", "rmdir", room.images, room.path)


def test_answers_are_written_in_every_format(room: Room, tmp_path: Path):
    room.fill()
    sql = f'SELECT entry, Rows, Day, Price, At FROM "{room.images}" ORDER BY entry'
    lines = room.run("alice", "query", sql, "--format", "csv").out
    assert list(csv.reader(io.StringIO(lines)))[:2] == [["entry", "Rows", "Day", "Price", "At"], ["i0", "0", "2024-01-01", "1.50", ""]]
    assert json.loads(room.run("alice", "query", sql, "--format", "jsonl").out.splitlines()[1])["Rows"] == 64
    room.run("alice", "query", sql, "--format", "parquet", "-o", str(tmp_path / "rows.parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "date32[day]", "string", "timestamp[us, tz=UTC]"]
    assert table.column("Rows").to_pylist() == [0, 64, 128, 192]
    assert table.schema.field("Rows").metadata == {b"unit": b"{pixels}"}
    room.run("alice", "query", sql, "--format", "arrow", "-o", str(tmp_path / "rows.arrow"))
    assert ipc.open_stream(tmp_path / "rows.arrow").read_all().column("entry").to_pylist() == ["i0", "i1", "i2", "i3"]
    assert room.refused("alice", "query", "SELECT", "--format", "parquet", "-o", str(tmp_path / "no.parquet"))
    assert not (tmp_path / "no.parquet").exists()


def test_a_schema_changes_by_command(room: Room):
    room.fill()
    room.run("operator", "meta", "attr", "add", room.images, "Columns:int:unit={pixels}")
    room.run("operator", "meta", "attr", "rename", room.images, "Rows", "Height")
    room.run("operator", "meta", "attr", "set", room.images, "Height", "--description", "rows of the image")
    room.run("operator", "meta", "attr", "rm", room.images, "guid")
    room.run("operator", "meta", "index", "add", room.images, "Height")
    room.run("operator", "meta", "constraint", "add", room.images, "check", "plausible", "Height < 1000")
    room.run("operator", "meta", "constraint", "add", room.images, "unique", "Height")
    assert room.refused("alice", "meta", "entry", "set", room.images, "x", "Modality=CT", "Height=2000") == "VALUE_CHECK"
    assert room.refused("alice", "meta", "entry", "set", room.images, "x", "Modality=CT", "Height=64") == "VALUE_NOT_UNIQUE"
    assert room.refused("alice", "meta", "attr", "rm", room.images, "Height") == "COLLECTION_FORBIDDEN"
    (described,) = room.run("alice", "--json", "meta", "describe", room.images).rows()
    assert described["checks"] == {"plausible": "Height < 1000"}
    height = next(attribute for attribute in described["attributes"] if attribute["name"] == "Height")
    assert (height["indexed"], height["unique"], height["description"]) == (True, True, "rows of the image")
    plan = room.run("operator", "meta", "explain", f'SELECT entry FROM "{room.images}" WHERE Height = 64').out
    assert "entry" in plan
    room.run("operator", "meta", "constraint", "rm", room.images, "unique", "Height")
    room.run("operator", "meta", "constraint", "rm", room.images, "check", "plausible")
    room.run("operator", "meta", "index", "rm", room.images, "Height")
    assert room.mdm.query("alice", f'SELECT SUM(Height) AS s FROM "{room.images}"') == [{"s": 384.0}]


def test_work_is_taken_once_and_numbers_are_given_once(room: Room):
    room.fill(3)
    taken = []
    for _ in range(3):
        result = room.run(
            "alice", "--json", "meta", "take", room.images, "Modality=TAKEN", "--where", "Modality <> 'TAKEN'", "--order-by", "Rows DESC"
        )
        taken += [row["entry"] for row in result.rows()]
    assert taken == ["i2", "i1", "i0"]
    assert room.mdm("alice", "meta", "take", room.images, "Modality=TAKEN", "--where", "Modality <> 'TAKEN'").code == 1
    assert room.run("alice", "meta", "update", f'UPDATE "{room.images}" SET Rows = Rows + 1 WHERE Rows > 0').out == "2 entries\n"
    room.run("alice", "meta", "sequence", "create", room.images, "run", "--start", "10")
    assert room.run("alice", "meta", "sequence", "next", room.images, "run", "-n", "2").out.split() == ["10", "11"]
    assert room.run("alice", "meta", "sequence", "ls", room.images).out == "run\n"
    room.run("alice", "meta", "sequence", "rm", room.images, "run")


def test_rights_views_and_links_by_command(room: Room):
    room.fill()
    mallory = room.mdm("mallory", "--json", "whoami").rows()[0]["dn"]
    acl = room.run("operator", "meta", "acl", "create", f"dn:{mallory}=rl").out.strip()
    shown = f"{room.path}/shown"
    room.run("operator", "meta", "view", shown, room.images, "Rows=Height", "--where", "Modality = 'CT'", "--acl", acl)
    assert room.mdm.query("mallory", f'SELECT * FROM "{shown}" ORDER BY 1') == [{"Height": 0}, {"Height": 128}]
    room.run("operator", "meta", "link", f"{room.path}/link", room.images)
    assert room.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{room.path}/link"') == [{"n": 4}]
    room.run("operator", "meta", "acl", "set", room.images, acl, "--entry", "i0")
    assert room.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{room.images}"') == [{"n": 3}]
    room.run("operator", "meta", "acl", "grant", room.images, f"dn:{room.alice}", "r", "--entry", "i0", "--own")
    assert room.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{room.images}"') == [{"n": 4}]
    assert room.alice in room.run("operator", "meta", "acl", "get", room.images, "i0").out
    room.run("operator", "meta", "acl", "revoke", room.images, f"dn:{room.alice}", "--entry", "i0")
    assert room.mdm.query("alice", f'SELECT COUNT(*) AS n FROM "{room.images}"') == [{"n": 3}]


def test_a_dump_is_loaded_again_and_csv_and_tables_are_imported(room: Room, tmp_path: Path):
    room.fill()
    file = tmp_path / "images.jsonl"
    room.run("alice", "meta", "dump", room.images, "-o", str(file))
    copy = f"{room.path}/copy"
    assert room.run("operator", "meta", "load", copy, str(file), "--create").out == "4 entries stored\n"
    everything = 'SELECT * FROM "{}" ORDER BY entry'
    assert room.mdm.query("alice", everything.format(copy)) == room.mdm.query("alice", everything.format(room.images))
    whole = tmp_path / "all.jsonl"
    room.run("alice", "meta", "dump", room.path, "-R", "-o", str(whole))
    assert room.run("operator", "meta", "load", f"{room.path}/again", str(whole), "--create").out == "8 entries stored\n"
    assert room.mdm.query("alice", everything.format(f"{room.path}/again/copy")) == room.mdm.query("alice", everything.format(copy))
    table = tmp_path / "more.csv"
    table.write_text("key,modality,Rows,Day\nc1,US,7,2024-02-29\nc2,,8,\nc3,CT,,\n")
    result = room.mdm("alice", "meta", "load", copy, str(table), "--key", "key")
    assert (result.code, result.out) == (1, "2 entries stored, 1 not\n")
    assert "line 3" in result.err
    assert room.mdm.query("alice", f"SELECT entry, Rows FROM \"{copy}\" WHERE Day = '2024-02-29'") == [{"entry": "c1", "Rows": 7}]
    table.write_text("key,Nothing\nc1,1\n")
    assert room.refused("alice", "meta", "load", copy, str(table), "--key", "key") == "ATTRIBUTE_UNKNOWN"
    file.write_text("nonsense\n")
    assert room.refused("alice", "meta", "load", copy, str(file)) == "DUMP_MALFORMED"
    imported = f"{room.path}/imported"
    source = ("--postgres", room.mdm.stack.database("catalog"), "--table", "schema_migration", "--key", "name")
    assert "entries stored" in room.run("operator", "meta", "load", imported, *source, "--create").out
    assert room.mdm.query("alice", f'SELECT MIN(number) AS n FROM "{imported}"') == [{"n": 1}]
