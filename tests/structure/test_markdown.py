"""Pages lead somewhere, and their lines and paragraphs can be read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.repository import ROOT, tracked

LONGEST_LINE, LONGEST_PARAGRAPH = 240, 5
PAGES = tracked("*.md")
NOT_YET = "to be split"
#: Pages with lines that are too long still.
LONG_LINES = {
    "deploy/local/README.md": NOT_YET,
    "deploy/site/README.md": NOT_YET,
    "CHANGELOG.md": NOT_YET,
    "README.md": NOT_YET,
    "client/README.md": NOT_YET,
    "docs/decisions/0005-identifiers-and-sealing.md": NOT_YET,
    "docs/decisions/0007-metadata-storage.md": NOT_YET,
    "docs/decisions/0008-local-stack.md": NOT_YET,
    "docs/decisions/0010-encrypted-files.md": NOT_YET,
    "docs/decisions/0011-mdm-deid.md": NOT_YET,
    "docs/decisions/0014-metadata-queries.md": NOT_YET,
    "docs/decisions/0015-new-shares.md": NOT_YET,
    "docs/decisions/0016-worker-processes.md": NOT_YET,
    "docs/decisions/0017-one-judge.md": NOT_YET,
    "docs/developer/architecture.md": NOT_YET,
    "docs/developer/measurements.md": NOT_YET,
    "docs/operator/deidentification.md": NOT_YET,
    "docs/operator/operations.md": NOT_YET,
    "docs/threat-model.md": NOT_YET,
    "libs/deid/README.md": NOT_YET,
    "libs/service/README.md": NOT_YET,
    "services/catalog/README.md": NOT_YET,
    "services/dicom-srm/README.md": NOT_YET,
    "services/metadata/README.md": NOT_YET,
}


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is neither in a block of code nor in a table."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
            yield number, ""
        elif not code:
            yield number, "" if line.lstrip().startswith("|") else line


def long_lines(text: str) -> list[int]:
    return [number for number, line in prose(text) if len(line) > LONGEST_LINE]


def long_paragraphs(text: str) -> list[int]:
    """Return the number of the first line beyond a paragraph's or list item's last allowed one."""
    found, lines = [], 0
    for number, line in prose(text):
        starts = not line.strip() or re.match(r"\s*([-*>#<]|\d+\.)", line)
        lines = (1 if line.strip() else 0) if starts else lines + 1
        if lines == LONGEST_PARAGRAPH + 1:
            found.append(number)
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Return the targets of relative links that are no file or folder of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", "\n".join(line for _, line in prose(text)) + "\n".join(re.findall(r"^\s*\|.*", text, re.M)))
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    return [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_relative_link_leads_somewhere(page):
    assert broken_links(ROOT / page, (ROOT / page).read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_lines_end_with_a_sentence(page):
    found = long_lines((ROOT / page).read_text())
    assert found == [] or str(page) in LONG_LINES


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_paragraphs_are_short(page):
    assert long_paragraphs((ROOT / page).read_text()) == []


def test_pages_that_are_in_order_are_not_excepted():
    assert [page for page in LONG_LINES if not (ROOT / page).is_file() or not long_lines((ROOT / page).read_text())] == []


def places(row: str) -> list[str]:
    """Return the paths that a row names as patterns: each alternative of `{a,b}` apart, what is written `<name>` as `*`."""
    found = []
    for text in re.findall(r"`([\w./{},*<>-]+)`", row):
        if "/" in text and not text.startswith(".venv"):
            head, _, rest = text.partition("{")
            choices, _, tail = rest.partition("}")
            found += [re.sub("<.*?>", "*", head + choice + tail).rstrip("/") for choice in choices.split(",")]
    return found


def absent(row: str, root: Path) -> list[str]:
    """Return the paths of a row that exist neither below the root nor below another one of the row."""
    named = places(row)
    folders = [root, *(folder for place in named for folder in root.glob(place))]
    return [place for place in named if not any(any(folder.glob(place)) for folder in folders if folder.is_dir())]


def test_every_path_in_the_tables_of_contributing_exists():
    rows = re.findall(r"^\|.*", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert sum(len(places(row)) for row in rows) >= 10
    assert [place for row in rows for place in absent(row, ROOT)] == []


def test_what_breaks_a_rule_is_found(tmp_path):
    text = (
        "word " * 60
        + "\n\n"
        + "line\n" * 6
        + "\n```\n"
        + "x" * 300
        + "\n```\n| "
        + "y" * 300
        + " |\n[here](there.md) [no](https://x.example)\n"
    )
    assert (long_lines(text), long_paragraphs(text), broken_links(tmp_path / "page.md", text)) == ([1], [8], ["there.md"])
    (tmp_path / "a" / "in").mkdir(parents=True)
    assert places("| `a/{b,c}.py` | `services/<name>` | `plain` |") == ["a/b.py", "a/c.py", "services/*"]
    assert absent("| `a/` | `in/` | `out/` | `a/no.py` |", tmp_path) == ["out", "a/no.py"]
