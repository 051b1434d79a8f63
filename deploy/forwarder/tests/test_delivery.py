"""The forwarder's queue: what may still be accepted is sent again, what never will be is listed with its reason."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from mdm_forwarder.delivery import DeliveryQueue, Sent, deliver, final_reason
from mdm_forwarder.orthanc import OrthancSource
from mdm_forwarder.status import StatusFile


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[DeliveryQueue]:
    opened = DeliveryQueue(tmp_path / "forward.sqlite")
    yield opened
    opened.close()


def test_what_is_refused_for_good_is_listed_and_sent_no_more(queue: DeliveryQueue, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[list[str]] = []

    def send(names: Sequence[str]) -> Sent:
        asked.append(sorted(names))
        return Sent({"good"}, {"bad": "DIMSE_0xC000"})

    queue.add(["good", "bad", "later"])
    assert deliver(queue, send)
    assert [(refusal.name, refusal.reason) for refusal in queue.refusals()] == [("bad", "DIMSE_0xC000")]
    assert queue.due() == [] and len(queue) == 1, "what was neither accepted nor refused waits for its time"
    assert "DIMSE_0xC000" in caplog.text and "bad" not in caplog.text
    assert asked == [["bad", "good", "later"]]


def test_a_refused_instance_is_sent_again_when_it_is_stored_again_or_somebody_says_so(queue: DeliveryQueue) -> None:
    queue.add(["one", "two", "three"])
    queue.give_up(dict.fromkeys(("one", "two", "three"), "NOT_NEGOTIATED"))
    queue.add(["one"])
    assert queue.due() == ["one"] and {refusal.name for refusal in queue.refusals()} == {"two", "three"}
    assert queue.retry_refused() == 2
    assert set(queue.due()) == {"one", "two", "three"} and queue.refusals() == []


@pytest.mark.parametrize("status", [0xC000, 0xC1FF, 0xA900, 0x0122, 0x0117])
def test_statuses_that_will_not_change_are_final(status: int) -> None:
    assert final_reason(status) == f"DIMSE_0x{status:04X}"


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110, 0x0213, 0xD000])
def test_statuses_that_may_change_are_not(status: int) -> None:
    assert final_reason(status) == ""


def details(text: str) -> httpx.Response:
    return httpx.Response(500, json={"Details": text, "Message": "Error in the network protocol"})


ANSWERS = {
    "accepted": httpx.Response(200, json={}),
    "not understood": details('C-STORE SCU to AET "MDM" has failed with DIMSE status 0xC000'),
    "busy": details('C-STORE SCU to AET "MDM" has failed with DIMSE status 0xA700'),
    "class": details("No valid presentation context was negotiated for SOP class UID [1.2] and transfer syntax [1.3] while sending"),
    "aborted": details("Peer aborted Association"),
    "no JSON": httpx.Response(502, text="bad gateway"),
    "a list": httpx.Response(500, json=["x"]),
}


def test_orthancs_words_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    source = OrthancSource("http://127.0.0.1:1", "secret")

    def post(path: str, json: dict[str, list[str]]) -> httpx.Response:
        if path.endswith("/echo"):
            return httpx.Response(200)
        names = json["Resources"]
        return ANSWERS[names[0]] if len(names) == 1 else details("one of them")

    monkeypatch.setattr(source._client, "post", post)
    monkeypatch.setattr(source._client, "get", lambda path: httpx.Response(404 if path.endswith("no JSON") else 200))
    assert source.send(list(ANSWERS)) == Sent({"accepted", "no JSON"}, {"not understood": "DIMSE_0xC000", "class": "NOT_NEGOTIATED"})


def test_the_list_is_a_command(tmp_path: Path) -> None:
    file = tmp_path / "forward.sqlite"
    queue = DeliveryQueue(file)
    queue.add(["abc"])
    queue.give_up({"abc": "DIMSE_0xA900"})
    queue.close()

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "mdm_forwarder.refusal", "--queue", str(file), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    code, text = run()
    assert code == 0 and text.split()[1:] == ["DIMSE_0xA900", "abc"]
    assert run("--retry") == (0, "1 instances will be sent once more\n")
    assert run() == (0, "")
    file.unlink()
    assert run()[0] == 1, "a file that is not there is not a list without refusals"


def test_what_waits_is_written_for_dicom_srm_in_counts(queue: DeliveryQueue, tmp_path: Path) -> None:
    began = time.time()
    queue.add(["one", "two", "three"])
    queue.give_up({"three": "NOT_NEGOTIATED"})
    file = tmp_path / "status.json"
    StatusFile(file).report(queue)
    said = json.loads(file.read_text())
    assert (said["waiting"], said["refused"]) == (2, {"NOT_NEGOTIATED": 1}) and began <= said["oldest"] <= said["time"] <= time.time()
    assert "one" not in file.read_text() and list(tmp_path.glob("*.part")) == []
    queue.delivered(["one", "two"])
    StatusFile(file).report(queue)
    assert json.loads(file.read_text())["oldest"] is None


def test_the_queue_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.sqlite")) as old:
        old.executescript(
            "CREATE TABLE pending (name TEXT PRIMARY KEY, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0);"
            "INSERT INTO pending (name) VALUES ('one');"
        )
    with closing(DeliveryQueue(tmp_path / "old.sqlite")) as taken:
        assert taken.due() == ["one"] and taken.backlog().oldest is None
        taken.add(["two"])
        assert taken.backlog().waiting == 2 and taken.backlog().oldest is not None
