"""One hospital copies the other's anonymous metadata: all of it, nothing else, and through failures of both."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from mdm_client.config import ClientConfig
from mdm_testing.image import Image
from mdm_testing.process import eventually
from mdm_testing.stack import Stack
from psycopg import sql

from tests.e2e.two_sites.conftest import IMAGES, PATIENTS, SUBTREE, CollectionPair, Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SECONDS = 60.0


@pytest.mark.parametrize("service", ["dicom-srm", "catalog", "keystore-a", "metadata"])
def test_every_service_of_a_coupled_site_starts_again(sites: tuple[Site, Site], service: str):
    stack = sites[0].stack
    stack.stop(service)
    stack.start(service)


def test_a_copy_follows_inserts_updates_deletes_and_the_schema(pair: CollectionPair):
    lines = [f"e{number},CT,{64 * number},1.50,2024-02-29" for number in range(2_500)]
    (pair.a.mdm.scratch / "entries.csv").write_text("\n".join(["key,Kind,Rows,Dose,Day", *lines]))
    pair.a.run("alice", "meta", "load", pair.path, str(pair.a.mdm.scratch / "entries.csv"), "--key", "key")
    assert eventually(pair.same, timeout=SECONDS)
    pair.a.run("alice", "meta", "update", f"UPDATE \"{pair.path}\" SET Kind = 'MR', Rows = Rows + 1 WHERE Rows >= 128")
    pair.a.run("alice", "meta", "update", f"DELETE FROM \"{pair.path}\" WHERE entry LIKE 'e_%0'")
    pair.a.run("alice", "meta", "attr", "add", pair.path, "Note:text")
    pair.a.run("alice", "meta", "attr", "rename", pair.path, "Length", "Depth")
    pair.a.run("alice", "meta", "attr", "rm", pair.path, "Gone")
    pair.a.run("alice", "meta", "index", "add", pair.path, "Rows")
    pair.set("e1", "Note=seen")
    assert eventually(pair.same, timeout=SECONDS)
    assert pair.b.rows(f"SELECT * FROM \"{pair.path}\" WHERE entry = 'e1'") == [
        {"entry": "e1", "Kind": "CT", "Rows": 64, "Dose": 1.5, "Day": "2024-02-29", "Depth": None, "Note": "seen"}
    ]


def test_the_copy_is_read_only_for_whoever_may_write_the_original(pair: CollectionPair):
    pair.set("only-read", "Rows=1")
    assert eventually(pair.same, timeout=SECONDS)
    alice = ClientConfig.load(pair.a.stack.client_config("alice")).tls
    there = pair.b.configuration("alice-of-a", alice.certificate, alice.key)
    for arguments in (
        ("meta", "entry", "set", pair.path, "new", "Rows=1"),
        ("meta", "entry", "rm", pair.path, "only-read"),
        ("meta", "update", f'UPDATE "{pair.path}" SET Rows = 2'),
        ("meta", "attr", "add", pair.path, "More:int"),
        ("meta", "rmdir", pair.path),
    ):
        result = pair.b.mdm("", "--json", *arguments, config=there)
        assert (result.code != 0, json.loads(result.err.splitlines()[0])["reason"]) == (True, "COLLECTION_IS_REPLICA"), arguments
    assert pair.same()


@contextmanager
def steps_recorded(copy: Stack) -> Iterator[Callable[[], list[tuple[Any, Any]]]]:
    """Have the copy's database record where each applied step began and ended; yield what reads the record."""
    columns = ("sequence", "copying", "copied_path", "copied_key")
    position = ", ".join(f"ROW({', '.join(f'{row}.{column}' for column in columns)})::text" for row in ("old", "new"))
    with psycopg.connect(copy.database("metadata"), autocommit=True) as connection:
        connection.execute("CREATE TABLE step (number bigint GENERATED ALWAYS AS IDENTITY, began text, ended text)")
        connection.execute(
            sql.SQL(
                "CREATE FUNCTION record_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
                " INSERT INTO step (began, ended) VALUES ({}); RETURN NULL; END $$"
            ).format(sql.SQL(position))
        )
        connection.execute("CREATE TRIGGER step AFTER UPDATE ON replica FOR EACH ROW EXECUTE FUNCTION record_step()")
        try:
            yield lambda: connection.execute("SELECT began, ended FROM step WHERE began <> ended ORDER BY number").fetchall()
        finally:
            connection.execute("DROP TRIGGER step ON replica")
            connection.execute("DROP FUNCTION record_step")
            connection.execute("DROP TABLE step")


