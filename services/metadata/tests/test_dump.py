"""What is dumped at one site and loaded at another: entries, constraints, and who may do what."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mdm.metadata.v1 import metadata_pb2 as pb
from mdm_client.cli import main

from .commandline import configuration
from .conftest import Failed, attribute, entry
from .test_replication import Site

pytestmark = pytest.mark.integration

DELETE, READ, WRITE, LIST, GET, ALL = 2, 4, 8, 32, 64, 255
Run = Callable[..., Any]


@pytest.fixture
def sites(postgres: Any, pki: Any) -> Iterator[tuple[Site, Site]]:
    """`here`, which has `/vo` with two collections of alice's, one referring to the other, and `there`, which has nothing."""
    with ExitStack() as stack:
        here, there = (Site(name, postgres, pki, stack) for name in ("here", "there"))
        loader, alice = here.client("loader"), here.client("alice")
        dn = {name: f"dn:{pki.subject(name)}" for name in ("alice", "bob", "mallory")}
        open_list = loader.acl({dn["alice"]: ALL})
        loader.create(pb.Collection(path="/vo", acl_id=open_list, default_acl_id=open_list))
        hers = alice.acl({dn["bob"]: READ | LIST, "group:/vo/neuro": READ})
        closed, extra = alice.acl({}), alice.acl({dn["mallory"]: READ})
        attributes = [attribute("n", "INT", indexed=True), attribute("study", "TEXT", indexed=True), attribute("code", "TEXT", unique=True)]
        alice.create(
            pb.Collection(path="/vo/studies", acl_id=hers, default_acl_id=hers, attributes=[attribute("name", "TEXT", not_null=True)]),
            pb.Collection(path="/vo/images", acl_id=hers, default_acl_id=closed, attributes=attributes, min_cell=3),
        )
        alice.upsert("/vo/studies", entry("s1", name="one"), entry("s2", extra, name="two"))
        alice.upsert("/vo/images", *(entry(f"i{n}", ("", hers)[n % 2], n=n, study=f"s{n % 2 + 1}", code=f"c{n}") for n in range(6)))
        alice.alter("/vo/images", change_attribute=pb.AttributeChange(name="study", references="/vo/studies"))
        alice.alter("/vo/images", add_check=pb.Check(name="positive", condition="n >= 0"))
        yield here, there


def command(site: Site, pki: Any, user: str, folder: Path) -> Run:
    path = configuration(pki, user, site.port, folder)
    return lambda *arguments: CliRunner().invoke(main, ["--config", str(path), "--json", "meta", *arguments])


def seen(site: Site, user: str, path: str) -> Any:
    try:
        return site.client(user).rows(f'SELECT entry, entry_acl FROM "{path}" ORDER BY entry')
    except Failed as error:
        return error.reason


def schema(site: Site, path: str) -> pb.Collection:
    found = site.client("alice").describe(path)
    found.path = ""
    for item in found.attributes:
        item.references = item.references.rpartition("/")[2]
    return found


def test_a_dump_loads_at_another_site_with_the_same_rights(sites, pki, tmp_path):
    here, there = sites
    file = tmp_path / "vo.jsonl"
    done = command(here, pki, "alice", tmp_path)("dump", "/vo", "-R", "-o", str(file))
    assert (done.exit_code, done.stderr) == (0, "")
    lists = [line for line in map(json.loads, file.read_text().splitlines()) if "acl" in line]
    assert {line["owner"] for line in lists} == {pki.subject("alice"), pki.subject("loader")}
    load = command(there, pki, "loader", tmp_path)
    done = load("load", "/vo", str(file), "--create")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"stored": 8, "failed": 0}), done.output
    for path in ("/vo/studies", "/vo/images"):
        for user in ("alice", "bob", "mallory", "loader"):
            assert seen(there, user, path) == seen(here, user, path), (user, path)
        assert schema(there, path) == schema(here, path)
    ids = [line["acl"] for line in lists]
    mine = command(here, pki, "alice", tmp_path)("acl", "get", "/vo/images").stdout
    assert command(there, pki, "alice", tmp_path)("acl", "get", "/vo/images").stdout == mine
    assert len(ids) == len(set(ids)) == 4


