"""The catalog through the mdm command: making, linking, moving, finding, summing up and removing names."""

import pytest
from mdm_testing.image import make_image
from mdm_testing.stack import Mdm

pytestmark = pytest.mark.e2e

TOP = "/biomed-e2e"


@pytest.fixture
def top(mdm: Mdm):
    """A directory of the operator's, removed afterwards."""
    made = mdm("operator", "mkdir", "-p", TOP)
    assert made.code == 0, made.err
    yield TOP
    assert mdm("operator", "rm", "-r", "-f", TOP).code == 0


def _names(mdm: Mdm, *arguments: str) -> list[str]:
    result = mdm("operator", *arguments)
    assert result.code == 0, result.err
    return result.out.splitlines()


def test_directories_links_and_comments(top, mdm):
    assert mdm("operator", "mkdir", "-p", f"{top}/a/b/c", f"{top}/Ünïcode ☃").code == 0
    assert mdm("operator", "ln", "-s", "a/b", f"{top}/short").code == 0
    assert _names(mdm, "ls", top) == ["a/", "short@", "Ünïcode ☃/"]
    assert _names(mdm, "ls", f"{top}/short") == ["c/"]
    assert mdm("mallory", "ls", "-d", "/").out == "/\n", "that there is a root is no secret"
    several = mdm("operator", "ls", f"{top}/a", f"{top}/none", f"{top}/short")
    assert (several.code, several.out) == (1, f"{top}/a:\nb/\n\n{top}/none:\n\n{top}/short:\nc/\n")
    assert several.err.startswith(f"mdm: {top}/none: ")
    assert mdm("operator", "comment", f"{top}/a", "what is in it").code == 0
    assert _names(mdm, "comment", f"{top}/a") == ["what is in it"]
    assert _names(mdm, "ls", "-d", "--comment", f"{top}/a") == [f"{top}/a/  # what is in it"]
    assert mdm("operator", "--json", "stat", "-P", f"{top}/short").rows()[0]["link_target"] == "a/b"
    looped = mdm("operator", "ln", "loop", f"{top}/loop"), mdm("operator", "stat", f"{top}/loop/x")
    assert (looped[0].code, looped[1].code, "symbolic links" in looped[1].err) == (0, 2, True)


def test_moving_finding_summing_up_and_removing(top, mdm):
    assert mdm("operator", "mkdir", "-p", f"{top}/old/1/x", f"{top}/old/2", f"{top}/new").code == 0
    assert mdm("operator", "mv", "-v", f"{top}/old", f"{top}/new").out == f"moved {top}/old\n"
    assert _names(mdm, "find", top, "-name", "[12x]") == [f"{top}/new/old/{name}" for name in ("1", "1/x", "2")]
    assert mdm("operator", "mv", f"{top}/new", f"{top}/new/old/1").code == 2
    assert mdm("operator", "--json", "du", top).rows()[0]["directories"] == 5
    assert mdm("operator", "rmdir", f"{top}/new/old/1").code != 0
    assert mdm("operator", "rmdir", f"{top}/new/old/1", f"{top}/new/old/1/x").code == 0
    assert mdm("operator", "mkdir", "-p", f"{top}/x/y/z").code == 0
    removed = mdm("operator", "rmdir", "-p", "-v", f"{top}/x/y/z").out.splitlines()
    assert removed == [f"removed {top}/{name}" for name in ("x/y/z", "x/y", "x")], "the top is not empty"
    assert mdm("operator", "rm", "-r", "-i", f"{top}/new").code == 0, "without an answer it stays"
    assert mdm("operator", "ln", "2", f"{top}/new/old/link.tmp").code == 0
    assert mdm("operator", "rm", "--name", "*.tmp", "-n", top).out == f"{top}/new/old/link.tmp\n"
    assert mdm("operator", "rm", "--name", "*.tmp", top).code == 0
    assert _names(mdm, "ls", "-R", top) == ["new/", "new/old/", "new/old/2/"]