def test_killed_at_either_end_nothing_is_lost_nor_applied_twice_and_the_lag_is_reported(pair: CollectionPair):
    a, b = pair.a, pair.b
    assert eventually(pair.same, timeout=SECONDS)
    stop, acknowledged = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            key = f"w{len(acknowledged) % 20}"
            rows = len(acknowledged)
            if a.mdm("alice", "meta", "entry", "set", pair.path, key, f"Rows={rows}").code == 0:
                acknowledged.append((key, rows))

    writer = threading.Thread(target=write)
    with steps_recorded(b.stack) as steps:
        writer.start()
        try:
            for victim in (b, a, b):
                time.sleep(2)
                victim.stack.kill("metadata")
                victim.stack.start("metadata")
        finally:
            stop.set()
            writer.join()
        assert eventually(pair.same, timeout=SECONDS)
        applied = steps()
    expected = dict(acknowledged)
    found = {row["entry"]: row["Rows"] for row in b.rows(f"SELECT entry, Rows FROM \"{pair.path}\" WHERE entry LIKE 'w%'") or []}
    assert len(expected) > 5
    assert {key: found[key] for key in expected} == expected
    assert [began for began, _ in applied[1:]] == [ended for _, ended in applied[:-1]], "each step begins where the one before ended"
    assert len({ended for _, ended in applied}) == len(applied), "no step was applied twice"
    assert eventually(b.is_current, timeout=SECONDS)


def test_while_the_origin_is_down_the_copy_answers_and_says_since_when(pair: CollectionPair):
    a, b = pair.a, pair.b
    pair.set("before", "Rows=7")
    assert eventually(pair.same, timeout=SECONDS)
    a.stack.stop("metadata")
    try:
        told = eventually(lambda: result if (result := b.mdm("operator", "--json", "meta", "replica")).code else None, timeout=SECONDS)
        assert told is not None
        (state,) = told.rows()
        assert (told.code, state["origin"], state["subtree"], state["problem"]) == (1, "hospital-a", SUBTREE, "UNAVAILABLE")
        assert b.rows(f"SELECT Rows FROM \"{pair.path}\" WHERE entry = 'before'") == [{"Rows": 7}]
        assert eventually(lambda: b.replica()["lag_seconds"] > state["lag_seconds"])
    finally:
        a.stack.start("metadata")
    assert eventually(lambda: not b.replica()["problem"], timeout=SECONDS)


def everything_in(database: str) -> str:
    """Return all of a database's tables as text."""
    with psycopg.connect(database) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        rows = (row for (table,) in tables for row in connection.execute(f"SELECT t::text FROM {table} AS t".encode()))
        return "\n".join(text for (text,) in rows)


def test_images_reach_the_copy_and_patients_never_do(pair: CollectionPair, image: Image):
    a, b = pair.a, pair.b
    sensitive = f"{SUBTREE}/names-{uuid4().hex[:8]}"
    a.run("", "meta", "mkdir", sensitive, "Name:text", "--sensitive", config=a.service("dicom-srm"))
    a.run("", "meta", "entry", "set", sensitive, "n1", f"Name={image.patient_name}", config=a.service("dicom-srm"))
    a.stack.store(image.path)
    joined = f'SELECT i.guid FROM "{IMAGES}" i JOIN "{PATIENTS}" p ON i.patient = p.patient WHERE p.PatientID = \'{image.patient_id}\''
    (row,) = eventually(lambda: a.rows(joined, "carol"), timeout=SECONDS) or ()
    assert eventually(lambda: b.rows(f"SELECT guid FROM \"{IMAGES}\" WHERE guid = '{row['guid']}'"), timeout=SECONDS) == [row]
    kept = everything_in(b.stack.database("metadata"))
    assert row["guid"] in kept, "the search finds what is there"
    for secret in (image.patient_id, image.patient_name.split("^")[0], "names-", "/patients"):
        assert secret not in kept
    assert image.patient_id in everything_in(a.stack.database("metadata")), "and at the origin it would have found it"
    assert b.rows(joined, "carol") is None
