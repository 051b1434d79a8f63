"""Batches: splitting requests to the sizes that services accept, answering item by item, matching each item with its status."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from mdm.common.v1.common_pb2 import ItemStatus

from mdm_wire.errors import Corrupt, Invalid, MdmError
from mdm_wire.status import from_item

#: The most items of one request, as the contracts of the services say.
MAX_CATALOG_ITEMS = 10_000
MAX_RENAMINGS = 1_000
MAX_ACLS = 1_000
MAX_KEYS = 1_000
MAX_ENTRIES = 1_000
MAX_SURLS = 10_000
MAX_STUDIES = 100

Message = TypeVar("Message")
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def check_batch(items: Sequence[Item], limit: int) -> Sequence[Item]:
    """Return `items`.

    Raises:
        Invalid: BATCH_TOO_LARGE: there are more than `limit`.
    """
    if len(items) > limit:
        raise Invalid("BATCH_TOO_LARGE", f"At most {limit:,} items per call, not {len(items):,}: split the batch.")
    return items


def answer_batch(
    messages: Sequence[Message], from_proto: Callable[[Message], Item], answer: Callable[[list[Item]], Sequence[Answer | MdmError]]
) -> list[Answer | MdmError]:
    """Return one result per message, in order: the error that `from_proto` raised, or else the result of `answer`.

    `answer` is called once, with all converted items, and returns one result for each; without items it is not called.
    """
    errors: dict[int, MdmError] = {}
    items: list[Item] = []
    for index, message in enumerate(messages):
        try:
            items.append(from_proto(message))
        except MdmError as error:
            errors[index] = error
    results = iter(answer(items) if items else ())
    return [errors[index] if index in errors else next(results) for index in range(len(messages))]


def in_batches(items: Iterable[Item], size: int) -> list[list[Item]]:
    """Return `items` cut into lists of at most `size`."""
    all_items = list(items)
    return [all_items[start : start + size] for start in range(0, len(all_items), size)]


def item_errors(items: Sequence[object], statuses: Iterable[ItemStatus]) -> list[MdmError | None]:
    """Return the error of each item of one request, None where it succeeded.

    Raises:
        Corrupt: ANSWER_MALFORMED: there are not as many statuses as items.
    """
    return [from_item(status) for status in _as_many(items, statuses)]


def item_answers(items: Sequence[object], results: Iterable[Any], value: Callable[[Any], Answer]) -> list[Answer | MdmError]:
    """Return the value of each item's result, or the error in its `status`.

    Raises:
        Corrupt: ANSWER_MALFORMED: there are not as many results as items.
    """
    answers: list[Answer | MdmError] = []
    for result in _as_many(items, results):
        error = from_item(result.status)
        answers.append(value(result) if error is None else error)
    return answers


def _as_many(items: Sequence[object], given: Iterable[Answer]) -> list[Answer]:
    found = list(given)
    if len(found) != len(items):
        raise Corrupt("ANSWER_MALFORMED", f"returned {len(found):,} results for {len(items):,} items")
    return found
