"""Entries over real mutual TLS and PostgreSQL."""

from uuid import uuid4

import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

CHANGE, DELETE, READ, WRITE, LIST, GET = 1, 2, 4, 8, 32, 64
KINDS = ("INT", "FLOAT", "NUMERIC", "TEXT", "BOOL", "DATE", "TIMESTAMP", "UUID")


@pytest.fixture
def loader(service):
    """The owner of `/all` (an attribute of each type) and `/images` (constraints)."""
    loader = service.client("loader")
    acl = loader.acl({"authenticated": READ})
    attributes = [service.attribute(kind.title(), kind) for kind in KINDS]
    attributes.append(service.attribute("Short", "VARCHAR", length=3))
    constrained = [
        service.attribute("guid", "UUID", unique=True, indexed=True),
        service.attribute("Modality", "TEXT", not_null=True, indexed=True),
        service.attribute("Rows", "INT"),
    ]
    reasons = loader.create(
        pb.Collection(path="/all", attributes=attributes, acl_id=acl, default_acl_id=acl),
        pb.Collection(path="/images", attributes=constrained, acl_id=acl, default_acl_id=acl),
    )
    assert reasons == ["", ""]
    return loader


def test_the_acl_of_an_entry_is_an_attribute_that_no_star_shows(service, loader):
    closed = loader.acl({})
    loader.upsert("/all", service.entry("one", closed, Int=1))
    assert loader.rows(f"""SELECT entry_acl FROM "/all" WHERE Entry_ACL = '{closed}'""") == [(closed,)]
    assert "entry_acl" not in loader.query('SELECT * FROM "/all"').names
    assert loader.rows('SELECT ENTRY_ACL, COUNT(*) FROM "/all" GROUP BY 1') == [(closed, 1)]


def test_every_type_comes_back_as_it_went_in(service, loader):
    values = {
        "Int": -(2**63),
        "Float": 0.1,
        "Numeric": "1.500",
        "Text": "naïve \\ 'quoted' \"text\" %s {0} \x7f",
        "Bool": False,
        "Date": "2024-02-29",
        "Timestamp": "2024-02-29T23:59:59.123456+02:00",
        "Uuid": str(uuid4()),
        "Short": "abc",
    }
    assert loader.upsert("/ALL", service.entry("one", **values), service.entry("none")) == ["", ""]
    answer = loader.query('SELECT * FROM "/all" ORDER BY entry DESC')
    assert answer.names == ["entry", *(kind.title() for kind in KINDS), "Short"]
    assert answer.rows[0] == ("one", *({**values, "Timestamp": "2024-02-29T21:59:59.123456Z"}.values()))
    assert answer.rows[1] == ("none", *(None for _ in values))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Int", "7"),
        ("Int", 1.0),
        ("Float", "1.0"),
        ("Float", True),
        ("Numeric", "1,5"),
        ("Numeric", "1e999"),
        ("Numeric", 1.5),
        ("Text", 5),
        ("Text", "a\0b"),
        ("Text", "x" * 65_537),
        ("Bool", 1),
        ("Date", "2023-02-29"),
        ("Date", "20230228"),
        ("Timestamp", "2023-02-28T12:00:00"),
        ("Timestamp", "2023-02-28"),
        ("Uuid", "secret"),
        ("Short", "abcd"),
    ],
)
def test_a_value_of_another_type_fails_its_entry_alone_and_is_not_repeated(service, loader, name, value):
    request = pb.UpsertEntriesRequest(collection="/all", entries=[service.entry("bad", **{name: value}), service.entry("good", Int=1)])
    statuses = loader.call("UpsertEntries", request).statuses
    assert statuses[0].reason in ("VALUE_TYPE", "VALUE_LENGTH")
    assert f"Attribute {name} is " in statuses[0].message
    assert "secret" not in statuses[0].message
    assert statuses[1].code == 0
    assert loader.rows('SELECT entry FROM "/all"') == [("good",)]


def test_the_special_values_of_doubles_are_kept(service, loader):
    loader.upsert(
        "/all", service.entry("inf", Float=float("inf")), service.entry("nan", Float=float("nan")), service.entry("big", Float=1e308)
    )
    assert loader.rows('SELECT entry FROM "/all" WHERE float > 1e300 ORDER BY float') == [("big",), ("inf",), ("nan",)]


