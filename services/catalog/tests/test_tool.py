"""mdm-catalog export, import and fsck."""

import json
import uuid

import psycopg
import pytest
from mdm.catalog.v1 import catalog_pb2 as pb
from mdm_catalog.__main__ import MIGRATIONS
from mdm_catalog.store.store import PostgresStore
from mdm_catalog.tool import command as tool
from mdm_service.access.acl import ROOT_ACL_ID, Acl
from mdm_service.database import migrate, open_pool

pytestmark = pytest.mark.integration
BASE = "/biomed/hospital-a/p/study"


@pytest.fixture
def configured(catalog, pki, tmp_path):
    """Return a configuration file for a database."""

    def write(conninfo):
        file = tmp_path / f"{uuid.uuid4().hex}.toml"
        tls = pki.issue(pki.subject("catalog"))
        file.write_text(
            f'[listen]\nport = 7001\n[tls]\ncertificate = "{tls.certificate}"\nkey = "{tls.key}"\nca = "{tls.ca}"\n'
            f'[[trust.ca]]\ncertificate = "{tls.ca}"\nnamespaces = ["{pki.namespace}"]\n'
            f'[database]\nconninfo = "{conninfo}"\n[root]\nowner = "{pki.subject("operator")}"\n'
        )
        return file

    return write


@pytest.fixture
def empty(database, pki):
    """A migrated catalog with nothing but its root; its connection string."""
    from mdm_service.settings import DatabaseSettings

    migrate(database.conninfo, MIGRATIONS)
    with open_pool(DatabaseSettings(conninfo=database.conninfo, pool_min=1, pool_max=1)) as pool:
        PostgresStore(pool).ensure_root(Acl(ROOT_ACL_ID, pki.subject("operator")))
    return database.conninfo


@pytest.fixture
def tree(catalog, study, new_file):
    """A tree with everything that an entry can have."""
    srm = catalog.dicom_srm
    copy = pb.Replica(surl="srm://copy/1", status=pb.REPLICA_STATUS_POPULATING, type=pb.REPLICA_TYPE_SECONDARY, set_name="s")
    assert srm.register(new_file(f"{BASE}/1/Ü ☃", size=7, sha256=b"d" * 32, comment="c", replicas=[copy])) == [""]
    assert srm.catalog.MakeLinks(pb.MakeLinksRequest(links=[pb.NewLink(lfn=f"{BASE}/l", target="../x")])).statuses[0].code == 0
    assert srm.mkdir(f"{BASE}/3", acl=srm.new_acl(alice="lxg"), default=srm.new_acl(bob="r")) == [""]
    change = pb.ReplicaChange(surl="srm://copy/1", accesses=3)
    assert srm.catalog.ChangeReplicas(pb.ChangeReplicasRequest(changes=[change])).statuses[0].code == 0
    return catalog


_ALL = """
SELECT e.name, p.name, e.kind, e.guid, e.size, e.sha256, e.comment, e.acl_id, e.default_acl_id, e.create_time, e.modify_time, e.rev, e.link,
       e.access_time, a.owner, (SELECT array_agg((principal, permissions)::text ORDER BY 1) FROM acl_entry WHERE acl_id = a.id)
FROM entry e JOIN entry p ON p.id = e.parent_id JOIN acl a ON a.id = e.acl_id WHERE e.id <> 0 ORDER BY e.name, p.name
"""
_REPLICAS = "SELECT surl, status, host, type, set_name, create_time, access_time, access_count, rev FROM replica ORDER BY surl"


def _content(conninfo):
    with psycopg.connect(conninfo) as connection:
        return connection.execute(_ALL).fetchall(), connection.execute(_REPLICAS).fetchall()


def _run(*arguments):
    return tool.run([str(argument) for argument in arguments], MIGRATIONS)


def _lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_export_imports_into_an_empty_catalog_as_it_was(tree, empty, configured, tmp_path):
    out = tmp_path / "export.jsonl"
    assert _run("export", "--config", configured(tree.conninfo), "--out", out) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert (lines[0]["type"], lines[-1]) == ("catalog", {"type": "end", "entries": 13})
    target = configured(empty)
    assert _run("import", "--config", target, "--from", out) == 0
    assert _content(empty) == _content(tree.conninfo)
    assert _run("import", "--config", target, "--from", out) == 0, "repeating it is harmless"
    assert _content(empty) == _content(tree.conninfo)
    assert _run("fsck", "--config", target) == 0


