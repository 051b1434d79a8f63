"""The forwarder's queue: what may still be accepted is sent again, what never will be is listed with its reason."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from mdm_forwarder.delivery import DeliveryQueue, Sent, deliver, final_reason
from mdm_forwarder.orthanc import OrthancSource


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
