"""Collections over real mutual TLS and PostgreSQL."""

from uuid import uuid4

import psycopg
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_metadata.store.schema import SchemaCache

pytestmark = pytest.mark.integration

READ, LIST, WRITE, DELETE = 4, 32, 8, 2


def images(service, acl, path="/biomed", **more):
    attributes = [service.attribute("Modality", "TEXT", indexed=True), service.attribute("Rows", "INT", unit="{pixels}", not_null=True)]
    return pb.Collection(path=path, attributes=attributes, acl_id=acl, default_acl_id=acl, **more)


def test_a_subtree_is_created_in_one_batch_parents_first(service):
    loader = service.client("loader")
    acl = loader.acl({"authenticated": LIST})
    reasons = loader.create(
        pb.Collection(path="/biomed", acl_id=acl, default_acl_id=acl),
        pb.Collection(path="/biomed/hospital-a"),
        images(service, acl, "/biomed/hospital-a/Images"),
    )
    assert reasons == ["", "", ""]
    listed = service.client("mallory").call("ListCollections", pb.ListCollectionsRequest(path="/biomed/Hospital-A"))
    assert [item.path for item in listed.collections] == ["/biomed/hospital-a", "/biomed/hospital-a/Images"]
    assert listed.collections[0].acl_id == acl
    assert listed.collections[1].attributes[1].unit == "{pixels}"


def test_repeating_a_creation_succeeds_and_another_schema_conflicts(service):
    loader = service.client("loader")
    acl = loader.acl({})
    assert loader.create(images(service, acl)) == [""]
    assert loader.create(images(service, acl, "/BioMed")) == [""]
    assert loader.create(images(service, acl, sensitive=True)) == ["COLLECTION_EXISTS"]
    assert loader.create(pb.Collection(path="/biomed", attributes=[service.attribute("Rows", "TEXT")])) == ["COLLECTION_EXISTS"]
    assert loader.create(pb.Collection(path="/biomed", attributes=[service.attribute("Other", "TEXT")])) == ["COLLECTION_EXISTS"]


def test_a_creation_is_satisfied_by_a_collection_that_has_more(service):
    loader = service.client("loader")
    acl = loader.acl({})
    assert loader.create(images(service, acl)) == [""]
    assert loader.create(pb.Collection(path="/biomed", acl_id=acl)) == [""]


def test_a_stranger_creates_nothing_and_learns_nothing(service):
    loader, mallory = service.client("loader"), service.client("mallory")
    acl = loader.acl({})
    loader.create(images(service, acl))
    assert (
        mallory.create(pb.Collection(path="/evil"), pb.Collection(path="/biomed/evil"), pb.Collection(path="/none/evil"))
        == ["PARENT_NOT_FOUND"] * 3
    )
    assert not mallory.call("ListCollections", pb.ListCollectionsRequest(path="/")).collections


@pytest.mark.parametrize(
    ("path", "attributes", "reason"),
    [
        ("biomed", [], "PATH_MALFORMED"),
        ("/a/../b", [], "PATH_MALFORMED"),
        ("/a//b", [], "PATH_MALFORMED"),
        ("/" + "a" * 2_000, [], "PATH_MALFORMED"),
        ("/", [], "ROOT"),
        ("/nowhere/below", [], "PARENT_NOT_FOUND"),
        ("/a", [("1st", "INT")], "ATTRIBUTE_NAME"),
        ("/a", [("a-b", "INT")], "ATTRIBUTE_NAME"),
        ("/a", [("Entry", "INT")], "ATTRIBUTE_NAME"),
        ("/a", [("x", "INT"), ("X", "TEXT")], "ATTRIBUTE_TWICE"),
        ("/a", [("x", "UNSPECIFIED")], "ATTRIBUTE_TYPE"),
        ("/a", [("x", "VARCHAR")], "ATTRIBUTE_LENGTH"),
    ],
)
def test_malformed_collections_are_refused_one_by_one(service, path, attributes, reason):
    loader = service.client("loader")
    made = [service.attribute(name, kind) for name, kind in attributes]
    assert loader.create(pb.Collection(path=path, attributes=made), pb.Collection(path="/fine")) == [reason, ""]


