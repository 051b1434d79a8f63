"""The procedures of docs/operator, executed as they stand there."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.stack import BIN

ROOT = Path(__file__).parents[2]
EXECUTED: set[str] = set()


def procedures() -> Iterator[tuple[str, str]]:
    """Yield name and commands of every procedure, page by page."""
    for page in sorted((ROOT / "docs" / "operator").glob("*.md")):
        yield from re.findall(r"<!-- procedure: ([\w-]+) -->\n```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


PROCEDURES = dict(procedures())


def execute(name: str, **variables: Path | str) -> str:
    """Run a procedure as an operator would paste it into a shell, and return what it printed."""
    EXECUTED.add(name)
    given = {"PATH": f"{BIN}:{os.environ['PATH']}", **{key: str(value) for key, value in variables.items()}}
    shell = ["bash", "-euo", "pipefail", "-c", PROCEDURES[name]]
    done = subprocess.run(shell, cwd=ROOT, env={**os.environ, **given}, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
