"""What a subscriber of one subtree can get by asking otherwise: nothing of another's."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from mdm.metadata.v1 import feed_pb2, feed_pb2_grpc
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_testing.server import channel

from .conftest import Failed, attribute, entry
from .test_replication import Site

pytestmark = pytest.mark.integration

START = feed_pb2.FeedPosition(copying=True)


@pytest.fixture
def site(postgres: Any, pki: Any) -> Iterator[Site]:
    """A service that publishes `/pub` and `/other/mine` to `metadata-b`, `/public` and `/other` to another; each has an entry."""
    with ExitStack() as stack:
        subscribers = [{"subject": pki.subject("metadata-b"), "subtrees": ["/Pub", "/other/mine"]}]
        subscribers.append({"subject": pki.subject("metadata-c"), "subtrees": ["/public", "/other"]})
        roles = {"operator": [pki.subject("operator")], "peer.metadata": [pki.subject("metadata-b"), pki.subject("metadata-c")]}
        site = Site("feed", postgres, pki, stack, feed={"subscribers": subscribers}, roles=roles)
        loader = site.client("loader")
        paths = ("/pub", "/pub/a", "/public", "/public/a", "/pub.secret", "/other", "/other/mine", "/other/mine2", "/unpublished")
        loader.create(*(pb.Collection(path=path, attributes=[attribute("t", "TEXT")]) for path in paths))
        loader.create(pb.Collection(path="/pub/patients", attributes=[attribute("t", "TEXT")], sensitive=True))
        for path in (*paths, "/pub/patients"):
            loader.upsert(path, entry("e", t=f"of {path}"))
        yield site


def steps(site: Site, name: str, subtree: str, position: feed_pb2.FeedPosition = START) -> list[feed_pb2.SubscribeResponse]:
    """Return what a subscriber is sent until it has everything; two seconds of what comes to one that has it already."""
    found: list[feed_pb2.SubscribeResponse] = []
    with channel(f"127.0.0.1:{site.port}", site.pki.issue(site.pki.subject(name))) as opened:
        grpc.channel_ready_future(opened).result(timeout=60)
        request = feed_pb2.SubscribeRequest(subtree=subtree, position=position)
        try:
            for step in feed_pb2_grpc.MetadataFeedServiceStub(opened).Subscribe(request, timeout=2):
                found.append(step)
                if not step.to.copying and step.to.sequence == step.head:
                    break
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Failed(error) from None
    return found


def sent(site: Site, name: str, subtree: str, position: feed_pb2.FeedPosition = START) -> set[str]:
    """Return paths of collections and texts of entries that are sent."""
    found = set()
    for step in steps(site, name, subtree, position):
        found |= {item.path for item in step.collections}
        found |= {word for item in step.entries for word in item.attributes.split('"') if word.startswith("of ")}
    return found


def test_a_subtree_ends_at_its_boundary_and_has_nothing_sensitive(site):
    mine = {"/pub", "/pub/a", "of /pub", "of /pub/a"}
    for path in ("/pub", "/PUB", "/pub/"):
        assert sent(site, "metadata-b", path) <= mine
    assert sent(site, "metadata-b", "/pub") == mine
    assert sent(site, "metadata-b", "/other/mine") == {"/other/mine", "of /other/mine"}


@pytest.mark.parametrize(
    "subtree", ["/", "", "/p", "/public", "/Public/a", "/pub.secret", "/other", "/other/mine2", "/pub/patients", "/unpublished"]
)
def test_what_is_not_a_subscribers_is_not_found(site, subtree):
    with pytest.raises(Failed) as raised:
        steps(site, "metadata-b", subtree)
    assert raised.value.reason == "SUBTREE_NOT_FOUND"


@pytest.mark.parametrize("subtree", ["/pub/..", "/pub/../public", "/pub//", "/pub/patients/", "/pub/a/../../public", "/pub/%"])
def test_tricks_with_paths_give_nothing_of_others(site, subtree):
    try:
        found = sent(site, "metadata-b", subtree)
    except Failed as error:
        assert error.reason == "SUBTREE_NOT_FOUND"
    else:
        assert found <= {"/pub", "/pub/a", "of /pub", "of /pub/a"}


@pytest.mark.parametrize("path", ["/public", "/other", "/pub.secret", "/unpublished", "/pub/patients", "/public/a"])
@pytest.mark.parametrize("copying", [True, False])
def test_a_position_that_names_anothers_collection_gives_nothing_of_it(site, path, copying):
    head = steps(site, "metadata-b", "/pub")[0].head
    for sequence in range(head + 1):
        position = feed_pb2.FeedPosition(copying=copying, path=path, key="", sequence=sequence)
        assert sent(site, "metadata-b", "/pub", position) <= {"/pub", "/pub/a", "of /pub", "of /pub/a"}
        if copying:
            break


def test_what_becomes_sensitive_by_being_made_anew_is_dropped_and_never_sent(site):
    """`sensitive` is said when a collection is made; made anew under the same path, what was published before is gone for the copy."""
    loader = site.client("loader")
    (last,) = [step.to for step in steps(site, "metadata-b", "/pub") if not step.to.copying][:1]
    loader.call("DropCollections", pb.DropCollectionsRequest(paths=["/pub/a"]))
    loader.create(pb.Collection(path="/pub/a", attributes=[attribute("t", "TEXT")], sensitive=True))
    loader.upsert("/pub/a", entry("new", t="of nobody"))
    time.sleep(0.1)
    found = steps(site, "metadata-b", "/pub", last)
    assert [len(step.dropped) for step in found if step.dropped] == [1]
    assert not any(step.entries or step.collections for step in found)
