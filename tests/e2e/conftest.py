"""The stack under test, the `mdm` command, and images to store.

The tests know a stack by what every kind of stack can do (stack.py).
"""

import json
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mdm_testing.compose_stack import ComposeStack
from mdm_testing.image import Image, make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack


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
        mdm = Mdm(running, directory)
        eventually(lambda: mdm("carol", "query", 'SELECT patient FROM "/biomed/hospital-a/patients"').code == 0)
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


def orthanc_of(stack: Stack) -> Callable[..., Any]:
    """Return Orthanc's REST API, as its administrator has it; skip the test where there is none on this machine."""
    if not isinstance(stack, LocalStack) or stack.pacs["kind"] != "orthanc":
        pytest.skip("needs Orthanc's REST on this machine")
    account = json.loads(Path(stack.pacs["http_credentials_file"]).read_text())

    def ask(method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(stack.pacs["http"] + path, method=method, data=json.dumps(body).encode() if body else None)
        request.add_header("Authorization", "Basic " + b64encode("{username}:{password}".format(**account).encode()).decode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    return ask


@pytest.fixture
def ask_pacs(stack: Stack) -> Callable[..., Any]:
    """Orthanc's REST API: `ask_pacs("GET", "/patients")`."""
    return orthanc_of(stack)


@pytest.fixture
def ask_pacs_of() -> Callable[[Stack], Callable[..., Any]]:
    """The same for a stack that a test has of its own."""
    return orthanc_of


@pytest.fixture
def delete_in_pacs(ask_pacs: Callable[..., Any]) -> Callable[[str], None]:
    """Delete what the PACS has of a patient."""

    def delete(patient_id: str) -> None:
        for found in ask_pacs("POST", "/tools/find", {"Level": "Patient", "Query": {"PatientID": patient_id}}):
            ask_pacs("DELETE", f"/patients/{found}")

    return delete
