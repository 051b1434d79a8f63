"""Changes whose caller goes away: the database stops, and nothing is changed."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_metadata.rules.cancellation import Cancellation
from mdm_testing.process import eventually

pytestmark = pytest.mark.integration

READ, WRITE = 4, 8
#: Seconds in which the work is to have stopped, on a machine that has much else to do; alone it takes a tenth of one.
SOON = 5.0
DEADLINE = 5.0
#: Long texts, made lower for each entry thousands of times: seconds for all of them, were it not stopped.
SLOW = f"""UPDATE "/slow" SET n = 1 WHERE {" OR ".join(f"LOWER(t || '{n}') = ''" for n in range(2_000))}"""
BLOCKED = {
    "UPDATE": ("Change", pb.ChangeRequest(sql='UPDATE "/slow" SET n = 2 WHERE TRUE')),
    "DELETE": ("Change", pb.ChangeRequest(sql='DELETE FROM "/slow" WHERE n = 0')),
    "upsert": ("UpsertEntries", pb.UpsertEntriesRequest(collection="/slow", entries=[pb.Entry(key="0")])),
    "delete": ("DeleteEntries", pb.DeleteEntriesRequest(collection="/slow", keys=["0"])),
    "drop": ("DropCollections", pb.DropCollectionsRequest(paths=["/slow"])),
}


@pytest.fixture
def loader(service: Any) -> Any:
    """The owner of `/slow`: 20 entries with long texts."""
    loader = service.client("loader")
    acl = loader.acl({"authenticated": READ | WRITE})
    attributes = [service.attribute("n", "INT"), service.attribute("t", "VARCHAR", length=5_000)]
    loader.create(pb.Collection(path="/slow", attributes=attributes, acl_id=acl, default_acl_id=acl))
    loader.upsert("/slow", *(service.entry(f"{n}", n=0, t="9" * 5_000) for n in range(20)))
    return loader


@pytest.fixture
def held(service: Any, loader: Any) -> Iterator[None]:
    """Somebody else holds every entry."""
    with psycopg.connect(service.conninfo) as connection:
        connection.execute("SELECT FROM entry FOR UPDATE")
        yield
        connection.rollback()


def working(service: Any) -> int:
    """Return how many statements the service has under way."""
    with psycopg.connect(service.conninfo) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def unchanged(loader: Any) -> bool:
    return bool(loader.rows('SELECT COUNT(*), SUM(n) FROM "/slow"') == [(20, "0")])


@pytest.mark.parametrize("what", BLOCKED)
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_change_that_nobody_waits_for_stops_in_the_database(service, loader, held, what, how):
    method, request = BLOCKED[what]
    call = getattr(loader.metadata, method).future(request, timeout=DEADLINE if how == "deadline" else 30)
    eventually(lambda: working(service) == 1)
    if how == "cancel":
        call.cancel()
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
        call.result(2 * DEADLINE)
    eventually(lambda: working(service) == 0, SOON)
    assert unchanged(loader)


def test_a_condition_that_takes_long_is_stopped_while_it_is_evaluated(service, loader):
    call = loader.metadata.Change.future(pb.ChangeRequest(sql=SLOW), timeout=30)
    eventually(lambda: working(service) == 1)
    call.cancel()
    eventually(lambda: working(service) == 0, SOON)
    assert unchanged(loader)


@pytest.fixture
def configuration(service: Any, pki: Any, tmp_path: Path) -> Path:
    own = pki.issue(pki.subject("loader"))
    path = tmp_path / "client.toml"
    path.write_text(
        f'certificate = "{own.certificate}"\nkey = "{own.key}"\nca = "{own.ca}"\nthreshold = 2\n'
        f'catalog = ["127.0.0.1:1"]\nmetadata = ["{service.address}"]\n'
        '[[keystores]]\nname = "a"\nindex = 1\naddresses = ["127.0.0.1:1"]\n'
        '[[keystores]]\nname = "b"\nindex = 2\naddresses = ["127.0.0.1:1"]\n'
    )
    return path


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("command", ["update", "load"])
def test_a_command_that_is_killed_leaves_nothing_running(service, loader, held, configuration, tmp_path, command, ending):
    rows = tmp_path / "rows.csv"
    rows.write_text("entry,n\n" + "".join(f"{n},7\n" for n in range(20)))
    arguments = {"update": ["update", 'UPDATE "/slow" SET n = 7 WHERE TRUE'], "load": ["load", "/slow", str(rows), "--key", "entry"]}
    # A process started in the background by a shell ignores SIGINT, and so would its children.
    program = ["env", "--default-signal=INT", sys.executable, "-m", "mdm_client.cli"]
    mdm = [*program, "--config", str(configuration), "meta", *arguments[command]]
    with subprocess.Popen(mdm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: working(service) == 1)
        process.send_signal(ending)
        eventually(lambda: working(service) == 0, SOON)
    assert unchanged(loader)


def test_the_timeout_of_an_update_is_its_deadline(service, loader, held, configuration):
    mdm = [sys.executable, "-m", "mdm_client.cli", "--config", str(configuration), "meta", "update", "--timeout", "1"]
    done = subprocess.run([*mdm, 'UPDATE "/slow" SET n = 7 WHERE TRUE'], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "DEADLINE" in done.stderr.upper() or "time" in done.stderr
    eventually(lambda: working(service) == 0, SOON)
    assert unchanged(loader)


def test_work_is_stopped_again_and_again_until_it_ends():
    stopped, cancellation = threading.Semaphore(0), Cancellation()
    cancellation.set()
    with cancellation.stopping(stopped.release):
        assert all(stopped.acquire(timeout=5) for _ in range(3))
    while stopped.acquire(blocking=False):
        pass
    assert not stopped.acquire(timeout=0.3)
