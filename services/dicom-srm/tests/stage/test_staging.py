"""Staging from request to ciphertext, on fakes of PACS, catalog, keystores and database."""

import threading
from uuid import uuid4

import pytest
from mdm_crypto import stream
from mdm_dicom_srm.stage.rules.book import Limits
from mdm_testing.wait import eventually
from mdm_wire.errors import Exhausted, Invalid, NotFound, Unavailable
from mdm_wire.errors import NotFound as KeyNotFound
from mdm_wire.errors import Unavailable as KeysAway

ALICE, BOB = "CN=alice", "CN=bob"


def surl(guid):
    return f"srm://hospital-a/{guid}"


def test_a_file_becomes_ciphertext_of_its_deidentified_form(world):
    guid = world.image(content=b"PATIENTDOE" + b"pixels" * 1000)
    token = world.get([guid])
    assert world.settled(ALICE, token) == ["FILE_PINNED"]
    file, data = world.service.open(ALICE, token, guid)
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
    world.access.forbidden |= {forbidden, unknown}
    asked = [surl(good), "nonsense", surl(forbidden), surl(unknown), surl(good), f"srm://elsewhere/{good}", surl(str(good).upper())]
    token, view = world.service.prepare(ALICE, asked, 0)
    assert [file.surl for file in view.files] == asked
    states = world.settled(ALICE, token)
    assert states == ["FILE_PINNED", *["INVALID_PATH"] * 3, "INVALID_REQUEST", *["INVALID_PATH"] * 2]
    assert world.service.status(ALICE, token).state == "PARTIAL_SUCCESS"


def test_forbidden_and_absent_look_alike(world):
    forbidden, absent = world.image(), uuid4()
    world.access.forbidden |= {forbidden, absent}
    _, view = world.service.prepare(ALICE, [surl(forbidden), surl(absent)], 0)
    first, second = view.files
    assert (first.state, first.reason, first.guid) == (second.state, second.reason, second.guid) == ("INVALID_PATH", "NO_SUCH_FILE", None)


def test_a_request_without_files_or_with_too_many_is_refused(world):
    for surls, pin in (([], 0), (["x"] * 10_001, 0), (["x"], -1)):
        with pytest.raises(Invalid):
            world.service.prepare(ALICE, surls, pin)


def test_nothing_is_given_while_rights_cannot_be_checked(world):
    world.access.away = True
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
    _, view = world.service.prepare(BOB, [surl(guid) for guid in guids], 0)
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
            lambda o=owner, t=attempt: world.service.abort(o, t),
            lambda o=owner, t=attempt: world.service.open(o, t, guid),
        ):
            with pytest.raises(NotFound) as caught:
                call()
            messages.add(caught.value.message)
    with pytest.raises(NotFound):
        world.service.release(BOB, token, [])
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


def test_a_registration_that_cannot_follow_does_not_keep_the_caller_waiting(world, monkeypatch):
    monkeypatch.setattr(world.engine, "_hold_back", lambda *_: 1 / 0)
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


def test_a_pacs_that_hangs_is_given_up_and_a_later_request_succeeds(make_world):
    world = make_world(stall_seconds=0.1)
    world.pacs.gate.clear()
    guids = world.images(2)
    token = world.get(guids)
    eventually(lambda: len(world.pacs.retrievals) == 1)
    eventually(lambda: world.engine.check_stalled() or not world.service.status(ALICE, token).pending)
    assert {file.reason for file in world.service.status(ALICE, token).files} == {"PACS_TOO_SLOW"}
    world.pacs.gate.set()
    assert world.settled(ALICE, world.get(guids)) == ["FILE_PINNED"] * 2


def test_a_full_spool_refuses_and_takes_more_once_pins_are_released(make_world):
    world = make_world(quota=400_000)
    big = [world.image("1.7", bytes(200_000)) for _ in range(3)]
    token = world.get(big)
    assert sorted(world.settled(ALICE, token)) == ["FILE_PINNED", "NO_FREE_SPACE", "NO_FREE_SPACE"]
    assert not list(world.directory.glob("*.part"))
    world.service.release(ALICE, token, [])
    missing = [file.guid for file in world.service.status(ALICE, token).files if file.state == "NO_FREE_SPACE"]
    assert world.settled(ALICE, world.get(missing[:1])) == ["FILE_PINNED"]


def test_files_without_a_pin_make_room_oldest_first(make_world):
    world = make_world(quota=500_000)
    first, second, third = (world.image(f"1.7.{n}", bytes(150_000)) for n in range(3))
    for guid in (first, second):
        token = world.get([guid])
        world.settled(ALICE, token)
        world.service.release(ALICE, token, [])
    again = world.get([first])
    world.service.release(ALICE, again, [])
    assert world.settled(ALICE, world.get([third])) == ["FILE_PINNED"]
    assert {item.name for item in world.directory.iterdir()} == {str(first), str(third), "LOCK", "GENERATION"}