def test_an_export_that_broke_off_anywhere_is_resumed(tree, empty, configured, tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    source = configured(tree.conninfo)
    assert _run("export", "--config", source, "--out", whole) == 0
    content = whole.read_bytes()
    entries = {line for line in content.splitlines() if b'"lfn"' in line}
    for end in range(1, len(content), 211):
        part.write_bytes(content[:end])
        assert _run("export", "--config", source, "--out", part, "--resume") == 0
        assert [line for line in part.read_bytes().splitlines() if b'"lfn"' in line] == sorted(entries, key=content.index)
    assert _run("import", "--config", configured(empty), "--from", part) == 0
    assert _content(empty) == _content(tree.conninfo)


def test_an_import_names_the_lines_that_do_not_fit_and_does_the_rest(tree, empty, configured, tmp_path, capsys):
    out = tmp_path / "export.jsonl"
    assert _run("export", "--config", configured(tree.conninfo), "--out", out) == 0
    lines = out.read_text().splitlines()
    file = next(json.loads(line) for line in lines if '"type": "file"' in line)
    wrong = [
        "no json",
        '{"type": "file", "lfn": "relative"}',
        json.dumps({**file, "lfn": "/none/f"}),
        json.dumps({**file, "lfn": "/biomed/again", "replicas": []}),
        json.dumps({**file, "guid": str(uuid.uuid4()), "lfn": "/biomed/other"}),
    ]
    out.write_text("\n".join([*lines, *wrong, ""]))
    target = configured(empty)
    capsys.readouterr()
    assert _run("import", "--config", target, "--from", out) == 1
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "reason" in line]
    first = len(lines) + 1
    assert {fields["line"]: fields["reason"] for fields in told} == {
        first: "LINE_MALFORMED",
        first + 1: "LFN_INVALID",
        first + 2: "DIRECTORY_MISSING",
        first + 3: "GUID_TAKEN",
        first + 4: "SURL_TAKEN",
    }
    assert _run("import", "--config", target, "--from", out, "--skip", len(lines) + len(wrong)) == 0
    out.write_text('{"type": "catalog", "version": 9}\n')
    assert _run("import", "--config", target, "--from", out) == 2


def test_fsck_finds_what_is_wrong_in_the_catalog_alone_and_repairs_its_sums(tree, configured, capsys):
    config = configured(tree.conninfo)
    with psycopg.connect(tree.conninfo) as connection:
        connection.execute("UPDATE directory_content SET files = files + 1 WHERE files > 0")
        without = str(connection.execute("SELECT guid FROM entry WHERE name = '1.dcm' ORDER BY id LIMIT 1").fetchone()[0])
        connection.execute("DELETE FROM replica USING entry e WHERE e.id = entry_id AND e.guid = %s", (without,))
    capsys.readouterr()
    arguments = ("fsck", "--config", config, "--min-age", "0")
    assert _run(*arguments) == 1
    found = {(line["problem"], line.get("guid") or line.get("surl")) for line in _lines(capsys)}
    assert found == {("miscounted-directory", None), ("file-without-replica", without), ("unfinished-replica", "srm://copy/1")}
    assert _run("fsck", "--config", config) == 1
    assert "unfinished-replica" not in {line["problem"] for line in _lines(capsys)}, "what is young may still be under way"
    _run(*arguments, "--repair")
    assert {line["problem"] for line in _lines(capsys) if line["repaired"]} == {"miscounted-directory"}
    assert _run(*arguments) == 1
    assert "miscounted-directory" not in {line["problem"] for line in _lines(capsys)}


def test_what_cannot_be_used_is_one_line(configured, tmp_path, capsys, catalog):
    config = configured(catalog.conninfo)
    assert _run("export", "--config", config, "--out", tmp_path / "no" / "where") == 2
    assert _run("fsck", "--config", tmp_path / "absent.toml") == 2
