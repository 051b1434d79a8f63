"""Documents: every link leads somewhere, every path that is named exists, and the form is the house's."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mdm_testing.repository import ROOT, procedures

FOLDERS = ("docs", "libs", "services", "client", "deploy", "requirements")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
# Pages whose lines are still to be put into form.
LATER = {"libs/deid/README.md"}
LINK = re.compile(r"\]\(([^)\s]+)\)")
LONGEST_LINE, LONGEST_PARAGRAPH, LONGEST_DECISION = 240, 5, 60
ENDS_WITH_A_SENTENCE = re.compile(r"[.:;!?)*`\"”…,–>]$")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> Iterator[list[str]]:
    """Yield paragraphs and items of lists, without headings, tables, code and comments."""
    paragraph: list[str] = []
    code = False
    for line in [*page.read_text(encoding="utf-8").splitlines(), ""]:
        fence = line.lstrip().startswith("```")
        code ^= fence
        text = "" if fence or code else line.strip()
        begins = re.match(r"(?:[-*]|\d+\.) ", text)
        if (not text or begins or text.startswith(("#", "|", "<", "!["))) and paragraph:
            yield paragraph
            paragraph = []
        if text and not text.startswith(("#", "|", "<", "![")):
            paragraph.append(text)


def slugs(page: Path) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    lost = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in slugs(there)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("page", [page for page in PAGES if named(page) not in LATER], ids=named)
def test_prose_has_the_form_of_the_house(page: Path):
    problems = []
    for paragraph in prose(page):
        problems += [f"too long a line: {line[:60]}" for line in paragraph if len(line) > LONGEST_LINE]
        problems += [f"a line ends within a sentence: {line[-60:]}" for line in paragraph[:-1] if not ENDS_WITH_A_SENTENCE.search(line)]
        if len(paragraph) > LONGEST_PARAGRAPH:
            problems.append(f"too long a paragraph: {paragraph[0][:60]}")
    assert not problems


def test_the_form_would_be_missed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("It says\nthat lines\nend.\nLike.\nThis.\nOne.\n\n```\na line of code\nand another\n```\n\n- An item.\n- Another.\n")
    assert [len(paragraph) for paragraph in prose(page)] == [6, 1, 1]
    with pytest.raises(AssertionError, match="too long a paragraph"):
        test_prose_has_the_form_of_the_house(page)


def test_every_path_that_newcomers_are_sent_to_exists():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "docs/developer/tutorial.md")]
    paths = {path for text in texts for path in re.findall(r"`((?:bench|client|deploy|docs|libs|proto|services|tests)/[^`\s<>*…]*)`", text)}
    assert len(paths) > 30
    assert not {path for path in paths if not (ROOT / path).exists()}


def test_the_glossary_has_each_name_once_and_in_order():
    tables = re.split(r"^## ", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    named = [re.findall(r"^\| (?!name \|)([^|]+?) \|", table, re.MULTILINE) for table in tables]
    assert min(map(len, named)) > 3
    for names in named:
        assert names == sorted(names, key=lambda name: re.sub(r"[^a-z ,-]", "", name.lower()))
    every = [name for names in named for name in names]
    assert len(every) == len(set(every))


def test_every_procedure_has_one_place():
    names = [name for name, _ in procedures()]
    assert len(names) > 20
    assert len(names) == len(set(names))


def test_every_decision_is_in_the_index_and_fits_a_page():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = [page for page in sorted(folder.glob("*.md")) if page.name != "README.md"]
    assert [page.name for page in pages] == re.findall(r"\]\((\d{4}[^)]*)\)", index)
    assert not [page.name for page in pages if len(page.read_text(encoding="utf-8").splitlines()) > LONGEST_DECISION]


def test_every_package_has_the_version_of_the_latest_release():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (latest, *_) = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    packages = [
        page for folder in ("proto", "libs", "services", "client", "deploy", "tests") for page in (ROOT / folder).rglob("pyproject.toml")
    ]
    assert len(packages) > 10
    assert {tomllib.loads(page.read_text(encoding="utf-8"))["project"]["version"] for page in packages} == {latest}
