"""The stack under test, the `mdm` command, and images to store.

The tests know a stack by what every kind of stack can do (stack.py).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mdm_testing.wait import eventually

from tests.e2e.compose_stack import ComposeStack
from tests.e2e.images import Image, make_image
from tests.e2e.local_stack import LocalStack
from tests.e2e.stack import Mdm, Stack


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose the stack."""
    parser.addoption("--stack", choices=("local", "compose"), default="local", help="processes of this machine, or containers")
    parser.addoption("--stack-dir", type=Path, help="use the stack of mdm-local in this directory, which is up already and stays up")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only containers have where there are none."""
    if config.getoption("--stack") != "compose":
        dropped = [item for item in items if item.get_closest_marker("compose")]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


_RECOVERIES = pytest.StashKey[list[tuple[str, float]]]()


@pytest.fixture(scope="session")
def recovery_table(request: pytest.FixtureRequest) -> list[tuple[str, float]]:
    """Faults, and the seconds until a new image was stored, found and fetched after them; printed at the end."""
    return request.config.stash.setdefault(_RECOVERIES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how long recoveries took."""
    rows = config.stash.get(_RECOVERIES, [])
    if rows:
        terminalreporter.section("recovery: seconds until a new image was stored, found and fetched")
        for fault, seconds in rows:
            terminalreporter.write_line(f"{fault:<32} {seconds:6.1f}")


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A fresh stack of the kind that the command line names, with the site's collections made."""
    directory = tmp_path_factory.mktemp("stack")
    if request.config.getoption("--stack-dir"):
        yield LocalStack(request.config.getoption("--stack-dir").resolve())
        return
    running: Stack = ComposeStack(directory) if request.config.getoption("--stack") == "compose" else LocalStack(directory)
    try:
        running.up()
        carol = Mdm(running, directory)
        ready = eventually(lambda: carol("carol", "query", 'SELECT patient FROM "/biomed/hospital-a/patients"').code == 0, timeout=30)
        assert ready, "the site's collections are not there"
        yield running
    finally:
        running.down()


@pytest.fixture
def mdm(stack: Stack, tmp_path: Path) -> Mdm:
    """The `mdm` command: `mdm("alice", "ls", "/biomed")`."""
    return Mdm(stack, tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """A CT image nobody has seen before, full of identifying values made up for it."""
    return make_image(tmp_path / "original.dcm", "CT_small.dcm")