def test_attributes_not_named_keep_their_value_and_null_removes(service, loader):
    loader.upsert("/images", service.entry("one", Modality="CT", Rows=512))
    assert loader.upsert("/images", service.entry("one", MODALITY="MR")) == [""]
    assert loader.rows('SELECT modality, rows FROM "/images"') == [("MR", 512)]
    loader.upsert("/images", service.entry("one", rows=None))
    assert loader.rows('SELECT modality, rows FROM "/images"') == [("MR", None)]


def test_not_null_holds_for_new_entries_and_for_removal(service, loader):
    assert loader.upsert("/images", service.entry("one", Rows=1)) == ["VALUE_MISSING"]
    assert loader.upsert("/images", service.entry("one", Modality="CT"), service.entry("two", Modality=None)) == ["", "VALUE_MISSING"]
    assert loader.upsert("/images", service.entry("one", Rows=2)) == [""]
    assert loader.upsert("/images", service.entry("one", Modality=None)) == ["VALUE_MISSING"]


def test_unique_values_are_unique_within_a_batch_and_across_calls(service, loader):
    guid = str(uuid4())
    first, second = (service.entry(key, Modality="CT", guid=text) for key, text in (("one", guid), ("two", guid.upper())))
    assert loader.upsert("/images", first, second) == ["", "VALUE_NOT_UNIQUE"]
    assert loader.upsert("/images", second) == ["VALUE_NOT_UNIQUE"]
    assert loader.upsert("/images", first) == [""]
    assert loader.upsert("/images", service.entry("one", guid=None)) == [""]
    assert loader.upsert("/images", second) == [""]
    loader.call("DeleteEntries", pb.DeleteEntriesRequest(collection="/images", keys=["two"]))
    assert loader.upsert("/images", first) == [""]


def test_keys_and_names_that_cannot_be_fail_alone(service, loader):
    entries = [
        service.entry("", Modality="CT"),
        service.entry("k" * 256, Modality="CT"),
        service.entry("a\nb", Modality="CT"),
        service.entry("ok", Modality="CT"),
        service.entry("ok", Modality="MR"),
        service.entry("other", Modality="CT", Nonsense=1),
        service.entry("case", Modality="CT", modality="CT"),
        service.entry("acl", acl_id="nonsense", Modality="CT"),
        service.entry("acl2", acl_id=str(uuid4()), Modality="CT"),
    ]
    assert loader.upsert("/images", *entries) == [
        "KEY_MALFORMED",
        "KEY_MALFORMED",
        "KEY_MALFORMED",
        "",
        "KEY_TWICE",
        "ATTRIBUTE_UNKNOWN",
        "ATTRIBUTE_TWICE",
        "ACL_ID_MALFORMED",
        "ACL_NOT_FOUND",
    ]
    with pytest.raises(service.failed) as raised:
        loader.upsert("/images", *([service.entry("x")] * 10_001))
    assert raised.value.reason == "BATCH_TOO_LARGE"


def test_writing_needs_w_and_an_invisible_collection_is_like_none(service, loader):
    hidden = loader.acl({})
    loader.create(pb.Collection(path="/hidden", acl_id=hidden, default_acl_id=hidden))
    mallory = service.client("mallory")
    messages = set()
    for path in ("/hidden", "/nothing"):
        with pytest.raises(service.failed) as raised:
            mallory.upsert(path, service.entry("x"))
        assert raised.value.reason == "COLLECTION_NOT_FOUND"
        messages.add(raised.value.message)
    assert len(messages) == 1
    with pytest.raises(service.failed) as raised:
        mallory.upsert("/images", service.entry("x"))
    assert raised.value.reason == "COLLECTION_FORBIDDEN"


def test_deleting_needs_w_and_d_and_hides_what_the_caller_may_not_see(service, loader):
    alice = service.client("alice")
    group = "group:/biomed/neuro"
    shared = loader.acl({group: WRITE})
    loader.create(pb.Collection(path="/shared", acl_id=shared, default_acl_id=shared))
    visible, deletable = loader.acl({group: READ}), loader.acl({group: DELETE})
    loader.upsert("/shared", service.entry("hidden"), service.entry("seen", acl_id=visible), service.entry("mine", acl_id=deletable))
    request = pb.DeleteEntriesRequest(collection="/shared", keys=["hidden", "seen", "mine", "absent"])
    reasons = [status.reason for status in alice.call("DeleteEntries", request).statuses]
    assert reasons == ["ENTRY_NOT_FOUND", "ENTRY_FORBIDDEN", "", "ENTRY_NOT_FOUND"]
    assert loader.rows('SELECT entry FROM "/shared" ORDER BY entry') == [("hidden",), ("seen",)]


