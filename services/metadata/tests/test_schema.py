"""Schemas that change on filled collections, beside writers."""

import threading

import psycopg
import pytest
from mdm.metadata.v1 import metadata_pb2 as pb

pytestmark = pytest.mark.integration

CHANGE, DELETE, READ, WRITE, LIST, SET = 1, 2, 4, 8, 32, 128


@pytest.fixture
def loader(service):
    """The owner of `/images`, which has 50 entries."""
    loader = service.client("loader")
    acl = loader.acl({"authenticated": READ | LIST})
    attributes = [
        service.attribute("Modality", "TEXT"),
        service.attribute("Rows", "INT"),
        service.attribute("guid", "UUID"),
        service.attribute("price", "NUMERIC"),
    ]
    loader.create(pb.Collection(path="/images", attributes=attributes, acl_id=acl, default_acl_id=acl))
    loader.upsert("/images", *(service.entry(f"{n:02}", Modality=("CT", "MR")[n % 2], Rows=n, price=f"{n}.0") for n in range(50)))
    return loader


def refused(service, act, *arguments, **named) -> str:
    with pytest.raises(service.failed) as raised:
        act(*arguments, **named)
    return raised.value.reason


def stored_slots(service) -> set[str]:
    with psycopg.connect(service.conninfo) as connection:
        return {slot for (slot,) in connection.execute("SELECT DISTINCT jsonb_object_keys(attributes) FROM entry")}


def test_an_attribute_is_added_to_a_filled_collection_and_can_be_indexed(service, loader):
    added = service.attribute("Columns", "INT", unit="{pixels}", indexed=True)
    loader.alter("/images", add_attribute=added)
    loader.alter("/images", add_attribute=added)
    assert loader.rows('SELECT COUNT(*), COUNT(columns) FROM "/images"') == [(50, 0)]
    loader.change('UPDATE "/images" SET Columns = Rows * 2 WHERE Rows > 40')
    assert loader.rows('SELECT SUM(Columns) FROM "/images" WHERE Columns >= 90') == [(str(sum(range(90, 100, 2))),)]
    assert loader.describe("/images").attributes[4] == added
    assert refused(service, loader.alter, "/images", add_attribute=service.attribute("columns", "TEXT")) == "ATTRIBUTE_EXISTS"
    assert refused(service, loader.alter, "/images", add_attribute=service.attribute("x", "INT", not_null=True)) == "COLLECTION_NOT_EMPTY"


def test_a_removed_attribute_leaves_nothing_behind_and_its_name_is_free(service, loader):
    before = stored_slots(service)
    loader.alter("/images", remove_attribute="modality")
    assert len(before - stored_slots(service)) == 1
    assert refused(service, loader.rows, 'SELECT Modality FROM "/images"') == "ATTRIBUTE_UNKNOWN"
    loader.alter("/images", add_attribute=service.attribute("Modality", "INT"))
    assert loader.rows('SELECT COUNT(Modality) FROM "/images"') == [(0,)]


def test_a_rename_keeps_values_and_a_taken_name_is_refused(service, loader):
    loader.alter(
        "/images", change_attribute=pb.AttributeChange(name="rows", new_name="Height", unit="{pixels}", description="of the image")
    )
    assert loader.query('SELECT height FROM "/images" WHERE Height = 7').units == ["{pixels}"]
    assert loader.rows('SELECT height FROM "/images" WHERE Height = 7') == [(7,)]
    change = pb.AttributeChange(name="Height", new_name="MODALITY")
    assert refused(service, loader.alter, "/images", change_attribute=change) == "ATTRIBUTE_EXISTS"


