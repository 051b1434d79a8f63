"""Wildcards in the names of files to fetch: `*`, `?`, `[abc]`, `[!a-z]` within a name, `**` for any number of directories."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mdm_client.catalog.model import Search

_WILD = re.compile(r"[*?[]")
_ANY_DEPTH = "**"


@dataclass(frozen=True)
class Pattern:
    """An LFN with wildcards: the directory below which it can match, and the names, each perhaps with wildcards, from there."""

    base: str
    names: tuple[str, ...]

    @property
    def search(self) -> Search:
        """What the catalog has to look for; it may find more than what matches."""
        last = self.names[-1]
        deep = _ANY_DEPTH in self.names
        return Search(name="" if last == _ANY_DEPTH else last, max_depth=0 if deep else len(self.names))

    def matches(self, lfn: str) -> bool:
        """Return whether an LFN below `base` is meant; upper and lower case differ."""
        places = self._skipping({0})
        for name in lfn.removeprefix("/" if self.base == "/" else f"{self.base}/").split("/"):
            places = self._skipping({after for place in places for after in self._after(place, name)})
        return len(self.names) in places

    def _after(self, place: int, name: str) -> Iterator[int]:
        """Yield the places in `names` that may come next once `name` has been seen at `place`."""
        if place == len(self.names):
            return
        if self.names[place] == _ANY_DEPTH:
            yield place
        elif fnmatch.fnmatchcase(name, self.names[place]):
            yield place + 1

    def _skipping(self, places: set[int]) -> set[int]:
        """Return the places and those behind each `**`, which may stand for no directory at all."""
        found = set(places)
        for place, name in enumerate(self.names):
            if place in found and name == _ANY_DEPTH:
                found.add(place + 1)
        return found


def find_pattern(lfn: str) -> Pattern | None:
    """Return the pattern that an LFN is, None where it has no wildcard."""
    names = lfn.strip("/").split("/")
    fixed = next((index for index, name in enumerate(names) if _WILD.search(name)), None)
    return None if fixed is None else Pattern("/" + "/".join(names[:fixed]), tuple(names[fixed:]))
