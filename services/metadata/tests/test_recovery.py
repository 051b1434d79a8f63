"""A service that is killed while it changes a schema ends or undoes that by itself when it is back."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_site.file import to_toml
from mdm_testing.process import eventually

from .conftest import Failed, attribute, entry
from .test_replication import Site

pytestmark = pytest.mark.integration


@pytest.fixture
def site(postgres: Any, pki: Any) -> Iterator[Site]:
    """A service with `/images`, whose `good` values would pass every validation and whose `bad` ones none, and `/studies`."""
    with ExitStack() as stack:
        site = Site("recovery", postgres, pki, stack)
        loader = site.client("loader")
        kinds = [attribute(name, "TEXT", indexed=name.endswith("ref")) for name in ("good", "bad", "goodref", "badref")]
        loader.create(pb.Collection(path="/images", attributes=kinds), pb.Collection(path="/studies"))
        loader.upsert("/studies", *(entry(f"s{n}") for n in range(30)))
        rows = [entry(f"{n}", good=f"g{n}", bad="same" if n else None, goodref=f"s{n}", badref="none") for n in range(30)]
        assert not any(loader.upsert("/images", *rows))
        yield site


@contextmanager
def process(site: Site, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process of its own."""
    config = folder / "metadata.toml"
    config.write_text(to_toml(site.configuration()))
    with subprocess.Popen([sys.executable, "-m", "mdm_metadata", "serve", "--config", str(config)], stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


def waiting(site: Site) -> int:
    """Return how many statements wait for a lock."""
    with psycopg.connect(site.conninfo) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def left(site: Site) -> tuple[int, int]:
    """Return how many validations are noted, and how many stored names are still to be erased."""
    with psycopg.connect(site.conninfo) as connection:
        row = connection.execute("SELECT (SELECT count(*) FROM validation), (SELECT count(*) FROM retired_slot)").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def killed_while(site: Site, folder: Path, **change: Any) -> None:
    """Ask for a change of `/images`, and kill the service while it tries it on the entries."""
    site.stop()
    with process(site, folder) as running, psycopg.connect(site.conninfo) as blocking:
        client = site.client("loader")
        eventually(lambda: client.rows('SELECT COUNT(*) FROM "/images"'), wanted=[(30,)], ignored=(Failed,))
        blocking.execute("LOCK TABLE entry IN ACCESS EXCLUSIVE MODE")

        def ask() -> None:
            with pytest.raises(Failed):
                client.alter("/images", **change)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: waiting(site) > 0, ignored=(Failed,))
        running.kill()
        running.wait()
        asking.join(20)
        blocking.rollback()


GOOD_AND_BAD = [
    ({"not_null": True}, entry("x", good=None, bad=None), "VALUE_MISSING"),
    ({"unique": True}, entry("x", good="g1", bad="same"), "VALUE_NOT_UNIQUE"),
    ({"references": "/studies"}, entry("x", goodref="none", badref="none"), "REFERENCE_NOT_FOUND"),
]


@pytest.mark.parametrize(("change", "wrong", "reason"), GOOD_AND_BAD, ids=["required", "unique", "references"])
def test_a_constraint_is_ended_where_it_holds_and_taken_back_where_it_does_not(site, tmp_path, change, wrong, reason):
    suffix = "ref" if "references" in change else ""
    for name in ("good", "bad"):
        killed_while(site, tmp_path, change_attribute=pb.AttributeChange(name=name + suffix, **change))
        assert left(site)[0] == 1
        site.start()
        eventually(lambda: left(site), wanted=(0, 0), ignored=(Failed,))
    loader = site.client("loader")
    refused = pb.Entry(key="x", values={f"good{suffix}": wrong.values[f"good{suffix}"]})
    allowed = pb.Entry(key="y", values={"good": pb.Value(text="new"), f"bad{suffix}": wrong.values[f"bad{suffix}"]})
    assert loader.upsert("/images", refused, allowed) == [reason, ""]
    described = {item.name: item for item in loader.describe("/images").attributes}
    (field,) = change
    assert (bool(getattr(described[f"good{suffix}"], field)), bool(getattr(described[f"bad{suffix}"], field))) == (True, False)


def test_a_check_is_ended_or_taken_back(site, tmp_path):
    for name, condition in (("fine", "good LIKE 'g%'"), ("broken", "bad <> 'same'")):
        killed_while(site, tmp_path, add_check=pb.Check(name=name, condition=condition))
        site.start()
        eventually(lambda: left(site), wanted=(0, 0), ignored=(Failed,))
    assert [check.name for check in site.client("loader").describe("/images").checks] == ["fine"]


def test_an_index_is_built_to_its_end_and_what_was_removed_is_erased(site, tmp_path):
    killed_while(site, tmp_path, change_attribute=pb.AttributeChange(name="good", indexed=True))
    site.start()
    eventually(lambda: left(site), wanted=(0, 0), ignored=(Failed,))
    killed_while(site, tmp_path, remove_attribute="bad")
    assert left(site) == (0, 1)
    site.start()
    eventually(lambda: left(site), wanted=(0, 0), ignored=(Failed,))
    assert site.client("loader").rows("""SELECT entry FROM "/images" WHERE good = 'g7'""") == [("7",)]
    with psycopg.connect(site.conninfo) as connection:
        stored = {slot for (slot,) in connection.execute("SELECT DISTINCT jsonb_object_keys(attributes) FROM entry")}
        slots = {slot for (slot,) in connection.execute("SELECT slot FROM attribute")}
    assert stored == slots
    assert "t3" in slots


def test_what_another_process_is_at_is_left_to_it(site):
    with psycopg.connect(site.conninfo, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(77)")
        other.execute("INSERT INTO validation SELECT 77, id, 0, NULL, '{required}' FROM collection WHERE path = '/images'")
        site.stop()
        site.start()
        time.sleep(1.5)  # long enough for the other process to take it over, if it would
        assert left(site)[0] != 0
        other.execute("SELECT pg_advisory_unlock_all()")
    eventually(lambda: left(site)[0], wanted=0, ignored=(Failed,))
