"""Operators see a site and have what failed tried again, through the `mdm` command; nobody else does."""

import json
from pathlib import Path

import pytest
from mdm_testing.image import Image, make_image
from mdm_testing.process import eventually
from mdm_testing.stack import Mdm, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def held_back(stack: Stack, mdm: Mdm, tmp_path: Path) -> tuple[Image, str]:
    """A screen capture that waits, and its GUID."""
    image = make_image(tmp_path / "capture.dcm", "CT_small.dcm")
    dataset = image.read()
    dataset.ConversionType = "WSD"
    dataset.save_as(image.path)
    before = {row["guid"] for row in failures(mdm)}
    stack.store(image.path)
    [row] = eventually(lambda: [row for row in failures(mdm) if row["guid"] not in before])
    return image, row["guid"]


def failures(mdm: Mdm) -> list[dict]:
    return mdm("operator", "--json", "site", "failures", "--reason", "SCREEN_CAPTURE").rows()


def test_an_operator_sees_states_reasons_pacs_and_policy(mdm: Mdm, held_back: tuple[Image, str]):
    image, _ = held_back
    [status] = mdm("operator", "--json", "site", "status").rows()
    assert {"QUARANTINED"} <= {item["state"] for item in status["states"]}
    assert status["site"] == "hospital-a" and {item["name"]: item["up"] for item in status["dependencies"]} == {"pacs": True}
    # Further instances that other tests had and ended are listed as lost for a while.
    assert [item["lost"] for item in status["instances"]].count(False) == 1
    reasons = mdm("operator", "--json", "site", "failures").rows()
    assert ("QUARANTINED", "SCREEN_CAPTURE") in {(item["state"], item["reason"]) for item in reasons}
    [policy] = mdm("operator", "--json", "site", "policy").rows()
    assert policy["settings"]["deid.profile"] == "research"
    shown = "".join(mdm("operator", "site", command).out for command in ("status", "queue", "failures", "policy"))
    assert "pacs          answers" in shown and "SCREEN_CAPTURE" in shown
    assert not any(text in shown for text in (image.patient_id, image.study_uid, image.patient_name))
    for command in ("status", "queue", "failures", "policy"):
        for user in ("alice", "mallory", "curator"):
            refused = mdm(user, "--json", "site", command)
            assert refused.code == 3 and "METHOD_FORBIDDEN" in refused.err and not refused.out


def test_what_is_held_back_is_tried_again_and_that_is_kept_with_the_name(mdm: Mdm, held_back: tuple[Image, str]):
    _, guid = held_back
    again = mdm("operator", "site", "retry", "--reason", "SCREEN_CAPTURE", "--state", "quarantined")
    assert again.code == 0, again.err
    assert eventually(lambda: guid in {row["guid"] for row in failures(mdm)})
    [decision] = mdm("curator", "--json", "quarantine", "decisions", guid).rows()
    assert (decision["action"], decision["reason"]) == ("retried", "SCREEN_CAPTURE")
    assert decision["subject"].startswith("CN=operator,")
    assert mdm("operator", "site", "retry", guid).code == 0
    for wrong in ([], [guid, "--reason", "X"], ["--reason", "X", "--published"], ["nonsense"], ["--state", "published"]):
        assert mdm("operator", "site", "retry", *wrong).code == 2
    assert mdm("alice", "site", "retry", guid).code == 3


def test_what_waits_in_the_pacs_shows_in_the_queue(stack: Stack, mdm: Mdm, image: Image):
    if stack.pacs.get("kind") != "orthanc":
        pytest.skip("needs Orthanc as a process, with its forwarder")

    def waiting() -> int:
        [status] = mdm("operator", "--json", "site", "status").rows()
        return int(status["forwarder"]["waiting"]) if status["forwarder"] else -1

    assert eventually(lambda: waiting() == 0)
    stack.stop("dicom-srm")
    stack.store(image.path)
    reported = Path(stack.pacs["queue"]).parents[1] / "forward-status.json"
    eventually(lambda: json.loads(reported.read_text())["waiting"] == 1)
    stack.stop("pacs-forwarder")  # so that what waits still does when dicom-srm is back
    try:
        stack.start("dicom-srm")
        assert waiting() == 1
        assert "1 waiting, the oldest for" in mdm("operator", "site", "queue").out
    finally:
        stack.start("pacs-forwarder")
    mdm.registered(image.patient_id)
    assert eventually(lambda: waiting() == 0)


def test_a_queue_shows_what_it_waits_for_and_a_pacs_that_is_away(stack: Stack, mdm: Mdm, image: Image):
    if "kind" not in stack.pacs:
        pytest.skip("Docker starts a container again as soon as it was killed")

    def waiting() -> list[dict]:
        return [row for row in mdm("operator", "--json", "site", "queue").rows() if row["state"] == "RECEIVED" and row["reason"]]

    eventually(lambda: not waiting())
    stack.kill("keystore-b")
    try:
        stack.store(image.path)
        [row] = eventually(waiting)
        assert row["count"] == 1 and row["due"] and "UNAVAILABLE" in row["reason"]
    finally:
        stack.start("keystore-b")
    mdm.registered(image.patient_id)
    stack.kill("pacs")
    try:
        status = mdm("operator", "site", "status")
        assert status.code == 1 and "pacs          does not answer: PACS_UNAVAILABLE" in status.out, status.out
    finally:
        stack.start("pacs")
    assert eventually(lambda: mdm("operator", "site", "status").code == 0)