def test_a_pin_expires_and_the_file_cannot_be_read_any_more(world):
    guid = world.image()
    token = world.get([guid], pin_seconds=60)
    world.settled(ALICE, token)
    world.now += 61
    with pytest.raises(NotFound):
        world.service.open(ALICE, token, guid)
    view = world.service.status(ALICE, token)
    assert [file.state for file in view.files] == ["FILE_LIFETIME_EXPIRED"]
    assert view.state == "FAILURE"
    assert world.spool.usage().pinned == 0


def test_pin_times_are_capped_by_the_site(world):
    guid = world.image()
    for asked, given in ((0, 3600), (10, 10), (10**12, 7200)):
        token = world.get([guid], pin_seconds=asked)
        world.settled(ALICE, token)
        assert world.service.status(ALICE, token).files[0].pin_until == world.now + given


def test_releasing_without_a_token_releases_only_the_callers_own_pins(world):
    guid = world.image()
    mine, mine_too, theirs = world.get([guid], ALICE), world.get([guid], ALICE), world.get([guid], BOB)
    for owner, token in ((ALICE, mine), (ALICE, mine_too), (BOB, theirs)):
        world.settled(owner, token)
    files = world.service.release(ALICE, "", [surl(guid), surl(uuid4()), "nonsense"])
    assert [file.state for file in files] == ["RELEASED", "INVALID_PATH", "INVALID_PATH"]
    assert world.settled(ALICE, mine) == world.settled(ALICE, mine_too) == ["RELEASED"]
    assert world.settled(BOB, theirs) == ["FILE_PINNED"]
    assert world.spool.usage().pinned > 0
    with pytest.raises(NotFound):
        world.service.open(ALICE, mine, guid)


def test_some_files_of_a_request_are_released_and_repeating_it_is_no_error(world):
    guids = world.images(3)
    token = world.get(guids)
    world.settled(ALICE, token)
    for _ in range(2):
        files = world.service.release(ALICE, token, [surl(guids[1]), surl(uuid4())])
        assert [file.state for file in files] == ["RELEASED", "INVALID_PATH"]
    assert world.settled(ALICE, token) == ["FILE_PINNED", "RELEASED", "FILE_PINNED"]
    assert world.service.status(ALICE, token).state == "SUCCESS"
    with pytest.raises(Invalid):
        world.service.release(ALICE, "", [])


def test_an_aborted_request_stops_its_retrieval_unless_somebody_else_waits(world):
    world.pacs.gate.clear()
    guids = world.images(50)
    token, other = world.get(guids), world.get(guids[-1:], BOB)
    eventually(lambda: len(world.pacs.retrievals) == 1)
    assert world.service.abort(ALICE, token) == "ABORTED"
    world.pacs.gate.set()
    assert world.settled(BOB, other) == ["FILE_PINNED"]
    eventually(lambda: world.pacs.closed == 1)
    assert set(world.settled(ALICE, token)) == {"ABORTED"}
    assert world.spool.usage().files == 1


def test_a_retrieval_that_nobody_waits_for_is_broken_off(world):
    world.pacs.gate.clear()
    guids = world.images(50)
    token = world.get(guids)
    eventually(lambda: len(world.pacs.retrievals) == 1)
    world.service.release(ALICE, token, [])
    world.pacs.gate.set()
    eventually(lambda: world.pacs.closed == 1)
    assert world.settled(ALICE, token) == ["RELEASED"] * 50
    assert world.spool.usage().files == 0


def test_a_request_is_not_worked_on_for_ever(make_world):
    world = make_world(limits=Limits(request_seconds=100))
    world.pacs.gate.clear()
    token = world.get(world.images(2))
    world.now += 101
    world.book.tick()
    assert {file.reason for file in world.service.status(ALICE, token).files} == {"REQUEST_TIMED_OUT"}


def test_ended_requests_are_forgotten_and_make_room_for_their_caller(make_world):
    world = make_world(limits=Limits(request_seconds=100, retention_seconds=50, files_per_owner=3))
    guids = world.images(3)
    token = world.get(guids)
    world.settled(ALICE, token)
    with pytest.raises(Exhausted):
        world.get(guids[:1])
    world.get(guids, BOB)
    world.service.release(ALICE, token, [])
    world.now += 51
    world.book.tick()
    world.now += 60
    world.book.tick()
    with pytest.raises(NotFound):
        world.service.status(ALICE, token)
    world.get(guids)


