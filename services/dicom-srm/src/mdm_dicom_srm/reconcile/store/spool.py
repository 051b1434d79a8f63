"""The staged copies of this instance, as files of its spool's directory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import UUID


class SpoolFiles:
    """Lists a spool, and removes copies where the process that has the spool gives `forget`."""

    def __init__(self, directory: Path, forget: Callable[[Sequence[UUID]], None] | None) -> None:
        self._directory = directory
        self._forget = forget

    def listed(self) -> Iterator[UUID]:
        """Yield the files that have a copy, in any order."""
        for path in self._directory.glob("*"):
            try:
                guid = UUID(path.name)
            except ValueError:
                continue  # a part, or the lock
            if str(guid) == path.name:
                yield guid

    @property
    def is_ours(self) -> bool:
        """Whether this process has the spool."""
        return self._forget is not None

    def forget(self, guids: Sequence[UUID]) -> None:
        """Remove copies."""
        if self._forget is not None:
            self._forget(guids)
