"""SQL in the place of AMGA's queries, updates and transactions; and how the service would answer."""

import re
from typing import Any

import psycopg
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

from .conftest import Users
from .table import PAGE, row

pytestmark = pytest.mark.integration


@pytest.fixture
def images(users: Users) -> None:
    """`/vo/images` with four images."""
    users.alice("mdm meta mkdir /vo/images Modality:varchar(16):index Rows:int Code:text:unique")
    for number, modality in enumerate(("CT", "CT", "MR", "US")):
        users.alice(f"mdm meta entry set /vo/images i{number} Modality={modality} Rows={64 * number} Code=c{number}")


@row("`find`, `selectattr`")
def test_entries_are_found_and_their_attributes_selected(users: Users, images: None):
    found = users.alice("""mdm query "SELECT entry, Rows FROM \\"/vo/images\\" WHERE Modality = 'CT' AND Rows > 0" """)
    assert found == [{"entry": "i1", "Rows": 64}]


@row("`updateattr`")
def test_attributes_are_updated_wholly_or_not_at_all(users: Users, images: None):
    alice = users.alice
    assert alice("""mdm meta update 'UPDATE "/vo/images" SET Rows = Rows + 1 WHERE Rows >= 64'""") == [{"count": 3}]
    assert alice.refused("""mdm meta update "UPDATE \\"/vo/images\\" SET Rows = 0, Code = 'same' WHERE TRUE" """) == ["VALUE_NOT_UNIQUE"]
    assert alice("""mdm query 'SELECT Rows FROM "/vo/images" ORDER BY Rows'""") == [{"Rows": n} for n in (0, 65, 129, 193)]


@row("`transaction`, `commit`, `abort`")
def test_a_call_is_a_transaction_and_nothing_is_held_open_afterwards(users: Users, images: None, service: Any):
    """What fails in the middle leaves nothing; and a connection that does nothing holds no lock that another would wait for."""
    alice = users.alice
    assert alice.refused("""mdm meta update "UPDATE \\"/vo/images\\" SET Code = 'c9' WHERE Rows >= 0" """) == ["VALUE_NOT_UNIQUE"]
    assert alice("""mdm query "SELECT COUNT(*) AS n FROM \\"/vo/images\\" WHERE Code = 'c9'" """) == [{"n": 0}]
    with psycopg.connect(service.conninfo) as connection:
        connection.execute("SET lock_timeout = 100")
        connection.execute("LOCK entry, collection IN ACCESS EXCLUSIVE MODE")
        connection.rollback()


@row("SQL-92 `SELECT`, `UPDATE`, `DELETE`")
def test_an_allow_listed_subset_of_sql_is_answered(users: Users, images: None):
    alice = users.alice
    grouped = 'SELECT Modality, COUNT(*) AS n, MAX(Rows) FROM "/vo/images" GROUP BY Modality HAVING COUNT(*) > 1 ORDER BY n'
    assert alice(f"mdm query '{grouped}'") == [{"Modality": "CT", "n": 2, "max": 64}]
    joined = 'SELECT a.entry FROM "/vo/images" a JOIN "/vo/images" b ON a.Rows = b.Rows + 64 WHERE b.entry = \\"i0\\"'
    assert alice(f"mdm query '{joined}'".replace('\\"i0\\"', "'\"'i0'\"'")) == [{"entry": "i1"}]
    for sql in (
        'SELECT entry FROM "/vo/images" WHERE Rows IN (SELECT Rows FROM "/vo/images")',
        'SELECT entry FROM "/vo/images" UNION SELECT entry FROM "/vo/images"',
    ):
        assert alice.refused(f"mdm query '{sql}'") == ["QUERY_INVALID"]
    assert alice("""mdm meta update 'DELETE FROM "/vo/images" WHERE Rows < 100'""") == [{"count": 2}]


@row("SQL-92 `INSERT`")
def test_rows_are_inserted_as_entries(users: Users, images: None, tmp_path):
    alice = users.alice
    assert alice.refused("""mdm meta update "INSERT INTO \\"/vo/images\\" VALUES (1)" """) == ["QUERY_INVALID"]
    alice("mdm meta entry set /vo/images i4 Modality=CR Rows=8")
    file = tmp_path / "more.csv"
    file.write_text("key,Modality,Rows\ni5,DX,16\ni6,DX,\n")
    assert alice(f"mdm meta load /vo/images {file} --key key") == [{"stored": 2, "failed": 0}]
    assert alice("""mdm query 'SELECT COUNT(*) AS n FROM "/vo/images" '""") == [{"n": 7}]


@row("`mdm meta explain`")
def test_how_a_select_would_be_answered_is_shown_to_operators_alone(users: Users, images: None):
    explain = """mdm meta explain "SELECT Rows FROM \\"/vo/images\\" WHERE Modality = 'CT'" """
    assert any("Scan" in item["line"] for item in users.operator(explain))
    assert users.alice.refused(explain) == ["METHOD_FORBIDDEN"]


@row("`capabilities`, `version`")
def test_contracts_are_versioned(users: Users):
    (service,) = re.findall(r"`(mdm\.metadata\.v\d+)`", PAGE.read_text())
    assert service == pb.DESCRIPTOR.package
