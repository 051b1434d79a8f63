"""Results of users through staging: copied into the spool, never asked of the PACS or the keystores, made again when evicted."""

from uuid import uuid4

from mdm_dicom_srm.stage.rules.listing import Extent

ALICE = "CN=alice"


def test_a_kept_file_is_staged_as_it_is_without_pacs_and_keys(world):
    guid, image = uuid4(), world.image()
    world.kept.content[guid] = b"ciphertext"
    token = world.get([guid, image])
    assert world.settled(ALICE, token) == ["FILE_PINNED", "FILE_PINNED"]
    file, data = world.service.reading(ALICE, token).open(guid)
    with data:
        assert (data.read(), file.size) == (b"ciphertext", 10)
    assert world.pacs.retrievals == [[world.locators[image].sop_uid]]


def test_an_evicted_copy_is_made_again_and_a_lost_file_is_lost(world):
    guid, lost = uuid4(), uuid4()
    world.kept.content.update({guid: b"ciphertext", lost: None})
    assert world.settled(ALICE, world.get([guid])) == ["FILE_PINNED"]
    world.forget([guid])
    assert world.settled(ALICE, world.get([guid, lost])) == ["FILE_PINNED", "FILE_LOST"]


def test_a_copy_that_does_not_fit_into_the_spool_is_refused(make_world):
    world = make_world(quota=100)
    guid = uuid4()
    world.kept.content[guid] = b"x" * 101
    assert world.settled(ALICE, world.get([guid])) == ["NO_FREE_SPACE"]
    world.kept.content[guid] = b"x" * 100
    assert world.settled(ALICE, world.get([guid])) == ["FILE_PINNED"]


def test_forbidden_results_look_absent(world):
    guid = uuid4()
    world.kept.content[guid] = b"ciphertext"
    world.catalog.forbidden.add(guid)
    assert world.settled(ALICE, world.get([guid])) == ["INVALID_PATH"]


def test_a_listing_shows_kept_files_online(world):
    guid = uuid4()
    world.kept.content[guid] = b"ciphertext"
    world.catalog.put("/biomed/hospital-a/results/x", guid)
    name = "srm://hospital-a/biomed/hospital-a/results/x"
    [[item]] = world.listing.entries(ALICE, [name], Extent().check(), lambda: None)
    assert (item.surl, item.locality) == (name, "ONLINE")
