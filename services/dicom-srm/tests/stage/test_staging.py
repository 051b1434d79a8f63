"""Staging from request to ciphertext, on fakes of PACS, catalog, keystores and database."""

import threading
import time
from uuid import uuid4

import pytest
from mdm_crypto import stream
from mdm_dicom_srm.stage.rules.service import Wish
from mdm_testing.process import eventually
from mdm_wire.errors import Invalid, NotFound, Unavailable
from mdm_wire.errors import NotFound as KeyNotFound
from mdm_wire.errors import Unavailable as KeysAway

from .conftest import surl

ALICE, BOB = "CN=alice", "CN=bob"


def test_a_file_becomes_ciphertext_of_its_deidentified_form(world):
    guid = world.image(content=b"PATIENTDOE" + b"pixels" * 1000)
    token = world.get([guid])
    assert world.settled(ALICE, token) == ["FILE_PINNED"]
    file, data = world.service.reading(ALICE, token).open(guid)
    with data:
        ciphertext = data.read()
    assert len(ciphertext) == file.size
    assert stream.decrypt(guid.bytes * 2, guid.bytes, ciphertext) == bytes(128) + b"DICM" + b"anonymous:" + b"pixels" * 1000


def test_the_spool_holds_nothing_readable_and_only_guids_as_names(world):
    guid = world.image(content=b"PATIENTDOE" + b"pixels" * 1000)
    world.settled(ALICE, world.get([guid]))
    names = {item.name for item in world.directory.iterdir()}
    assert names == {str(guid), "LOCK", "GENERATION"}
    assert world.directory.stat().st_mode & 0o777 == 0o700
    for item in world.directory.iterdir():
        assert item.stat().st_mode & 0o777 == 0o600
        assert b"PATIENT" not in item.read_bytes() and b"pixels" not in item.read_bytes()


def test_one_bad_surl_does_not_fail_the_others(world):
    good, forbidden, unknown = world.image(), world.image(), uuid4()
    world.catalog.forbidden |= {forbidden, unknown}
    asked = [surl(good), "nonsense", surl(forbidden), surl(unknown), surl(good), f"srm://elsewhere/{good}", surl(str(good).upper())]
    token, view = world.service.prepare(ALICE, Wish(asked))
    assert [file.surl for file in view.files] == asked
    states = world.settled(ALICE, token)
    assert states == ["FILE_PINNED", *["INVALID_PATH"] * 3, "INVALID_REQUEST", *["INVALID_PATH"] * 2]
    assert world.service.status(ALICE, token).state == "PARTIAL_SUCCESS"


def test_nothing_is_sealed_without_the_rules_of_curators_and_the_next_request_tries_again(world):
    def unreadable(_part10):
        raise RuntimeError("no database")

    guids, rules = world.images(3), world.drawn
    world.drawn = unreadable
    assert world.settled(ALICE, world.get(guids)) == ["FILE_UNAVAILABLE"] * 3
    assert [path.name for path in world.directory.rglob("*-*")] == []
    world.drawn = rules
    assert world.settled(ALICE, world.get(guids)) == ["FILE_PINNED"] * 3


def test_forbidden_and_absent_look_alike(world):
    forbidden, absent = world.image(), uuid4()
    world.catalog.forbidden |= {forbidden, absent}
    _, view = world.service.prepare(ALICE, Wish([surl(forbidden), surl(absent)]))
    first, second = view.files
    assert (first.state, first.reason, first.guid) == (second.state, second.reason, second.guid) == ("INVALID_PATH", "NO_SUCH_FILE", None)


def test_a_request_without_files_or_with_too_many_is_refused(world):
    for surls, pin in (([], 0), (["x"] * 10_001, 0), (["x"], -1)):
        with pytest.raises(Invalid):
            world.service.prepare(ALICE, Wish(surls, pin_seconds=pin))


def test_nothing_is_given_while_rights_cannot_be_checked(world):
    world.catalog.away = True
    with pytest.raises(Unavailable):
        world.get([world.image()])
    assert not world.store.requests


def test_two_callers_of_one_series_cause_one_retrieval(world):
    world.pacs.gate.clear()
    guids = world.images(5)
    tokens = [(ALICE, world.get(guids, ALICE)), (BOB, world.get(guids[1:4], BOB)), (ALICE, world.get(guids[::-1], ALICE))]
    world.pacs.gate.set()
    for owner, token in tokens:
        assert set(world.settled(owner, token)) == {"FILE_PINNED"}
    assert len(world.pacs.retrievals) == 1
    assert world.keys.calls == 1


