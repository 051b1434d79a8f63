"""Keys that are asked for before they are needed: once each, a few, and not for long."""

from collections.abc import Sequence
from uuid import UUID

from mdm_dicom_srm.stage.rules.key_fetch import KeyFetch

GUIDS = [UUID(int=number) for number in range(1, 501)]


class Source:
    def __init__(self) -> None:
        self.asked: list[list[UUID]] = []

    def get_keys(self, guids: Sequence[UUID]) -> dict[UUID, bytes | Exception]:
        self.asked.append(list(guids))
        return {guid: guid.bytes * 2 for guid in guids}


def test_what_was_expected_is_asked_once_and_the_rest_in_batches() -> None:
    source = Source()
    keys = KeyFetch(source, 1)
    keys.expect(GUIDS[:3])
    keys.expect(GUIDS[1:4])
    asked = keys.ask(GUIDS)
    assert {guid: asked[guid].result(10)[guid] for guid in GUIDS} == {guid: guid.bytes * 2 for guid in GUIDS}
    keys.close()
    assert sorted(guid for batch in source.asked for guid in batch) == GUIDS
    assert [len(batch) for batch in source.asked] == [3, 1, 200, 200, 96]


def test_a_key_that_was_taken_is_forgotten() -> None:
    source = Source()
    keys = KeyFetch(source, 1)
    keys.expect(GUIDS[:1])
    for _ in range(2):
        keys.ask(GUIDS[:1])[GUIDS[0]].result(10)
    keys.close()
    assert len(source.asked) == 2


def test_a_key_that_was_not_taken_is_not_kept_for_long() -> None:
    source, now = Source(), [0.0]
    keys = KeyFetch(source, 1, lambda: now[0])
    keys.expect(GUIDS[:2])
    now[0] = 60.0
    keys.ask(GUIDS[:1])[GUIDS[0]].result(10)
    keys.expect(GUIDS[1:2])
    keys.ask(GUIDS[1:2])[GUIDS[1]].result(10)
    keys.close()
    assert source.asked == [GUIDS[:2], GUIDS[:1], GUIDS[1:2]]


def test_keys_that_were_not_taken_are_forgotten_though_nobody_asks() -> None:
    source, now = Source(), [0.0]
    keys = KeyFetch(source, 1, lambda: now[0])
    keys.expect(GUIDS[:1])
    now[0] = 60.0
    keys.forget_old()
    now[0] = 0.0
    keys.ask(GUIDS[:1])[GUIDS[0]].result(10)
    keys.close()
    assert len(source.asked) == 2


def test_a_large_request_expects_only_its_first_keys() -> None:
    source = Source()
    keys = KeyFetch(source, 1)
    keys.expect(GUIDS)
    keys.ask(GUIDS[:1])[GUIDS[0]].result(10)
    keys.close()
    assert [len(batch) for batch in source.asked] == [32]
