"""A right that is taken away ends the reading of what is pinned, within the bound."""

import threading

import pytest
from mdm_dicom_srm.stage.rules.model import ReadRights
from mdm_dicom_srm.stage.rules.recheck import Rechecker
from mdm_wire.errors import Forbidden, Unavailable

from .conftest import RECHECK_SECONDS

ALICE = "CN=alice"


@pytest.fixture
def pinned(world):
    """A request whose three files are pinned, and their GUIDs."""
    guids = world.images(3)
    token = world.get(guids)
    assert world.settled(ALICE, token) == ["FILE_PINNED"] * 3
    world.catalog.asked.clear()
    return token, guids


def _read(world, token, guid):
    world.service.reading(ALICE, token).open(guid)[1].close()


def test_what_was_pinned_before_a_revocation_is_not_read_after_the_bound(world, pinned):
    token, guids = pinned
    world.catalog.forbidden.add(guids[0])
    _read(world, token, guids[0])
    world.now += RECHECK_SECONDS / 2
    with pytest.raises(Forbidden) as caught:
        _read(world, token, guids[0])
    assert caught.value.reason == "READ_REVOKED"
    _read(world, token, guids[1])


def test_a_stream_under_way_ends_within_the_bound(world, pinned):
    token, guids = pinned
    reading = world.service.reading(ALICE, token)
    reading.check(guids[0])
    world.catalog.forbidden.add(guids[0])
    world.now += RECHECK_SECONDS
    with pytest.raises(Forbidden):
        reading.check(guids[0])
    world.catalog.forbidden.clear()
    world.now += RECHECK_SECONDS / 2
    reading.check(guids[0])


def test_the_catalog_is_asked_for_all_files_of_a_request_at_once(world, pinned):
    token, guids = pinned
    for guid in guids:
        _read(world, token, guid)
    assert world.catalog.asked == [], "the question at the beginning still holds"
    world.now += RECHECK_SECONDS
    for guid in guids:
        _read(world, token, guid)
    assert world.catalog.asked == [set(guids)]


def test_a_catalog_that_is_away_is_waited_for_within_the_bound_and_not_beyond(world, pinned):
    token, guids = pinned
    world.catalog.away = True
    world.now += RECHECK_SECONDS * 0.9
    _read(world, token, guids[0])
    world.now += RECHECK_SECONDS * 0.1
    with pytest.raises(Unavailable):
        _read(world, token, guids[0])


def test_after_a_restart_nothing_is_read_before_the_catalog_has_been_asked(world, pinned):
    token, guids = pinned
    world.catalog.forbidden.add(guids[0])
    world.restart()
    with pytest.raises(Forbidden):
        _read(world, token, guids[0])
    _read(world, token, guids[1])


def test_readers_of_one_request_ask_once(world):
    guids = world.images(2)
    rechecker, rights = Rechecker(world.catalog, 60.0, lambda: world.now), ReadRights()
    threads = [threading.Thread(target=rechecker.confirm, args=(ALICE, guids[0], rights, lambda: guids)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.catalog.asked == [set(guids)]
