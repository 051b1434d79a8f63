"""Writers at the same time."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration


def test_one_of_many_writers_gets_a_unique_value(service):
    loader = service.client("loader")
    acl = loader.acl({})
    attributes = [service.attribute("guid", "UUID", unique=True), service.attribute("n", "INT")]
    loader.create(pb.Collection(path="/u", attributes=attributes, acl_id=acl, default_acl_id=acl))
    for _ in range(5):
        guid = str(uuid4())
        with ThreadPoolExecutor(6) as pool:
            reasons = list(pool.map(lambda n: loader.upsert("/u", service.entry(f"{guid}-{n}", guid=guid))[0], range(6)))  # noqa: B023
        assert sorted(reasons) == ["", *["VALUE_NOT_UNIQUE"] * 5]
        assert loader.rows(f"SELECT COUNT(*) FROM \"/u\" WHERE guid = '{guid}'") == [(1,)]


def test_overlapping_batches_in_any_order_all_succeed_and_merge(service):
    loader = service.client("loader")
    acl = loader.acl({})
    names = [f"a{n}" for n in range(6)]
    loader.create(pb.Collection(path="/m", attributes=[service.attribute(name, "INT") for name in names], acl_id=acl, default_acl_id=acl))

    def write(number: int) -> set[str]:
        keys = [f"k{n:03}" for n in range(100)]
        ordered = keys if number % 2 else keys[::-1]
        return set(loader.upsert("/m", *(service.entry(key, **{f"a{number}": number}) for key in ordered)))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(write, range(6))) == [{""}] * 6
    assert loader.rows(f'SELECT DISTINCT {", ".join(names)} FROM "/m"') == [(0, 1, 2, 3, 4, 5)]


def test_one_collection_is_created_by_many_callers_at_once(service):
    loader = service.client("loader")
    acl = loader.acl({})
    wanted = [
        pb.Collection(path="/c", acl_id=acl, default_acl_id=acl),
        pb.Collection(path="/c/d", acl_id=acl, attributes=[service.attribute("n", "INT")]),
    ]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: loader.create(*wanted), range(6))) == [["", ""]] * 6
    assert loader.upsert("/c/d", service.entry("x", n=1)) == [""]