def test_a_watcher_sees_every_file_end_once_and_then_the_stream_ends(world):
    world.pacs.gate.clear()
    guids = world.images(20)
    token = world.get(guids)
    views = []
    world.pacs.gate.set()
    views = list(world.service.watch(ALICE, token, threading.Event()))
    assert len(views[0].files) == 20
    last = {file.guid: file.state for view in views for file in view.files}
    assert last == dict.fromkeys(guids, "FILE_PINNED")
    assert views[-1].state == "SUCCESS" and not views[-1].pending


def test_a_watch_ends_when_its_client_goes_away_and_frees_its_place(world):
    world.pacs.gate.clear()
    token = world.get(world.images(1))
    for _ in range(3):
        gone = threading.Event()
        watch = world.service.watch(ALICE, token, gone)
        next(watch)
        gone.set()
        assert not list(watch)
    first, second = (world.service.watch(ALICE, token, threading.Event()) for _ in range(2))
    next(first), next(second)
    with pytest.raises(Exhausted):
        next(world.service.watch(ALICE, token, threading.Event()))


def test_pins_and_staged_files_survive_a_restart(world):
    guids = world.images(3)
    token = world.get(guids)
    world.settled(ALICE, token)
    world.service.release(ALICE, token, [surl(guids[0])])
    world.restart()
    assert world.settled(ALICE, token) == ["RELEASED", "FILE_PINNED", "FILE_PINNED"]
    world.service.open(ALICE, token, guids[1])[1].close()
    assert len(world.pacs.retrievals) == 1
    assert world.spool.usage().files == 3


def test_unfinished_files_are_staged_after_a_restart(world):
    world.pacs.gate.clear()
    guids = world.images(3)
    token = world.get(guids)
    eventually(lambda: len(world.pacs.retrievals) == 1)
    threading.Timer(0.1, world.pacs.gate.set).start()
    world.restart()
    assert world.settled(ALICE, token) == ["FILE_PINNED"] * 3


def test_a_pinned_file_that_the_spool_lost_is_staged_again_after_a_restart(world):
    guid = world.image()
    token = world.get([guid])
    world.settled(ALICE, token)
    (world.directory / str(guid)).unlink()
    world.restart()
    assert world.settled(ALICE, token) == ["FILE_PINNED"]
    assert len(world.pacs.retrievals) == 2


def test_a_staged_file_that_vanished_is_told_and_staged_anew(world):
    guid = world.image()
    token = world.get([guid])
    world.settled(ALICE, token)
    world.forget([guid])
    with pytest.raises(Unavailable):
        world.service.open(ALICE, token, guid)
    assert world.settled(ALICE, world.get([guid])) == ["FILE_PINNED"]


def test_what_changes_while_it_is_retrieved_does_not_become_visible(world):
    guid, other = world.images(2)
    world.pacs.gate.clear()
    token = world.get([guid, other])
    eventually(lambda: world.pacs.retrievals)
    world.forget([guid])
    world.pacs.gate.set()
    assert world.settled(ALICE, token) == ["FILE_UNAVAILABLE", "FILE_PINNED"]
    assert not (world.directory / str(guid)).exists()
    assert world.settled(ALICE, world.get([guid])) == ["FILE_PINNED"]


def test_what_is_being_described_anew_can_be_asked_for_later(world):
    guid = world.image()
    world.changing.add(guid)
    token = world.get([guid])
    assert world.settled(ALICE, token) == ["FILE_UNAVAILABLE"]
    assert world.service.status(ALICE, token).files[0].reason == "DESCRIBED_ANEW"
    assert world.pacs.retrievals == []
    world.changing.clear()
    assert world.settled(ALICE, world.get([guid])) == ["FILE_PINNED"]


def test_the_size_that_users_get_is_told(world):
    guid = world.image(content=b"PATIENTDOE pixels")
    world.settled(ALICE, world.get([guid]))
    assert world.sizes == {guid: 128 + len(b"DICManonymous: pixels")}


def test_changes_are_kept_while_the_database_is_away(world):
    world.store.broken = True
    guid = world.image()
    token = world.get([guid])
    assert world.settled(ALICE, token) == ["FILE_PINNED"]
    with pytest.raises(OSError, match="away"):
        world.journal.flush()
    world.store.broken = False
    world.journal.flush()
    (request,) = world.store.requests.values()
    assert request.files[0].state == "FILE_PINNED"


def test_only_the_digest_of_a_token_is_kept(world):
    token = world.get([world.image()])
    assert token not in repr(world.store.requests)
    assert len(token) == 43


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
