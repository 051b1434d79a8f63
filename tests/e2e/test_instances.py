"""Several instances of dicom-srm: one killed under load costs no user a command, and nothing readable is left."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from mdm_site.file import to_toml
from mdm_testing.image import make_image
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import eventually, free_port
from mdm_testing.stack import Mdm

pytestmark = pytest.mark.e2e
IMAGES, ROUNDS = 24, int(os.environ.get("MDM_ROUNDS", "4"))


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mdm]:
    """A stack of its own with two instances."""
    if request.config.getoption("--stack") != "local":
        pytest.skip("containers run one instance")
    directory = tmp_path_factory.mktemp("pair")
    stack = LocalStack(directory, instances=2)
    try:
        stack.up()
        yield Mdm(stack, directory)
    finally:
        stack.down()


def test_one_instance_killed_under_load_costs_no_user_a_command(pair: Mdm, tmp_path):
    stack = pair.stack
    first = make_image(tmp_path / "0.dcm", "CT_small.dcm", number=0)
    images = [first, *(make_image(tmp_path / f"{n}.dcm", "CT_small.dcm", of=first, number=n) for n in range(1, IMAGES))]
    stack.store(*(image.path for image in images))
    rows = pair.registered(first.patient_id, IMAGES)
    lfns = [row["lfn"] for row in rows]
    stop, moments = threading.Event(), random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")

    def fetch_again_and_again(number: int) -> list[str]:
        failures = []
        while not stop.is_set():
            out = tmp_path / f"out-{number}-{time.monotonic_ns()}"
            result = pair("alice", "get", *lfns, "-o", str(out), "--timeout", "60")
            if result.code != 0 or len(list(out.rglob("*.dcm"))) != IMAGES:
                failures.append(result.err)
        return failures

    with ThreadPoolExecutor(3) as pool:
        fetching = [pool.submit(fetch_again_and_again, number) for number in range(3)]
        try:
            for _ in range(ROUNDS):
                victim = moments.choice(("dicom-srm", "dicom-srm-2"))
                time.sleep(moments.uniform(0.2, 3))
                stack.kill(victim)
                time.sleep(moments.uniform(0, 12))
                stack.start(victim)
        finally:
            stop.set()
        assert [failure for done in fetching for failure in done.result()] == []
    for name, content in stack.staged().items():
        assert b"DICM" not in content and first.patient_id.encode() not in content, name


def test_a_request_is_answered_by_the_other_instance_while_its_own_is_away(pair: Mdm, tmp_path):
    stack = pair.stack
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    [row] = pair.registered(image.patient_id)
    staged = pair("alice", "--json", "stage", row["lfn"], "--description", "cohort 7", "--pin", "1h")
    assert staged.code == 0, staged.err
    token = staged.rows()[0]["token"]
    assert pair("alice", "srm", "status", token, "--wait").code == 0
    assert "FILE_PINNED" in pair("alice", "srm", "extend", token, "--pin", "2h").out
    instance, other = ("dicom-srm", "dicom-srm-2") if token.startswith("srm-1") else ("dicom-srm-2", "dicom-srm")
    stack.kill(instance)
    try:
        assert "FILE_PINNED" in pair("alice", "srm", "status", token, "-l").out

        def lost() -> bool:
            return "INSTANCE_LOST" in pair("alice", "srm", "status", token, "-l").out

        eventually(lost)
        assert [found["token"] for found in pair("alice", "--json", "srm", "requests", "--description", "cohort 7").rows()] == [token]
        result, files = pair.get("alice", row["lfn"])
        assert (result.code, len(files)) == (0, 1), result.err
        assert pair("mallory", "srm", "status", token).code == 3
        [space] = pair("alice", "--json", "srm", "space").rows()
        assert space["instance"] == {"dicom-srm": "srm-1", "dicom-srm-2": "srm-2"}[other]
        pinged = pair("alice", "srm", "ping")
        assert pinged.code == 1 and space["instance"] in pinged.out
    finally:
        stack.start(instance)
    listed = pair("alice", "--json", "srm", "ls", "-l", row["lfn"])
    assert listed.rows()[0]["locality"] in ("NEARLINE", "ONLINE_AND_NEARLINE")
    assert pair("mallory", "srm", "ls", row["lfn"]).code == 3


@contextmanager
def workers(pair: Mdm, directory: Path, count: int) -> Iterator[Path]:
    """Serve the same site by so many workers on one port; yield a client configuration that knows no other instance."""
    stack = pair.stack
    assert isinstance(stack, LocalStack)
    document = tomllib.loads(stack.service_config("dicom-srm").read_text())
    del document["curator"]  # the first instance has that listener
    port, scp = free_port(), free_port()
    document |= {"instance": "srm-3", "workers": count, "listen": {"host": "127.0.0.1", "port": port}}
    document["scp"]["port"], document["spool"]["directory"] = scp, str(directory / "spool")
    document["door"]["port"] = free_port()
    (directory / "workers.toml").write_text(to_toml(document))
    client = tomllib.loads(stack.client_config("alice").read_text()) | {"srm": {"hospital-a": [f"127.0.0.1:{port}"]}}
    (directory / "client.toml").write_text(to_toml(client))
    command = [sys.executable, "-m", "mdm_dicom_srm", "serve", "--config", str(directory / "workers.toml")]
    with (directory / "workers.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: len(spaces(pair, directory / "client.toml")) == count)
            yield directory / "client.toml"
        finally:
            process.terminate()


def spaces(mdm: Mdm, config: Path) -> list[str]:
    rows = mdm("alice", "--json", "srm", "space", config=config).rows()
    return [row["instance"] for row in rows if row["instance"].startswith("srm-3.")]


def test_workers_of_one_port_share_their_spools(pair: Mdm, tmp_path):
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    pair.stack.store(image.path)
    [row] = pair.registered(image.patient_id)
    with workers(pair, tmp_path, 2) as config:
        assert spaces(pair, config) == ["srm-3.1", "srm-3.2"]
        for number in range(6):
            result = pair("alice", "get", row["lfn"], "-o", str(tmp_path / f"out-{number}"), config=config)
            assert result.code == 0, result.err
        assert {folder.name for folder in (tmp_path / "spool").iterdir()} == {"1", "2"}
        token = pair("alice", "--json", "stage", row["lfn"], config=config).rows()[0]["token"]
        assert pair("alice", "srm", "status", token, "--wait", config=config).code == 0
        log = (tmp_path / "workers.log").read_text()
        pids = [json.loads(line)["pid"] for line in log.splitlines() if '"worker serves"' in line]
        os.kill(pids[0], signal.SIGKILL)
        result = pair("alice", "get", row["lfn"], "-o", str(tmp_path / "after"), "--timeout", "60", config=config)
        assert result.code == 0, result.err