def test_an_index_is_built_and_dropped_while_many_write(service, loader):
    stop = threading.Event()
    failures: list[str] = []

    def write(worker: int) -> None:
        number = 0
        while not stop.is_set():
            keys = [f"w{worker}-{number % 40 + n}" for n in range(5)]
            failures.extend(r for r in loader.upsert("/images", *(service.entry(k, Rows=number, Modality=f"m{number}") for k in keys)) if r)
            number += 1

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
    for writer in writers:
        writer.start()
    try:
        for indexed in (True, False, True):
            for name in ("Rows", "Modality"):
                loader.alter("/images", change_attribute=pb.AttributeChange(name=name, indexed=indexed))
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not failures
    rows = loader.rows('SELECT entry, Rows, Modality FROM "/images"')
    assert all(modality == f"m{number}" for key, number, modality in rows if key.startswith("w"))
    loader.upsert("/images", *(service.entry(f"many-{n}", Rows=1_000 + n) for n in range(1_000)))
    with psycopg.connect(service.conninfo, autocommit=True) as connection:
        connection.execute("ANALYZE entry")  # the planner chooses by how many there are
    plan = "\n".join(service.client("operator").call("Explain", pb.ExplainRequest(sql='SELECT entry FROM "/images" WHERE Rows = 3')).lines)
    assert "entry_i" in plan
    assert len(stored_slots(service)) == 3
    loader.alter("/images", change_attribute=pb.AttributeChange(name="Rows", not_null=False))
    assert [a.indexed for a in loader.describe("/images").attributes[:2]] == [True, True]


def test_an_index_whose_building_was_interrupted_is_finished_by_asking_again(service, loader):
    with psycopg.connect(service.conninfo) as connection:  # as a crash leaves it: begun, half copied
        connection.execute("UPDATE attribute SET indexed = true, moving_to = 'i1' WHERE name = 'Rows'")
        connection.execute("UPDATE collection SET rev = rev + 1 WHERE path = '/images'")
        connection.execute("UPDATE entry SET attributes = attributes || '{\"i1\": 3}' WHERE key = '03'")
    loader.upsert("/images", service.entry("04", Rows=400), service.entry("99", Rows=990))
    assert loader.rows('SELECT entry FROM "/images" WHERE Rows IN (3, 400, 990) ORDER BY 1') == [("03",), ("04",), ("99",)]
    loader.alter("/images", change_attribute=pb.AttributeChange(name="Rows", indexed=True))
    with psycopg.connect(service.conninfo) as connection:
        assert connection.execute("SELECT slot, moving_to FROM attribute WHERE name = 'Rows'").fetchone() == ("i1", None)
    assert loader.rows('SELECT entry FROM "/images" WHERE Rows IN (3, 400, 990) ORDER BY 1') == [("03",), ("04",), ("99",)]
    assert loader.rows('SELECT COUNT(Rows) FROM "/images"') == [(51,)]


@pytest.mark.parametrize(
    ("change", "good", "bad", "reason"),
    [
        ({"not_null": True}, {"Rows": 1}, {"Modality": "x"}, "VALUE_MISSING"),
        ({"unique": True}, {"Rows": 1_000}, {"Rows": 7}, "VALUE_NOT_UNIQUE"),
    ],
)
def test_a_constraint_set_later_holds_for_old_and_new_entries(service, loader, change, good, bad, reason):
    loader.alter("/images", change_attribute=pb.AttributeChange(name="Rows", **change))
    assert loader.upsert("/images", service.entry("good", **good), service.entry("bad", **bad)) == ["", reason]
    loader.alter("/images", change_attribute=pb.AttributeChange(name="Rows", **dict.fromkeys(change, False)))
    assert loader.upsert("/images", service.entry("bad", **bad)) == [""]
    assert refused(service, loader.alter, "/images", change_attribute=pb.AttributeChange(name="Rows", **change)) == "CONSTRAINT_BROKEN"
    assert loader.upsert("/images", service.entry("bad2", **bad)) == [""]


def test_a_value_that_was_given_as_null_is_none(service, loader):
    assert loader.upsert("/images", service.entry("n1", Rows=None, Modality=None), service.entry("n2", Rows=None, Modality=None)) == [
        "",
        "",
    ]
    loader.alter("/images", change_attribute=pb.AttributeChange(name="Rows", unique=True))
    assert refused(service, loader.alter, "/images", change_attribute=pb.AttributeChange(name="Rows", not_null=True)) == "CONSTRAINT_BROKEN"


def test_a_unique_attribute_that_moves_to_an_index_stays_unique(service, loader):
    loader.alter("/images", change_attribute=pb.AttributeChange(name="price", unique=True))
    loader.alter("/images", change_attribute=pb.AttributeChange(name="price", indexed=True))
    assert loader.upsert("/images", service.entry("x", price="7.00"), service.entry("07", price="7")) == ["VALUE_NOT_UNIQUE", ""]


