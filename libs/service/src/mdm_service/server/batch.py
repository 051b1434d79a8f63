"""Batches whose items fail alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from mdm_wire.errors import MdmError

M = TypeVar("M")
T = TypeVar("T")
R = TypeVar("R")


def answer_batch(
    messages: Sequence[M], from_proto: Callable[[M], T], answer: Callable[[list[T]], Sequence[R | MdmError]]
) -> list[R | MdmError]:
    """Return a result per message, in order: the error of those that `from_proto` refuses, and of the others what `answer` gives.

    `answer` gets all others at once, is not called without any, and returns one result for each.
    """
    errors: dict[int, MdmError] = {}
    items: list[T] = []
    for index, message in enumerate(messages):
        try:
            items.append(from_proto(message))
        except MdmError as error:
            errors[index] = error
    results = iter(answer(items) if items else ())
    return [errors[index] if index in errors else next(results) for index in range(len(messages))]
