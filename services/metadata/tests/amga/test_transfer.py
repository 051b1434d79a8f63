"""What AMGA's bulk uploads and imports became."""

from typing import Any

import psycopg
import pytest

from .conftest import Users
from .table import row

pytestmark = pytest.mark.integration


@row("`upload`, `put`, `commit`, `abort`")
def test_a_load_that_broke_off_is_repeated_and_leaves_what_is_there(users: Users, service: Any, tmp_path):
    alice = users.alice
    alice("mdm meta mkdir /vo/c n:int")
    file = tmp_path / "entries.csv"
    lines = [f"e{number},{number}" for number in range(2_500)]
    file.write_text("\n".join(["key,n", *lines[:1_200], 'e1200,"broken']) + "\n")
    assert alice.refused(f"mdm meta load /vo/c {file} --key key") == ["CSV_MALFORMED"]
    versions = "SELECT key, xmin FROM entry ORDER BY key"
    with psycopg.connect(service.conninfo, autocommit=True) as connection:
        before = dict(connection.execute(versions).fetchall())
        assert len(before) == 1_000  # whole batches
        file.write_text("\n".join(["key,n", *lines]) + "\n")
        assert alice(f"mdm meta load /vo/c {file} --key key") == [{"stored": 2_500, "failed": 0}]
        after = dict(connection.execute(versions).fetchall())
    assert len(after) == 2_500
    assert before.items() <= after.items()


@row("import of existing tables (`import`)")
def test_a_table_of_postgresql_is_copied_with_its_columns_types(users: Users, database: Any):
    alice = users.alice
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("CREATE SCHEMA lab")
        connection.execute(
            "CREATE TABLE lab.sample (code varchar(8) PRIMARY KEY, mass float8, taken timestamptz, price numeric, ok bool, day date,"
            " more jsonb, tags text[], raw bytea)"
        )
        connection.execute(
            "INSERT INTO lab.sample VALUES ('a', 1.5, '2024-01-31 10:00+00', 9.25, true, '2024-02-01',"
            """ '{"a": "é"}', '{x,y}', '\\x00ff')"""
        )
        connection.execute("INSERT INTO lab.sample (code) VALUES ('b')")
    alice(f"mdm meta load /vo/samples --postgres '{database.conninfo}' --table lab.sample --key code --create")
    (described,) = alice("mdm meta describe /vo/samples")
    kinds = {attribute["name"]: attribute["type"] for attribute in described["attributes"]}
    assert kinds == {
        "mass": "float",
        "taken": "timestamp",
        "price": "numeric",
        "ok": "bool",
        "day": "date",
        **dict.fromkeys(("more", "tags", "raw"), "text"),
    }
    first = {"more": '{"a": "é"}', "tags": '["x", "y"]', "raw": "\\x00ff"}
    first |= {"entry": "a", "mass": 1.5, "taken": "2024-01-31T10:00:00Z", "price": 9.25, "ok": True, "day": "2024-02-01"}
    assert alice("mdm meta entry get /vo/samples a") == [first]
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("DELETE FROM lab.sample")
    assert alice("""mdm query 'SELECT COUNT(*) AS n FROM "/vo/samples" '""") == [{"n": 2}]
