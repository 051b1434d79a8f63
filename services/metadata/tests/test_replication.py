"""Two sites: a read-only replica that follows the origin's change feed, and queries over both."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from grpc import StatusCode
from mdm.acl.v1 import acl_pb2
from mdm.metadata.v1 import feed_pb2, feed_pb2_grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_metadata.__main__ import MIGRATIONS, build
from mdm_metadata.config import MetadataSettings
from mdm_metadata.store.feed_copy import ReplicaCopy
from mdm_metadata.store.feed_origin import FeedOrigin
from mdm_service.database import migrate, open_pool
from mdm_service.process import main
from mdm_service.settings import DatabaseSettings
from mdm_site.file import to_toml
from mdm_site.pki import DevelopmentCa
from mdm_testing.postgres import fresh_databases
from mdm_testing.process import eventually, free_port
from mdm_testing.server import channel, configuration
from mdm_wire.errors import FailedPrecondition, Invalid

from .conftest import Client, Failed, attribute, entry

pytestmark = pytest.mark.integration

READ, WRITE, LIST = 4, 8, 32


class Site:
    """A metadata service that can be started, stopped and asked."""

    def __init__(self, name: str, postgres: Any, pki: Any, stack: ExitStack, **settings: Any) -> None:
        self.pki, self._stack = pki, stack
        (self.conninfo,) = stack.enter_context(fresh_databases(postgres, f"metadata_{name}"))
        migrate(self.conninfo, MIGRATIONS)
        self._name = f"metadata-{name}"
        self._settings = settings
        self.port = free_port()  # the same one after a restart
        self._runtime: Any = None
        self.start()
        stack.callback(self.stop)

    def configuration(self, **sections: Any) -> dict[str, Any]:
        """Return the configuration of the service, with further sections."""
        return configuration(self.pki, self._name, self.conninfo, port=self.port, root={"owner": self.pki.subject("loader")}, **sections)

    def start(self) -> None:
        roles = {"operator": [self.pki.subject("operator")], "peer.metadata": [self.pki.subject("metadata-b")]}
        sections = {"database": {"pool_min": 1, "pool_max": 6}, "roles": roles, **self._settings}
        self._runtime = main.start(MetadataSettings(**self.configuration(**sections)), build, MIGRATIONS)

    def stop(self) -> None:
        self.stop_within(0.2)

    def stop_within(self, grace: float) -> None:
        """Stop, and cancel after so many seconds what has not ended."""
        if self._runtime is not None:
            self._runtime.service_server.stop(grace)
            self._runtime.close()
            self._runtime = None

    def restart(self, **settings: Any) -> None:
        """Start again with other settings."""
        self.stop()
        self._settings = {**self._settings, **settings}
        self.start()

    def client(self, name: str) -> Client:
        subject = self.pki.subject(name)
        return Client(self._stack.enter_context(channel(f"127.0.0.1:{self.port}", self.pki.issue(subject))), subject)

    def replicas(self) -> list[feed_pb2.Replica]:
        subject = self.pki.subject("operator")
        with channel(f"127.0.0.1:{self.port}", self.pki.issue(subject)) as opened:
            return list(feed_pb2_grpc.MetadataFeedServiceStub(opened).ListReplicas(feed_pb2.ListReplicasRequest(), timeout=10).replicas)


@pytest.fixture
def sites(postgres: Any, pki: Any) -> Iterator[tuple[Site, Site]]:
    """`a`, which publishes `/biomed/a` to `b`, and `b`, which copies it."""
    with ExitStack() as stack:
        feed = {"subscribers": [{"subject": pki.subject("metadata-b"), "subtrees": ["/biomed/a"]}]}
        a = Site("a", postgres, pki, stack, feed=feed)
        loader = a.client("loader")
        acl = loader.acl({f"dn:{pki.subject('alice')}": READ | LIST})
        loader.create(
            pb.Collection(path="/biomed", acl_id=acl, default_acl_id=acl),
            pb.Collection(path="/biomed/a"),
            pb.Collection(path="/biomed/a/Images", attributes=[attribute("Rows", "INT", indexed=True), attribute("Modality", "TEXT")]),
            pb.Collection(path="/biomed/a/patients", attributes=[attribute("Name", "TEXT")], sensitive=True),
            pb.Collection(path="/biomed/other", attributes=[attribute("x", "INT")]),
        )
        loader.upsert("/biomed/a/images", *(entry(f"e{n:04}", Rows=n, Modality="CT") for n in range(2_500)))
        loader.upsert("/biomed/a/patients", entry("p1", Name="Moreau"))
        replicas = [{"origin": "a", "addresses": [f"127.0.0.1:{a.port}"], "subtrees": ["/biomed/a"]}]
        yield a, Site("b", postgres, pki, stack, replicas=replicas)


EVERYTHING = 'SELECT entry, Rows, Modality FROM "/biomed/a/images" ORDER BY entry'


def same(a: Site, b: Site) -> Callable[[], bool]:
    here, there = a.client("alice"), b.client("alice")

    def compared() -> bool:
        try:
            return here.rows(EVERYTHING) == there.rows(EVERYTHING)
        except Failed:  # the copy is not there yet
            return False

    return compared


def paths(client: Client) -> list[str]:
    """Return the paths that a caller sees."""
    return [found.path for found in client.call("ListCollections", pb.ListCollectionsRequest(path="/")).collections]


def test_a_replica_has_what_the_origin_has_and_follows_it_and_nothing_sensitive(sites):
    a, b = sites
    loader, alice = a.client("loader"), b.client("alice")
    eventually(same(a, b))
    assert paths(alice) == [
        "/biomed/a",
        "/biomed/a/Images",
    ]
    with psycopg.connect(b.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM entry WHERE attributes::text LIKE '%Moreau%'").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM collection WHERE sensitive OR path LIKE '%patients'").fetchone() == (0,)
    loader.change('UPDATE "/biomed/a/images" SET Rows = Rows + 1 WHERE Rows < 100')
    loader.change("""DELETE FROM "/biomed/a/images" WHERE entry LIKE 'e00%'""")
    loader.upsert("/biomed/a/images", entry("new", Rows=-1))
    loader.upsert("/biomed/a/patients", entry("p2", Name="Haddad"))
    eventually(same(a, b))
    eventually(lambda: [(r.position.copying, r.head - r.position.sequence, r.problem) for r in b.replicas()], wanted=[(False, 0, "")])
    assert all(0 <= replica.lag_seconds < 60 for replica in b.replicas())
    with psycopg.connect(b.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM entry WHERE attributes::text LIKE '%Haddad%'").fetchone() == (0,)


def test_rights_follow_too_and_the_copy_is_read_only(sites):
    a, b = sites
    eventually(same(a, b))
    loader, alice, mallory = a.client("loader"), b.client("alice"), b.client("mallory")
    with pytest.raises(Exception, match="no such collection"):
        mallory.rows(EVERYTHING)
    secret = loader.acl({})
    loader.upsert("/biomed/a/images", entry("e0500", secret))
    eventually(lambda: alice.rows("""SELECT entry FROM "/biomed/a/images" WHERE entry = 'e0500'"""), wanted=[])
    described = loader.describe("/biomed/a/images")
    revoke = acl_pb2.AclChange(action=acl_pb2.AclChange.ACTION_REVOKE, entry=acl_pb2.AclEntry(principal=f"dn:{alice.dn}", permissions=255))
    loader.acls.ModifyAcls(acl_pb2.ModifyAclsRequest(ids=[described.acl_id], changes=[revoke], shared=True), timeout=10)
    eventually(lambda: not alice.call("ListCollections", pb.ListCollectionsRequest(path="/")).collections)
    owner = b.client("loader")
    assert len(owner.rows(EVERYTHING)) == 2_500
    with pytest.raises(Exception, match="copy of another"):
        owner.upsert("/biomed/a/images", entry("mine", Rows=1))
    for act in (
        lambda: owner.change('DELETE FROM "/biomed/a/images" WHERE TRUE'),
        lambda: owner.alter("/biomed/a/images", remove_attribute="Rows"),
        lambda: owner.alter("/biomed/a/images", acls=pb.CollectionAcls(acl_id=described.acl_id)),
    ):
        with pytest.raises(Exception, match="copy of another"):
            act()
    dropped = owner.call("DropCollections", pb.DropCollectionsRequest(paths=["/biomed/a/images"])).statuses[0].reason
    assert dropped == "COLLECTION_IS_REPLICA"
    assert owner.create(pb.Collection(path="/biomed/a/images/below")) == ["COLLECTION_IS_VIEW"]


def test_a_replica_survives_restarts_of_both_sides_and_changing_schemas(sites):
    a, b = sites
    loader = a.client("loader")
    eventually(same(a, b))
    b.stop()
    loader.alter("/biomed/a/images", add_attribute=attribute("Columns", "INT"))
    loader.alter("/biomed/a/images", change_attribute=pb.AttributeChange(name="Modality", new_name="Kind", indexed=True))
    loader.alter("/biomed/a/images", change_attribute=pb.AttributeChange(name="Rows", indexed=False))
    loader.change('UPDATE "/biomed/a/images" SET Columns = Rows * 2 WHERE Rows < 3000')
    loader.create(pb.Collection(path="/biomed/a/late", attributes=[attribute("x", "INT")]))
    loader.upsert("/biomed/a/late", entry("l", x=5))
    a.stop()
    a.start()
    b.start()
    sql = 'SELECT entry, Rows, Kind, Columns FROM "/biomed/a/images" ORDER BY entry'
    expected = a.client("alice").rows(sql)
    alice = b.client("alice")
    eventually(lambda: alice.rows(sql), wanted=expected, ignored=(Failed,))
    eventually(lambda: alice.rows('SELECT x FROM "/biomed/a/late"'), wanted=[(5,)], ignored=(Failed,))
    a.client("loader").call("DropCollections", pb.DropCollectionsRequest(paths=["/biomed/a/late"]))
    eventually(lambda: paths(alice), wanted=["/biomed/a", "/biomed/a/Images"], ignored=(Failed,))


def test_a_replica_that_was_away_too_long_copies_again(sites):
    a, b = sites
    loader = a.client("loader")
    eventually(same(a, b))
    b.stop()
    loader.change("""DELETE FROM "/biomed/a/images" WHERE entry LIKE 'e01%'""")
    with psycopg.connect(a.conninfo) as connection:
        connection.execute("UPDATE feed_head SET value = value + 1, trimmed = value + 1")
    b.start()
    eventually(same(a, b))


def test_only_named_subscribers_may_follow_only_what_is_theirs(sites, pki):
    a, _ = sites

    def subscribe(name: str, subtree: str) -> str:
        subject = pki.subject(name)
        with channel(f"127.0.0.1:{a.port}", pki.issue(subject)) as opened:
            request = feed_pb2.SubscribeRequest(subtree=subtree, position=feed_pb2.FeedPosition(copying=True))
            call = feed_pb2_grpc.MetadataFeedServiceStub(opened).Subscribe(request, timeout=10)
            try:
                next(call)
            except Exception as error:
                return error.code().name
            finally:
                call.cancel()
        return "OK"

    assert subscribe("metadata-b", "/biomed/A") == "OK"
    assert subscribe("metadata-b", "/biomed/a/images") == "OK"
    assert subscribe("metadata-b", "/biomed/a/Patients") == "NOT_FOUND"
    assert subscribe("metadata-b", "/biomed") == "NOT_FOUND"
    assert subscribe("metadata-b", "/biomed/ab") == "NOT_FOUND"
    assert subscribe("alice", "/biomed/a") == "PERMISSION_DENIED"


def test_numbers_have_no_gaps_and_a_step_is_applied_once(sites):
    a, b = sites
    loader = a.client("loader")
    eventually(same(a, b))
    b.stop()
    for n in range(5):
        loader.upsert("/biomed/a/images", entry("again", Rows=n))
    pools = [open_pool(DatabaseSettings(conninfo=site.conninfo, pool_min=1, pool_max=2)) for site in (a, b)]
    try:
        copy, origin = ReplicaCopy(pools[1], "a", "/biomed/a"), FeedOrigin(pools[0])
        step = origin.step("/biomed/a", copy.position())
        assert len(step.entries) == 1
        assert (copy.apply(step), copy.apply(step)) == (True, False)
        assert copy.position() == step.to
        assert not origin.step("/biomed/a", copy.position()).entries
        with pools[0].connection() as connection:
            numbers = [n for (n,) in connection.execute("SELECT seq FROM change_set ORDER BY seq")]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    finally:
        for pool in pools:
            pool.close()


class Process:
    """The service of a site as a process of its own, which can be killed."""

    def __init__(self, site: Site, origin: Site, folder: Path) -> None:
        self._config = folder / "metadata.toml"
        replica = {"origin": "a", "addresses": [f"127.0.0.1:{origin.port}"], "subtrees": ["/biomed/a"]}
        self._config.write_text(to_toml(site.configuration(replicas=[replica])))

    def run_for(self, seconds: float) -> None:
        """Start it, and kill it without warning."""
        command = [sys.executable, "-m", "mdm_metadata", "serve", "--config", str(self._config)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()


def test_a_replica_that_is_killed_again_and_again_ends_as_the_origin(sites, tmp_path):
    a, b = sites
    loader = a.client("loader")
    b.stop()
    with psycopg.connect(b.conninfo) as connection:
        connection.execute("DELETE FROM collection WHERE replica AND folded_path <> '/biomed/a'")
        connection.execute("DELETE FROM collection WHERE replica")
        connection.execute("DELETE FROM replica")
    process = Process(b, a, tmp_path)
    for round_ in range(4):
        loader.upsert("/biomed/a/images", *(entry(f"k{n:04}", Rows=round_) for n in range(600)))
        loader.change(f"""DELETE FROM "/biomed/a/images" WHERE entry LIKE 'e0{round_}%'""")
        process.run_for(1.0 + 0.4 * round_)
    b.start()
    eventually(same(a, b))


@pytest.mark.parametrize("slot", ["i1'); DROP TABLE entry; --", "t1", "i", ""])
def test_what_an_origin_sends_is_checked_like_what_a_caller_sends(sites, slot):
    a, b = sites
    eventually(same(a, b))
    b.stop()
    pool = open_pool(DatabaseSettings(conninfo=b.conninfo, pool_min=1, pool_max=1))
    try:
        copy = ReplicaCopy(pool, "a", "/biomed/a")
        described = feed_pb2.FeedCollection(id=77, path="/biomed/a/evil", acl_id="x", default_acl_id="x")
        described.attributes.add(name="x", type=1, slot=slot)
        step = feed_pb2.SubscribeResponse(to=copy.position(), collections=[described])
        getattr(step, "from").CopyFrom(copy.position())
        with pytest.raises(Invalid):
            copy.apply(step)
        described.path, described.attributes[0].slot = "/biomed/elsewhere", "i1"
        step.collections[0].CopyFrom(described)
        with pytest.raises(FailedPrecondition):
            copy.apply(step)
    finally:
        pool.close()


def test_a_large_change_travels_in_several_steps(sites):
    a, b = sites
    loader = a.client("loader")
    eventually(same(a, b))
    loader.upsert("/biomed/a/images", *(entry(f"wide{n:03}", Modality="x" * 60_000) for n in range(50)))
    with psycopg.connect(a.conninfo, autocommit=True) as connection:  # one statement, one change set of several megabytes
        connection.execute("UPDATE entry SET attributes = attributes || '{\"i1\": 9}' WHERE key LIKE 'wide%'")
    eventually(same(a, b))


def test_an_origin_certified_by_another_authority_than_the_named_one_is_not_believed(sites, postgres, pki, tmp_path):
    a, b = sites
    eventually(same(a, b))
    stranger = DevelopmentCa(tmp_path, "Stranger")
    with ExitStack() as stack:
        replica = {"origin": "a", "addresses": [f"127.0.0.1:{a.port}"], "subtrees": ["/biomed/a"], "ca": stranger.certificate_file}
        c = Site("c", postgres, pki, stack, replicas=[replica])
        eventually(lambda: [found.problem for found in c.replicas()], wanted=["SERVER_NOT_TRUSTED"])
        assert [found.position.copying for found in c.replicas()] == [True]


def test_what_is_no_longer_to_be_copied_is_removed_at_the_next_start(sites, postgres, pki):
    a, b = sites
    eventually(same(a, b))
    whole = {"origin": "a", "addresses": [f"127.0.0.1:{a.port}"], "subtrees": ["/biomed/a"]}
    b.restart(replicas=[whole, {**whole, "subtrees": ["/biomed/a/Images"]}])
    eventually(
        lambda: [item.subtree for item in b.replicas() if not item.position.copying],
        wanted=["/biomed/a", "/biomed/a/images"],
        ignored=(Failed,),
    )
    b.restart(replicas=[{**whole, "subtrees": ["/biomed/a/images"]}])
    eventually(same(a, b))
    assert [item.subtree for item in b.replicas()] == ["/biomed/a/images"]
    b.restart(replicas=[])
    assert b.replicas() == []
    with psycopg.connect(b.conninfo) as connection:
        counts = connection.execute("SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM collection WHERE replica)").fetchone()
    assert counts == (0, 0)


def test_an_origin_that_stops_ends_its_streams_and_does_not_wait_for_subscribers(sites, pki):
    a, _ = sites
    with channel(f"127.0.0.1:{a.port}", pki.issue(pki.subject("metadata-b"))) as opened:
        request = feed_pb2.SubscribeRequest(subtree="/biomed/a", position=feed_pb2.FeedPosition(copying=True))
        call = feed_pb2_grpc.MetadataFeedServiceStub(opened).Subscribe(request, timeout=60)
        next(call)
        with ThreadPoolExecutor(1) as executor:
            stopped = executor.submit(a.stop_within, 120)
            for _ in call:  # raises if it is cancelled or takes a minute
                pass
            stopped.result()
        assert call.code() is StatusCode.OK
