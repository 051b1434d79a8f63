"""The steps of docs/user/tutorial.md, as they stand there, on a stack that nobody used before."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mdm_testing.image import make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import BIN
from mdm_testing.repository import ROOT
from mdm_testing.stack import Mdm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PAGE = ROOT / "docs" / "user" / "tutorial.md"
STEP = re.compile(r"<!-- step(: fails)? -->\n```\n(.*?)```", re.DOTALL)


@pytest.fixture
def stack(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """A stack of its own with one CT image, as other tests remove and rename what a query finds."""
    if request.config.getoption("--stack") == "compose":
        pytest.skip("the tutorial is about the stack on one machine")
    running = LocalStack(tmp_path / "stack")
    try:
        running.up()
        image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
        running.store(image.path)
        Mdm(running, tmp_path).registered(image.patient_id)
        yield running
    finally:
        running.down()


def script() -> str:
    """Return the steps as one script; a step that is said to fail must."""
    steps = STEP.findall(PAGE.read_text(encoding="utf-8"))
    assert len(steps) > 5
    return "set -x\n" + "\n".join(f"if ( {step} ) then exit 99; fi" if fails else step for fails, step in steps)


def test_every_step_of_the_tutorial_does_what_it_says(stack: LocalStack, tmp_path: Path):
    users = {"MDM_CONFIG": str(stack.client_config("alice")), "MALLORY": str(stack.client_config("mallory"))}
    environment = {**os.environ, **users, "PATH": f"{BIN}:{os.environ['PATH']}"}
    work = tmp_path / "work"
    work.mkdir()
    shell = ["bash", "-euo", "pipefail", "-c", script()]
    done = subprocess.run(shell, cwd=work, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list((work / "images").rglob("*.dcm"))) >= 1
    assert len(list((work / "hers").rglob("*.dcm"))) == 1