def test_files_of_a_series_that_waits_join_its_retrieval(make_world):
    world = make_world(retrievals=1)
    world.pacs.gate.clear()
    busy = world.get([world.image("1.9")])
    guids = world.images(4)
    tokens = [world.get(guids[:2]), world.get(guids[2:])]
    world.pacs.gate.set()
    for token in (busy, *tokens):
        assert set(world.settled(ALICE, token)) == {"FILE_PINNED"}
    assert sorted(map(len, world.pacs.retrievals)) == [1, 4]


def test_a_staged_file_is_pinned_at_once_without_the_pacs(world):
    guids = world.images(3)
    world.settled(ALICE, world.get(guids))
    world.pacs.away = True
    _, view = world.service.prepare(BOB, Wish([surl(guid) for guid in guids]))
    assert view.state == "SUCCESS"


def test_another_callers_token_is_as_unknown_as_a_wrong_one(world):
    guid = world.image()
    token = world.get([guid])
    world.settled(ALICE, token)
    messages = set()
    for owner, attempt in ((BOB, token), (ALICE, "A" * 43), (ALICE, token[:-1]), (ALICE, "")):
        for call in (
            lambda o=owner, t=attempt: world.service.status(o, t),
            lambda o=owner, t=attempt: list(world.service.watch(o, t, threading.Event())),
            lambda o=owner, t=attempt: world.control.abort(o, t),
            lambda o=owner, t=attempt: world.service.reading(o, t).open(guid),
        ):
            with pytest.raises(NotFound) as caught:
                call()
            messages.add(caught.value.message)
    with pytest.raises(NotFound):
        world.control.release(BOB, token, [])
    assert len(messages) == 1
    assert world.settled(ALICE, token) == ["FILE_PINNED"]


def test_registration_follows_what_only_staging_could_see(world, caplog):
    held, defect, good = world.image(content=b"QUARANTINE Doe^John"), world.image(content=b"CRASH"), world.image()
    token = world.get([held, defect, good])
    assert world.settled(ALICE, token) == ["FAILURE", "INTERNAL_ERROR", "FILE_PINNED"]
    assert world.held_back == {held: ("QUARANTINED", "BURNED_IN")}
    told = {record.guid: (record.state, record.reason) for record in caplog.records if record.message == "not staged"}
    assert told == {str(held): ("FAILURE", "QUARANTINED_BURNED_IN"), str(defect): ("INTERNAL_ERROR", "DEFECT_RUNTIMEERROR")}
    assert "Doe" not in caplog.text


def test_what_the_pacs_says_it_lacks_is_reported_to_the_registry_and_what_it_cannot_send_is_not(world):
    lost, unsent = world.image(), world.image()
    world.pacs.content.pop(world.locators[lost].sop_uid)
    assert world.settled(ALICE, world.get([lost])) == ["FILE_LOST"]
    assert world.missed == [lost]
    world.pacs.away = True
    assert world.settled(ALICE, world.get([unsent])) == ["FILE_UNAVAILABLE"]
    assert world.missed == [lost]


def test_a_registration_that_cannot_follow_does_not_keep_the_caller_waiting(world, monkeypatch):
    monkeypatch.setattr(world, "hold_back", lambda *_: 1 / 0)
    assert world.settled(ALICE, world.get([world.image(content=b"QUARANTINE")])) == ["FAILURE"]


