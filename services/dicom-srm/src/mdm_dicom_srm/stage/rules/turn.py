"""A queue in which owners take turns: who has put in much does not delay who has put in little."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TurnQueue(Generic[Item]):
    """Items of each owner come out in the order put in, those of several owners in turn. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: OrderedDict[str, deque[Item]] = OrderedDict()
        self._count = 0
        self._closed = False

    def put(self, owner: str, item: Item) -> None:
        """Put an item in.

        Raises:
            RuntimeError: the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the queue is closed")
            self._items.setdefault(owner, deque()).append(item)
            self._count += 1
            self._changed.notify()

    def get(self) -> Item | None:
        """Wait for an item and return it; None when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            return self._next()

    def poll(self) -> Item | None:
        """Return an item; None when there is none now."""
        with self._changed:
            return self._next()

    def __len__(self) -> int:
        """Return how many items are waiting."""
        with self._changed:
            return self._count

    def close(self) -> list[Item]:
        """Let `get` end; return what nobody will get."""
        with self._changed:
            self._closed = True
            left = [item for items in self._items.values() for item in items]
            self._items.clear()
            self._count = 0
            self._changed.notify_all()
            return left

    def _next(self) -> Item | None:
        if not self._items:
            return None
        owner, items = self._items.popitem(last=False)
        item = items.popleft()
        self._count -= 1
        if items:
            self._items[owner] = items
        return item