def test_pointing_an_entry_at_another_acl_needs_p_by_whatever_call(service, loader):
    alice = service.client("alice")
    group = "group:/biomed/neuro"
    shared = loader.acl({group: READ | WRITE})
    changeable = loader.acl({group: CHANGE | READ})
    own = alice.acl({})
    loader.create(pb.Collection(path="/shared", acl_id=shared, default_acl_id=shared))
    loader.upsert(
        "/shared", service.entry("fixed"), service.entry("loose", acl_id=changeable), service.entry("dark", acl_id=loader.acl({}))
    )
    assert alice.upsert("/shared", service.entry("fixed", acl_id=own)) == ["ACL_CHANGE_FORBIDDEN"]

    def assign(*pairs):
        assignments = [pb.AclAssignment(collection=path, key=key, acl_id=acl) for path, key, acl in pairs]
        return [status.reason for status in alice.call("AssignAcls", pb.AssignAclsRequest(assignments=assignments)).statuses]

    assert assign(
        ("/shared", "fixed", own), ("/shared", "loose", own), ("/shared", "dark", own), ("/none", "x", own), ("/shared", "loose", "?")
    ) == ["ENTRY_FORBIDDEN", "", "ENTRY_NOT_FOUND", "ENTRY_NOT_FOUND", "ACL_ID_MALFORMED"]
    assert alice.rows('SELECT entry FROM "/shared" ORDER BY entry') == [("fixed",), ("loose",)]
    assert loader.rows('SELECT entry FROM "/shared" ORDER BY entry') == [("dark",), ("fixed",)]


def test_operators_list_keys_page_by_page_and_delete_entries_that_no_list_gives_them_but_not_of_sensitive_collections(service, loader):
    operator = service.client("operator")
    loader.create(pb.Collection(path="/shared"), pb.Collection(path="/patients", sensitive=True))
    keys = ["1", "B", "a", "ä", "☃"]
    for path in ("/shared", "/patients"):
        loader.upsert(path, *(service.entry(key, acl_id=loader.acl({})) for key in keys))
    loader.view(path="/view", target="/shared", is_link=True)

    def pages(path, size, caller=operator):
        token, found = "", []
        while True:
            request = pb.ListEntryKeysRequest(collection=path, page_size=size, page_token=token)
            page = caller.call("ListEntryKeys", request)
            found.append(list(page.keys))
            token = page.next_page_token
            if not token:
                return found

    def refusal(path, size=0, caller=operator):
        with pytest.raises(service.failed) as raised:
            pages(path, size, caller)
        return raised.value.reason

    assert pages("/shared", 2) == [["1", "B"], ["a", "ä"], ["☃"]]
    assert pages("/shared", 0) == [keys]
    assert [refusal(path) for path in ("/patients", "/view", "/none")] == ["COLLECTION_NOT_FOUND"] * 3
    assert (refusal("/shared", -1), refusal("/shared", caller=loader)) == ("PAGE_SIZE", "METHOD_FORBIDDEN")
    # A dicom-srm lists what it may write, sensitive or not, and nothing else.
    srm = service.client("srm")
    assert refusal("/shared", caller=srm) in ("COLLECTION_FORBIDDEN", "COLLECTION_NOT_FOUND")
    own = loader.acl({f"dn:{srm.dn}": WRITE})
    loader.create(pb.Collection(path="/written", acl_id=own, sensitive=True))
    loader.upsert("/written", *(service.entry(key, acl_id=loader.acl({})) for key in keys))
    assert pages("/written", 0, srm) == [keys]

    request = pb.DeleteEntriesRequest(collection="/shared", keys=["a", "absent", "☃"])
    assert [status.reason for status in operator.call("DeleteEntries", request).statuses] == ["", "ENTRY_NOT_FOUND", ""]
    assert pages("/shared", 0) == [["1", "B", "ä"]]
    request = pb.DeleteEntriesRequest(collection="/patients", keys=["1"])
    assert [status.reason for status in operator.call("DeleteEntries", request).statuses] == ["ENTRY_NOT_FOUND"]
