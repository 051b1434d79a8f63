"""Pins, their end, and who waits: release, abort, expiry, limits, watching."""

import threading
from uuid import uuid4

import pytest
from mdm_dicom_srm.stage.rules.active import RequestLimits
from mdm_testing.process import eventually
from mdm_wire.errors import Exhausted, Invalid, NotFound

from .conftest import surl

ALICE, BOB = "CN=alice", "CN=bob"


def test_a_full_spool_refuses_and_takes_more_once_pins_are_released(make_world):
    world = make_world(quota=400_000)
    big = [world.image("1.7", bytes(200_000)) for _ in range(3)]
    token = world.get(big)
    assert sorted(world.settled(ALICE, token)) == ["FILE_PINNED", "NO_FREE_SPACE", "NO_FREE_SPACE"]
    assert not list(world.directory.glob("*.part"))
    world.control.release(ALICE, token, [])
    missing = [file.guid for file in world.service.status(ALICE, token).files if file.state == "NO_FREE_SPACE"]
    assert world.settled(ALICE, world.get(missing[:1])) == ["FILE_PINNED"]


def test_files_without_a_pin_make_room_oldest_first(make_world):
    world = make_world(quota=500_000)
    first, second, third = (world.image(f"1.7.{n}", bytes(150_000)) for n in range(3))
    for guid in (first, second):
        token = world.get([guid])
        world.settled(ALICE, token)
        world.control.release(ALICE, token, [])
    again = world.get([first])
    world.control.release(ALICE, again, [])
    assert world.settled(ALICE, world.get([third])) == ["FILE_PINNED"]
    assert {item.name for item in world.directory.iterdir()} == {str(first), str(third), "LOCK", "GENERATION"}


def test_a_pin_expires_and_the_file_cannot_be_read_any_more(world):
    guid = world.image()
    token = world.get([guid], pin_seconds=60)
    world.settled(ALICE, token)
    world.now += 61
    with pytest.raises(NotFound):
        world.service.reading(ALICE, token).open(guid)
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
    files = world.control.release(ALICE, "", [surl(guid), surl(uuid4()), "nonsense"])
    assert [file.state for file in files] == ["RELEASED", "INVALID_PATH", "INVALID_PATH"]
    assert world.settled(ALICE, mine) == world.settled(ALICE, mine_too) == ["RELEASED"]
    assert world.settled(BOB, theirs) == ["FILE_PINNED"]
    assert world.spool.usage().pinned > 0
    with pytest.raises(NotFound):
        world.service.reading(ALICE, mine).open(guid)


def test_some_files_of_a_request_are_released_and_repeating_it_is_no_error(world):
    guids = world.images(3)
    token = world.get(guids)
    world.settled(ALICE, token)
    for _ in range(2):
        files = world.control.release(ALICE, token, [surl(guids[1]), surl(uuid4())])
        assert [file.state for file in files] == ["RELEASED", "INVALID_PATH"]
    assert world.settled(ALICE, token) == ["FILE_PINNED", "RELEASED", "FILE_PINNED"]
    assert world.service.status(ALICE, token).state == "SUCCESS"
    with pytest.raises(Invalid):
        world.control.release(ALICE, "", [])


def test_an_aborted_request_stops_its_retrieval_unless_somebody_else_waits(world):
    world.pacs.gate.clear()
    guids = world.images(50)
    token = world.get(guids)
    eventually(lambda: len(world.pacs.retrievals) == 1)
    other = world.get(guids[-1:], BOB)
    assert world.control.abort(ALICE, token) == "ABORTED"
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
    world.control.release(ALICE, token, [])
    world.pacs.gate.set()
    eventually(lambda: world.pacs.closed == 1)
    assert world.settled(ALICE, token) == ["RELEASED"] * 50
    assert world.spool.usage().files == 0


def test_a_request_is_not_worked_on_for_ever(make_world):
    world = make_world()
    world.pacs.gate.clear()
    token = world.get(world.images(2), request_seconds=100)
    world.now += 101
    world.tick()
    status = world.service.status(ALICE, token)
    assert {file.reason for file in status.files} == {"REQUEST_TIMED_OUT"}
    assert status.state == "REQUEST_TIMED_OUT"


def test_ended_requests_are_forgotten_and_make_room_for_their_caller(make_world):
    world = make_world(limits=RequestLimits(retention_seconds=50, files_per_owner=3))
    guids = world.images(3)
    token = world.get(guids)
    world.settled(ALICE, token)
    with pytest.raises(Exhausted):
        world.get(guids[:1])
    world.get(guids, BOB)
    world.control.release(ALICE, token, [])
    world.now += 51
    world.tick()
    world.now += 60
    world.tick()
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
