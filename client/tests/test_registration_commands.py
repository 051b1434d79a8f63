"""The commands of a site's operators for registrations."""

import json
from types import SimpleNamespace

import pytest
from mdm_client.cli import registration
from mdm_client.cli.error import Interrupted

from .fake_srm import scan
from .test_cli import mdm

GUID = "0b5f5e0e-4d33-4a4c-9d0e-6a0f3c1d2e4f"


@pytest.fixture
def config(grid):
    return grid.config(grid.pki.issue(grid.pki.subject("operator")))


def test_a_scan_is_started_by_conditions_and_watched_to_its_end(grid, config):
    result = mdm(config, "register", "--since", "2026-01-31", "--modality", "MR", "--patient", "P1", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "done: 2 of 2 studies: 5 listed, 4 new, 1 left out\n"
    [request] = grid.registration.requests
    assert (request.dry_run, request.scope.since, list(request.scope.modalities)) == (True, "2026-01-31", ["MR"])
    assert list(request.scope.patient_ids) == ["P1"] and not request.scope.study_instance_uids


def test_progress_is_json_for_programs(grid, config):
    lines = mdm(config, "--json", "register", "--all").stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["LISTING", "DONE"]
    assert json.loads(lines[1])["counts"] == {"listed": 5, "new": 4, "left_out": 1}


def test_a_scan_is_watched_again_and_a_site_that_restarts_is_waited_for(grid, config):
    grid.registration.breaks = 1
    result = mdm(config, "register", "--resume", "scan-7")
    assert result.exit_code == 0, result.stderr
    assert grid.registration.requests == []


def test_an_interrupted_command_says_how_to_go_on(capsys):
    class Registry:
        def watch_scan(self, scan_id):
            yield registration.Scan(scan_id, "REGISTER", "LISTING", False, "", "", 2, 1, 0, {}, "")
            raise Interrupted

    with pytest.raises(Interrupted):
        registration._watch(SimpleNamespace(as_json=False), SimpleNamespace(registry=Registry()), "scan-7")
    said = capsys.readouterr().err
    assert "mdm register --resume scan-7" in said and "mdm scans --cancel scan-7" in said


@pytest.mark.parametrize("fields", [{"state": 4}, {"state": 5, "reason": "PACS_UNAVAILABLE"}, {"state": 3, "failed_studies": 1}])
def test_a_scan_that_did_not_see_everything_is_a_failure(grid, config, fields):
    grid.registration.scan = [scan(**fields)]
    result = mdm(config, "register", "--all")
    assert result.exit_code == 1 and "not everything" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["register"],
        ["register", "--all", "--since", "2026-01-31"],
        ["register", "--all", "--resume", "scan-7"],
        ["register", "--since", "yesterday"],
        ["register", "--series", "no uid"],
        ["unregister"],
        ["unregister", "srm://hospital-a/" + GUID],
        ["unregister", "relative/path"],
        ["unregister", GUID, "--modality", "MR"],
        ["unregister", "--series", "no uid"],
        ["registrations", "--state", "lost"],
    ],
)
def test_unclear_words_are_refused_before_anything_is_asked(grid, config, words):
    assert mdm(config, *words).exit_code == 2
    assert grid.registration.requests == []


def test_unregistering_asks_first_and_says_what_goes(grid, config):
    words = ["unregister", GUID, "/biomed/hospital-a/x/", "--study", "1.2.3", "--reason", "withdrawn"]
    refused = mdm(config, *words)
    assert refused.exit_code == 2 and "9 images would go" in refused.stderr
    assert [request.dry_run for request in grid.registration.requests] == [True]
    done = mdm(config, *words, "--yes")
    assert done.exit_code == 0 and done.stdout.splitlines()[1] == "/biomed/hospital-a/x: 3 images are being removed"
    last = grid.registration.requests[-1]
    assert not last.dry_run and last.reason == "withdrawn"
    assert (list(last.guids), list(last.lfns), list(last.study_instance_uids)) == ([GUID], ["/biomed/hospital-a/x"], ["1.2.3"])


def test_a_dry_run_removes_nothing_and_what_is_unknown_is_reported(grid, config):
    result = mdm(config, "unregister", "/biomed/unknown", "--study", "1.2.3", "--dry-run")
    assert result.exit_code == 1 and "/biomed/unknown" in result.stderr
    assert result.stdout == "1.2.3: 3 images would go\n"
    assert all(request.dry_run for request in grid.registration.requests)


def test_a_scope_is_counted_before_it_is_unregistered(grid, config):
    words = ["unregister", "--series", "1.2.3.4", "--modality", "MR", "--since", "2026-01-31", "--reason", "withdrawn"]
    dry = mdm(config, *words, "--dry-run")
    assert dry.exit_code == 0 and dry.stdout.startswith("done: ")
    assert [request.dry_run for request in grid.registration.requests] == [True]
    done = mdm(config, *words, "--yes")
    assert done.exit_code == 0, done.stderr
    last = grid.registration.requests[-1]
    assert not last.dry_run and last.reason == "withdrawn" and not (last.guids or last.lfns or last.study_instance_uids)
    assert (list(last.scope.series_instance_uids), list(last.scope.modalities), last.scope.since) == (["1.2.3.4"], ["MR"], "2026-01-31")


def test_registrations_are_listed_with_state_and_rule(grid, config):
    result = mdm(config, "registrations", "--state", "filtered", "--study", "1.2.3")
    assert result.exit_code == 0 and "filtered" in result.stdout and "SITE_POLICY (no-ct)" in result.stdout
    [request] = grid.registration.requests
    assert (request.state, list(request.study_instance_uids)) == (5, ["1.2.3"])


def test_scans_are_listed_and_cancelled(grid, config):
    assert len(mdm(config, "scans").stdout.splitlines()) == 2
    assert mdm(config, "scans", "--cancel", "scan-7").exit_code == 0
    assert grid.registration.requests[-1].scan_id == "scan-7"


@pytest.mark.parametrize("words", [["register", "--all"], ["unregister", GUID, "--yes"], ["registrations"], ["scans"]])
def test_these_commands_are_for_operators(grid, words):
    assert mdm(grid.config(), *words).exit_code == 3
