"""Many texts looked for in bytes: by one compiled search where that pays, else one by one."""

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final

from mdm_deid.encoding.element import Buffer

try:
    import hyperscan
except ImportError:  # no wheel for this platform: the same answers, slower
    hyperscan = None  # type: ignore[assignment]

#: More texts than this are not compiled, which would take seconds.
MOST_COMPILED: Final = 4096
# Compiling takes 17 microseconds a text, looking for one in this many bytes takes as long.
_WORTH_COMPILING: Final = 64 << 10
# Of a longer text the compiled search looks for the beginning, and what it finds is looked at closely.
_LONGEST_COMPILED: Final = 64
# One search reads at most so much (its lengths have 32 bits); without it so much is copied at a time, in lower case.
_COMPILED_CHUNK, _CHUNK = 1 << 30, 4 << 20


class Patterns:
    """Texts to look for. Safe to share between threads."""

    def __init__(self, texts: Iterable[bytes], ignore_case: bool = False) -> None:
        """Take texts without the empty one; with `ignore_case` they are in lower case, and letters of ASCII match in either."""
        self.texts = frozenset(texts)
        self._ignore_case = ignore_case
        self._numbered = sorted(self.texts)
        self._overlap = max(map(len, self.texts), default=1) - 1
        self._searched = 0
        self._database: Any = None
        # The compiled search needs memory of its own for each search under way.
        self._lock = threading.Lock()

    def cost(self, content: Buffer) -> int:
        """Return how many bytes a search of `content` reads at most."""
        return len(content) * (1 if self._compiles(content) else len(self.texts))

    def occurring(self, content: Buffer) -> set[bytes]:
        """Return those of the texts that stand in `content`, which is not copied as a whole."""
        if not self.texts or not len(content):
            return set()
        compiles = self._compiles(content)
        self._searched += len(content)
        if not compiles:
            return set(self._one_by_one(content, self._numbered))
        hits: set[int] = set()
        with self._lock:
            database = self._compiled()
            for part in _parts(content, _COMPILED_CHUNK, self._overlap):
                database.scan(part, match_event_handler=lambda number, *_: hits.add(number))
        found = {self._numbered[number] for number in hits}
        long = [text for text in found if len(text) > _LONGEST_COMPILED]
        return found.difference(long).union(self._one_by_one(content, long)) if long else found

    def _compiles(self, content: Buffer) -> bool:
        if hyperscan is None or len(self.texts) > MOST_COMPILED:
            return False
        return self._database is not None or self._searched + len(content) >= _WORTH_COMPILING

    def _compiled(self) -> Any:
        if self._database is None:
            database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
            flags = hyperscan.HS_FLAG_SINGLEMATCH | (hyperscan.HS_FLAG_CASELESS if self._ignore_case else 0)
            # Every byte by its number: nothing in a text has a meaning of its own.
            expressions = [b"".join(b"\\x%02x" % byte for byte in text[:_LONGEST_COMPILED]) for text in self._numbered]
            database.compile(expressions=expressions, ids=list(range(len(expressions))), elements=len(expressions), flags=flags)
            self._database = database
        return self._database

    def _one_by_one(self, content: Buffer, texts: Iterable[bytes]) -> Iterator[bytes]:
        for part in _parts(content, _CHUNK, self._overlap):
            read = bytes(part).lower() if self._ignore_case else bytes(part)
            yield from (text for text in texts if text in read)


def _parts(content: Buffer, length: int, overlap: int) -> Iterator[Buffer]:
    """Yield `content` in parts that overlap, so that what has `overlap` bytes and one more stands whole in one of them."""
    if len(content) <= length:
        yield content
        return
    view = memoryview(content)
    for start in range(0, len(view), length):
        yield view[start : start + length + overlap]
