"""An item that cannot be read fails alone, and the others are answered together."""

from mdm_service.server.batch import answer_batch
from mdm_wire.errors import Invalid, MdmError, NotFound


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
