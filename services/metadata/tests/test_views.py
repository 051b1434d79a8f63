"""Views, links, and sensitive records apart from anonymous ones."""

import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

CHANGE, READ, WRITE, LIST = 1, 4, 8, 32


@pytest.fixture
def patients(service):
    """`/patients` of the loader, readable by alice alone; one entry is hidden from the loader too."""
    loader, alice = service.client("loader"), service.client("alice")
    acl = loader.acl({f"dn:{alice.dn}": READ | LIST})
    hidden = alice.acl({f"dn:{loader.dn}": LIST})
    attributes = [service.attribute("Name", "TEXT"), service.attribute("Sex", "TEXT"), service.attribute("Born", "DATE")]
    loader.create(pb.Collection(path="/patients", attributes=attributes, acl_id=acl, default_acl_id=acl, sensitive=True))
    loader.upsert(
        "/patients",
        service.entry("p1", Name="Moreau", Sex="F", Born="1956-04-12"),
        service.entry("p2", Name="Haddad", Sex="M", Born="1980-01-01"),
        service.entry("p3", Name="Silva", Sex="M", Born="1990-01-01"),
        service.entry("p4", hidden, Name="Hidden", Sex="M", Born="2000-01-01"),
    )
    return service


def test_a_view_shows_chosen_attributes_and_rows_to_chosen_principals(patients):
    loader, bob, mallory = (patients.client(name) for name in ("loader", "bob", "mallory"))
    neuro = loader.acl({"group:/biomed/neuro": READ | LIST})
    assert (
        loader.view(path="/men", target="/patients", attributes={"gender": "SEX", "Born": "born"}, condition="Sex = 'M'", acl_id=neuro)
        == ""
    )
    described = loader.describe("/men").view
    assert [(shown.name, shown.target) for shown in described.attributes] == [("gender", "Sex"), ("Born", "Born")]
    answer = bob.query('SELECT * FROM "/men" ORDER BY born')
    assert (answer.names, answer.rows) == (["gender", "Born"], [("M", "1980-01-01"), ("M", "1990-01-01")])
    assert bob.rows("""SELECT COUNT(*) FROM "/men" WHERE gender = 'F' OR NOT gender = 'M' OR TRUE""") == [(2,)]
    for hidden in ("Name", "entry", "Sex"):
        with pytest.raises(patients.failed) as raised:
            bob.rows(f'SELECT {hidden} FROM "/men"')
        assert raised.value.reason == "ATTRIBUTE_UNKNOWN"
    for stranger, path in ((mallory, "/men"), (bob, "/patients")):
        with pytest.raises(patients.failed) as raised:
            stranger.rows(f'SELECT * FROM "{path}"')
        assert raised.value.reason == "COLLECTION_NOT_FOUND"


def test_a_views_condition_is_told_to_those_who_may_change_the_view_alone(patients):
    loader, bob = patients.client("loader"), patients.client("bob")
    neuro = loader.acl({"group:/biomed/neuro": READ | LIST})
    loader.view(path="/v", target="/patients", attributes={"Sex": "Sex"}, condition="Name = 'Moreau'", acl_id=neuro)
    assert (loader.describe("/v").view.condition, bob.describe("/v").view.condition) == ("Name = 'Moreau'", "")
    assert bob.rows('SELECT Sex FROM "/v"') == [("F",)]


def test_a_view_follows_the_rights_of_its_definer(patients):
    loader, bob = patients.client("loader"), patients.client("bob")
    everyone = loader.acl({"authenticated": READ})
    assert loader.view(path="/keys", target="/patients", with_key=True, acl_id=everyone) == ""
    assert loader.view(path="/keys", target="/patients", with_key=True, acl_id=everyone) == ""
    assert bob.rows('SELECT entry FROM "/keys" ORDER BY entry') == [("p1",), ("p2",), ("p3",)]  # p4 is hidden from the definer
    theirs = patients.client("alice").acl({f"dn:{loader.dn}": LIST})
    call = pb.AssignAclsRequest(assignments=[pb.AclAssignment(collection="/patients", key="p1", acl_id=theirs)])
    assert loader.call("AssignAcls", call).statuses[0].code == 0
    assert bob.rows('SELECT entry FROM "/keys" ORDER BY entry') == [("p2",), ("p3",)]
    loader.alter("/patients", acls=pb.CollectionAcls(acl_id=theirs))
    with pytest.raises(patients.failed) as raised:
        bob.rows('SELECT entry FROM "/keys"')
    assert raised.value.reason == "COLLECTION_NOT_FOUND"


