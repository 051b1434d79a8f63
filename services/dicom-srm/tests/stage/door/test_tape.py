"""WLCG Tape REST v1 on the requests of SRM."""

import json

import pytest
from mdm_testing.process import eventually

STUDY = "/biomed/hospital-a/study"


def post(door, path, body, name="alice"):
    answer = door.ask("POST", f"/api/v1/{path}", body=json.dumps(body), name=name)
    return answer.status, json.loads(answer.body) if answer.body else None


def polled(door, token, name="alice"):
    answer = door.ask("GET", f"/api/v1/stage/{token}", name=name)
    return json.loads(answer.body) if answer.status == 200 else answer.status


def staged(door, *paths):
    _, answer = post(door, "stage", {"files": [{"path": path, "diskLifetime": "PT10M"} for path in paths]})
    eventually(lambda: "completedAt" in polled(door, answer["requestId"]))
    return answer["requestId"]


def test_the_api_is_found_and_says_where_it_is(door):
    answer = json.loads(door.ask("GET", "/.well-known/wlcg-tape-rest-api").body)
    assert answer["sitename"] == "hospital-a"
    assert answer["endpoints"] == [{"uri": f"{door.url}/api/v1", "version": "v1", "metadata": {}}]


def test_files_are_staged_each_for_itself(door):
    door.put(f"{STUDY}/1")
    door.put(f"{STUDY}/2", b"QUARANTINE" * 9)
    answer = door.ask(
        "POST", "/api/v1/stage/", body=json.dumps({"files": [{"path": f"/{STUDY}//1"}, {"path": f"{STUDY}/2"}, {"path": "/x"}]})
    )
    token = json.loads(answer.body)["requestId"]
    assert (answer.status, answer.headers["Location"]) == (201, f"{door.url}/api/v1/stage/{token}")
    eventually(lambda: "completedAt" in polled(door, token))
    found = polled(door, token)
    assert (found["id"], found["createdAt"]) == (token, 1_000_000)
    first, second, third = found["files"]
    assert first == {"path": f"{STUDY}/1", "onDisk": True}
    assert second == {"path": f"{STUDY}/2", "state": "FAILED", "error": "QUARANTINED_BURNED_IN"}
    assert (third["state"], third["error"]) == ("FAILED", "NO_SUCH_FILE")


def test_a_stage_request_pins_and_reads_without_another_retrieval(door):
    door.put(f"{STUDY}/1")
    token = staged(door, f"{STUDY}/1")
    assert door.ask("GET", f"{STUDY}/1").status == 200
    assert len(door.world.pacs.retrievals) == 1
    assert door.world.service.status(door.subject(), token).pin_seconds == 600


def test_a_request_is_its_owners_alone(door):
    door.put(f"{STUDY}/1")
    token = staged(door, f"{STUDY}/1")
    assert polled(door, token, "bob") == 404
    assert door.ask("DELETE", f"/api/v1/stage/{token}", name="bob").status == 404
    assert polled(door, "nonsense") == 404


def test_cancelling_ends_what_is_named_or_nothing(door):
    door.world.pacs.gate.clear()
    door.put(f"{STUDY}/1")
    door.put(f"{STUDY}/2")
    _, answer = post(door, "stage", {"files": [{"path": f"{STUDY}/1"}, {"path": f"{STUDY}/2"}]})
    token = answer["requestId"]
    status, problem = post(door, f"stage/{token}/cancel", {"paths": [f"{STUDY}/1", "/biomed/hospital-a/other"]})
    assert (status, problem["title"]) == (400, "FOREIGN_PATHS")
    assert "CANCELLED" not in str(polled(door, token))
    assert post(door, f"stage/{token}/cancel/", {"paths": [f"{STUDY}/1"]}) == (200, None)
    assert [file.get("state") == "CANCELLED" for file in polled(door, token)["files"]] == [True, False]
    assert door.ask("DELETE", f"/api/v1/stage/{token}").status == 200
    assert polled(door, token) == 404


def test_released_files_may_leave(door):
    guid = door.put(f"{STUDY}/1")
    token = staged(door, f"{STUDY}/1")
    assert post(door, f"release/{token}", {"paths": [f"{STUDY}/1"]}) == (200, None)
    assert polled(door, token)["files"] == [{"path": f"{STUDY}/1", "state": "COMPLETED"}]
    other = staged(door, f"{STUDY}/1")
    assert post(door, "release/gfal2-placeholder-id/", {"paths": [f"{STUDY}/1"]}) == (200, None)
    assert polled(door, other)["files"][0]["state"] == "COMPLETED"
    assert not door.world.site.pins("", [guid])


def test_localities_come_in_the_order_asked(door):
    door.staged(f"{STUDY}/1")
    door.put(f"{STUDY}/2")
    paths = [f"{STUDY}/2", "/biomed/hospital-a/none", f"{STUDY}/1", STUDY, "no path"]
    status, found = post(door, "archiveinfo", {"paths": paths})
    assert status == 200
    assert [item["path"] for item in found] == paths
    assert [item.get("locality", item.get("error")) for item in found] == [
        "TAPE", "no such file, or not for you", "DISK_AND_TAPE", "that is a directory", "no such file, or not for you"
    ]  # fmt: skip


def test_errors_are_problems(door):
    answer = door.ask("POST", "/api/v1/stage", body="{")
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (400, "application/problem+json")
    assert json.loads(answer.body)["title"] == "BAD_BODY"


@pytest.mark.parametrize(("text", "seconds"), [("P1D", 86_400), ("PT2H3M4S", 7_384), ("P1M", 3600), ("nonsense", 3600), (5, 3600)])
def test_the_time_of_a_pin_is_read(door, text, seconds):
    door.put(f"{STUDY}/1")
    _, answer = post(door, "stage", {"files": [{"path": f"{STUDY}/1", "diskLifetime": text}]})
    subject = door.subject()
    assert door.world.service.status(subject, answer["requestId"]).pin_seconds == min(seconds, 7200)
