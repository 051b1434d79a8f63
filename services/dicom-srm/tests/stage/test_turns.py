"""Fair shares: one who asks for ten thousand files does not delay another's one."""

import threading

import pytest
from mdm_dicom_srm.stage.rules.retrieval import Pace
from mdm_dicom_srm.stage.rules.turn import TurnQueue
from mdm_testing.process import eventually

ALICE, BOB, CAROL = "CN=alice", "CN=bob", "CN=carol"


def test_owners_take_turns():
    queue = TurnQueue()
    for number in range(3):
        queue.put("a", f"a{number}")
    queue.put("b", "b0")
    queue.put("c", "c0")
    assert [queue.get() for _ in range(5)] == ["a0", "b0", "c0", "a1", "a2"]


def test_a_closed_queue_gives_back_what_nobody_gets_and_ends_who_waits():
    queue, got = TurnQueue(), []
    waiting = threading.Thread(target=lambda: got.append(queue.get()))
    waiting.start()
    assert queue.close() == []
    waiting.join(5)
    assert got == [None]
    with pytest.raises(RuntimeError):
        queue.put("a", 1)


def test_a_caller_for_whom_nothing_runs_gets_a_retrieval_beside_those_of_others(make_world):
    world = make_world(retrievals=2)
    world.pacs.gate.clear()
    world.get([world.image(f"1.5.{series}") for series in range(20) for _ in range(5)], ALICE)
    eventually(lambda: len(world.pacs.retrievals) == 2)
    for count, owner in ((3, BOB), (4, CAROL)):
        world.get([world.image(f"1.8.{count}")], owner)
        eventually(lambda: len(world.pacs.retrievals) == count)  # noqa: B023 - asked at once
    world.get([world.image("1.9")], "CN=dora")
    assert len(world.pacs.retrievals) == 4, "more than twice as many are not run"


def test_what_one_caller_wants_of_a_series_that_waits_for_another_comes_in_its_own_turn(make_world):
    world = make_world(retrievals=1)
    world.pacs.gate.clear()
    many = [world.image(f"1.5.{series}") for series in range(4) for _ in range(50)]
    token = world.get(many, ALICE)
    eventually(lambda: world.pacs.retrievals)
    one = world.get([many[-1]], BOB)
    eventually(lambda: len(world.pacs.retrievals) == 2)
    assert len(world.pacs.retrievals[1]) == 1
    world.pacs.gate.set()
    assert world.settled(BOB, one) == ["FILE_PINNED"]
    assert world.settled(ALICE, token) == ["FILE_PINNED"] * 200
    assert sum(map(len, world.pacs.retrievals)) == 200, "no file is retrieved twice"


def test_callers_of_the_same_series_share_a_retrieval(make_world):
    world = make_world(retrievals=1)
    world.pacs.gate.clear()
    world.get([world.image("1.4")], ALICE)
    eventually(lambda: world.pacs.retrievals)
    guids = world.images(20)
    tokens = [(f"CN=user{n}", world.get(guids, f"CN=user{n}")) for n in range(16)]
    eventually(lambda: len(world.pacs.retrievals) == 2)
    world.pacs.gate.set()
    for owner, token in tokens:
        assert world.settled(owner, token) == ["FILE_PINNED"] * 20
    assert sorted(map(len, world.pacs.retrievals)) == [1, 20]


def test_the_wait_is_estimated_by_what_was_staged_lately():
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.seconds(10) is None
    for second in (100.0, 102.0, 104.0):
        now[0] = second
        pace.begun() if second == 100.0 else pace.staged()
    assert pace.seconds(10) == pytest.approx(20.0)


def test_a_request_that_waits_has_an_estimate_once_something_was_staged(world):
    assert world.service.estimate(world.service.status(ALICE, world.get(world.images(1)))) is None
    world.settled(ALICE, world.get(world.images(5, "1.7")))
    world.pacs.gate.clear()
    status = world.service.status(ALICE, world.get(world.images(3, "1.8")))
    assert world.service.estimate(status) >= 0
