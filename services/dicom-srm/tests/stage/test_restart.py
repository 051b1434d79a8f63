"""What outlives a restart, a file that vanishes or changes, and a database that is away."""

import threading

import pytest
from mdm_testing.process import eventually
from mdm_wire.errors import Unavailable

from .conftest import surl

ALICE, BOB = "CN=alice", "CN=bob"


def test_pins_and_staged_files_survive_a_restart(world):
    guids = world.images(3)
    token = world.get(guids)
    world.settled(ALICE, token)
    world.control.release(ALICE, token, [surl(guids[0])])
    world.restart()
    assert world.settled(ALICE, token) == ["RELEASED", "FILE_PINNED", "FILE_PINNED"]
    world.service.reading(ALICE, token).open(guids[1])[1].close()
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
        world.service.reading(ALICE, token).open(guid)
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
    assert len(token) == len("srm-1-") + 43
