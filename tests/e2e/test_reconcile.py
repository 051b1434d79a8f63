"""`mdm-dicom-srm reconcile` on a running stack: it asks every service, and mends what was lost or left over."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from mdm_local.layout import Layout
from mdm_testing.image import make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import BIN, eventually
from mdm_testing.stack import Mdm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
KEYSTORES = ("keystore-a", "keystore-b", "keystore-c")
#: Found and repaired, by kind.
Found = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of its own: reconcile also sees what other tests took away on purpose."""
    if request.config.getoption("--stack") != "local":
        pytest.skip("needs dicom-srm's configuration on this machine")
    running = LocalStack(tmp_path_factory.mktemp("reconcile"))
    try:
        running.up()
        yield running
    finally:
        running.down()


@pytest.fixture
def reconcile(stack: LocalStack) -> Callable[..., tuple[int, Found]]:
    """Run reconcile beside the service; return its exit code, and what was found and repaired by kind."""
    config = Layout(stack._data_dir).config("dicom-srm")

    def run(*options: str) -> tuple[int, Found]:
        command = [BIN / "python", "-m", "mdm_dicom_srm", "reconcile", "--config", config, "--min-age", "0", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, 1), done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(set(line) == {"kind", "found", "examples", "repaired", "why"} for line in lines)
        return done.returncode, {line["kind"]: (line["found"], line["repaired"]) for line in lines}

    return run


def execute(stack: LocalStack, service: str, sql: str, *values: object) -> None:
    with psycopg.connect(stack.database(service)) as connection:
        connection.execute(sql.encode(), values)


@pytest.fixture
def guids(stack: LocalStack, mdm: Mdm, tmp_path: Path) -> list[str]:
    """Five published images of as many patients."""
    images = [make_image(tmp_path / f"{number}.dcm", "CT_small.dcm") for number in range(5)]
    stack.store(*(image.path for image in images))
    return [mdm.registered(image.patient_id)[0]["guid"] for image in images]


def test_what_is_lost_comes_back_and_what_is_left_over_goes(
    stack: LocalStack, mdm: Mdm, guids: list[str], reconcile: Callable[..., tuple[int, Found]]
):
    assert eventually(lambda: reconcile() == (0, {}), timeout=60), reconcile()
    nameless, unrecorded, keyless, unknown, resized = guids
    execute(stack, "catalog", "DELETE FROM entry WHERE guid = %s", nameless)
    execute(stack, "metadata", "DELETE FROM entry WHERE key = %s", unrecorded)
    for keystore in KEYSTORES:
        execute(stack, keystore, "DELETE FROM key_share WHERE guid = %s", keyless)
    execute(stack, "catalog", "UPDATE entry SET size = 1 WHERE guid = %s", resized)
    execute(stack, "dicom-srm", "DELETE FROM registration WHERE guid = %s", unknown)
    expected = {
        "name-missing": 1,
        "size-differs": 1,
        "entry-missing": 1,
        "key-missing": 1,
        "name-unregistered": 1,
        "entry-unregistered": 1,
        "key-unregistered": 1,
        "shared-entry-unsupported": 3,
    }
    code, found = reconcile()
    assert (code, found) == (1, {kind: (count, 0) for kind, count in expected.items()})
    assert mdm("operator", "key", "stat", unknown).code == 0, "looking changes nothing"

    code, found = reconcile("--repair")
    assert code == 1 and found == {kind: (count, 0 if kind == "key-unregistered" else count) for kind, count in expected.items()}
    assert mdm("operator", "key", "stat", unknown).code == 0, "no key goes unasked"
    code, found = reconcile("--repair", "--destroy-keys")
    assert found.get("key-unregistered") == (1, 1)
    assert mdm("operator", "key", "stat", unknown).code != 0
    assert eventually(lambda: reconcile() == (0, {}), timeout=60), reconcile()
    for guid in (nameless, unrecorded, resized):
        assert mdm.get("alice", guid)[0].code == 0
    assert mdm("alice", "stat", keyless).code != 0, "its key was lost, so it has another GUID now"
    assert mdm("alice", "stat", unknown).code != 0


def test_more_than_is_likely_is_not_repaired_unasked(
    stack: LocalStack, mdm: Mdm, guids: list[str], reconcile: Callable[..., tuple[int, Found]]
):
    for guid in guids[:3]:
        execute(stack, "catalog", "DELETE FROM entry WHERE guid = %s", guid)
    assert reconcile("--repair", "--limit", "2") == (1, {"name-missing": (3, 0)})
    assert reconcile("--repair", "--limit", "3") == (0, {"name-missing": (3, 3)})
    assert eventually(lambda: reconcile() == (0, {}), timeout=60)
    assert all(mdm("alice", "stat", guid).code == 0 for guid in guids)


def test_nothing_is_concluded_from_a_part_and_two_do_not_run_at_once(stack: LocalStack, guids: list[str], reconcile, tmp_path: Path):
    config = Layout(stack._data_dir).config("dicom-srm")
    command = [BIN / "python", "-m", "mdm_dicom_srm", "reconcile", "--config", config, "--min-age", "0", "--repair", "--destroy-keys"]
    stack.kill("keystore-b")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    finally:
        stack.start("keystore-b")
    with psycopg.connect(stack.database("dicom-srm"), autocommit=True) as connection:
        connection.execute(b"SELECT pg_advisory_lock(%s)", (0x4D444D03,))
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2 and "Another process" in done.stderr
    for wrong in (["--limit", "0"], ["--limit", "x"], ["--min-age", "-1"], ["--config", str(tmp_path / "absent.toml")]):
        assert subprocess.run([*command, *wrong], capture_output=True, timeout=60, check=False).returncode == 2
    assert reconcile() == (0, {})
