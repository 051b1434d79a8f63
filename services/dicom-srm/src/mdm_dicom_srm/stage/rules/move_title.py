"""Each instance that retrieves by C-MOVE has an AE title of its own: by it the PACS knows where to send."""

import time
from typing import Protocol

from mdm_service.settings import ConfigurationError

_PAUSE_SECONDS = 1.0


class MoveTitles(Protocol):
    """Which instance has which AE title."""

    instance: str

    def take(self, title: str, seconds: float) -> str:
        """Note this instance's AE title, unless another one that was alive within `seconds` has it; return that one's name, or ''."""


class MoveTitle:
    """The AE title of this instance. Call `start` when the instance has its name."""

    def __init__(self, titles: MoveTitles, title: str, lost_seconds: float) -> None:
        """An empty `title` says that this instance does not retrieve by C-MOVE."""
        self._titles = titles
        self._title = title
        self._lost_seconds = lost_seconds

    def start(self) -> None:
        """Take the title; wait where its holder may be an earlier process, which is lost soon.

        Raises:
            ConfigurationError: another instance that serves has it.
        """
        deadline = time.monotonic() + self._lost_seconds + _PAUSE_SECONDS
        while holder := self._titles.take(self._title, self._lost_seconds):
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"scp.ae_title: {self._title} is the AE title of the instance {holder}, too, and the PACS sends what C-MOVE asks for "
                    f"to one place; give {self._titles.instance} one of its own, and make it known to the PACS"
                )
            time.sleep(_PAUSE_SECONDS)

    def stop(self) -> None:
        """Do nothing: the title stays the instance's, as its name does."""
