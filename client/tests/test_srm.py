"""mdm stage and mdm srm: what they ask the site for, what they write, and their exit codes."""

import pytest
from mdm.srm.v1 import srm_pb2_grpc
from mdm_client.client import Client
from mdm_testing.server import serve_in_process

from client.tests.fake_srm import TOKEN, FakeSrm
from client.tests.test_cli import STUDY, UNREACHABLE, mdm, rows

GUID = "0b5f5e0e-4d33-4a4c-9d0e-6a0f3c1d2e4f"


def test_stage_prints_the_token_and_reports_what_was_refused(grid):
    result = mdm(grid.config(), "stage", f"{STUDY}/a b", "--pin", "3d", "--deferred", "8h", "--description", "cohort 7")
    assert (result.exit_code, result.stdout) == (0, f"{TOKEN}\n")
    [asked] = grid.srm.calls
    assert list(asked.surls) == [f"srm://hospital-a{STUDY}/a%20b"]
    assert (asked.pin_seconds, asked.deferred_seconds, asked.description, asked.all_levels) == (259_200, 28_800, "cohort 7", True)
    some = mdm(grid.config(), "--json", "srm", "stage", "--max-depth", "2", GUID, f"{STUDY}/none")
    assert some.exit_code == 1
    assert rows(some.stdout) == [{"site": "hospital-a", "token": TOKEN, "status": "REQUEST_QUEUED", "files": 2}]
    assert [row["reason"] for row in rows(some.stderr)] == ["INVALID_PATH"]
    assert (grid.srm.calls[1].levels, grid.srm.calls[1].all_levels) == (2, False)
    assert grid.srm.calls[1].surls[0] == f"srm://hospital-a/{GUID}"
    assert mdm(grid.config(), "stage", f"{STUDY}/none").exit_code == 3


@pytest.mark.parametrize("duration", ["", "x", "-1", "1y", "1.5h", "9" * 13])
def test_a_duration_that_is_none_is_refused(grid, duration):
    assert mdm(grid.config(), "stage", STUDY, "--pin", duration).exit_code == 2
    assert not grid.srm.calls


def test_status_counts_and_with_wait_fails_for_files_that_failed(grid):
    result = mdm(grid.config(), "srm", "status", TOKEN, "-l")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "PARTIAL_SUCCESS: 1 FILE_LOST, 1 FILE_PINNED"
    assert "FILE_LOST  srm://hospital-a/2  NOT_IN_PACS: gone" in result.stdout
    waited = mdm(grid.config(), "--json", "srm", "status", TOKEN, "--wait", "-l")
    assert waited.exit_code == 1
    first, pinned, _ = rows(waited.stdout)
    assert first["files"] == {"FILE_LOST": 1, "FILE_PINNED": 1} and first["kind"] == "BRING_ONLINE"
    assert pinned["remaining_pin_seconds"] == 60
    assert mdm(grid.config(), "srm", "status", "nonsense").exit_code == 2


def test_release_takes_a_token_or_targets(grid):
    assert mdm(grid.config(), "srm", "release", TOKEN).exit_code == 0
    assert mdm(grid.config(), "srm", "release", TOKEN, GUID).exit_code == 0
    assert mdm(grid.config(), "srm", "release", STUDY, GUID).exit_code == 0
    assert [(bool(call.token), len(call.surls)) for call in grid.srm.calls] == [(True, 0), (True, 1), (False, 2)]
    assert mdm(grid.config(), "srm", "release", "nonsense").exit_code == 2


def test_requests_are_ended_extended_suspended_and_resumed(grid):
    config = grid.config()
    assert "ABORTED" in mdm(config, "srm", "abort", TOKEN, GUID).stdout
    assert mdm(config, "srm", "abort", TOKEN).exit_code == 0 and grid.srm.aborted == [TOKEN]
    assert "FILE_PINNED" in mdm(config, "srm", "extend", TOKEN, "--pin", "2h").stdout
    assert grid.srm.calls[-1].pin_seconds == 7200
    assert mdm(config, "srm", "suspend", TOKEN).stdout == "REQUEST_SUSPENDED\n"
    assert rows(mdm(config, "--json", "srm", "resume", TOKEN).stdout) == [{"token": TOKEN, "status": "REQUEST_QUEUED"}]
    for command in ("abort", "extend", "suspend", "resume"):
        assert mdm(config, "srm", command, "nonsense").exit_code == 2


def test_requests_are_found_by_their_description(grid):
    [found] = rows(mdm(grid.config(), "--json", "srm", "requests", "--description", "cohort 7").stdout)
    assert (found["token"], found["pinned"], found["kind"]) == (TOKEN, 3, "BRING_ONLINE")
    assert mdm(grid.config(), "srm", "requests", "--description", "another").stdout == ""
    assert "3 pinned" in mdm(grid.config(), "srm", "requests").stdout


def test_a_listing_shows_where_bytes_are_page_after_page(grid):
    result = mdm(grid.config(), "srm", "ls", "-l", STUDY)
    assert result.stdout.splitlines() == [f"NEARLINE             r               5 B  -                     srm://hospital-a{STUDY}"] * 2
    assert [call.offset for call in grid.srm.calls] == [0, 1]
    [row] = rows(mdm(grid.config(), "--json", "srm", "ls", "-R", STUDY, "--count", "1").stdout)
    assert (row["locality"], row["size"], row["kind"]) == ("NEARLINE", 5, "FILE")
    assert grid.srm.calls[-1].all_levels


def test_permissions_spaces_and_addresses_are_shown(grid):
    checked = mdm(grid.config(), "srm", "check", STUDY, f"{STUDY}/none")
    assert (checked.exit_code, checked.stdout) == (1, f"rg        srm://hospital-a{STUDY}\n")
    space = mdm(grid.config(), "srm", "space", "srm-1", "other")
    assert space.exit_code == 1 and "srm-1: 5.0 kB of 10.0 kB in 2 files, 4.0 kB pinned, 6.0 kB can be had" in space.stdout
    assert "site hospital-a, instance srm-1, version 1" in mdm(grid.config(), "srm", "ping").stdout


def test_calls_about_a_request_go_to_its_instance_and_to_another_while_that_is_away(grid, pki):
    identity = pki.issue(pki.subject("fake-server"))
    other = FakeSrm(grid.catalog)
    other.instance = "srm-2"
    add = srm_pb2_grpc.add_SrmServiceServicer_to_server
    with serve_in_process(identity, lambda server, _: add(other, server.grpc), namespaces=(pki.namespace,)) as running:
        two = f'"{running.address}", "{grid.addresses["catalog"]}"'
        with Client.load(grid.config(srm=two)) as client:
            for _ in range(4):
                client.srm().status(TOKEN)
                client.srm().status(TOKEN.replace("srm-1", "srm-2.3"))
            assert (len(grid.srm.calls), len(other.calls)) == (4, 4)
            assert [answer.instance for answer in client.srm().ping()] == ["srm-2", "srm-1"]
    with Client.load(grid.config(srm=f'"{UNREACHABLE}", "{grid.addresses["catalog"]}"')) as client:
        client.srm().status(TOKEN.replace("srm-1", "srm-2"))
        assert len(grid.srm.calls) == 5
