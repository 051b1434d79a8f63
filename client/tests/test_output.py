"""What goes to the terminal, into files and into pipes: tables, CSV, and readers that go away."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm.metadata.v1 import metadata_pb2
from mdm_client.cli import output
from mdm_client.cli.metadata.query import csv_rows
from mdm_client.cli.output import fitted, shortened, table_rows, with_path
from mdm_client.metadata.value import Column
from rich.cells import cell_len

from client.tests.test_cli import STUDY, mdm

LFN = "/biomed/hospital-a/2f6f0a93c1/9b1c7d0e55/series-0001/0001-3f2a9c.dcm"


def csv_text(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    return "".join(f"{line}\n" for line in csv_rows([Column(name, "text", "") for name in columns], iter(lines)))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("T1\r\nAXIAL", '"T1\r\nAXIAL"'),
        ("T1\nAXIAL", '"T1\nAXIAL"'),
        ("T1\rAXIAL", '"T1\rAXIAL"'),
        ('12" film', '"12"" film"'),
        ("a,b", '"a,b"'),
        (" a ", '" a "'),
        ("", '""'),
        (None, ""),
        (True, "true"),
        (-1.5, "-1.5"),
        ("=1+1", "=1+1"),
        ("@x", "@x"),
    ],
)
def test_csv_is_quoted_where_rfc_4180_demands(value, written):
    assert csv_text(["a", "b"], [(value, 1)]) == f"a,b\n{written},1\n"
    assert csv_text(["a"], [(value,)]) == f"a\n{written}\n"


@given(st.lists(st.tuples(st.text(), st.text(), st.none() | st.text(min_size=1)), min_size=1))
def test_any_text_comes_back_from_csv(lines):
    _, *read = csv.reader(io.StringIO(csv_text(["a,", 'b"', "c\n"], lines), newline=""), strict=True)
    assert read == [[a, b, c or ""] for a, b, c in lines]


def test_a_shortened_path_keeps_both_ends_and_wide_characters_count_twice():
    assert shortened(LFN, 30) == "/biomed/hospit…001-3f2a9c.dcm"[:14] + "…" + LFN[-15:]
    for width in range(1, 40):
        for text in (LFN, "日本語の名前" * 8, "é" * 60, "e\u0301" * 40):
            assert cell_len(shortened(text, width)) <= width
    assert shortened("short", 10) == "short"


@given(st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=1, max_size=12), st.integers(20, 200))
def test_columns_fit_wherever_four_cells_each_do(columns, limit):
    widths = [width for width, _ in columns]
    found = fitted(widths, [text for _, text in columns], limit)
    room = limit - 2 * (len(columns) - 1)
    assert all(new <= old for new, old in zip(found, widths, strict=True))
    assert sum(found) <= max(room, sum(min(4, width) for width in widths))
    assert fitted(widths, [True] * len(widths), None) == widths


COLUMNS = [Column("lfn", "text", ""), Column("Rows", "int", ""), Column("SliceThickness", "numeric", "mm"), Column("name", "text", "")]
ROWS = [(LFN, 512, Decimal("2.50"), "日本語の名前日本語の名前"), (None, None, None, "x" * 90)]


@pytest.mark.parametrize("limit", [20, 40, 80, 120, 400])
def test_no_line_of_a_table_is_wider_than_the_terminal(limit, monkeypatch):
    monkeypatch.setattr(output, "terminal_width", lambda: limit)
    lines = list(table_rows(COLUMNS, iter(ROWS)))
    assert max(map(cell_len, lines)) <= limit
    assert limit < 80 or "512" in lines[2]
    assert limit < 400 or "日本語の名前日本語の名前" in lines[2]


def test_many_columns_are_cut_at_the_edge(monkeypatch):
    monkeypatch.setattr(output, "terminal_width", lambda: 60)
    lines = list(table_rows([Column(f"c{n}", "int", "") for n in range(60)], iter([tuple(range(1000, 1060))])))
    assert {cell_len(line) for line in lines} == {60}
    assert lines[0].endswith("…")


def test_a_pipe_gets_everything_whatever_columns_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert LFN in list(table_rows(COLUMNS, iter(ROWS)))[2]
    assert with_path("x ", LFN) == f"x {LFN}"


def on_terminal(config: Path, *arguments: str, **environment: str) -> list[str]:
    """Run the command on a terminal; return its lines."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "mdm_client.cli", "--config", str(config), *arguments]
    with subprocess.Popen(command, stdout=follower, env={**os.environ, **environment}) as process:
        os.close(follower)
        text = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # how Linux says that nobody writes any more
                break
            if not part:
                break
            text += part
    os.close(leader)
    assert process.returncode == 0
    return text.decode().replace("\r\n", "\n").splitlines()