def test_a_list_that_is_there_stays_as_it_is_so_that_a_load_undoes_no_revocation(sites, pki, tmp_path):
    here, _ = sites
    file, mdm = tmp_path / "vo.jsonl", command(here, pki, "alice", tmp_path)
    mdm("dump", "/vo/images", "-o", str(file))
    assert mdm("acl", "revoke", "/vo/images", f"dn:{pki.subject('bob')}", "--shared").exit_code == 0
    assert mdm("load", "/vo/images", str(file)).exit_code == 0
    assert mdm("load", "/vo/copy", str(file), "--create").exit_code == 0
    assert seen(here, "bob", "/vo/copy") == seen(here, "bob", "/vo/images") == "COLLECTION_NOT_FOUND"
    assert seen(here, "alice", "/vo/copy") == seen(here, "alice", "/vo/images")


def test_the_list_of_the_root_becomes_another_at_another_site(sites, pki, tmp_path):
    here, there = sites
    file = tmp_path / "root.jsonl"
    loader = here.client("loader")
    loader.create(pb.Collection(path="/plain", attributes=[attribute("n", "INT")]))
    loader.upsert("/plain", entry("a", n=1))
    command(here, pki, "loader", tmp_path)("dump", "/plain", "-o", str(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["owner"], lines[0]["entries"] = pki.subject("bob"), {f"dn:{pki.subject('alice')}": "r"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command(there, pki, "loader", tmp_path)("load", "/plain", str(file), "--create").exit_code == 0
    ((key, acl_id),) = seen(there, "alice", "/plain")
    assert key == "a"
    assert acl_id != lines[0]["acl"]
    assert seen(there, "loader", "/plain") == "COLLECTION_NOT_FOUND"


def test_a_load_that_did_not_end_is_the_loaders_alone_and_is_repeated(sites, pki, tmp_path):
    here, there = sites
    file = tmp_path / "vo.jsonl"
    command(here, pki, "alice", tmp_path)("dump", "/vo", "-R", "-o", str(file))
    whole = file.read_text()
    file.write_text(whole.replace('"n": 3', '"n": "three"'))
    load = command(there, pki, "loader", tmp_path)
    done = load("load", "/new", str(file), "--create")
    assert done.exit_code == 1
    assert [json.loads(line)["reason"] for line in done.stderr.splitlines()] == ["VALUE_TYPE", "LOAD_UNFINISHED"]
    assert seen(there, "bob", "/new/images") == "COLLECTION_NOT_FOUND"
    file.write_text(whole)
    done = load("load", "/new", str(file), "--create")
    assert done.exit_code == 0, done.output
    assert [key for key, _ in seen(there, "bob", "/new/images")] == ["i1", "i3", "i5"]
    (study,) = (a.references for a in there.client("alice").describe("/new/images").attributes if a.name == "study")
    assert study == "/new/studies"


def test_who_may_not_see_the_lists_dumps_ids_and_is_told(sites, pki, tmp_path):
    here, there = sites
    file = tmp_path / "vo.jsonl"
    done = command(here, pki, "bob", tmp_path)("dump", "/vo/images", "-o", str(file))
    assert done.exit_code == 0
    assert json.loads(done.stderr)["reason"] == "ACLS_LEFT_OUT"
    done = command(there, pki, "loader", tmp_path)("load", "/images", str(file), "--create")
    assert {json.loads(line)["reason"] for line in done.stderr.splitlines()} == {"ACL_NOT_FOUND", "LOAD_UNFINISHED"}
    done = command(there, pki, "loader", tmp_path)("load", "/other", str(file), "--create", "--default-acl")
    assert json.loads(done.stdout) == {"stored": 3, "failed": 0}, done.output


HEAD = '{"mdm_dump": 3, "collection": {"path": "/vo", "attributes": []}}'
END = '{"mdm_dump": 3, "end": true}'


def described(**facts: Any) -> str:
    return json.dumps({"mdm_dump": 3, "collection": {"path": "/vo", "attributes": [], **facts}})


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (['{"mdm_dump": 4, "collection": {"path": "/vo", "attributes": []}}'], 1),
        (['{"mdm_dump": 2, "collection": {"path": "/vo"}}'], 1),
        ([described(checks=5), END], 1),
        ([described(attributes=[{"name": "n", "type": "blob"}]), END], 1),
        ([described(attributes=[{"name": 5, "type": "int"}]), END], 1),
        ([described(min_cell=2**40), END], 1),
        (['{"entry": "x", "values": {}}', END], 1),
        (['{"acl": 5}', END], 1),
        (['{"acl": "5", "entries": {}}', END], 1),
        (['{"acl": "00000000-0000-4000-8000-000000000009", "entries": {"nobody": "r"}}', END], 1),
        (["[]", END], 1),
        ([HEAD, HEAD[:-9], END], 2),
        ([HEAD, '{"surprise": 1}', END], 2),
        ([HEAD, '{"sequence": "run", "path": "/vo"}', END], 2),
        ([HEAD, '{"sequence": "run", "path": "/elsewhere", "next": 1, "step": 1}', END], 2),
        ([HEAD, '{"entry": "x", "values": {"n": [1]}}', END], 2),
        ([HEAD, '{"entry": "x", "values": {"n": 99999999999999999999}}', END], 2),
        ([HEAD, '{"entry": "\\ud800", "values": {}}', END], 2),
        ([HEAD, "[" * 100_000, END], 2),
        ([HEAD, described(path="/other"), END], 2),
        ([HEAD, END, HEAD], 3),
        ([HEAD], 1),
        ([HEAD, '{"entry": "x", "values": {}}'], 2),
        ([], 0),
    ],
)
def test_a_file_that_is_no_whole_dump_is_told_by_line(sites, pki, tmp_path, lines, number):
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(line + "\n" for line in lines))
    done = command(sites[1], pki, "loader", tmp_path)("load", "/bad", str(file), "--create")
    told = json.loads(done.stderr)
    assert (done.exit_code, told["reason"]) == (2, "DUMP_MALFORMED")
    assert f"line {number} " in told["message"]


