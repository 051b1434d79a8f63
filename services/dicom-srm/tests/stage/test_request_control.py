"""What callers may do with their requests: names and directories, later starts, suspension, longer pins, ends."""

from uuid import uuid4

import pytest
from mdm_dicom_srm.stage.rules.model import MAX_FILES, Kind
from mdm_dicom_srm.stage.rules.service import Wish
from mdm_testing.process import eventually
from mdm_wire.errors import Invalid, NotFound
from mdm_wire.permission import Permission
from mdm_wire.url import surl_of_lfn

from .conftest import AUTHORITY, ROOT, surl

ALICE, BOB = "CN=alice", "CN=bob"
STUDY = f"{ROOT}/P 1/S%"


def named(lfn):
    return surl_of_lfn(AUTHORITY, lfn)


@pytest.fixture
def study(world):
    """A study of two series of two images, by path."""
    guids = {f"{STUDY}/{series}/{image}.dcm": world.image(f"1.{series}") for series in (1, 2) for image in (1, 2)}
    for lfn, guid in guids.items():
        world.catalog.put(lfn, guid)
    return guids


def prepare(world, *surls, **wish):
    token, _ = world.service.prepare(ALICE, Wish(surls, **wish))
    world.settled(ALICE, token)
    return token, {file.surl: (str(file.state), file.guid) for file in world.service.status(ALICE, token).files}


def test_a_file_is_staged_by_its_name(world, study):
    lfn, guid = next(iter(study.items()))
    _, files = prepare(world, named(lfn))
    assert files == {named(lfn): ("FILE_PINNED", guid)}


def test_a_directory_stands_for_the_files_below_it(world, study):
    token, files = prepare(world, named(STUDY), levels=0)
    assert files == {named(lfn): ("FILE_PINNED", guid) for lfn, guid in study.items()}
    world.restart()
    assert {file.guid for file in world.service.status(ALICE, token).files} == set(study.values())
    _, files = prepare(world, named(f"{STUDY}/1") + "/", named(STUDY))
    assert [state for state, _ in files.values()] == ["FILE_PINNED", "FILE_PINNED", "INVALID_PATH"]


def test_a_bad_path_refuses_no_other(world, study):
    world.catalog.put(f"{ROOT}/closed", permissions=Permission.NONE)
    world.catalog.put(f"{ROOT}/unreadable.dcm", world.image(), Permission.GET)
    good = next(iter(study))
    _, files = prepare(
        world,
        named(f"{ROOT}/closed"),
        named(f"{ROOT}/unreadable.dcm"),
        named(f"{ROOT}/none"),
        named("/biomed/elsewhere"),
        f"srm://{AUTHORITY}/%ff",
        f"srm://{AUTHORITY}{ROOT}/../x",
        named(good),
    )
    assert [state for state, _ in files.values()] == [*["AUTHORIZATION_FAILURE"] * 2, *["INVALID_PATH"] * 4, "FILE_PINNED"]


def test_a_file_that_several_targets_name_is_there_once(world, study):
    lfn, guid = next(iter(study.items()))
    token, _ = world.service.prepare(ALICE, Wish([named(f"{STUDY}/1"), named(STUDY), surl(guid), named(lfn)], levels=0))
    files = world.service.status(ALICE, token).files
    assert [file.reason for file in files] == [*[""] * 4, "REPEATED_SURL", "REPEATED_SURL"]


def test_a_directory_of_more_files_than_a_request_may_have_is_refused_alone(world, study):
    for number in range(MAX_FILES):
        world.catalog.put(f"{ROOT}/many/{number}", uuid4())
    token, status = world.service.prepare(ALICE, Wish([named(f"{ROOT}/many"), named(next(iter(study)))]))
    assert status.files[0].state == "TOO_MANY_RESULTS"
    assert world.settled(ALICE, token)[1] == "FILE_PINNED"


def test_what_is_brought_online_later_waits_until_then_and_survives_a_restart(world):
    guids = world.images(2)
    token = world.get(guids, kind=Kind.BRING_ONLINE, deferred_seconds=100, request_seconds=50)
    world.tick()
    assert world.service.status(ALICE, token).state == "REQUEST_QUEUED" and not world.pacs.retrievals
    world.restart()
    assert not world.pacs.retrievals
    world.now += 101
    world.tick()
    assert world.settled(ALICE, token) == ["FILE_PINNED"] * 2