def test_a_terminal_gets_lines_of_its_width(grid):
    grid.add(f"{LFN}", b"x")
    _fill(grid, [LFN, "x"])
    config = grid.config()
    queried = on_terminal(config, "query", "SELECT lfn FROM x", COLUMNS="40")
    assert [cell_len(line) for line in queried] == [3, 40, 40, 1]
    assert "…" in queried[2]
    listed = on_terminal(config, "find", "-l", COLUMNS="80")
    assert max(map(cell_len, listed)) <= 80
    assert any(line.endswith("3f2a9c.dcm") for line in listed)
    assert on_terminal(config, "find", COLUMNS="20")[-1] == LFN, "paths alone are for copying"


def _fill(grid, values: list[str]) -> None:
    grid.metadata.columns = [("lfn", metadata_pb2.ATTRIBUTE_TYPE_TEXT, "")]
    grid.metadata.batches = [metadata_pb2.RowBatch(count=len(values), columns=[metadata_pb2.ColumnData(texts=values)])]


LONG = [
    ["query", "SELECT lfn FROM x"],
    ["query", "SELECT lfn FROM x", "--json"],
    ["query", "SELECT lfn FROM x", "--format", "csv"],
    ["query", "SELECT lfn FROM x", "--format", "arrow"],
    ["find", "/"],
    ["find", "/", "--json"],
    ["find", "/", "-0"],
    ["ls", "-R", "/"],
    ["get", "--json", STUDY],
    ["get", "--help"],
    ["completion", "bash"],
]


@pytest.mark.parametrize("arguments", LONG, ids=" ".join)
def test_a_reader_that_goes_away_ends_the_command_without_a_word(arguments, grid, tmp_path):
    if "arrow" in arguments:
        pytest.importorskip("pyarrow")
    for number in range(300):
        grid.add(f"{STUDY}/{number:04}-{'x' * 150}.dcm", b"x")
    _fill(grid, [f"{n:06}" + "x" * 100 for n in range(3_000)])
    command = [sys.executable, "-m", "mdm_client.cli", "--config", str(grid.config()), *arguments]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=tmp_path)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
    assert not list(tmp_path.glob("**/*.part"))


def test_errors_into_a_closed_pipe_end_the_command_too(grid):
    command = [sys.executable, "-m", "mdm_client.cli", "--config", str(grid.config()), "stat", "/none"]
    read, write = os.pipe()
    os.close(read)
    assert subprocess.run(command, stdout=write, stderr=write, timeout=60, check=False).returncode == 141
    os.close(write)


def test_a_full_disk_behind_standard_output_is_one_line(grid):
    grid.add(LFN, b"x")
    command = [sys.executable, "-m", "mdm_client.cli", "--config", str(grid.config()), "ls"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "mdm: standard output: No space left on device\n")


def test_a_file_that_exists_is_not_replaced_by_an_answer(grid, tmp_path):
    _fill(grid, ["a"])
    file = tmp_path / "rows.csv"
    file.write_text("mine")
    config = grid.config()
    refused = mdm(config, "query", "SELECT lfn FROM x", "--format", "csv", "-o", str(file))
    assert (refused.exit_code, refused.stderr, file.read_text()) == (1, f"mdm: {file}: exists already; --force replaces it\n", "mine")
    assert mdm(config, "query", "SELECT lfn FROM x", "--format", "csv", "-o", str(file), "--force").exit_code == 0
    assert file.read_text() == "lfn\na\n"
    nowhere = mdm(config, "query", "SELECT lfn FROM x", "-o", str(tmp_path / "none/rows"))
    assert (nowhere.exit_code, nowhere.stderr) == (1, f"mdm: {tmp_path / 'none/rows'}: cannot be written: No such file or directory\n")


def test_a_query_over_sites_that_none_answers_names_the_site(grid):
    config = grid.config()
    config.write_text(config.read_text() + f'[metadata_sites]\neast = ["{grid.addresses["metadata"]}"]\n')
    refused = mdm(config, "query", "--sites", "all", "DROP x")
    assert refused.stderr == "mdm: east: metadata: Only one SELECT is accepted.\n"
    assert json.loads(mdm(config, "--json", "query", "--sites", "all", "DROP x").stderr)["reason"] == "SQL_NOT_SELECT"


def test_all_sites_of_a_configuration_without_any_says_where_they_are_named(grid):
    refused = mdm(grid.config(), "query", "--sites", "all", "SELECT 1")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "no site to ask" in refused.stderr
    assert "[metadata_sites]" in refused.stderr
