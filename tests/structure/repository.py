"""The repository as structural tests see it: its files under version control."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def tracked(pattern: str) -> tuple[Path, ...]:
    """Return the paths, relative to the root, of the files that git knows and that are there, by a pattern as of `git ls-files`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(path for path in map(Path, listed.stdout.splitlines()) if (ROOT / path).is_file())
