"""GA4GH DRS 1.5: objects, ways to them, bulk, what the service says of itself."""

import hashlib
import json
from uuid import uuid4

import pytest
from mdm_testing.process import eventually

BASE = "/ga4gh/drs/v1"
STUDY = "/biomed/hospital-a/study"


def ask(door, method, path, body=None, name="alice"):
    answer = door.ask(method, f"{BASE}{path}", body=None if body is None else json.dumps(body), name=name)
    return answer.status, json.loads(answer.body) if answer.body else answer.headers


def described(door, guid):
    eventually(lambda: ask(door, "GET", f"/objects/{guid}")[0] == 200)
    return ask(door, "GET", f"/objects/{guid}")[1]


def test_an_object_is_the_same_bytes_for_good(door):
    guid = door.put(f"{STUDY}/1")
    first = described(door, guid)
    body = door.ask("GET", f"{STUDY}/1").body
    assert (first["id"], first["size"]) == (str(guid), len(body))
    assert {"type": "sha-256", "checksum": hashlib.sha256(body).hexdigest()} in first["checksums"]
    assert first["self_uri"] == f"drs://localhost:{door.port}/{guid}"
    [method] = first["access_methods"]
    assert (method["type"], method["available"], method["access_url"]["url"]) == ("https", True, f"{door.url}{STUDY}/1")
    door.evict(guid)
    again = ask(door, "GET", f"/objects/{guid}")[1]
    assert again["access_methods"][0]["available"] is False
    assert [again[name] for name in ("size", "checksums", "version")] == [first[name] for name in ("size", "checksums", "version")]
    eventually(lambda: door.ask("GET", f"{STUDY}/1").status == 200)
    assert door.ask("GET", f"{STUDY}/1").body == body
    assert ask(door, "POST", f"/objects/{guid}", {"expand": False})[0] == 200


def test_access_gives_a_url_once_the_file_is_there(door):
    door.world.pacs.gate.clear()
    guid = door.put(f"{STUDY}/1")
    status, headers = ask(door, "GET", f"/objects/{guid}/access/https")
    assert (status, int(headers["Retry-After"]) >= 1) == (202, True)
    door.world.pacs.gate.set()
    eventually(lambda: ask(door, "GET", f"/objects/{guid}/access/https")[0] == 200)
    url = ask(door, "POST", f"/objects/{guid}/access/https", {})[1]["url"]
    assert door.ask("GET", url.removeprefix(door.url)).body == door.ask("GET", f"{STUDY}/1").body
    assert ask(door, "GET", f"/objects/{guid}/access/s3")[0] == 404
    assert len(door.world.pacs.retrievals) == 1


def test_many_objects_come_at_once(door):
    guid, waiting, unknown = door.put(f"{STUDY}/1"), door.put(f"{STUDY}/2"), str(uuid4())
    described(door, guid)
    door.world.pacs.gate.clear()
    status, answer = ask(door, "POST", "/objects", {"bulk_object_ids": [str(guid), str(waiting), unknown, 5]})
    assert (status, answer["summary"]) == (200, {"requested": 4, "resolved": 1, "unresolved": 3})
    assert [item["id"] for item in answer["resolved_drs_object"]] == [str(guid)]
    assert {item["error_code"]: item["object_ids"] for item in answer["unresolved_drs_objects"]} == {
        202: [str(waiting)],
        404: [unknown, "5"],
    }
    body = {"bulk_object_access_ids": [{"bulk_object_id": str(guid), "bulk_access_ids": ["https", "s3"]}]}
    answer = ask(door, "POST", "/objects/access", body)[1]
    assert answer["summary"] == {"requested": 2, "resolved": 1, "unresolved": 1}
    assert answer["resolved_drs_object_access_urls"][0]["drs_object_id"] == str(guid)


def test_too_many_are_refused_as_service_info_says(door):
    most = ask(door, "GET", "/service-info")[1]["maxBulkRequestLength"]
    assert ask(door, "GET", "/service-info")[1]["type"] == {"group": "org.ga4gh", "artifact": "drs", "version": "1.5.0"}
    for path, item, name in (
        ("/objects", str(uuid4()), "bulk_object_ids"),
        ("/objects/access", {"bulk_object_id": str(uuid4()), "bulk_access_ids": ["https"]}, "bulk_object_access_ids"),
    ):
        status, answer = ask(door, "POST", path, {name: [item] * (most + 1)})
        assert (status, answer["status_code"]) == (413, 413)


def test_what_a_client_must_show_is_said_beforehand(door):
    guid = door.put(f"{STUDY}/1")
    assert ask(door, "OPTIONS", f"/objects/{guid}")[1] == {"drs_object_id": str(guid), "supported_types": ["None"]}
    answer = ask(door, "OPTIONS", "/objects", {"bulk_object_ids": [str(guid), "x"]})[1]
    assert answer["summary"] == {"requested": 2, "resolved": 1, "unresolved": 1}
    assert door.world.pacs.retrievals == []


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [("alice", "x", 404), ("alice", "00000000-0000-4000-8000-000000000001", 404), ("olga", "00000000-0000-4000-8000-000000000001", 403)],
)
def test_errors_say_message_and_status(door, name, path, status):
    found, answer = ask(door, "GET", f"/objects/{path}", name=name)
    assert (found, answer["status_code"], bool(answer["msg"])) == (status, status, True)
