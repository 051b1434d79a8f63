"""What a search looks for."""

import fnmatch
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from mdm_wire.errors import Invalid

from mdm_catalog.rules.model import Entry, EntryKind
from mdm_catalog.rules.value import MAX_PATTERN_BYTES

_CLASS = re.compile(r"\[!?\]?[^\]]*\]")


@dataclass(frozen=True)
class Condition:
    """What an entry must meet to be found; what is None or empty holds for all."""

    name: str = ""
    kinds: frozenset[EntryKind] = frozenset()
    min_size: int | None = None
    max_size: int | None = None
    modified_since: datetime | None = None
    modified_before: datetime | None = None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(fnmatch.translate(self.name))

    @cached_property
    def like(self) -> str | None:
        """A pattern of SQL's LIKE that every matching name meets, and perhaps others; None for all names."""
        return _like(self.name) if self.name else None

    def met_by(self, entry: Entry) -> bool:
        """Return whether an entry meets all of it."""
        sized = self.min_size is not None or self.max_size is not None
        return (
            (not self.kinds or entry.kind in self.kinds)
            and (not self.name or self._pattern.match(entry.name) is not None)
            and (not sized or (entry.size is not None and entry.size >= (self.min_size or 0)))
            and (self.max_size is None or (entry.size or 0) <= self.max_size)
            and (self.modified_since is None or entry.modify_time >= self.modified_since)
            and (self.modified_before is None or entry.modify_time < self.modified_before)
        )


def check_pattern(text: str) -> str:
    """Return a shell pattern for names. Raises Invalid where it could match none: with `/`, or longer than 255 bytes."""
    if "/" in text or len(text.encode()) > MAX_PATTERN_BYTES:
        raise Invalid("PATTERN_INVALID", f"A pattern is for one name: at most {MAX_PATTERN_BYTES} bytes, without '/'.")
    return text


def _like(pattern: str) -> str:
    """Return `pattern` for LIKE, a class of characters being any character."""
    found = []
    place = 0
    while place < len(pattern):
        character = pattern[place]
        group = _CLASS.match(pattern, place)
        if group:
            found.append("_")
            place = group.end()
            continue
        if character != "*" or found[-1:] != ["%"]:
            found.append({"*": "%", "?": "_"}.get(character, f"\\{character}" if character in "%_\\" else character))
        place += 1
    return "".join(found)
