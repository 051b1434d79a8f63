"""Words that the house has given up do not come back: phrases in any text, words in the names that code defines."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from mdm_testing.repository import ROOT, tracked

LIST = "tests/structure/wording.toml"
WORDING = tomllib.loads((ROOT / LIST).read_text(encoding="utf-8"))
PHRASES = {re.compile(phrase.replace(" ", r"\s+"), re.IGNORECASE): instead for phrase, instead in WORDING["phrases"].items()}
ALL = tuple(path for path in tracked("*") if path.suffix in (".py", ".md", ".toml", ".sql", ".proto", ".yaml", ".sh", ".cfg", ""))


def is_below(path: Path, folders: list[str]) -> bool:
    return any(path == Path(folder) or Path(folder) in path.parents for folder in folders)


def checked() -> list[Path]:
    """Return the files whose wording is final."""
    return [
        path
        for path in ALL
        if path.name not in (Path(LIST).name, Path(__file__).name) and not is_below(path, WORDING["later"] + WORDING["history"])
    ]


def phrases(text: str) -> Iterator[str]:
    """Yield what of a text is to be put differently, and how; comments that go over several lines are read as one."""
    joined = re.sub(r"\n[ \t]*(?:#:?|--|//)[ \t]*", "\n", text)
    for phrase, instead in PHRASES.items():
        yield from (f"{found[0]!r}: {instead}" for found in phrase.finditer(joined))


def defined(tree: ast.AST) -> Iterator[str]:
    """Yield every name that Python code defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def names(path: Path, text: str) -> Iterator[str]:
    """Yield names that a module defines, its own included, with a word that was given up, and what to use instead."""
    for name in {path.stem, *defined(ast.parse(text))}:
        if name.startswith("test_"):  # a sentence
            continue
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        yield from (f"{name}: {WORDING['names'][word.lower()]}" for word in words if word.lower() in WORDING["names"])


def problems(path: Path) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return [*phrases(text), *(names(path, text) if path.suffix == ".py" else ())]


def test_no_word_that_was_given_up_is_in_any_file():
    assert len(checked()) > 50
    assert {str(path): found for path in checked() if (found := problems(path))} == {}


def test_each_phrase_and_each_name_would_be_found():
    assert [*phrases("A probe.\n    # It tells\n    # whether.")] == [
        "'tells\\nwhether': return(s) whether, say(s) whether, check(s) whether"
    ]
    assert len([*phrases("Who is told of files that are none has gone.")]) == 3
    assert [*phrases("Slides are told apart.")] == []
    code = "import unicodedata\nclass NeedleCase:\n    def find(self, theBook):\n        self.last_deed = unicodedata.combining('a')\n"
    found = sorted(name.partition(":")[0] for name in names(Path("src/elsewhere.py"), code))
    assert found == ["NeedleCase", "elsewhere", "last_deed", "theBook"]
