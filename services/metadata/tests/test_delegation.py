"""A job at the metadata service: it reads entries under the lists of its token, in views too, and gets no counts instead of entries."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_testing.delegation import token_for
from mdm_wire.delegation import METADATA_KEY
from mdm_wire.tls import secure_channel

from .conftest import Client

pytestmark = pytest.mark.integration
READ, LIST = 4, 32


@pytest.fixture
def job(service: Any, pki: Any) -> Iterator:
    """Return a function that opens the service as a job of bob's with a token for lists."""
    with ExitStack() as stack:

        def opened(*acls: str) -> Client:
            job, bob = (pki.issue(pki.subject(name), name=name) for name in ("job", "bob"))
            token = token_for(job, bob, ["/biomed"], acls)
            channel = secure_channel(service.address, job, [("grpc.use_local_subchannel_pool", 1)], (METADATA_KEY, lambda: token))
            return Client(stack.enter_context(channel), pki.subject("job"))

        yield opened


@pytest.fixture
def lists(service: Any) -> tuple[str, str]:
    """`/images` with two entries under one list and one under another, all of which bob may read; and `/shown`, a view of it."""
    loader, bob = service.client("loader"), service.client("bob")
    one, two = (loader.acl({f"dn:{bob.dn}": READ | LIST}) for _ in range(2))
    loader.create(pb.Collection(path="/images", attributes=[service.attribute("i", "INT")], acl_id=one, default_acl_id=one))
    loader.upsert("/images", service.entry("a", i=1), service.entry("b", i=2), service.entry("c", two, i=3))
    assert loader.view(path="/shown", target="/images", with_key=True, attributes={"i": "i"}, acl_id=one) == ""
    return one, two


def test_a_job_reads_entries_under_its_lists_only_in_views_too_and_asks_again_alike(service, lists, job):
    one, two = lists
    sql = 'SELECT i FROM "{}" ORDER BY i'
    for collection in ("/images", "/shown"):
        for _ in range(2):
            assert service.client("bob").rows(sql.format(collection)) == [(1,), (2,), (3,)]
            assert job(one).rows(sql.format(collection)) == [(1,), (2,)]
            assert job(two).rows(sql.format(collection)) == [(3,)]
            assert job().rows(sql.format(collection)) == []
    assert job(one, two).rows('SELECT COUNT(*) FROM "/images"') == [(3,)]


def test_a_job_changes_nothing(lists, job):
    one, _ = lists
    for call in (
        lambda: job(one).upsert("/images", pb.Entry(key="d")),
        lambda: job(one).change('DELETE FROM "/images"'),
        lambda: job(one).alter("/images"),
    ):
        with pytest.raises(Exception, match="role"):
            call()


def test_counts_for_those_who_may_not_read_are_for_users(service, job):
    loader, bob = service.client("loader"), service.client("bob")
    listed = loader.acl({f"dn:{bob.dn}": LIST})
    loader.create(
        pb.Collection(path="/people", attributes=[service.attribute("i", "INT")], acl_id=listed, default_acl_id=listed, min_cell=3)
    )
    loader.upsert("/people", *(service.entry(f"e{n}", i=1) for n in range(6)))
    sql = 'SELECT COUNT(*) FROM "/people"'
    assert bob.rows(sql) == [(6,)]
    with pytest.raises(service.failed) as refusal:
        job(listed).rows(sql)
    assert refusal.value.reason == "COLLECTION_NOT_FOUND"
