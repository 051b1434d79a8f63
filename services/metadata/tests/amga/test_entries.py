"""Entries of AMGA: made, shown, changed, taken as jobs, removed."""

import json
import subprocess
import sys

import pytest

from .conftest import Users
from .table import row

pytestmark = pytest.mark.integration


@pytest.fixture
def jobs(users: Users) -> None:
    """`/vo/jobs` with twelve new jobs."""
    users.alice("mdm meta mkdir /vo/jobs state:varchar(16):index priority:int worker:text")
    for number in range(12):
        users.alice(f"mdm meta entry set /vo/jobs j{number:02} state=new priority={number % 3}")


@row("`clearattr`")
def test_an_attribute_is_cleared_by_setting_it_to_null(users: Users, jobs: None):
    alice = users.alice
    assert alice("""mdm meta update 'UPDATE "/vo/jobs" SET priority = NULL WHERE TRUE'""") == [{"count": 12}]
    assert alice("""mdm query 'SELECT COUNT(*) AS n FROM "/vo/jobs" WHERE priority IS NOT NULL'""") == [{"n": 0}]


@row("`addentry`, `addentries`")
def test_entries_are_set_one_by_one_and_loaded_with_an_error_for_each_that_is_not_valid(users: Users, tmp_path):
    alice = users.alice
    alice("mdm meta mkdir /vo/c Rows:int Name:varchar(4)")
    alice("mdm meta entry set /vo/c 0 Rows=1 Name=a")
    alice("mdm meta entry set /vo/c 0 Rows=2")
    assert alice("mdm meta entry get /vo/c 0") == [{"entry": "0", "Rows": 2, "Name": "a"}]
    lines = [f"{number},{number},ok" for number in range(2_500)]
    lines[7], lines[1_500] = "7,seven,ok", "1500,1500,too long"
    file = tmp_path / "entries.csv"
    file.write_text("\n".join(["key,Rows,Name", *lines]) + "\n")
    assert alice.refused(f"mdm meta load /vo/c {file} --key key") == ["VALUE_TYPE", "VALUE_LENGTH"]
    assert alice("""mdm query 'SELECT COUNT(*) AS n FROM "/vo/c" '""") == [{"n": 2_498}]


@row("`getattr`, `setattr`")
def test_values_are_shown_and_set_by_key(users: Users, jobs: None):
    alice = users.alice
    alice("mdm meta entry set /vo/jobs j01 state=done worker=w1 priority=")
    assert alice("mdm meta entry get /vo/jobs j01") == [{"entry": "j01", "state": "done", "priority": None, "worker": "w1"}]
    assert alice.refused("mdm meta entry get /vo/jobs nothing") == ["ENTRY_NOT_FOUND"]
    assert alice.refused("mdm meta entry set /vo/jobs j01 stat=done") == ["ATTRIBUTE_UNKNOWN"]


@row("`updateattr_single`")
def test_each_job_is_taken_by_one_taker_and_returned_to_it(users: Users, jobs: None):
    alice = users.alice
    (first,) = alice("mdm meta take /vo/jobs state=taken worker=me --where \"state = 'new'\" --order-by priority,entry")
    assert first == {"entry": "j00", "state": "taken", "priority": 0, "worker": "me"}
    take = ["meta", "take", "/vo/jobs", "state=taken", "--where", "state = 'new'", "-n", "3"]
    mdm = [sys.executable, "-m", "mdm_client.cli", "--config", str(alice.configured), "--json", *take]
    takers = [subprocess.Popen(mdm, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    taken = [json.loads(line)["entry"] for taker in takers for line in taker.communicate(timeout=60)[0].splitlines()]
    assert sorted(taken) == [f"j{number:02}" for number in range(1, 12)]
    assert alice.refused("mdm meta take /vo/jobs state=taken --where \"state = 'new'\"") == []


@row("`rm`")
def test_entries_are_removed_by_key_and_by_condition(users: Users, jobs: None):
    alice = users.alice
    alice("mdm meta entry rm /vo/jobs j00 j01")
    assert alice.refused("mdm meta entry rm /vo/jobs j00") == ["ENTRY_NOT_FOUND"]
    assert alice("""mdm meta update 'DELETE FROM "/vo/jobs" WHERE priority = 2'""") == [{"count": 4}]
    left = alice("""mdm query 'SELECT entry FROM "/vo/jobs" ORDER BY entry'""")
    assert [item["entry"] for item in left] == ["j03", "j04", "j06", "j07", "j09", "j10"]
