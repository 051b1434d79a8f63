"""Waiting for what happens in another thread or process."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_ANYTHING_TRUE: Any = object()


def eventually(
    probe: Callable[[], T],
    timeout: float = 60.0,
    *,
    wanted: Any = _ANYTHING_TRUE,
    ignored: tuple[type[Exception], ...] = (),
    interval: float = 0.05,
) -> T:
    """Return the first answer of `probe` that is true, or equals `wanted` if that is given.

    An exception of a type in `ignored` counts as another answer. The timeout, in seconds, only bounds a failure: it is to be longer
    than a busy machine takes, since a success does not wait for it.

    Raises:
        AssertionError: no such answer came in time; it shows the last one.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer: Any
        try:
            answer = probe()
        except ignored as error:
            answer = error
        else:
            if answer if wanted is _ANYTHING_TRUE else answer == wanted:
                return answer  # type: ignore[no-any-return]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s; at last: {answer!r}")
        time.sleep(interval)
