"""The mdm command: what it prints, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from mdm.catalog.v1 import catalog_pb2
from mdm.metadata.v1 import metadata_pb2
from mdm_client.cli import main
from mdm_site.pki import DevelopmentCa
from mdm_testing.process import eventually
from mdm_wire.retry import RetryPolicy

STUDY = "/biomed/hospital-a/p1/study"
UNREACHABLE = "127.0.0.1:1"


def mdm(config: Path, *arguments: str) -> Result:
    """Run the command in this process."""
    result = CliRunner().invoke(main, ["--config", str(config), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_whoami_shows_the_subject_as_the_services_write_it(grid):
    config = grid.config()
    result = mdm(config, "whoami")
    assert result.exit_code == 0
    assert "CN=alice,O=MDM Test" in result.stdout
    (facts,) = rows(mdm(config, "whoami", "--json").stdout)
    assert (facts["dn"], facts["expired"], facts["sites"]) == ("CN=alice,O=MDM Test", False, ["hospital-a"])


def test_ls_lists_directories_and_files(grid):
    grid.add(f"{STUDY}/s1/1.dcm", b"one")
    config = grid.config()
    assert mdm(config, "ls", "/biomed/hospital-a/").stdout == "p1/\n"
    assert mdm(config, "ls", "-R", STUDY).stdout == "s1/\ns1/1.dcm\n"
    assert "rlxg" in mdm(config, "ls", "-l", f"{STUDY}/s1").stdout
    (entry,) = rows(mdm(config, "ls", "--json", f"{STUDY}/s1").stdout)
    assert (entry["lfn"], entry["kind"]) == (f"{STUDY}/s1/1.dcm", "file")


def test_stat_shows_what_is_there_and_says_what_is_not(grid):
    image = grid.add(f"{STUDY}/1.dcm", b"one")
    config = grid.config()
    found = mdm(config, "stat", str(image.guid))
    assert found.exit_code == 0
    assert image.lfn in found.stdout
    some = mdm(config, "--json", "stat", image.lfn, "/biomed/none")
    assert some.exit_code == 1
    assert rows(some.stdout)[0]["guid"] == str(image.guid)
    assert rows(some.stderr)[0]["reason"] == "NOT_FOUND"
    assert mdm(config, "stat", "/biomed/none").exit_code == 3


def _answer(grid) -> None:
    grid.metadata.columns = [
        ("guid", metadata_pb2.ATTRIBUTE_TYPE_UUID, ""),
        ("SliceThickness", metadata_pb2.ATTRIBUTE_TYPE_NUMERIC, "mm"),
        ("Rows", metadata_pb2.ATTRIBUTE_TYPE_INT, ""),
        ("burned", metadata_pb2.ATTRIBUTE_TYPE_BOOL, ""),
        ("score", metadata_pb2.ATTRIBUTE_TYPE_FLOAT, ""),
    ]
    column = metadata_pb2.ColumnData
    for guids in ([image.guid for image in grid.catalog.images.values()], [uuid4()]):
        count = len(guids)
        grid.metadata.batches.append(
            metadata_pb2.RowBatch(
                count=count,
                columns=[
                    column(texts=[str(guid) for guid in guids]),
                    column(texts=["2.50"] * count),
                    column(ints=[0] * count, nulls=b"\x01"),
                    column(bools=[True] * count),
                    column(floats=[float("nan")] * count),
                ],
            )
        )


def test_query_prints_json_lines_or_a_table(grid):
    grid.add(f"{STUDY}/1.dcm", b"one")
    _answer(grid)
    config = grid.config()
    first, second = rows(mdm(config, "query", "SELECT guid FROM x", "--json").stdout)
    assert (first["SliceThickness"], first["Rows"], first["burned"], first["score"]) == (2.5, None, True, "NaN")
    assert second["guid"] != first["guid"]
    table = mdm(config, "query", "SELECT guid FROM x").stdout.splitlines()
    assert "SliceThickness (mm)" in table[0]
    assert len(table) == 4


def test_query_refuses_what_is_not_a_select_in_one_line(grid):
    config = grid.config()
    result = mdm(config, "query", "DROP TABLE x")
    assert result.exit_code == 2
    assert result.stderr == "mdm: metadata: Only one SELECT is accepted.\n"
    (error,) = rows(mdm(config, "--json", "query", "DROP TABLE x").stderr)
    assert error["reason"] == "SQL_NOT_SELECT"


def test_get_fetches_files_directories_guids_and_queries(grid, tmp_path):
    one = grid.add(f"{STUDY}/s1/1.dcm", b"one")
    two = grid.add(f"{STUDY}/s2/1.dcm", b"two")
    config = grid.config()
    result = mdm(config, "get", STUDY, "-o", str(tmp_path / "tree"))
    assert result.exit_code == 0, result.stderr
    assert "fetched 2 files" in result.stdout
    assert (tmp_path / "tree/s2/1.dcm").read_bytes() == b"two"
    told = mdm(config, "--json", "get", str(one.guid), two.lfn, "-o", str(tmp_path / "flat"))
    assert sorted(path.name for path in (tmp_path / "flat").iterdir()) == ["1.dcm", f"1~{two.guid}.dcm"]
    assert {row["guid"] for row in rows(told.stdout)} == {str(one.guid), str(two.guid)}


def test_get_by_query_reports_files_that_are_not_there(grid, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one")
    _answer(grid)
    result = mdm(grid.config(), "get", "--query", "SELECT guid FROM x", "-o", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "1 failed" in result.stdout
    assert str(grid.metadata.batches[1].columns[0].texts[0]) in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.dcm"]


def test_a_keystore_that_is_away_is_warned_of_once_and_too_many_are_an_error(grid, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one")
    one_away = mdm(grid.config(a=UNREACHABLE), "get", STUDY, "-o", str(tmp_path / "one"))
    assert one_away.exit_code == 0
    assert len(one_away.stderr.splitlines()) <= 1
    two_away = mdm(grid.config(a=UNREACHABLE, b=UNREACHABLE), "--json", "get", STUDY, "-o", str(tmp_path / "two"), "--timeout", "1")
    assert two_away.exit_code == 4
    assert "keystore a" in rows(two_away.stderr)[-1]["message"]
    assert len(two_away.stderr.splitlines()) <= 3
    assert not (tmp_path / "two").exists()


def test_get_of_what_is_not_there_is_not_found(grid, tmp_path):
    result = mdm(grid.config(), "get", "/biomed/none.dcm", "-o", str(tmp_path / "out"))
    assert result.exit_code == 3
    assert result.stderr.startswith("mdm: /biomed/none.dcm: ")
    assert not (tmp_path / "out").exists()


def _subtree(grid, **shared: bool) -> dict[str, str]:
    ids = {name: str(uuid4()) for name in shared}
    for name, outside in shared.items():
        acl = catalog_pb2.SubtreeAcl(acl_id=ids[name], files=3, directories=1, outside=int(outside))
        grid.catalog.subtree.acls.append(acl)
        for acls in grid.acls.values():
            acls.acls[ids[name]] = {"group:/biomed/neuro": 4}
    return ids


def test_a_grant_acts_on_every_service_and_a_revocation_takes_it_back(grid):
    ids = _subtree(grid, study=False)
    config = grid.config()
    granted = mdm(config, "--json", "acl", "grant", STUDY, "/O=MDM Test/CN=mallory", "rlxg")
    assert granted.exit_code == 0, granted.stderr
    assert {row["service"] for row in rows(granted.stdout)} == {"catalog", "keystore a", "keystore b", "keystore c", "metadata"}
    for acls in grid.acls.values():
        assert acls.acls[ids["study"]]["dn:CN=mallory,O=MDM Test"] == 4 + 16 + 32 + 64
    shown = mdm(config, "acl", "get", STUDY).stdout
    assert "rlxg" in shown
    assert "DIFFERENT" not in shown
    assert mdm(config, "acl", "revoke", STUDY, "dn:CN=mallory,O=MDM Test").exit_code == 0
    assert grid.acls["b"].acls[ids["study"]]["dn:CN=mallory,O=MDM Test"] == 0


def test_short_forms_and_a_new_owner_reach_every_service(grid):
    ids = _subtree(grid, study=False)
    config = grid.config()
    done = mdm(config, "acl", "set", STUDY, "group:/biomed/neuro+x", "authenticated=read", "group:/biomed/neuro-r")
    assert done.exit_code == 0, done.stderr
    for acls in grid.acls.values():
        assert acls.acls[ids["study"]] == {"group:/biomed/neuro": 16, "authenticated": 116}
    assert mdm(config, "chown", "/O=MDM Test/CN=bob", STUDY).exit_code == 0
    assert {acls.owners[ids["study"]] for acls in grid.acls.values()} == {"CN=bob,O=MDM Test"}
    assert mdm(config, "chown", "group:/biomed", STUDY).exit_code == 2


def test_a_grant_that_fails_in_part_says_so_and_can_be_run_again(grid):
    _subtree(grid, study=False)
    config = grid.config()
    grid.acls["b"].failing = 1
    partial = mdm(config, "acl", "grant", STUDY, "group:/biomed/cardio", "r")
    assert partial.exit_code == 1
    assert "keystore b" in partial.stderr
    assert "run it again" in partial.stderr
    assert "DIFFERENT" in mdm(config, "acl", "get", STUDY).stdout
    assert mdm(config, "acl", "grant", STUDY, "group:/biomed/cardio", "r").exit_code == 0


def test_lists_that_reach_beyond_the_target_are_changed_only_when_told(grid):
    ids = _subtree(grid, study=False, site=True)
    config = grid.config()
    assert mdm(config, "acl", "grant", STUDY, "authenticated", "x").exit_code == 0
    assert "authenticated" in grid.acls["a"].acls[ids["study"]]
    assert "authenticated" not in grid.acls["a"].acls[ids["site"]]
    assert mdm(config, "acl", "grant", "--shared", STUDY, "authenticated", "x").exit_code == 0
    assert "authenticated" in grid.acls["a"].acls[ids["site"]]
    del grid.catalog.subtree.acls[0]
    refused = mdm(config, "acl", "grant", STUDY, "authenticated", "x")
    assert (refused.exit_code, "--shared" in refused.stderr) == (2, True)


def test_an_access_list_of_directories_alone_need_not_exist_beside_keys(grid):
    acl_id = str(uuid4())
    grid.catalog.subtree.acls.append(catalog_pb2.SubtreeAcl(acl_id=acl_id, directories=1))
    grid.acls["catalog"].acls[acl_id] = {}
    assert mdm(grid.config(), "acl", "grant", STUDY, "authenticated", "x").exit_code == 0


def test_register_queues_and_waits(grid):
    config = grid.config(grid.pki.issue(grid.pki.subject("operator")))
    result = mdm(config, "register", "--study", "1.2.3", "--wait")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "1.2.3: 3 images queued, 1 under way already\nof these studies: 10 published\n"
    assert grid.registration.watched == {"1.2.3"}
    grid.registration.counts = [{4: 1}, {4: 1, 7: 2}]
    assert mdm(config, "register", "--study", "1.2.3", "--wait").exit_code == 1


def test_registering_is_for_operators(grid):
    result = mdm(grid.config(), "register", "--study", "1.2.3")
    assert result.exit_code == 3
    assert "role" in result.stderr


def test_a_service_that_is_away_is_unavailable(grid, monkeypatch):
    monkeypatch.setattr("mdm_client.client.RetryPolicy", lambda: RetryPolicy(call_seconds=5, retry_seconds=0.3))
    result = mdm(grid.config(catalog=UNREACHABLE), "--json", "stat", "/biomed")
    assert result.exit_code == 4
    (error,) = rows(result.stderr)
    assert error["reason"] == "UNAVAILABLE"
    assert error["message"].startswith("catalog: ")


def test_a_foreign_certificate_is_explained(grid, tmp_path):
    foreign = DevelopmentCa(tmp_path / "foreign").issue("/O=MDM Test/CN=alice")
    config = grid.config(foreign, ca=str(grid.alice.ca))
    result = mdm(config, "stat", "/biomed")
    assert result.exit_code == 5
    assert "refused this certificate" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_server_of_a_foreign_authority_is_explained(grid, tmp_path):
    other = DevelopmentCa(tmp_path / "foreign").certificate_file
    result = mdm(grid.config(ca=str(other)), "stat", "/biomed")
    assert result.exit_code == 5
    assert "not one this client trusts" in result.stderr


def test_an_expired_certificate_is_found_before_anything_is_sent(grid):
    past = datetime.now(UTC) - timedelta(days=1)
    expired = grid.pki.issue(grid.pki.subject("late"), not_before=past - timedelta(days=2), not_after=past)
    config = grid.config(expired, catalog=UNREACHABLE)
    result = mdm(config, "ls")
    assert (result.exit_code, "expired on" in result.stderr) == (5, True)
    shown = mdm(config, "whoami")
    assert (shown.exit_code, "expired" in shown.stdout) == (5, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["get"],
        ["get", "relative/path"],
        ["ls", "/a/../b"],
        ["ls", "/" + "a" * 2000],
        ["acl", "grant", "/biomed", "nobody", "r"],
        ["acl", "grant", "/biomed", "authenticated", "q"],
        ["register", "--study", "not a uid"],
        ["query"],
        ["ls", "--no-such-option"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, grid):
    config = grid.config()
    result = mdm(config, *arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    told = mdm(config, "--json", *arguments)
    assert (told.exit_code, bool(rows(told.stderr)[0]["reason"])) == (2, True)


def test_a_missing_configuration_names_the_file_and_the_remedy(tmp_path):
    result = mdm(tmp_path / "none.toml", "whoami")
    assert result.exit_code == 2
    assert "none.toml" in result.stderr
    assert "--config" in result.stderr


def test_a_defect_is_one_line_too(grid, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("mdm_client.catalog.client.CatalogClient.stat", broken)
    result = mdm(grid.config(), "stat", "/biomed")
    assert result.exit_code == 70
    assert result.stderr.startswith("mdm: a defect in mdm: KeyError")


def test_version_and_completion_need_no_configuration(tmp_path):
    assert mdm(tmp_path, "--version").stdout.startswith("mdm, version ")
    for shell in ("bash", "zsh", "fish"):
        assert "_MDM_COMPLETE" in mdm(tmp_path, "completion", shell).stdout


def test_the_client_drags_no_server_package_and_no_database_driver():
    program = "import sys, mdm_client.cli; print([m for m in sys.modules if m in ('mdm_service', 'psycopg', 'pydantic', 'pydicom')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


def test_the_command_line_program_reads_its_configuration_from_the_environment(grid):
    environment = {**os.environ, "MDM_CONFIG": str(grid.config())}
    command = [sys.executable, "-m", "mdm_client.cli", "ls", "/nowhere"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "mdm: /nowhere: catalog: No such directory, or it is not for you.\n"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_get_aborts_the_request_and_leaves_nothing(sent, code, grid, tmp_path):
    grid.add(f"{STUDY}/1.dcm", b"one", held=True)
    # A process started in the background by a shell ignores SIGINT, and so would its children: continuous integration may be one.
    program = ["env", "--default-signal=INT", sys.executable, "-m", "mdm_client.cli"]
    command = [*program, "--config", str(grid.config()), "get", STUDY, "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: bool(grid.srm.requests))
        time.sleep(0.3)
        process.send_signal(sent)
        _, told = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in told
    assert len(grid.srm.aborted) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("imported", "told"), [("click", ""), ("mdm_client.cli.catalog.listing", "mdm: interrupted\n")])
def test_an_interrupt_while_modules_are_imported_ends_the_command_without_a_traceback(imported, told, grid):
    program = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {imported!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from mdm_client.cli import main\n"
        f"main(['--config', {str(grid.config())!r}, 'ls', '/'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told)


@pytest.mark.parametrize("group", ["", "key"])
def test_every_command_that_the_help_lists_is_there(group, tmp_path):
    words = [group] if group else []
    listed = mdm(tmp_path, *words, "--help").stdout.split("Commands:")[1].splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "]
    assert len(names) >= 9
    for name in names:
        assert mdm(tmp_path, *words, name, "--help").exit_code == 0, name


def test_the_help_is_there_before_the_sdk_is_imported():
    program = (
        "import sys, click.testing; from mdm_client.cli import main\n"
        "click.testing.CliRunner().invoke(main, ['--help'])\n"
        "print([m for m in sys.modules if m in ('grpc', 'cryptography', 'google.protobuf', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("group", [[], ["key"], ["acl"]])
def test_a_group_without_a_command_shows_its_help(group, tmp_path):
    shown = CliRunner().invoke(main, group)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "Commands:\n" in shown.stderr
    told = CliRunner().invoke(main, [*group, "--json"])
    assert (told.exit_code, rows(told.stderr)[0]["reason"]) == (2, "USAGE")
