"""Listings: what is there, where its bytes are, and who may do what."""

from uuid import uuid4

import pytest
from mdm_dicom_srm.stage.rules.listing import MAX_REACH, Extent
from mdm_wire.errors import Invalid, Unavailable
from mdm_wire.permission import Permission
from mdm_wire.url import surl_of_lfn

from .conftest import AUTHORITY, ROOT, surl

ALICE, BOB = "CN=alice", "CN=bob"
STUDY = f"{ROOT}/P/S"


def named(lfn):
    return surl_of_lfn(AUTHORITY, lfn)


@pytest.fixture
def study(world):
    guids = [world.image() for _ in range(5)]
    for number, guid in enumerate(guids):
        world.catalog.put(f"{STUDY}/{number}.dcm", guid)
    return guids


def listed(world, *surls, **extent):
    more = []
    batches = world.listing.entries(ALICE, surls, Extent(**extent), lambda: more.append(True))
    return [item for batch in batches for item in batch], bool(more)


def test_a_directory_is_listed_itself_or_with_what_is_below(world, study):
    [itself], more = listed(world, named(STUDY))
    assert (itself.entry.kind, itself.locality, more) == ("DIRECTORY", "NONE", False)
    entries, _ = listed(world, named(f"{ROOT}/P"), levels=None)
    assert [item.surl for item in entries] == [named(STUDY), *(named(f"{STUDY}/{number}.dcm") for number in range(5))]
    entries, _ = listed(world, named(f"{ROOT}/P"), levels=1)
    assert [item.surl for item in entries] == [named(STUDY)]
    [file], _ = listed(world, surl(study[0]), levels=1)
    assert file.entry.guid == study[0]


def test_a_listing_goes_on_where_it_ended(world, study):
    every, _ = listed(world, named(STUDY), levels=1)
    first, more = listed(world, named(STUDY), levels=1, count=3)
    assert (first, more) == (every[:3], True)
    rest, more = listed(world, named(STUDY), levels=1, offset=3, count=2)
    assert (rest, more) == (every[3:], False)


def test_what_is_not_there_or_closed_is_an_invalid_path(world, study):
    world.catalog.put(f"{ROOT}/closed", permissions=Permission.NONE)
    entries, _ = listed(world, named(f"{ROOT}/none"), surl(uuid4()), "nonsense", named(f"{ROOT}/closed"), named(STUDY), levels=1)
    assert [item.entry is None for item in entries] == [True] * 4 + [False] * 5


def test_localities_say_where_the_bytes_are(world, study):
    online, near, changing, unregistered, both_away = study
    world.settled(ALICE, world.get([online]))
    world.changing.add(changing)
    del world.locators[unregistered]

    def localities():
        return {item.entry.guid: str(item.locality) for item in listed(world, named(STUDY), levels=1)[0]}

    assert localities() == {
        online: "ONLINE_AND_NEARLINE",
        near: "NEARLINE",
        changing: "UNAVAILABLE",
        unregistered: "LOST",
        both_away: "NEARLINE",
    }
    world.pacs.away = True
    assert (localities()[online], localities()[near]) == ("ONLINE", "UNAVAILABLE")


def test_only_the_callers_own_pin_is_shown(world, study):
    world.settled(BOB, world.get(study[:1], BOB))
    token = world.get(study[1:2], pin_seconds=60)
    world.settled(ALICE, token)
    pins = {item.entry.guid: item.pin_until for item in listed(world, named(STUDY), levels=1)[0]}
    assert {guid for guid, until in pins.items() if until} == {study[1]} and pins[study[1]] == world.now + 60


def test_permissions_are_those_that_the_catalog_says(world, study):
    world.catalog.put(f"{ROOT}/x", study[0], Permission.READ | Permission.GET)
    asked = [named(f"{ROOT}/x"), named(f"{ROOT}/none"), named(STUDY)]
    assert world.listing.permissions(ALICE, asked) == [Permission.READ | Permission.GET, None, Permission.READ | Permission.LIST]


@pytest.mark.parametrize("extent", [{"levels": -1}, {"offset": -1}, {"count": -1}, {"offset": MAX_REACH + 1}])
def test_an_extent_that_cannot_be_is_refused(world, extent):
    with pytest.raises(Invalid):
        listed(world, named(ROOT), **extent)


def test_too_many_or_no_surls_are_refused_and_a_catalog_away_is_said(world):
    for surls in ([], ["x"] * 1001):
        with pytest.raises(Invalid):
            listed(world, *surls)
    for surls in ([], ["x"] * 10_001):
        with pytest.raises(Invalid):
            world.listing.permissions(ALICE, surls)
    world.catalog.away = True
    with pytest.raises(Unavailable):
        listed(world, named(ROOT))