def test_a_dump_of_the_version_before_is_read_but_its_views_did_not_say_enough(sites, pki, tmp_path):
    there = sites[1]
    head, view = (json.loads(line) | {"mdm_dump": 2} for line in (HEAD, described(path="/vo/v", target="/vo", definer="CN=x")))
    head["collection"]["attributes"] = [{"name": "n", "type": "int"}]
    file = tmp_path / "old.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (head, {"entry": "x", "values": {"n": 1}}, view)))
    done = command(there, pki, "loader", tmp_path)("load", "/old", str(file), "--create", "--default-acl")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"stored": 1, "failed": 0})
    assert rows(there, "loader", "/old/v") == "COLLECTION_NOT_FOUND"


def test_what_the_service_refuses_is_told_with_the_line(sites, pki, tmp_path):
    file = tmp_path / "vo.jsonl"
    file.write_text(f"{HEAD}\n{END}\n")
    done = command(sites[1], pki, "loader", tmp_path)("load", "/no/parent", str(file), "--create")
    told = json.loads(done.stderr)
    assert (done.exit_code, told["reason"]) == (3, "PARENT_NOT_FOUND")
    assert "line 1: /no/parent: " in told["message"]


def test_bytes_that_are_no_text_are_told_by_line(sites, pki, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(HEAD.encode() + b'\n{"entry": "\xff", "values": {}}\n')
    done = command(sites[1], pki, "loader", tmp_path)("load", "/bad", str(file), "--create")
    assert "line 2 " in json.loads(done.stderr)["message"]


@pytest.fixture
def shown(sites: tuple[Site, Site], pki: Any) -> tuple[Site, Site]:
    """`here` has sequences too, and in `/vo/views` a view for bob and a link; alice may make collections in `/vo` of both sites."""
    here, there = sites
    alice, loader = here.client("alice"), there.client("loader")
    bobs = alice.acl({f"dn:{pki.subject('bob')}": READ | LIST})
    alice.create(pb.Collection(path="/vo/views", acl_id=bobs, default_acl_id=bobs))
    view = {"path": "/vo/views/odd", "target": "/vo/images", "attributes": {"number": "n", "": "study"}, "condition": "n > 1"}
    assert alice.view(**view, with_key=True, acl_id=bobs) == ""
    assert alice.view(path="/vo/views/link", target="/vo/studies", is_link=True, acl_id=bobs) == ""
    for name, start, step in (("run", 100, 5), ("down", -1, -1)):
        alice.call("CreateSequence", pb.CreateSequenceRequest(collection="/vo/images", name=name, start=start, step=step))
    take(alice, "/vo/images", "run", 3)
    theirs = loader.acl({f"dn:{pki.subject('alice')}": ALL})
    loader.create(pb.Collection(path="/vo", acl_id=theirs, default_acl_id=theirs))
    return here, there


def take(client: Any, path: str, name: str, count: int = 1) -> tuple[int, int]:
    taken = client.call("TakeNumbers", pb.TakeNumbersRequest(collection=path, name=name, count=count))
    return taken.first, taken.step


def reasons(done: Any) -> list[tuple[str, str]]:
    """What a command told: what each error is about, and its reason."""
    return [(told.get("item", ""), told["reason"]) for told in map(json.loads, done.stderr.splitlines())]


def test_sequences_go_on_where_they_were(shown, pki, tmp_path):
    here, there = shown
    file = tmp_path / "vo.jsonl"
    assert command(here, pki, "alice", tmp_path)("dump", "/vo", "-R", "-o", str(file)).exit_code == 0
    kinds = ["sequence" if "sequence" in line else "entry" for line in map(json.loads, file.read_text().splitlines()) if len(line) > 2]
    assert kinds.index("sequence") > max(index for index, kind in enumerate(kinds) if kind == "entry")
    load = command(there, pki, "alice", tmp_path)
    assert reasons(load("load", "/vo/copy", str(file), "--create")) == []
    alice = there.client("alice")
    assert (take(alice, "/vo/copy/images", "run", 2), take(alice, "/vo/copy/images", "DOWN")) == ((115, 5), (-1, -1))
    assert reasons(load("load", "/vo/copy", str(file), "--create")) == []
    assert (take(alice, "/vo/copy/images", "run"), take(alice, "/vo/copy/images", "down")) == ((125, 5), (-2, -1))


def test_a_sequence_with_another_step_is_told_and_the_rest_is_loaded(shown, pki, tmp_path):
    here, there = shown
    file = tmp_path / "vo.jsonl"
    command(here, pki, "alice", tmp_path)("dump", "/vo", "-R", "-o", str(file))
    load, alice = command(there, pki, "alice", tmp_path), there.client("alice")
    load("load", "/vo/copy", str(file), "--create")
    alice.call("DropSequence", pb.DropSequenceRequest(collection="/vo/copy/images", name="run"))
    alice.call("CreateSequence", pb.CreateSequenceRequest(collection="/vo/copy/images", name="run", start=0, step=7))
    alice.call("DropCollections", pb.DropCollectionsRequest(paths=["/vo/copy/views/odd"]))
    done = load("load", "/vo/copy", str(file), "--create")
    assert (done.exit_code, reasons(done)) == (1, [("/vo/copy/images", "SEQUENCE_EXISTS")])
    assert len(seen(there, "bob", "/vo/copy/views/odd")) == 4


def test_where_sequences_are_is_dumped_by_those_who_may_take_numbers(shown, pki, tmp_path):
    here, _ = shown
    file = tmp_path / "images.jsonl"
    done = command(here, pki, "bob", tmp_path)("dump", "/vo/images", "-o", str(file))
    assert (done.exit_code, reasons(done)) == (0, [("", "ACLS_LEFT_OUT"), ("", "SEQUENCES_LEFT_OUT")])
    assert not any("sequence" in line for line in map(json.loads, file.read_text().splitlines()))


def test_views_and_links_show_at_another_site_what_they_showed(shown, pki, tmp_path):
    here, there = shown
    file = tmp_path / "vo.jsonl"
    command(here, pki, "alice", tmp_path)("dump", "/vo", "-R", "-o", str(file))
    assert reasons(command(there, pki, "alice", tmp_path)("load", "/vo/copy", str(file), "--create")) == []
    for user in ("alice", "bob", "mallory"):
        for name in ("odd", "link"):
            before, after = (rows(site, user, f"{path}/views/{name}") for site, path in ((here, "/vo"), (there, "/vo/copy")))
            assert after == before, (user, name)
    assert rows(there, "bob", "/vo/copy/views/odd") == [("i2", 2, "s1"), ("i3", 3, "s2"), ("i4", 4, "s1"), ("i5", 5, "s2")]
    view = there.client("bob").describe("/vo/copy/views/odd").view
    assert (view.target, view.definer, view.condition, view.withheld) == ("/vo/copy/images", pki.subject("alice"), "", True)
    assert there.client("alice").describe("/vo/copy/views/odd").view.condition == "n > 1"


def test_a_view_is_dumped_by_those_who_are_told_its_condition(shown, pki, tmp_path):
    """Without the condition it would show more where it is loaded."""
    here, _ = shown
    file = tmp_path / "views.jsonl"
    done = command(here, pki, "bob", tmp_path)("dump", "/vo/views", "-R", "-o", str(file))
    assert ("", "VIEWS_LEFT_OUT") in reasons(done)
    assert not any("odd" in line for line in file.read_text().splitlines())


def rows(site: Site, user: str, path: str) -> Any:
    try:
        return site.client(user).rows(f'SELECT * FROM "{path}" ORDER BY 1')
    except Failed as error:
        return error.reason


def test_a_view_shows_what_its_loader_may_read(shown, pki, tmp_path):
    here, there = shown
    file = tmp_path / "vo.jsonl"
    command(here, pki, "alice", tmp_path)("dump", "/vo", "-R", "-o", str(file))
    load = command(there, pki, "loader", tmp_path)
    done = load("load", "/copy", str(file), "--create")
    assert (done.exit_code, reasons(done)) == (1, [("/copy/views/odd", "VIEW_SHOWS_NOTHING")])
    assert rows(there, "bob", "/copy/views/odd") == "COLLECTION_NOT_FOUND"
    assert len(rows(there, "bob", "/copy/views/link")) == len(rows(here, "bob", "/vo/views/link")) == 1
    command(there, pki, "alice", tmp_path)("acl", "grant", "/copy/images", f"dn:{pki.subject('loader')}", "r", "--shared")
    assert rows(there, "bob", "/copy/views/odd") == [("i3", 3, "s2"), ("i5", 5, "s2")]  # the others have a list of their own


def test_a_view_whose_target_is_not_there_is_told_and_made_once_it_is(shown, pki, tmp_path):
    here, there = shown
    views, images = tmp_path / "views.jsonl", tmp_path / "images.jsonl"
    mdm = command(here, pki, "alice", tmp_path)
    mdm("dump", "/vo/views", "-R", "-o", str(views))
    mdm("dump", "/vo/images", "-o", str(images))
    load = command(there, pki, "alice", tmp_path)
    there.client("alice").create(pb.Collection(path="/vo/studies", attributes=[attribute("name", "TEXT")]))
    done = load("load", "/vo/shown", str(views), "--create")
    assert (done.exit_code, reasons(done)) == (1, [("/vo/shown/odd", "TARGET_NOT_FOUND")])
    assert "/vo/images" in json.loads(done.stderr)["message"]
    assert rows(there, "alice", "/vo/shown/link") == []
    assert there.client("alice").describe("/vo/shown/link").view.is_link
    without = images.read_text().replace('"references": "/vo/studies"', '"references": ""')
    images.write_text(without)
    assert reasons(load("load", "/vo/images", str(images), "--create")) == []
    assert reasons(load("load", "/vo/shown", str(views), "--create")) == []
    assert rows(there, "bob", "/vo/shown/odd") == rows(here, "bob", "/vo/views/odd")


def test_something_else_in_the_place_of_a_view_is_told(shown, pki, tmp_path):
    here, there = shown
    file = tmp_path / "views.jsonl"
    command(here, pki, "alice", tmp_path)("dump", "/vo/views/link", "-o", str(file))
    alice = there.client("alice")
    alice.create(pb.Collection(path="/vo/studies"), pb.Collection(path="/vo/taken"))
    done = command(there, pki, "alice", tmp_path)("load", "/vo/taken", str(file), "--create")
    assert (done.exit_code, reasons(done)) == (1, [("/vo/taken", "COLLECTION_EXISTS")])
    assert reasons(command(there, pki, "alice", tmp_path)("load", "/vo/free", str(file), "--create")) == []
