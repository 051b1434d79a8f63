"""Directories and attributes of AMGA, and what every entry must fulfil."""

import threading
from typing import Any

import psycopg
import pytest

from .conftest import Users
from .table import row

pytestmark = pytest.mark.integration


def names(described: dict[str, Any]) -> list[str]:
    return [attribute["name"] for attribute in described["attributes"]]


@row("`createdir`, `rmdir`, `dir`/`ls`")
def test_a_directory_is_a_collection_made_with_its_attributes(users: Users, service: Any):
    alice = users.alice
    with psycopg.connect(service.conninfo, autocommit=True) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_class").fetchone()
        alice("mdm meta mkdir -p /vo/study/ct/images Modality:varchar(16):index Rows:int:unit=1")
        assert connection.execute("SELECT count(*) FROM pg_class").fetchone() == tables
    assert [item["path"] for item in alice("mdm meta ls /vo")] == ["/vo", "/vo/study", "/vo/study/ct", "/vo/study/ct/images"]
    assert alice.refused("mdm meta rmdir /vo/study/ct") == ["COLLECTION_NOT_EMPTY"]
    alice("mdm meta rmdir /vo/study/ct/images /vo/study/ct")
    assert [item["path"] for item in alice("mdm meta ls /vo")] == ["/vo", "/vo/study"]


@row("`listattr`")
def test_attributes_are_shown_with_unit_description_constraints_and_checks(users: Users):
    alice = users.alice
    alice("mdm meta mkdir /vo/images Thickness:float:unit=mm:required Code:text:unique")
    alice("mdm meta attr set /vo/images Thickness --description 'Slice thickness'")
    alice("mdm meta constraint add /vo/images check positive 'Thickness > 0'")
    (described,) = alice("mdm meta describe /vo/images")
    assert described["attributes"] == [
        {"name": "Thickness", "type": "float", "unit": "mm", "not_null": True, "description": "Slice thickness"},
        {"name": "Code", "type": "text", "unique": True},
    ]
    assert described["checks"] == {"positive": "Thickness > 0"}


@row("`addattr`, `removeattr`")
def test_added_attributes_have_types_and_removed_ones_leave_no_values(users: Users, service: Any):
    alice = users.alice
    alice("mdm meta mkdir /vo/c")
    alice("mdm meta entry set /vo/c e")
    alice("mdm meta attr add /vo/c Rows:int Name:text")
    assert alice.refused("mdm meta entry set /vo/c e Rows=many") == ["VALUE_TYPE"]
    alice("mdm meta entry set /vo/c e Rows=512 Name=secret")
    alice("mdm meta attr rm /vo/c Name")
    assert names(alice("mdm meta describe /vo/c")[0]) == ["Rows"]
    assert alice("mdm meta entry get /vo/c e") == [{"entry": "e", "Rows": 512}]
    with psycopg.connect(service.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM entry WHERE attributes::text LIKE '%secret%'").fetchone() == (0,)


@row("`mdm meta attr rename`, `attr set`")
def test_attributes_are_renamed_and_described_where_there_are_entries(users: Users):
    alice = users.alice
    alice("mdm meta mkdir /vo/c Colums:int")
    alice("mdm meta entry set /vo/c e Colums=3")
    alice("mdm meta attr rename /vo/c Colums Columns")
    alice("mdm meta attr set /vo/c Columns --unit 1 --description 'Pixels in a row'")
    assert alice("mdm meta entry get /vo/c e") == [{"entry": "e", "Columns": 3}]
    (described,) = alice("mdm meta describe /vo/c")
    assert described["attributes"] == [{"name": "Columns", "type": "int", "unit": "1", "description": "Pixels in a row"}]


@row("`constraint_add_not_null`, `…_unique`, `…_reference`, `…_check`, `constraint_drop`")
@pytest.mark.parametrize(
    ("kind", "value", "broken", "reason"),
    [
        ("required n", "", "name=x", "VALUE_MISSING"),
        ("unique n", "", "n=1", "VALUE_NOT_UNIQUE"),
        ("references study", "/vo/studies", "n=5 study=nothing", "REFERENCE_NOT_FOUND"),
        ("check positive", "'n > 0'", "n=-1", "VALUE_CHECK"),
    ],
)
def test_constraints_are_tried_on_all_entries_and_then_hold(users: Users, kind: str, value: str, broken: str, reason: str):
    alice = users.alice
    alice("mdm meta mkdir /vo/studies")
    alice("mdm meta mkdir /vo/c n:int name:text study:text:index")
    alice("mdm meta entry set /vo/c one n=1")
    alice(f"mdm meta entry set /vo/c other {broken}")
    add = f"mdm meta constraint add /vo/c {kind} {value}"
    assert set(alice.refused(add)) <= {"CONSTRAINT_BROKEN", "CHECK_BROKEN"}
    alice(f"mdm meta entry set /vo/c third {broken}")
    alice("mdm meta entry rm /vo/c other third")
    alice(add)
    assert alice.refused(f"mdm meta entry set /vo/c other {broken}") == [reason]
    alice(f"mdm meta constraint rm /vo/c {kind}")
    alice(f"mdm meta entry set /vo/c other {broken}")


@row("`index_create`, `index_drop`")
def test_an_index_is_built_beside_writers(users: Users, service: Any):
    alice, writer = users.alice, service.client("alice")
    alice("mdm meta mkdir /vo/c n:int")
    writer.upsert("/vo/c", *(service.entry(f"e{number}", n=number) for number in range(5_000)))
    written: list[str] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            written.extend(writer.upsert("/vo/c", service.entry(f"w{len(written)}", n=-len(written) - 1)))

    thread = threading.Thread(target=write)
    thread.start()
    alice("mdm meta index add /vo/c n")
    ended.set()
    thread.join()
    assert alice("mdm meta describe /vo/c")[0]["attributes"] == [{"name": "n", "type": "int", "indexed": True}]
    assert set(written) == {""}
    assert alice("mdm query 'SELECT COUNT(*) FROM \"/vo/c\" WHERE n < 0'") == [{"count": len(written)}]
    alice("mdm meta index rm /vo/c n")
    assert alice("mdm meta describe /vo/c")[0]["attributes"] == [{"name": "n", "type": "int"}]


@row("`sequence_create`, `sequence_next`, `sequence_remove`")
def test_a_sequence_gives_each_number_once_and_many_at_a_time(users: Users):
    alice = users.alice
    alice("mdm meta mkdir /vo/c")
    alice("mdm meta sequence create /vo/c run --start 10 --step 5")
    assert alice("mdm meta sequence next /vo/c run") == [10]
    assert alice("mdm meta sequence next /vo/c run -n 3") == [15, 20, 25]
    assert alice("mdm meta sequence next /vo/c run") == [30]
    alice("mdm meta sequence rm /vo/c run")
    assert alice.refused("mdm meta sequence next /vo/c run") == ["SEQUENCE_NOT_FOUND"]
