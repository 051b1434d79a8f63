"""AMGA's replication and federation, and dumps that go from one site to another."""

import pytest
from mdm_testing.process import eventually

from .conftest import Grid
from .table import row

pytestmark = pytest.mark.integration


@row("`dump`")
def test_a_dump_loads_at_another_site_with_the_same_rights_and_constraints(grid: Grid, tmp_path):
    here, there = grid.here, grid.there
    alice, bob = here.alice, here.bob
    alice("mdm meta mkdir /vo/c n:int:required:index")
    alice("mdm meta constraint add /vo/c check positive 'n > 0'")
    (made,) = alice(f"mdm meta acl create 'dn:{bob.dn}=r'")
    alice(f"mdm meta acl set /vo/c {made['acl_id']}")
    alice("mdm meta entry set /vo/c seen n=1 --acl " + made["acl_id"])
    alice("mdm meta entry set /vo/c hidden n=2")
    file = tmp_path / "c.jsonl"
    alice(f"mdm meta dump /vo/c -o {file}")
    assert file.read_text().splitlines()[0].startswith("{")
    assert there.alice(f"mdm meta load /vo/c {file} --create") == [{"stored": 2, "failed": 0}]
    read = """mdm query 'SELECT entry, n FROM "/vo/c" ORDER BY entry'"""
    for user in ("alice", "bob"):
        assert getattr(there, user)(read) == getattr(here, user)(read)
    assert there.mallory.refused(read) == here.mallory.refused(read) == ["COLLECTION_NOT_FOUND"]
    assert there.alice("mdm meta acl get /vo/c") == here.alice("mdm meta acl get /vo/c")
    assert there.alice.refused("mdm meta entry set /vo/c new n=-1") == ["VALUE_CHECK"]
    assert there.alice.refused("mdm meta entry set /vo/c new") == ["VALUE_MISSING"]


@row("`replicate`, `mount`, `subscribe`, …")
def test_a_subtree_is_copied_read_only_and_never_what_is_sensitive(grid: Grid):
    here, there = grid.here, grid.there
    here.alice("mdm meta mkdir -p /vo/shared/images n:int")
    here.alice("mdm meta mkdir --sensitive /vo/shared/patients Name:text")
    here.alice("mdm meta mkdir /vo/other")
    for number in range(3):
        here.alice(f"mdm meta entry set /vo/shared/images e{number} n={number}")
    here.alice("mdm meta entry set /vo/shared/patients p1 Name=Moreau")
    read = """mdm query 'SELECT SUM(n) AS total FROM "/vo/shared/images" '"""

    eventually(lambda: there.alice(read), wanted=here.alice(read), ignored=(AssertionError,))
    here.alice("mdm meta entry set /vo/shared/images e0 n=40")
    eventually(lambda: there.alice(read), wanted=[{"total": 43}])
    paths = [item["path"] for item in there.alice("mdm meta ls /vo")]
    assert paths == ["/vo", "/vo/shared", "/vo/shared/images"]
    assert there.alice.refused("mdm meta entry set /vo/shared/images e0 n=1") == ["COLLECTION_IS_REPLICA"]
    (state,) = there.operator("mdm meta replica")
    assert (state["origin"], state["subtree"], state["problem"]) == ("a", "/vo/shared", "")


@row("federation (`site_add`, …)")
def test_a_query_over_sites_is_merged_and_each_evaluates_under_the_callers_certificate(grid: Grid):
    here, there = grid.here, grid.there
    for users, modalities in ((here, ("CT", "CT", "MR")), (there, ("CT", "US"))):
        users.alice("mdm meta mkdir /vo/images Modality:text Rows:int")
        for number, modality in enumerate(modalities):
            users.alice(f"mdm meta entry set /vo/images i{number} Modality={modality} Rows={number}")
    counted = 'SELECT Modality, COUNT(*) AS n, AVG(Rows) AS mean FROM "/vo/images" GROUP BY Modality HAVING COUNT(*) > 1'
    merged = here.alice(f"mdm query --sites here,there '{counted}'")
    assert [(item["Modality"], item["n"], round(item["mean"], 6)) for item in merged] == [("CT", 3, 0.333333)]
    here.alice(f"mdm meta acl grant /vo/images 'dn:{here.bob.dn}' r --shared")
    everything = """mdm query --sites all 'SELECT Modality FROM "/vo/images" ORDER BY 1'"""
    assert here.bob.refused(everything) == ["COLLECTION_NOT_FOUND"]  # of the other site: its part is missing
    assert there.alice(everything) == [{"Modality": name} for name in ("CT", "CT", "CT", "MR", "US")]
    assert here.alice.refused("""mdm query --sites all 'UPDATE "/vo/images" SET Rows = 1 WHERE TRUE'""") == ["QUERY_INVALID"]