@pytest.mark.parametrize(
    ("prepare", "state", "reason"),
    [
        (lambda w, g: setattr(w.pacs, "away", True), "FILE_UNAVAILABLE", "PACS_UNAVAILABLE"),
        (lambda w, g: w.pacs.content.clear(), "FILE_LOST", "NOT_IN_PACS"),
        (lambda w, g: w.locators.clear(), "FILE_LOST", "NOT_REGISTERED"),
        (lambda w, g: w.pacs.content.update({w.locators[g].sop_uid: b"QUARANTINE"}), "FAILURE", "QUARANTINED_BURNED_IN"),
        (lambda w, g: w.pacs.content.update({w.locators[g].sop_uid: b"CRASH"}), "INTERNAL_ERROR", "DEFECT_RUNTIMEERROR"),
        (lambda w, g: w.pacs.content.update({w.locators[g].sop_uid: b"GARBLE"}), "INTERNAL_ERROR", "DEIDENTIFIED_FILE_MALFORMED"),
        (lambda w, g: w.keys.missing.update({g: KeysAway("QUORUM", "x")}), "FILE_UNAVAILABLE", "KEY_UNAVAILABLE"),
        (lambda w, g: w.keys.missing.update({g: KeyNotFound("KEY_NOT_FOUND", "x")}), "FILE_LOST", "KEY_NOT_FOUND"),
        (lambda w, g: setattr(w.keys, "get_keys", None), "INTERNAL_ERROR", None),
    ],
)
def test_what_goes_wrong_has_a_state_and_a_reason_and_leaves_nothing_behind(world, prepare, state, reason):
    guid = world.image()
    prepare(world, guid)
    token = world.get([guid])
    world.settled(ALICE, token)
    (file,) = world.service.status(ALICE, token).files
    assert file.state == state
    assert reason is None or file.reason == reason
    assert {item.name for item in world.directory.iterdir()} == {"LOCK", "GENERATION"}
    usage = world.spool.usage()
    assert (usage.reserved, usage.stored) == (0, 0)


def test_what_arrived_before_the_pacs_broke_off_is_good_and_the_rest_can_be_asked_for_again(world):
    guids = world.images(6)
    world.pacs.breaks_after = 4
    states = world.settled(ALICE, world.get(guids))
    assert sorted(states) == ["FILE_PINNED"] * 4 + ["FILE_UNAVAILABLE"] * 2
    world.pacs.breaks_after = None
    assert set(world.settled(ALICE, world.get(guids))) == {"FILE_PINNED"}
    assert list(map(len, world.pacs.retrievals)) == [6, 2]


def test_a_file_that_the_pacs_cannot_send_now_fails_alone_and_is_not_lost(world):
    guids = world.images(3)
    world.pacs.missing = "PACS_NOT_DELIVERED"
    del world.pacs.content[next(iter(world.pacs.content))]
    token = world.get(guids)
    assert sorted(world.settled(ALICE, token)) == ["FILE_PINNED"] * 2 + ["FILE_UNAVAILABLE"]
    assert {file.reason for file in world.service.status(ALICE, token).files} == {"", "PACS_NOT_DELIVERED"}


def test_a_pacs_that_hangs_is_given_up_and_a_later_request_succeeds(make_world):
    world = make_world(stall_seconds=0.1)
    world.pacs.gate.clear()
    guids = world.images(2)
    token = world.get(guids)
    eventually(lambda: len(world.pacs.retrievals) == 1)
    eventually(lambda: world.queue.check_stalled() or not world.service.status(ALICE, token).pending)
    assert {file.reason for file in world.service.status(ALICE, token).files} == {"PACS_TOO_SLOW"}
    world.pacs.gate.set()
    assert world.settled(ALICE, world.get(guids)) == ["FILE_PINNED"] * 2


def test_the_size_that_users_get_is_told(world):
    guid = world.image(content=b"PATIENTDOE pixels")
    world.settled(ALICE, world.get([guid]))
    assert world.sizes == {guid: 128 + len(b"DICManonymous: pixels")}


def test_a_single_image_does_not_wait_for_all_of_somebodys_studies(make_world):
    world = make_world(retrievals=1)
    world.pacs.gate.clear()
    big = [world.image(f"1.5.{series}") for series in range(6) for _ in range(10)]
    world.get(big)
    eventually(lambda: world.pacs.retrievals)
    single = world.get([world.image("1.8")], BOB)
    world.pacs.gate.set()
    world.settled(BOB, single)
    order = [len(retrieval) for retrieval in world.pacs.retrievals]
    assert order.index(1) <= 2


def test_a_watcher_does_not_wait_for_more_once_nothing_is_pending(world):
    guid = world.image()
    world.pacs.gate.clear()
    token = world.get([guid])
    active = world.requests.find("CN=alice", token)
    found = []
    thread = threading.Thread(target=lambda: found.append(world.requests.changes(active, 0, 3600, time.monotonic() + 3600)))
    thread.start()
    world.pacs.gate.set()
    thread.join(30)
    assert [file.state for file in found[0].files] == ["FILE_PINNED"]
