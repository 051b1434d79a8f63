"""The stack under test, the `mdm` command, and images to store.

The tests know the stack only by what `status --json` gives: client configurations, the PACS, the services.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.images import Image, make_image
from tests.e2e.stack import Mdm, Stack


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run name a stack that is up already."""
    parser.addoption("--stack-dir", type=Path, default=None, help="data directory of a running local stack; default: a fresh one")


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack; a fresh local one unless the command line names one."""
    given: Path | None = request.config.getoption("--stack-dir")
    if given is not None:
        yield Stack(given)
        return
    running = Stack(tmp_path_factory.mktemp("stack"))
    running.local("up")
    yield running
    running.local("down", "--purge")


@pytest.fixture
def mdm(stack: Stack, tmp_path: Path) -> Mdm:
    """The `mdm` command: `mdm("alice", "ls", "/biomed")`."""
    return Mdm(stack, tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """A CT image nobody has seen before, full of identifying values made up for it."""
    return make_image(tmp_path / "original.dcm", "CT_small.dcm")