def test_a_request_is_suspended_and_goes_on(world):
    world.pacs.gate.clear()
    guids = world.images(3)
    token, other = world.get(guids), world.get(guids[:1], BOB)
    eventually(lambda: world.pacs.retrievals)
    for _ in range(2):
        assert world.control.suspend(ALICE, token) == "REQUEST_SUSPENDED"
    world.pacs.gate.set()
    assert world.settled(BOB, other) == ["FILE_PINNED"]
    assert world.service.status(ALICE, token).state == "REQUEST_SUSPENDED"
    assert {file.state for file in world.service.status(ALICE, token).files} == {"REQUEST_QUEUED"}
    world.restart()
    assert world.service.status(ALICE, token).state == "REQUEST_SUSPENDED"
    for _ in range(2):
        world.control.resume(ALICE, token)
    assert world.settled(ALICE, token) == ["FILE_PINNED"] * 3


def test_a_suspended_request_times_out_and_an_ended_one_stays_as_it_is(world):
    world.pacs.gate.clear()
    token = world.get(world.images(2), request_seconds=100)
    world.control.suspend(ALICE, token)
    world.now += 101
    world.tick()
    assert world.service.status(ALICE, token).state == "REQUEST_TIMED_OUT"
    assert world.control.suspend(ALICE, token) == "REQUEST_TIMED_OUT"
    assert world.control.resume(ALICE, token) == "REQUEST_TIMED_OUT"


def test_files_of_a_request_are_aborted_and_the_others_go_on(world, study):
    world.pacs.gate.clear()
    token, _ = world.service.prepare(ALICE, Wish([named(STUDY)], levels=0))
    lfns, guids = list(study), list(study.values())
    files = world.control.abort_files(ALICE, token, [named(lfns[0]), surl(guids[1]), surl(uuid4())])
    assert [str(file.state) for file in files] == ["ABORTED", "ABORTED", "INVALID_PATH"]
    world.pacs.gate.set()
    assert world.settled(ALICE, token) == ["ABORTED", "ABORTED", "FILE_PINNED", "FILE_PINNED"]


def test_pins_are_extended_from_now_and_capped(world):
    guids = world.images(2)
    token = world.get(guids, pin_seconds=60)
    world.settled(ALICE, token)
    world.now += 50
    for asked, given in ((100, 100), (0, 3600), (10**12, 7200)):
        _, files = world.control.extend(ALICE, token, [surl(guids[0]), surl(uuid4())], asked)
        assert [str(file.state) for file in files] == ["FILE_PINNED", "INVALID_PATH"]
        assert files[0].pin_until == world.now + given
    world.now += 20
    assert world.settled(ALICE, token) == ["FILE_PINNED", "FILE_LIFETIME_EXPIRED"]
    _, files = world.control.extend(ALICE, token, [], 5)
    assert len(files) == 1
    _, files = world.control.extend(ALICE, token, [surl(guids[1])], 100)
    assert files[0].state == "FILE_LIFETIME_EXPIRED"


def test_pins_are_released_by_name_without_a_token(world, study):
    token, _ = prepare(world, named(STUDY), levels=0)
    lfn = next(iter(study))
    files = world.control.release(ALICE, "", [named(lfn), named(f"{ROOT}/none"), named(STUDY)])
    assert [str(file.state) for file in files] == ["RELEASED", "INVALID_PATH", "INVALID_PATH"]
    assert world.settled(ALICE, token) == ["RELEASED", *["FILE_PINNED"] * 3]


def test_nobody_else_may_do_anything_with_a_request(world):
    guid = world.image()
    token = world.get([guid])
    for call in (
        lambda: world.control.suspend(BOB, token),
        lambda: world.control.resume(BOB, token),
        lambda: world.control.extend(BOB, token, [], 5),
        lambda: world.control.abort_files(BOB, token, [surl(guid)]),
    ):
        with pytest.raises(NotFound):
            call()


@pytest.mark.parametrize(
    "wish",
    [
        {"request_seconds": -1},
        {"deferred_seconds": -1},
        {"deferred_seconds": 7201},
        {"levels": -1},
        {"description": "x" * 256},
        {"description": "two\nlines"},
    ],
)
def test_what_cannot_be_asked_for_is_refused_and_nothing_is_kept(world, wish):
    with pytest.raises(Invalid):
        world.get([world.image()], **wish)
    assert not world.store.requests


def test_too_many_or_no_files_are_refused(world):
    token = world.get([world.image()])
    for call in (
        lambda: world.control.abort_files(ALICE, token, []),
        lambda: world.control.abort_files(ALICE, token, ["x"] * (MAX_FILES + 1)),
        lambda: world.control.extend(ALICE, token, ["x"] * (MAX_FILES + 1), 1),
        lambda: world.control.extend(ALICE, token, [], -1),
        lambda: world.control.summaries(ALICE, ["x"] * 1001),
    ):
        with pytest.raises(Invalid):
            call()


def test_times_are_capped_by_the_site(world):
    world.pacs.gate.clear()
    status = world.service.status(ALICE, world.get(world.images(1), request_seconds=10**9))
    assert status.deadline == world.now + 7200
