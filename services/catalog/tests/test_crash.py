"""The service or PostgreSQL is killed in the middle of batches: what was acknowledged is there, and every batch is whole or absent."""

import sys
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import psycopg
import pytest
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_local.postgres import PostgresServer
from mdm_site.file import to_toml
from mdm_testing.process import eventually, free_port, kill_process, start_process
from mdm_testing.server import channel, configuration

pytestmark = pytest.mark.integration

BATCH = 200
WRITERS = 3


class Crashing:
    """A durable PostgreSQL and a catalog as processes of their own, which can be killed and started again."""

    def __init__(self, folder: Path, pki, port: int, stack: ExitStack) -> None:
        self.postgres = PostgresServer(folder / "postgres")
        self.postgres.start()
        stack.callback(self.postgres.stop)
        self.conninfo = self.postgres.create_database("catalog")
        self.config = folder / "catalog.toml"
        root = {"owner": pki.subject("alice")}
        self.config.write_text(to_toml(configuration(pki, "catalog", self.conninfo, port=port, root=root)))
        opened = stack.enter_context(channel(f"127.0.0.1:{port}", pki.issue(pki.subject("alice"))))
        self.stub = catalog_pb2_grpc.CatalogServiceStub(opened)
        self.start()
        stack.callback(self.stop)

    def start(self) -> None:
        """Start the catalog and wait until it answers."""
        command = [sys.executable, "-m", "mdm_catalog", "serve", "--migrate", "--config", self.config]
        self.process = start_process(command, self.config.with_suffix(".log"), self.answers)

    def answers(self) -> bool:
        """Return whether the catalog and its database answer."""
        try:
            self.stub.Stat(pb.StatRequest(targets=[pb.Target(lfn="/")]), timeout=5)
        except grpc.RpcError:
            return False
        return True

    def stop(self) -> None:
        """End the catalog at once."""
        kill_process(self.process)

    def kill_service(self) -> None:
        self.stop()
        self.start()

    def kill_postgres(self) -> None:
        self.postgres.kill()
        for _ in range(10):  # its sessions end when they notice; until then it cannot be started
            time.sleep(0.5)
            try:
                self.postgres.start(timeout=5)
                break
            except RuntimeError:
                self.postgres.kill()
        eventually(self.answers)


@pytest.fixture(scope="module")
def crashing(tmp_path_factory, pki):
    """See Crashing."""
    with ExitStack() as stack:
        yield Crashing(tmp_path_factory.mktemp("crash"), pki, free_port(), stack)


def _transaction(directory: str, number: int) -> list[pb.Operation]:
    """A directory of files, made under one name and renamed to another: it is there wholly under the second, or not at all."""
    made, final = f"{directory}/making-{number}", f"{directory}/done-{number}"
    files = [
        pb.NewFile(lfn=f"{made}/{index}", guid=(guid := str(uuid.uuid4())), replicas=[pb.Replica(surl=f"srm://site/{guid}")])
        for index in range(BATCH)
    ]
    return [
        pb.Operation(make_directory=pb.NewDirectory(lfn=made)),
        *(pb.Operation(register_file=file) for file in files),
        pb.Operation(rename=pb.Renaming(source=pb.Target(lfn=made), lfn=final)),
    ]


class Writer(threading.Thread):
    """Writes transactions until told to stop, and keeps what was acknowledged."""

    def __init__(self, crashing: Crashing, directory: str) -> None:
        super().__init__()
        self.crashing, self.directory = crashing, directory
        self.acknowledged: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            with suppress(grpc.RpcError):
                answer = self.crashing.stub.Apply(pb.ApplyRequest(operations=_transaction(self.directory, number)), timeout=20)
                if answer.status.code == 0:
                    self.acknowledged.append(f"{self.directory}/done-{number}")


@pytest.mark.parametrize("victim", ["kill_service", "kill_postgres"])
def test_nothing_acknowledged_is_lost_and_no_batch_is_there_in_part(crashing, victim):
    top = f"/{victim}"
    directories = [f"{top}/{number}" for number in range(WRITERS)]
    made = crashing.stub.MakeDirectories(pb.MakeDirectoriesRequest(directories=[pb.NewDirectory(lfn=d) for d in directories], parents=True))
    assert {status.code for status in made.statuses} == {0}
    writers = [Writer(crashing, directory) for directory in directories]
    for writer in writers:
        writer.start()
    for kills in range(1, 3):
        eventually(lambda: sum(len(writer.acknowledged) for writer in writers) >= 4 * kills)  # noqa: B023 - called at once
        getattr(crashing, victim)()
    for writer in writers:
        writer.stopping.set()
        writer.join()
    present: dict[str, int] = {}
    for answer in crashing.stub.List(pb.ListRequest(lfn=top, recursive=True)):
        for entry in answer.entries:
            if entry.kind == pb.ENTRY_KIND_FILE:
                directory = entry.lfn.rpartition("/")[0]
                present[directory] = present.get(directory, 0) + 1
    assert {directory for writer in writers for directory in writer.acknowledged} <= present.keys()
    assert set(present.values()) == {BATCH}
    assert not [directory for directory in present if "making" in directory]
    with psycopg.connect(crashing.conninfo) as connection:
        counted = connection.execute("SELECT sum(files), sum(directories) FROM directory_content").fetchone()
        there = connection.execute("SELECT count(*) FILTER (WHERE kind = 2), count(*) FILTER (WHERE kind = 1) FROM entry").fetchone()
        without = connection.execute(
            "SELECT count(*) FROM entry e LEFT JOIN replica r ON r.entry_id = e.id WHERE kind = 2 AND r.id IS NULL"
        )
        assert (counted, without.fetchone()) == (there, (0,))
