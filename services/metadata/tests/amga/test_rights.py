"""Links, owners, access lists, groups, views, and counts for those who may not read."""

import pytest

from .conftest import Users
from .table import row

pytestmark = pytest.mark.integration


@pytest.fixture
def patients(users: Users) -> None:
    """`/vo/patients`, which alice alone may read, and `/vo/images`, whose attribute `patient` refers to them."""
    alice = users.alice
    alice("mdm meta mkdir /vo/patients Name:text Sex:text")
    for key, name, sex in (("p1", "Moreau", "F"), ("p2", "Haddad", "M"), ("p3", "Silva", "M")):
        alice(f"mdm meta entry set /vo/patients {key} Name={name} Sex={sex}")
    alice("mdm meta mkdir /vo/images patient:text:index:references=/vo/patients")
    alice("mdm meta entry set /vo/images i1 patient=p1")


def own_list(users: Users, path: str, *grants: str) -> str:
    """Guard a collection and its entries by a list of their own; return its id."""
    (made,) = users.alice(f"mdm meta acl create {' '.join(grants)}")
    for option in ("", "--default"):
        users.alice(f"mdm meta acl set {path} {made['acl_id']} {option}")
    return str(made["acl_id"])


@row("`link`")
def test_a_link_needs_the_right_on_its_target_and_a_reference_cannot_dangle(users: Users, patients: None):
    alice, bob = users.alice, users.bob
    (public,) = alice("mdm meta acl create authenticated=rl")
    alice(f"mdm meta link /vo/people /vo/patients --acl {public['acl_id']}")
    read = """mdm query 'SELECT Name FROM "/vo/people" ORDER BY Name'"""
    assert [item["Name"] for item in alice(read)] == ["Haddad", "Moreau", "Silva"]
    assert bob.refused(read) == ["COLLECTION_NOT_FOUND"]
    assert alice.refused("mdm meta entry set /vo/images i2 patient=nobody") == ["REFERENCE_NOT_FOUND"]
    assert alice.refused("mdm meta entry rm /vo/patients p1") == ["ENTRY_REFERENCED"]
    alice(f"mdm meta acl set /vo/images {public['acl_id']} --entry i1")
    alice(f"mdm meta acl set /vo/images {public['acl_id']}")
    assert bob("""mdm query 'SELECT patient FROM "/vo/images" '""") == [{"patient": "p1"}]
    join = """mdm query 'SELECT p.Name FROM "/vo/images" i JOIN "/vo/patients" p ON i.patient = p.entry'"""
    assert alice(join) == [{"Name": "Moreau"}]
    assert bob.refused(join) == ["COLLECTION_NOT_FOUND"]


@row("`chown`, `chmod`")
def test_access_lists_take_the_place_of_owners_and_modes(users: Users, patients: None):
    alice, bob = users.alice, users.bob
    made = own_list(users, "/vo/patients")
    assert alice("mdm meta acl get /vo/patients") == [{"acl_id": made, "owner": alice.dn, "entries": {}}]
    alice(f"mdm meta acl grant /vo/patients 'dn:{bob.dn}' rl")
    alice(f"mdm meta acl set /vo/patients {made} --entry p2")
    assert bob("""mdm query 'SELECT entry FROM "/vo/patients" '""") == [{"entry": "p2"}]
    assert bob.refused("mdm meta entry set /vo/patients p2 Name=X") == ["COLLECTION_FORBIDDEN"]


@row("`acl_add`, `acl_remove`, `acl_show`")
def test_access_lists_of_collections_and_of_entries_are_changed_and_shown(users: Users, patients: None):
    alice, bob = users.alice, users.bob
    own_list(users, "/vo/patients", "authenticated=rl")
    (closed,) = alice("mdm meta acl create")
    alice(f"mdm meta acl set /vo/patients {closed['acl_id']} --entry p1 --entry p2 --entry p3")
    read = """mdm query 'SELECT entry FROM "/vo/patients" '"""
    assert bob(read) == []
    alice("mdm meta acl grant /vo/patients group:/biomed/neuro r --entry p1 --own")
    assert bob(read) == [{"entry": "p1"}], "the other two shared its list and keep it"
    (shown,) = alice("mdm meta acl get /vo/patients p1")
    assert shown["entries"] == {"group:/biomed/neuro": "r"}
    alice("mdm meta acl revoke /vo/patients group:/biomed/neuro --entry p1")
    assert bob(read) == []
    alice("mdm meta acl revoke /vo/patients authenticated")
    assert bob.refused(read) == ["COLLECTION_NOT_FOUND"]


@row("`grp_*`, `user_*`")
def test_who_is_in_a_group_says_the_file_of_the_vo(users: Users, patients: None):
    made = own_list(users, "/vo/patients", "group:/biomed/neuro=r")
    users.alice(f"mdm meta acl set /vo/patients {made} --entry p1")
    read = """mdm query 'SELECT entry FROM "/vo/patients" '"""
    assert users.bob(read) == [{"entry": "p1"}]
    assert users.mallory.refused(read) == ["COLLECTION_NOT_FOUND"]


@row("`view_create`, …")
def test_a_view_shows_chosen_attributes_and_rows_under_its_definers_rights(users: Users, patients: None):
    alice, bob = users.alice, users.bob
    (public,) = alice("mdm meta acl create authenticated=r")
    alice(f"mdm meta view /vo/men /vo/patients Name=called --where \"Sex = 'M'\" --acl {public['acl_id']}")
    read = """mdm query 'SELECT * FROM "/vo/men" ORDER BY called'"""
    assert bob(read) == [{"called": "Haddad"}, {"called": "Silva"}]
    assert bob.refused("""mdm query 'SELECT Sex FROM "/vo/men" '""") == ["ATTRIBUTE_UNKNOWN"]
    assert bob.refused("""mdm query 'SELECT * FROM "/vo/patients" '""") == ["COLLECTION_NOT_FOUND"]


@row("pseudo-attributes `FILE`, `OWNER`, `PERMISSIONS`, `GROUP_RIGHT`")
def test_key_and_access_list_are_selected_and_the_list_says_the_rest(users: Users, patients: None):
    alice = users.alice
    (found,) = alice("""mdm query "SELECT entry, entry_acl FROM \\"/vo/patients\\" WHERE entry = 'p1'" """)
    (shown,) = alice("mdm meta acl get /vo/patients p1")
    assert found == {"entry": "p1", "entry_acl": shown["acl_id"]}
    assert shown["entries"] == {f"dn:{alice.dn}": "pdrwlxgs"}


@row("minimum cell size (`mdm meta constraint add PATH min-cell N`)")
def test_those_who_may_not_read_are_told_counts_that_are_not_small(users: Users):
    alice, bob = users.alice, users.bob
    alice("mdm meta mkdir /vo/people Sex:text Age:int")
    made = own_list(users, "/vo/people", "group:/biomed/neuro=l")
    for number in range(7):
        alice(f"mdm meta entry set /vo/people p{number} Sex={'MF'[number < 2]} --acl {made}")
    count = """mdm query 'SELECT Sex, COUNT(*) AS n FROM "/vo/people" GROUP BY Sex'"""
    assert bob.refused(count) == ["COLLECTION_NOT_FOUND"]
    alice("mdm meta constraint add /vo/people min-cell 3")
    assert bob(count) == [{"Sex": "M", "n": 3}]
    assert bob.refused("""mdm query 'SELECT Sex FROM "/vo/people" '""") == ["QUERY_COUNTS_ONLY"]
