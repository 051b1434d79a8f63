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
    assert mdm("acl", "revoke", "/vo/images", f"dn:{pki.subject('bob')}").exit_code == 0
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


@pytest.mark.parametrize(
    "line",
    [
        '{"mdm_dump": 3, "collection": {"path": "/vo", "attributes": []}}',
        '{"mdm_dump": 2, "collection": {"path": "/vo"}}',
        '{"mdm_dump": 2, "collection": {"path": "/vo", "attributes": [], "checks": 5}}',
        '{"entry": "x", "values": {}}',
        '{"acl": 5}',
        "[]",
    ],
)
def test_a_file_that_is_no_dump_is_told_by_line(sites, pki, tmp_path, line):
    file = tmp_path / "bad.jsonl"
    file.write_text(line + "\n")
    done = command(sites[1], pki, "loader", tmp_path)("load", "/bad", str(file), "--create")
    assert (done.exit_code, json.loads(done.stderr)["reason"]) == (2, "DUMP_MALFORMED")