def test_others_may_not_change_what_is_not_theirs_nor_learn_that_it_exists(top, mdm):
    assert mdm("operator", "mkdir", f"{top}/secret").code == 0
    for command in (
        ("mv", f"{top}/secret", f"{top}/mine"),
        ("rm", "-r", f"{top}/secret"),
        ("du", f"{top}/secret"),
        ("find", f"{top}/secret"),
    ):
        refused = mdm("mallory", *command)
        absent = mdm("mallory", *(part.replace("secret", "absent") for part in command))
        assert refused.code == absent.code == 3
        assert refused.err.replace("secret", "absent") == absent.err


def test_copies_of_a_file_are_added_changed_listed_and_forgotten(stack, mdm, tmp_path):
    image = make_image(tmp_path / "image.dcm", "CT_small.dcm")
    stack.store(image.path)
    [row] = mdm.registered(image.patient_id)
    owner, study = "alice", "/".join(row["lfn"].split("/")[:5])
    alice = f"dn:{mdm('alice', '--json', 'whoami').rows()[0]['dn']}"
    assert mdm(owner, "replica", "add", row["lfn"], "srm://copy.example/1").code == 3, "readers do not write"
    assert mdm(owner, "acl", "grant", study, alice, "w").code == 0
    copy = "srm://copy.example/1"
    assert mdm(owner, "replica", "add", row["lfn"], copy, "--status", "populating", "--type", "secondary", "--set", "s").code == 0
    assert mdm(owner, "replica", "set", copy, "--status", "available", "--if-rev", "1").code == 0
    assert mdm(owner, "replica", "set", copy, "--status", "available", "--if-rev", "1").code == 4
    shown = mdm(owner, "--json", "replica", "ls", row["lfn"]).rows()[1]
    assert (shown["surl"], shown["status"], shown["type"], shown["set"], shown["host"]) == (
        copy,
        "available",
        "secondary",
        "s",
        "copy.example",
    )
    assert mdm(owner, "replica", "ls", "--set", "s").out == f"{copy}\n"
    assert mdm("mallory", "replica", "ls", row["lfn"]).code == 3
    assert mdm(owner, "replica", "rm", copy).code == 0
    assert len(mdm(owner, "replica", "ls", row["lfn"]).out.splitlines()) == 1


def test_rights_of_a_directory_are_set_in_short_forms_reported_inherited_and_given_away(top, mdm):
    mallory = f"dn:{mdm('mallory', '--json', 'whoami').rows()[0]['dn']}"
    alice = f"dn:{mdm('alice', '--json', 'whoami').rows()[0]['dn']}"
    assert mdm("operator", "mkdir", f"{top}/d").code == 0
    shared = mdm("operator", "acl", "set", f"{top}/d", f"{alice}+x")
    assert (shared.code, "--own" in shared.err) == (2, True)
    assert mdm("operator", "acl", "set", "--own", f"{top}/d", f"{mallory}+lxg").code == 0
    assert (mdm("mallory", "stat", f"{top}/d").code, mdm("mallory", "ls", top).code) == (0, 3)
    own = mdm("operator", "--json", "acl", "set", "--default", top, f"{alice}=all", f"{mallory}+read")
    assert own.code == 0, own.err
    assert mdm("operator", "mkdir", f"{top}/e").code == 0
    assert [mdm("alice", "--json", "stat", f"{top}/{name}").code for name in "de"] == [3, 0]
    assert mdm("operator", "acl", "set", f"{top}/e", f"{mallory}-r", "--shared").code == 0
    lists = mdm("operator", "--json", "acl", "get", f"{top}/e").rows()[0]
    assert {who: lists["entries"][who] for who in (alice, mallory)} == {alice: "pdrwlxgs", mallory: "lxg"}
    assert mdm("alice", "chown", alice, f"{top}/e", "--shared").code == 3, "an owner gives away, nobody takes"
    assert mdm("operator", "chown", alice, f"{top}/e", "--shared").code == 0
    assert mdm("alice", "--json", "stat", f"{top}/e").rows()[0]["owner"] == alice.removeprefix("dn:")
    assert mdm("operator", "acl", "who", "/biomed").code == 0
    assert mdm("mallory", "acl", "who", "/biomed").code == 3
    operator = f"dn:{mdm('operator', '--json', 'whoami').rows()[0]['dn']}"
    assert mdm("alice", "acl", "set", f"{top}/e", f"{operator}=all", "--shared").code == 0, "so that it can be removed"
