"""The checkout as tests see it: its files under version control, and the procedures that its pages tell operators to run."""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mdm_testing.process import BIN

ROOT = Path(__file__).parents[4]
#: Names of the procedures that this process has run.
EXECUTED: set[str] = set()


@cache
def tracked(pattern: str) -> tuple[Path, ...]:
    """Return the paths, relative to the root, of the files that git knows and that exist, by a pattern as of `git ls-files`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(path for path in map(Path, listed.stdout.splitlines()) if (ROOT / path).is_file())


def procedures() -> Iterator[tuple[str, str]]:
    """Yield name and commands of every procedure in docs/operator, page by page."""
    for page in sorted((ROOT / "docs" / "operator").glob("*.md")):
        yield from re.findall(r"<!-- procedure: ([\w-]+) -->\n```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


PROCEDURES = dict(procedures())


def execute(name: str, **variables: Path | str) -> str:
    """Run a procedure as an operator would paste it into a shell, and return what it printed."""
    EXECUTED.add(name)
    given = {"PATH": f"{BIN}:{os.environ['PATH']}", **{key: str(value) for key, value in variables.items()}}
    shell = ["bash", "-euo", "pipefail", "-c", PROCEDURES[name]]
    done = subprocess.run(shell, cwd=ROOT, env={**os.environ, **given}, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
