"""Whole stacks through the `mdm-local` command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mdm_local.pacs.kind import ARCHIVE, KINDS
from mdm_local.process import ProcessRecord

pytestmark = pytest.mark.integration

COMMAND = str(Path(sys.executable).parent / "mdm-local")


def local(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *arguments, "--data-dir", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def status(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(local(root, "status", "--json", check=False).stdout)
    return found


def pids(found: dict[str, Any]) -> dict[str, int]:
    return {name: entry["pid"] for name, entry in {**found["services"], "pacs": found["pacs"], "postgres": found["postgres"]}.items()}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two stacks that were started at the same time; the second one has the small archive as its PACS."""
    both = [tmp_path_factory.mktemp("stacks") / name for name in ("one", "two")]
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(lambda pair: local(pair[0], "up", "--pacs", pair[1]), zip(both, ("auto", ARCHIVE), strict=True)))
    yield both
    for root in both:
        local(root, "down", "--purge")


@pytest.mark.timeout(400)
def test_two_stacks_run_side_by_side(roots):
    found = [status(root) for root in roots]
    assert [one["up"] for one in found] == [True, True]
    assert not set(pids(found[0]).values()) & set(pids(found[1]).values())
    assert found[0]["pacs"]["kind"] in KINDS
    assert found[1]["pacs"]["kind"] == ARCHIVE
    assert not {s["address"] for s in found[0]["services"].values()} & {s["address"] for s in found[1]["services"].values()}


@pytest.mark.timeout(400)
def test_up_on_a_running_stack_changes_nothing(roots):
    before = pids(status(roots[0]))
    local(roots[0], "up")
    assert pids(status(roots[0])) == before


@pytest.mark.timeout(400)
def test_up_after_crashes_starts_what_is_down_and_leaves_the_rest(roots):
    before = pids(status(roots[0]))
    for name in ("keystore-a", "dicom-srm", "pacs"):
        os.kill(before[name], signal.SIGKILL)
    crashed = status(roots[0])
    assert crashed["up"] is False
    assert crashed["services"]["keystore-a"]["health"] == "down"
    local(roots[0], "up")
    mended = status(roots[0])
    assert mended["up"] is True
    after = pids(mended)
    assert {name for name in before if before[name] != after[name]} == {"keystore-a", "dicom-srm", "pacs"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", ["stop", "kill"])
def test_one_service_goes_and_comes_back(command, roots):
    local(roots[0], command, "keystore-b")
    gone = status(roots[0])["services"]
    assert [name for name, entry in gone.items() if (entry["health"], entry["pid"]) == ("down", None)] == ["keystore-b"]
    local(roots[0], "start", "keystore-b")
    assert status(roots[0])["up"] is True


@pytest.mark.timeout(400)
def test_down_stops_every_process_and_up_continues_with_the_same_keys(roots):
    root = roots[1]
    before = pids(status(root))
    authority = (root / "pki" / "ca.crt").read_bytes()
    local(root, "down")
    assert [name for name, pid in before.items() if ProcessRecord.of(pid)] == []
    local(root, "up")
    assert status(root)["up"] is True
    assert (root / "pki" / "ca.crt").read_bytes() == authority


def test_a_stack_that_never_was_is_reported_and_taken_down_without_complaint(tmp_path):
    shown = local(tmp_path / "none", "status", check=False)
    assert shown.returncode == 3
    assert "mdm-local up" in shown.stdout
    local(tmp_path / "none", "down", "--purge")
    refused = local(tmp_path / "none", "start", "catalog", check=False)
    assert refused.returncode == 1
    assert "mdm-local up" in refused.stderr


def test_purge_leaves_a_directory_alone_that_is_not_a_stacks(tmp_path):
    (tmp_path / "precious").write_text("data")
    done = local(tmp_path, "down", "--purge", check=False)
    assert done.returncode == 1
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("up", "--name", "Hospital B"), "lower-case letters"), (("couple", "elsewhere"), "both stacks are called hospital-a")],
)
def test_bad_names_are_refused_in_one_line(arguments, message, tmp_path):
    done = local(tmp_path / "none", *arguments, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert message in done.stderr


@pytest.mark.timeout(400)
def test_a_stack_stays_what_it_was_made(roots):
    for arguments in (("--name", "hospital-b"), ("--only", "metadata")):
        done = local(roots[0], "up", *arguments, check=False)
        assert done.returncode == 1
        assert "down --purge" in done.stderr
