"""Items cut into batches, answered item by item, and their statuses put back beside them."""

from types import SimpleNamespace

import pytest
from mdm.common.v1.common_pb2 import ItemStatus
from mdm_wire.batch import answer_batch, check_batch, in_batches, item_answers, item_errors
from mdm_wire.errors import Corrupt, Invalid, MdmError, NotFound

MISSING = ItemStatus(code=5, reason="KEY_NOT_FOUND", message="none")


def test_batches_have_at_most_their_size_and_keep_the_order():
    assert in_batches(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert in_batches(iter(()), 2) == []


def test_each_item_has_its_error_or_its_value():
    (good, bad) = item_errors(["a", "b"], [ItemStatus(), MISSING])
    assert (good, type(bad)) == (None, NotFound)
    results = [SimpleNamespace(status=ItemStatus(), value=7), SimpleNamespace(status=MISSING, value=8)]
    value, error = item_answers(["a", "b"], results, lambda result: result.value)
    assert (value, type(error)) == (7, NotFound)


@pytest.mark.parametrize("statuses", [[], [ItemStatus()] * 3])
def test_an_answer_about_another_number_of_items_is_not_taken(statuses):
    with pytest.raises(Corrupt, match=f"returned {len(statuses)} results for 2 items"):
        item_errors(["a", "b"], statuses)


def number(text: str) -> int:
    if not text.isdecimal():
        raise Invalid("NUMBER_INVALID", "not a number")
    return int(text)


def test_each_message_gets_its_own_result_in_the_order_asked():
    asked: list[list[int]] = []

    def answer(items: list[int]) -> list[int | MdmError]:
        asked.append(items)
        return [item if item < 9 else NotFound("NUMBER_NOT_FOUND", "too large") for item in items]

    results = answer_batch(["1", "x", "9", "2"], number, answer)
    assert [result.reason if isinstance(result, MdmError) else result for result in results] == [1, "NUMBER_INVALID", "NUMBER_NOT_FOUND", 2]
    assert asked == [[1, 9, 2]]


def test_without_a_readable_message_nothing_is_asked():
    [result] = answer_batch(["x"], number, lambda items: [1 / 0 for _ in (None, *items)])
    assert isinstance(result, Invalid)


def test_a_batch_above_the_limit_is_refused_as_a_whole():
    assert check_batch(["a", "b"], 2) == ["a", "b"]
    with pytest.raises(Invalid, match="At most 2 items per call, not 3") as refused:
        check_batch(["a", "b", "c"], 2)
    assert refused.value.reason == "BATCH_TOO_LARGE"