def test_a_view_needs_the_right_to_give_rights(patients):
    alice, loader = patients.client("alice"), patients.client("loader")
    parent = loader.acl({"authenticated": READ | WRITE | LIST})
    loader.create(pb.Collection(path="/shared", acl_id=parent, default_acl_id=parent))
    assert alice.view(path="/shared/v", target="/patients", with_key=True) == "COLLECTION_FORBIDDEN"
    assert patients.client("mallory").view(path="/shared/v", target="/patients", is_link=True) == "TARGET_NOT_FOUND"
    assert loader.view(path="/shared/v", target="/nowhere", with_key=True) == "TARGET_NOT_FOUND"
    assert loader.view(path="/nowhere/v", target="/patients", with_key=True) == "COLLECTION_NOT_FOUND"
    assert loader.view(path="/shared/v", target="/patients", attributes={"": "nothing"}) == "ATTRIBUTE_UNKNOWN"
    assert loader.view(path="/shared/v", target="/patients", with_key=True, condition="1 / 0 = 1") == "QUERY_INVALID"
    assert loader.view(path="/shared/v", target="/patients") == "VIEW_EMPTY"
    assert loader.view(path="/patients", target="/patients", with_key=True) == "COLLECTION_EXISTS"
    assert loader.view(path="/shared/v", target="/patients", with_key=True) == ""
    assert loader.view(path="/shared/w", target="/shared/v", with_key=True) == "COLLECTION_IS_VIEW"
    for act in (
        lambda: loader.upsert("/shared/v", patients.entry("x")),
        lambda: loader.change('DELETE FROM "/shared/v" WHERE TRUE'),
        lambda: loader.alter("/shared/v", remove_attribute="Sex"),
    ):
        with pytest.raises(patients.failed) as raised:
            act()
        assert raised.value.reason == "COLLECTION_IS_VIEW"
    assert loader.create(pb.Collection(path="/shared/v/below")) == ["COLLECTION_IS_VIEW"]
    assert loader.create(pb.Collection(path="/shared/v")) == ["COLLECTION_EXISTS"]


def test_a_link_shows_what_each_reader_may_read_in_the_target(patients):
    loader, alice, bob = (patients.client(name) for name in ("loader", "alice", "bob"))
    everyone = loader.acl({"authenticated": READ})
    assert loader.view(path="/people", target="/Patients", is_link=True, acl_id=everyone) == ""
    assert alice.rows("""SELECT entry, Name FROM "/people" WHERE Sex = 'F'""") == [("p1", "Moreau")]
    assert len(alice.rows('SELECT * FROM "/people"')) == 4
    with pytest.raises(patients.failed) as raised:
        bob.rows('SELECT * FROM "/people"')
    assert raised.value.reason == "COLLECTION_NOT_FOUND"


def test_a_view_outlives_renames_and_indexes_but_not_its_target(patients):
    loader, bob = patients.client("loader"), patients.client("bob")
    everyone = loader.acl({"authenticated": READ})
    loader.view(path="/v", target="/patients", attributes={"": "Name"}, condition="Sex = 'F'", acl_id=everyone)
    loader.alter("/patients", change_attribute=pb.AttributeChange(name="Name", new_name="FullName", indexed=True))
    assert bob.rows('SELECT Name FROM "/v"') == [("Moreau",)]
    assert [(shown.name, shown.target) for shown in loader.describe("/v").view.attributes] == [("Name", "FullName")]
    with pytest.raises(patients.failed) as raised:
        loader.alter("/patients", change_attribute=pb.AttributeChange(name="Sex", new_name="Gender"))
    assert raised.value.reason == "ATTRIBUTE_IN_USE"
    statuses = loader.call("DropCollections", pb.DropCollectionsRequest(paths=["/patients", "/v", "/patients"])).statuses
    assert [status.reason for status in statuses] == ["COLLECTION_NOT_EMPTY", "", ""]
    described = [c.path for c in loader.call("ListCollections", pb.ListCollectionsRequest(path="/")).collections]
    assert described == ["/"]


def test_pseudonyms_and_names_are_joined_only_by_one_who_may_read_both(patients):
    loader, alice, bob = (patients.client(name) for name in ("loader", "alice", "bob"))
    research = loader.acl({"group:/biomed/neuro": READ})
    images = [patients.attribute("patient", "TEXT", indexed=True), patients.attribute("Rows", "INT")]
    loader.create(pb.Collection(path="/images", attributes=images, acl_id=research, default_acl_id=research))
    loader.upsert("/images", patients.entry("i1", patient="p1", Rows=512), patients.entry("i2", patient="p2", Rows=256))
    joined = 'SELECT p.Name, i.Rows FROM "/images" i JOIN "/patients" p ON i.patient = p.entry ORDER BY 1'
    assert alice.rows(joined) == [("Haddad", 256), ("Moreau", 512)]
    assert bob.rows('SELECT patient, Rows FROM "/images" ORDER BY entry') == [("p1", 512), ("p2", 256)]
    for sql in (joined, joined.replace("JOIN", "LEFT JOIN"), 'SELECT COUNT(*) FROM "/images" i CROSS JOIN "/patients" p'):
        with pytest.raises(patients.failed) as raised:
            bob.rows(sql)
        assert raised.value.reason == "COLLECTION_NOT_FOUND"