def test_a_check_holds_for_old_and_new_entries_and_merges(service, loader):
    check = pb.Check(name="plausible", condition="Rows < 100 AND Modality IN ('CT', 'MR')")
    loader.alter("/images", add_check=check)
    reasons = loader.upsert(
        "/images",
        service.entry("50", Rows=99),
        service.entry("51", Rows=100),
        service.entry("07", Modality="US"),
        service.entry("08", Rows=9),
    )
    assert reasons == ["", "VALUE_CHECK", "VALUE_CHECK", ""]
    assert refused(service, loader.change, 'UPDATE "/images" SET Rows = Rows + 60 WHERE TRUE') == "VALUE_CHECK"
    assert list(loader.describe("/images").checks) == [check]
    change = pb.AttributeChange(name="Rows", new_name="Height")
    assert refused(service, loader.alter, "/images", change_attribute=change) == "ATTRIBUTE_IN_USE"
    assert refused(service, loader.alter, "/images", remove_attribute="Rows") == "ATTRIBUTE_IN_USE"
    loader.alter("/images", drop_check="Plausible")
    assert loader.upsert("/images", service.entry("51", Rows=100)) == [""]
    assert refused(service, loader.alter, "/images", add_check=check) == "CHECK_BROKEN"
    assert not loader.describe("/images").checks


@pytest.mark.parametrize(
    "condition",
    ["1 / Rows = 1", "Rows", "nothing = 1", "", "TRUE) OR (FALSE", "Rows = 1 GROUP BY Rows", "EXISTS (SELECT 1)", "COUNT(*) = 1"],
)
def test_a_check_is_one_condition_that_cannot_fail(service, loader, condition):
    reason = refused(service, loader.alter, "/images", add_check=pb.Check(name="c", condition=condition))
    assert reason in ("QUERY_INVALID", "ATTRIBUTE_UNKNOWN")


def test_references_point_at_entries_that_exist_and_keep_them(service, loader):
    acl = loader.acl({"authenticated": READ | WRITE | DELETE})
    hidden = loader.acl({})
    series = [
        service.attribute("image", "TEXT", indexed=True, references="/images"),
        service.attribute("parent", "VARCHAR", length=255, indexed=True, references="/series"),
    ]
    assert loader.create(pb.Collection(path="/series", attributes=series, acl_id=acl, default_acl_id=acl)) == [""]
    loader.upsert("/images", service.entry("hidden", hidden))
    alice = service.client("alice")
    reasons = alice.upsert(
        "/series",
        service.entry("s1", image="07"),
        service.entry("s2", image="99", parent="s1"),
        service.entry("s3", image="hidden"),
        service.entry("s4", parent="s1"),
    )
    assert reasons == ["", "REFERENCE_NOT_FOUND", "REFERENCE_NOT_FOUND", ""]
    assert refused(service, loader.change, """DELETE FROM "/images" WHERE entry = '07'""") == "ENTRY_REFERENCED"
    deleted = loader.call("DeleteEntries", pb.DeleteEntriesRequest(collection="/images", keys=["07", "08"]))
    assert [status.reason for status in deleted.statuses] == ["ENTRY_REFERENCED", ""]
    dropped = loader.call("DropCollections", pb.DropCollectionsRequest(paths=["/images"]))
    assert dropped.statuses[0].reason == "COLLECTION_NOT_EMPTY"
    assert loader.describe("/series").attributes[0].references == "/images"
    assert alice.change('DELETE FROM "/series" WHERE TRUE')[0] == 2
    assert loader.change("""DELETE FROM "/images" WHERE entry = '07'""")[0] == 1


def test_a_reference_set_later_is_tried_on_all_entries(service, loader):
    acl = loader.acl({})
    loader.create(pb.Collection(path="/m", acl_id=acl, default_acl_id=acl))
    loader.upsert("/m", service.entry("CT"))
    loader.alter("/images", change_attribute=pb.AttributeChange(name="Modality", indexed=True))
    change = pb.AttributeChange(name="Modality", references="/m")
    assert refused(service, loader.alter, "/images", change_attribute=change) == "CONSTRAINT_BROKEN"
    loader.upsert("/m", service.entry("MR"))
    loader.alter("/images", change_attribute=change)
    assert loader.upsert("/images", service.entry("x", Modality="US")) == ["REFERENCE_NOT_FOUND"]
    loader.alter("/images", change_attribute=pb.AttributeChange(name="Modality", references=""))
    assert loader.upsert("/images", service.entry("x", Modality="US")) == [""]


