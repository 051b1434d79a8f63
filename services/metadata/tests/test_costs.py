"""What one query costs at most, however it is written: memory of PostgreSQL and of the service, and time beyond the limit."""

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

READ, WRITE = 4, 8
LONG = "ab" * 32_768
#: Megabytes of a PostgreSQL process: 1,000 attributes of an entry of 1 MB, each read by itself, and 200 of its own.
BACKEND = 1_300


@pytest.fixture
def loader(service: Any) -> Any:
    """The owner of `/long`, whose 400 texts may be long, and are in two entries."""
    loader = service.client("loader")
    acl = loader.acl({"authenticated": READ | WRITE})
    attributes = [service.attribute("n", "NUMERIC"), *(service.attribute(f"t{number}", "TEXT") for number in range(400))]
    loader.create(pb.Collection(path="/long", attributes=attributes, acl_id=acl, default_acl_id=acl))
    texts = {f"t{number}": LONG if number < 14 else "x" for number in range(400)}
    loader.upsert("/long", *(service.entry(f"e{number}", n="9" * 200, **texts) for number in range(2)))
    return loader


def peak(service: Any) -> float:
    """Return the most megabytes that any process of the service's connections ever took."""
    with psycopg.connect(service.conninfo) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        found = []
        for (pid,) in rows.fetchall():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return max(found)


def outcome(loader: Any, failed: type, sql: str) -> str:
    """Return the reason why a query fails, empty when it does not."""
    try:
        loader.query(sql)
    except failed as error:
        return str(error.reason)
    return ""


CONCATENATED = "||".join(["t1"] * 39)
BIG = "(CAST('1e60000' AS NUMERIC) + 1)"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ('SELECT * FROM "/long"', ""),
        (f'SELECT LENGTH({CONCATENATED}) FROM "/long"', ""),
        (f'SELECT {",".join([f"LENGTH({CONCATENATED})"] * 200)} FROM "/long"', "QUERY_TOO_LARGE"),
        ('SELECT entry FROM "/long" WHERE ' + " OR ".join(f"LOWER(t1) = '{n}'" for n in range(2_000)), "QUERY_TOO_LARGE"),
        ('SELECT entry FROM "/long" WHERE ' + " OR ".join(f"t1 = '{n}'" for n in range(4_000)), ""),
        ('SELECT entry FROM "/long" WHERE ' + " OR ".join(f"t1 ILIKE '{n}'" for n in range(2_000)), "QUERY_TOO_LARGE"),
        (f'SELECT {",".join(["t1"] * 900)} FROM "/long"', "QUERY_ROW_TOO_LARGE"),
        (f'SELECT {",".join(f"COUNT(DISTINCT t{n})" for n in range(300))} FROM "/long"', "QUERY_TOO_LARGE"),
        ('SELECT COUNT(*) FROM "/long" a, "/long" b, "/long" c WHERE '.replace(",", " CROSS JOIN")
         + " OR ".join(f"{side}.t{n} = 'y'" for side in "abc" for n in range(400)), "QUERY_TOO_LARGE"),
        (f'SELECT {",".join(f"{BIG} / ({BIG} + {n}.5) < 1" for n in range(400))} FROM "/long"', "QUERY_VALUE"),
        (f'SELECT {",".join("*".join(["n"] * 39) for _ in range(200))} FROM "/long"', ""),
        (f'SELECT {",".join(f"1 / ROUND(n, 16000) / (1 / ROUND(n + {n}, 16000))" for n in range(900))} FROM "/long"', ""),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_a_query_makes_is_bounded(service, loader, sql, reason):
    begin = time.monotonic()
    assert outcome(loader, service.failed, sql) == reason
    assert time.monotonic() - begin < 15
    assert peak(service) < BACKEND


def test_a_cast_of_text_gives_what_a_decimal_may_be(service, loader):
    (row,) = loader.rows("""SELECT CAST('1.50' AS NUMERIC), CAST('-1e300' AS NUMERIC) < 0, CAST('NaN' AS NUMERIC) FROM "/long" LIMIT 1""")
    assert row == ("1.50", True, "NaN")
    for text in ("1e301", "-1e5000", "1e-1001"):
        assert outcome(loader, service.failed, f"""SELECT CAST('{text}' AS NUMERIC) FROM "/long" """) == "QUERY_VALUE"


def test_an_entry_has_a_megabyte_at_most_whether_at_once_or_bit_by_bit(service, loader):
    texts = {f"t{number}": LONG for number in range(17)}
    assert loader.upsert("/long", service.entry("new", **texts), service.entry("small", t1="x")) == ["ENTRY_TOO_LARGE", ""]
    with pytest.raises(service.failed) as raised:
        loader.upsert("/long", service.entry("e0", **{f"t{number}": LONG for number in range(14, 18)}))
    assert raised.value.reason == "ENTRY_TOO_LARGE"
    assert loader.rows("SELECT LENGTH(t14), LENGTH(t1) FROM \"/long\" WHERE entry = 'e0'") == [(1, len(LONG))]


def test_a_change_holds_32_megabytes_at_most(service, loader):
    loader.upsert("/long", *(service.entry(f"f{number}", t1="x") for number in range(600)))
    with pytest.raises(service.failed) as raised:
        loader.change(f"UPDATE \"/long\" SET t2 = '{LONG[:60_000]}' WHERE t1 = 'x'")
    assert raised.value.reason == "CHANGE_TOO_LARGE"
    assert loader.change(f"UPDATE \"/long\" SET t2 = '{LONG[:60_000]}' WHERE t1 = 'x' LIMIT 500")[0] == 500


def test_rows_that_may_be_long_are_read_a_few_at_a_time(service, loader):
    loader.upsert("/long", *(service.entry(f"f{number:04}", t1="x") for number in range(700)))
    keys = [key for key, *_ in loader.rows("SELECT entry, t1, t2 FROM \"/long\" WHERE t1 = 'x' ORDER BY entry")]
    assert keys == [f"f{number:04}" for number in range(700)]
