"""Two processes of the metadata service on one port and one database."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_metadata.rpc.feed_servicer import FeedServicer
from mdm_site.file import to_toml
from mdm_testing.process import eventually
from mdm_testing.server import channel, configuration, serve_by_workers

from .conftest import Client, Failed, attribute, entry
from .test_replication import EVERYTHING, LIST, READ, Site

pytestmark = pytest.mark.integration
PROGRAM = [sys.executable, "-m", "mdm_metadata"]
CALLERS, JOBS = 8, 120
TAKE = "UPDATE \"/jobs\" SET state = 'taken' WHERE state = 'new' ORDER BY entry LIMIT 1 RETURNING entry"


def configure(folder: Path, conninfo: str, pki: Any, subject: str, **sections: Any) -> Path:
    config = folder / f"{subject}.toml"
    config.write_text(to_toml(configuration(pki, subject, conninfo, root={"owner": pki.subject("loader")}, **sections)))
    return config


def test_every_job_is_taken_once_while_others_query_and_the_schema_changes(tmp_path, database, pki):
    config = configure(tmp_path, database.conninfo, pki, "metadata")
    loader = pki.issue(pki.subject("loader"))

    def take(_: int) -> list[str]:
        with channel(served.address, loader) as opened:
            client, taken = Client(opened, pki.subject("loader")), []
            while changed := client.change(TAKE)[1]:
                taken += [key for (key,) in changed]
                assert sum(n for _, n in client.rows('SELECT state, COUNT(*) FROM "/jobs" GROUP BY state')) == JOBS
            return taken

    with serve_by_workers(PROGRAM, config, 2, migrate=True) as served, channel(served.address, loader) as opened:
        client = Client(opened, pki.subject("loader"))
        acl = client.acl({})
        client.create(pb.Collection(path="/jobs", attributes=[attribute("state", "TEXT", indexed=True)], acl_id=acl, default_acl_id=acl))
        assert set(client.upsert("/jobs", *(entry(f"j{n:04}", state="new") for n in range(JOBS)))) == {""}
        with ThreadPoolExecutor(CALLERS) as pool:
            taking = pool.map(take, range(CALLERS))
            for n in range(6):  # which every process sees at once
                client.alter("/jobs", add_attribute=attribute(f"a{n}", "INT"))
                with channel(served.address, loader) as other:
                    assert Client(other, client.dn).upsert("/jobs", entry(f"j{n:04}", **{f"a{n}": n})) == [""]
            taken = Counter(chain.from_iterable(taking))
        assert taken == Counter(f"j{n:04}" for n in range(JOBS))


@pytest.fixture
def origin(postgres: Any, pki: Any) -> Iterator[Site]:
    """A service that publishes `/biomed/a`."""
    with ExitStack() as stack:
        feed = {"subscribers": [{"subject": pki.subject("metadata-b"), "subtrees": ["/biomed/a"]}]}
        site = Site("origin", postgres, pki, stack, feed=feed)
        loader = site.client("loader")
        acl = loader.acl({f"dn:{pki.subject('alice')}": READ | LIST})
        images = pb.Collection(path="/biomed/a/images", attributes=[attribute("Rows", "INT"), attribute("Modality", "TEXT")])
        loader.create(pb.Collection(path="/biomed", acl_id=acl, default_acl_id=acl), pb.Collection(path="/biomed/a"), images)
        yield site


def test_one_process_follows_an_origin_and_another_one_when_that_is_killed(tmp_path, database, pki, origin, monkeypatch):
    streams: list[Any] = []
    steps = FeedServicer._steps
    monkeypatch.setattr(FeedServicer, "_steps", lambda self, request, context: (streams.append(context), steps(self, request, context))[1])
    replica = {"origin": "a", "addresses": [f"127.0.0.1:{origin.port}"], "subtrees": ["/biomed/a"]}
    config = configure(tmp_path, database.conninfo, pki, "metadata-b", replicas=[replica])
    loader, alice = origin.client("loader"), pki.issue(pki.subject("alice"))

    def copied() -> list[tuple[Any, ...]]:
        with channel(served.address, alice) as opened:
            return Client(opened, pki.subject("alice")).rows(EVERYTHING)

    def followers() -> int:
        return sum(context.is_active() for context in streams)

    with serve_by_workers(PROGRAM, config, 2, migrate=True) as served:
        for n, victim in enumerate([None, 0, 1]):
            if victim is not None:
                os.kill(served.pids[victim], signal.SIGKILL)
            loader.upsert("/biomed/a/images", entry(f"e{n}", Rows=n, Modality="CT"))
            eventually(copied, wanted=[(f"e{m}", m, "CT") for m in range(n + 1)], ignored=(grpc.RpcError, Failed))
            eventually(lambda: followers() == 1)  # the origin learns a little later that the other's stream has ended
            time.sleep(3)  # longer than who does not follow waits
            assert followers() == 1
        assert len(streams) <= 5