def test_changing_a_schema_needs_its_own_right(service, loader):
    alice = service.client("alice")
    assert refused(service, alice.alter, "/images", remove_attribute="Rows") == "COLLECTION_FORBIDDEN"
    assert refused(service, alice.alter, "/nothing", remove_attribute="Rows") == "COLLECTION_NOT_FOUND"
    own = loader.acl({f"dn:{alice.dn}": READ | SET | LIST})
    assert refused(service, alice.alter, "/images", acls=pb.CollectionAcls(acl_id=own)) == "COLLECTION_FORBIDDEN"
    loader.alter("/images", acls=pb.CollectionAcls(acl_id=own))
    alice.alter("/images", remove_attribute="Rows")
    assert refused(service, alice.alter, "/images", min_cell=5) == "COLLECTION_FORBIDDEN"
    assert refused(service, loader.alter, "/images") == "CHANGE_MISSING"


def test_whether_hidden_entries_fulfil_a_condition_is_not_told(service, loader):
    alice = service.client("alice")
    loader.alter("/images", acls=pb.CollectionAcls(acl_id=loader.acl({f"dn:{alice.dn}": SET | LIST})))
    for condition in ("Rows < 5", "Rows < 500"):
        assert refused(service, alice.alter, "/images", add_check=pb.Check(name="c", condition=condition)) == "COLLECTION_FORBIDDEN"


def test_numbers_of_a_sequence_are_given_once(service, loader):
    loader.call("CreateSequence", pb.CreateSequenceRequest(collection="/images", name="Run", start=100, step=5))
    taken = [loader.call("TakeNumbers", pb.TakeNumbersRequest(collection="/images", name="run", count=c)) for c in (1, 3, 1)]
    assert [(t.first, t.step) for t in taken] == [(100, 5), (105, 5), (120, 5)]
    again = pb.CreateSequenceRequest(collection="/images", name="RUN", start=1, step=1)
    assert refused(service, loader.call, "CreateSequence", again) == "SEQUENCE_EXISTS"
    stranger = service.client("alice")
    assert states(loader, "/images") == [("run", 125, 5)]
    assert states(stranger, "/images") == [("run", 0, 0)]
    request = pb.TakeNumbersRequest(collection="/images", name="run", count=1)
    assert refused(service, stranger.call, "TakeNumbers", request) == "COLLECTION_FORBIDDEN"
    loader.call("DropSequence", pb.DropSequenceRequest(collection="/images", name="run"))
    assert refused(service, loader.call, "TakeNumbers", request) == "SEQUENCE_NOT_FOUND"


def states(client, path):
    found = client.call("ListSequences", pb.ListSequencesRequest(collection=path)).sequences
    return [(state.name, state.next, state.step) for state in found]


def test_a_sequence_ends_with_64_bits(service, loader):
    place = {"collection": "/images", "name": "run"}
    loader.call("CreateSequence", pb.CreateSequenceRequest(**place, start=2**62, step=2**31))
    with psycopg.connect(service.conninfo) as connection:
        connection.execute("UPDATE sequence SET next = %s", (2**63 - 2**33,))
    assert refused(service, loader.call, "TakeNumbers", pb.TakeNumbersRequest(**place, count=4)) == "SEQUENCE_EXHAUSTED"
    assert loader.call("TakeNumbers", pb.TakeNumbersRequest(**place, count=3)).first == 2**63 - 2**33


@pytest.mark.parametrize(("start", "step", "further", "back"), [(10, 3, 100, 7), (-10, -3, -100, -7)])
def test_a_sequence_that_is_resumed_never_goes_back(service, loader, start, step, further, back):
    def resume(at, by=step):
        loader.call("CreateSequence", pb.CreateSequenceRequest(collection="/images", name="Run", start=at, step=by, resume=True))
        return states(loader, "/images")

    assert resume(start) == [("run", start, step)]
    assert resume(further) == resume(back) == [("run", further, step)]
    assert refused(service, resume, further, 2 * step) == "SEQUENCE_EXISTS"
    alice = service.client("alice")
    again = pb.CreateSequenceRequest(collection="/images", name="run", start=0, step=step, resume=True)
    assert refused(service, alice.call, "CreateSequence", again) == "COLLECTION_FORBIDDEN"
