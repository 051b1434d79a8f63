"""Every `mdm` command that a page shows exists, with the options that stand there."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from mdm_client.cli import main
from mdm_testing.repository import ROOT, tracked

PAGES = [path for path in tracked("*.md") if path.name != "CHANGELOG.md"]
COMMAND = re.compile(r"(?<![\w/.-])mdm((?: --config \S+| --json)*(?: [a-z][a-z-]*)+)((?:(?!\$\()[^\n|;`])*)")


def shown(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the words and the long options of every command in a page's blocks of code and in its text between backticks."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE))
    for text in [block.replace("\\\n", " ") for block in blocks] + inline:
        for words, rest in COMMAND.findall(text):
            yield re.sub(r"--config \S+|--json", "", words).split(), re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", rest)


def problem(words: list[str], options: list[str]) -> str | None:
    """Return what is wrong with a command, None if nothing is; words behind the command are its arguments."""
    command: click.Command = main
    context = click.Context(main)
    for position, word in enumerate(words):
        if not isinstance(command, click.Group):
            break
        inner = command.get_command(context, word)
        if inner is None:
            return f"mdm {' '.join(words[: position + 1])}: no such command"
        command, context = inner, click.Context(inner, parent=context)
    known = {
        name
        for parameter in (*command.params, *main.params)
        for name in (*parameter.opts, *parameter.secondary_opts, *getattr(parameter, "spellings", ()))
    }
    unknown = [option for option in options if option not in known | {"--help", "--all"}]
    return f"mdm {' '.join(words)}: no option {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_commands_of_a_page_exist(page: Path):
    found = shown((ROOT / page).read_text(encoding="utf-8"))
    assert [wrong for words, options in found if (wrong := problem(words, options))] == []


def test_a_command_or_an_option_that_does_not_exist_is_found():
    page = "`mdm frobnicate /x` and\n```\nmdm --config c.toml ls /x --nonsense | tail -1\nmdm get /x -o out --force\n```\n"
    assert [problem(*command) for command in shown(page)] == ["mdm ls: no option --nonsense", None, "mdm frobnicate: no such command"]