def test_more_indexes_than_there_are_slots_are_refused(service):
    loader = service.client("loader")
    attributes = [service.attribute(f"n{i}", "INT", indexed=True) for i in range(7)]
    assert loader.create(pb.Collection(path="/a", attributes=attributes)) == ["TOO_MANY_INDEXES"]
    assert loader.create(pb.Collection(path="/a", attributes=attributes[:6])) == [""]


def test_an_unknown_acl_is_refused(service):
    assert service.client("loader").create(pb.Collection(path="/a", acl_id=str(uuid4())), pb.Collection(path="/b", acl_id="x")) == [
        "ACL_NOT_FOUND",
        "ACL_ID_MALFORMED",
    ]


def test_listing_is_paged_in_order_of_path(service):
    loader = service.client("loader")
    acl = loader.acl({"authenticated": LIST})
    loader.create(*(pb.Collection(path=f"/c{number:02}", acl_id=acl) for number in range(25)))
    seen, token = [], ""
    while True:
        page = loader.call("ListCollections", pb.ListCollectionsRequest(path="/", page_size=7, page_token=token))
        seen += [item.path for item in page.collections]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["/", *(f"/c{number:02}" for number in range(25))]


def test_dropping_needs_d_and_no_collections_below(service):
    loader, alice = service.client("loader"), service.client("alice")
    acl = loader.acl({"authenticated": LIST})
    loader.create(pb.Collection(path="/a", acl_id=acl), pb.Collection(path="/a/b", acl_id=acl))
    loader.upsert("/a/b", service.entry("one"))

    def drop(client, *paths):
        return [status.reason for status in client.call("DropCollections", pb.DropCollectionsRequest(paths=paths)).statuses]

    assert drop(alice, "/a/b", "/none", "/") == ["COLLECTION_FORBIDDEN", "COLLECTION_NOT_FOUND", "COLLECTION_NOT_FOUND"]
    assert drop(loader, "/a") == ["COLLECTION_NOT_EMPTY"]
    assert drop(loader, "/a/b", "/a") == ["", ""]
    with pytest.raises(service.failed) as raised:
        loader.rows('SELECT entry FROM "/a/b"')
    assert raised.value.reason == "COLLECTION_NOT_FOUND"


def test_schemas_are_held_up_to_a_number_of_attributes(service):
    loader = service.client("loader")
    attributes = [service.attribute(f"a{n}", "INT") for n in range(9)]
    loader.create(*(pb.Collection(path=f"/c{n}", attributes=attributes) for n in range(6)))
    cache = SchemaCache(size=35)
    with psycopg.connect(service.conninfo) as connection:
        keys = connection.execute("SELECT id, rev FROM collection WHERE path LIKE '/c%' ORDER BY id").fetchall()
        for key in keys:
            assert len(cache.fill(connection, [key])[key[0]].attributes) == 9
    with pytest.raises(psycopg.OperationalError):  # the oldest were thrown away: it would have to ask
        cache.fill(connection, keys[:1])
    assert set(cache.fill(connection, keys[3:])) == {number for number, _ in keys[3:]}


def test_a_subtree_is_listed_without_its_neighbours(service):
    loader = service.client("loader")
    paths = ["/b", "/b/x", "/b/x/y", "/b/z", "/b-y", "/b0", "/b!", "/b/x0", "/bb"]
    assert not any(loader.create(*(pb.Collection(path=path) for path in paths)))

    def listed(path: str, **page: object) -> list[str]:
        found = loader.call("ListCollections", pb.ListCollectionsRequest(path=path, **page))
        return [item.path for item in found.collections]

    assert listed("/B") == ["/b", "/b/x", "/b/x/y", "/b/x0", "/b/z"]
    assert listed("/b/x") == ["/b/x", "/b/x/y"]
    assert listed("/b", page_size=2, page_token="/b/x") == ["/b/x/y", "/b/x0"]
    assert set(paths) < set(listed("/"))
