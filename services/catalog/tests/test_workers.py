"""Two processes of the catalog on one port and one database."""

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm.catalog.v1 import catalog_pb2_grpc
from mdm_site.file import to_toml
from mdm_testing.server import channel, configuration, serve_by_workers

pytestmark = pytest.mark.integration
CALLERS, BATCHES, BATCH = 8, 4, 50


def test_files_registered_at_once_by_many_callers_are_there_once_each(tmp_path, database, pki):
    alice = pki.issue(pki.subject("alice"))
    config = tmp_path / "catalog.toml"
    config.write_text(to_toml(configuration(pki, "catalog", database.conninfo, root={"owner": pki.subject("alice")})))
    guids = [[str(uuid.uuid4()) for _ in range(BATCH)] for _ in range(BATCHES)]

    def register(_: int) -> list[str]:
        """Register the same files as everybody else, on a connection of one's own; return reasons, empty for success."""
        reasons = []
        with channel(served.address, alice) as opened:
            stub = catalog_pb2_grpc.CatalogServiceStub(opened)
            top = [pb.NewDirectory(lfn="/biomed/shared")]
            assert stub.MakeDirectories(pb.MakeDirectoriesRequest(directories=top, parents=True)).statuses[0].code == 0
            for batch in guids:
                files = [pb.NewFile(lfn=f"/biomed/shared/{g}", guid=g, replicas=[pb.Replica(surl=f"srm://site/{g}")]) for g in batch]
                reasons += [status.reason for status in stub.RegisterFiles(pb.RegisterFilesRequest(files=files), timeout=60).statuses]
        return reasons

    program = [str(Path(sys.executable).parent / "mdm-catalog")]
    with serve_by_workers(program, config, 2, migrate=True) as served:
        with ThreadPoolExecutor(CALLERS) as pool:
            assert set(chain.from_iterable(pool.map(register, range(CALLERS)))) == {""}
        with channel(served.address, alice) as opened:
            listed = catalog_pb2_grpc.CatalogServiceStub(opened).List(pb.ListRequest(lfn="/biomed/shared", recursive=True))
            assert sorted(entry.guid for answer in listed for entry in answer.entries) == sorted(chain.from_iterable(guids))
        served.process.terminate()
        assert served.process.wait(30) == 0
    checked = [*program, "fsck", "--config", str(config), "--min-age", "0"]
    assert run_quietly(checked) == ""


def run_quietly(command: list[str]) -> str:
    """Return what a command has found; it ends with 0."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
