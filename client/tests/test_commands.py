"""Every command: its help ends with an example that works, and its options are spelt as the table in the README says."""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from mdm_client.cli import main
from mdm_client.cli.context import RenamedOption
from mdm_client.cli.group import EXAMPLES

README = Path(__file__).parents[1] / "README.md"
_ROW = re.compile(r"\| (?:`(-.)`, )?`(--[a-z0-9-]+)(?: [^`]*)?` \| ([^|]+) \| ([^|]*)\|")


@dataclass
class Spelling:
    """A row of the table."""

    short: str
    meaning: str
    old: set[str]


def table() -> dict[str, Spelling]:
    found = {}
    for match in _ROW.finditer(README.read_text()):
        short, long, meaning, old = match.groups()
        assert long not in found, f"{long} has two rows"
        found[long] = Spelling(short or "", meaning.strip(), set(re.findall(r"`(-[^`]+)`", old)))
    return found


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield each command with its path and context."""
    waiting = [("", main, click.Context(main, info_name="mdm"))]
    while waiting:
        path, command, context = waiting.pop()
        yield path, command, context
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None, name
                waiting.append((f"{path} {name}".strip(), inner, click.Context(inner, parent=context, info_name=name)))


ALL = {path: (command, context) for path, command, context in commands()}
OPTIONS = [
    (path, option)
    for path, (command, _) in ALL.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.hidden
]


def shown(option: click.Option) -> tuple[str, str]:
    """Return the short and the long spelling that the help shows."""
    spellings = option.spellings if isinstance(option, RenamedOption) else option.opts
    short = [spelling for spelling in spellings if not spelling.startswith("--")]
    long = [spelling for spelling in spellings if spelling.startswith("--")]
    assert (len(short) <= 1, len(long)) == (True, 1), spellings
    return "".join(short), long[0]


def example(path: str) -> str:
    command, context = ALL[path]
    return command.get_help(context).rstrip().splitlines()[-1].strip()


def test_there_are_many_commands_and_no_example_is_without_one():
    assert len(ALL) > 80
    assert set(EXAMPLES) <= set(ALL)


@pytest.mark.parametrize("path", ALL)
def test_the_help_ends_with_an_example_of_the_command(path, monkeypatch, tmp_path):
    line = example(path)
    assert re.search(rf"\bmdm {path}".rstrip(), line), f"{path or 'mdm'}: the help ends with {line!r}"
    called = parsed(line, monkeypatch, tmp_path)
    assert called == path or (isinstance(ALL[path][0], click.Group) and called.startswith(path))


def test_the_example_of_a_sub_command_that_no_group_lists(monkeypatch, tmp_path):
    if "deid" not in ALL:
        pytest.skip("mdm-deid is not installed")
    help_text = CliRunner().invoke(main, ["deid", "preview", "--help"]).stdout
    assert parsed(help_text.rstrip().splitlines()[-1].strip(), monkeypatch, tmp_path) == "deid preview"


def parsed(line: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Parse an example as the command would, in a directory with the files it reads; return what it calls."""
    called: list[str] = []

    def note(command: click.Command, context: click.Context) -> int:
        if not isinstance(command, click.Group) or context.invoked_subcommand is None:
            called.append(context.command_path.removeprefix("mdm "))
        return 0

    monkeypatch.setattr(click.Command, "invoke", note)
    monkeypatch.chdir(folder)
    for name in ("jobs.csv", "report.pdf", "image.dcm"):
        Path(name).write_bytes(b"")
    Path("study").mkdir(exist_ok=True)
    inner = re.fullmatch(r'eval "\$\((.*)\)"', line)
    program, *words = shlex.split(inner[1] if inner else line)
    assert program == "mdm"
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.stderr
    return called[0]


@pytest.mark.parametrize("path", [path for path, (command, _) in ALL.items() if path in EXAMPLES and not isinstance(command, click.Group)])
def test_the_example_runs_as_far_as_the_grid_allows(path, grid, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("jobs.csv", "report.pdf"):
        Path(name).write_text("job,state\n1,new\n")
    words = shlex.split(EXAMPLES[path].removeprefix('eval "$(').removesuffix(')"'))
    result = CliRunner().invoke(main, ["--config", str(grid.config()), *words[1:]])
    assert result.exit_code != 70, result.stderr
    assert "--help)" not in result.stderr


def test_options_are_spelt_one_way():
    known = table()
    wrong = []
    for path, option in OPTIONS:
        short, long = shown(option)
        if long not in known or known[long].short != short:
            wrong.append(f"mdm {path}: {short} {long}")
    assert not wrong, "not as in client/README.md"
    assert set(known) == {shown(option)[1] for _, option in OPTIONS}, "rows without an option"


def test_no_two_options_mean_the_same_and_no_letter_means_two_things():
    known = table()
    meanings = [spelling.meaning.lower() for spelling in known.values()]
    assert len(meanings) == len(set(meanings))
    letters = [spelling.short for spelling in known.values() if spelling.short]
    assert len(letters) == len(set(letters))
    flags: dict[str, set[bool]] = {}
    for _, option in OPTIONS:
        flags.setdefault(shown(option)[1], set()).add(option.is_flag)
    assert {long for long, kinds in flags.items() if len(kinds) > 1} == set(), "an option that takes a value here and none there"


def test_old_spellings_are_accepted_hidden_and_in_the_table():
    known = table()
    old: dict[str, set[str]] = {}
    for path, option in OPTIONS:
        if isinstance(option, RenamedOption):
            old.setdefault(shown(option)[1], set()).update(option.old)
            command, context = ALL[path]
            record = option.get_help_record(context)
            assert record is not None
            assert not set(option.old) & set(re.split(r"[ ,/]+", record[0])), command.name
    assert {long: spelling.old for long, spelling in known.items() if spelling.old} == old


@pytest.mark.parametrize(
    "words",
    [
        ["find", "-name", "x", "-type", "f", "-maxdepth", "2", "-print0"],
        ["du", "-d", "1", "-s"],
        ["ls", "-i"],
        ["rm", "-r", "/x"],
        ["ln", "-s", "/x", "/y"],
        ["chown", "-R", "dn:CN=x,O=y", "/x"],
        ["query", "SELECT", "-p", "a=1"],
        ["meta", "take", "/x", "a=1", "-n", "2"],
        ["meta", "sequence", "next", "/x", "n", "-n", "2"],
        ["meta", "view", "/x", "/y", "--key"],
        ["meta", "load", "/x", "jobs.csv", "--csv", "--default-acl", "--key", "job"],
        ["meta", "dump", "/x", "--recursive"],
        ["key", "refresh", "--id", "0b5f5e0e-4d33-4a4c-9d0e-6a0f3c1d2e4f"],
    ],
    ids=" ".join,
)
def test_what_options_were_called_before_still_works(words, monkeypatch, tmp_path):
    assert words[0] in parsed(shlex.join(["mdm", *words]), monkeypatch, tmp_path)


def test_a_message_names_an_option_as_it_is_spelt_now():
    result = CliRunner().invoke(main, ["meta", "take", "/x", "a=1", "-n", "none"])
    assert (result.exit_code, "'--count'" in result.stderr, os.linesep + "-n" in result.stderr) == (2, True, False)
