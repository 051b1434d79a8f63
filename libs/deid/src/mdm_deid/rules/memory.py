"""What a thread remembers of the series it saw last: runs of elements, and what became of each under the same circumstances."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mdm_deid.encoding.part10 import Part10
from mdm_deid.encoding.remembered_run import LONGEST_HEADER, Items, Piece, RecentSeries, Runs
from mdm_deid.outcome import Malformed
from mdm_deid.rules.cleaning import Learnt, Make
from mdm_deid.rules.facts import DATES_MODIFIED, METHOD, METHOD_CODES, PATIENT_ID, PATIENT_NAME, Facts, read_facts, steers
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.replacement import Replacements
from mdm_deid.text.cleaner import Cleaner

IDENTITY_REMOVED: Final = 0x00120062
#: Attributes that are written in every file, in ascending order; nothing is remembered across them.
WRITTEN: Final = (PATIENT_NAME, PATIENT_ID, IDENTITY_REMOVED, METHOD, METHOD_CODES, DATES_MODIFIED)
_CLEANERS: Final = 4
_MOST_REPLACEMENTS: Final = 4096
Parts = list[memoryview | bytes]


@dataclass(slots=True)
class Decision:
    """What the first pass made of a run: the output, places in it that wait for a cleaner, what was learnt, the actions counted.

    `creators` are the private creators of its elements' blocks, without which it does not hold. `again`, `foreign`: see `DataSetPass`.
    `late` and `again_left` are what was written last where elements waited, at the top level and inside sequences, with the cleaner
    that did it.
    """

    creators: tuple[tuple[int, str], ...]
    parts: Parts
    waiting: tuple[tuple[int, Make], ...]
    learnt: Learnt
    counts: dict[str, int]
    again: bool
    foreign: bool
    late: tuple[Cleaner, list[bytes]] | None = None
    again_left: tuple[Cleaner, Parts] | None = None


class ItemDecision(NamedTuple):
    """What a pass without a search made of an item, what was learnt and counted; `again`: with a cleaner it makes something else of it."""

    content: bytes
    learnt: Learnt
    counts: dict[str, int]
    again: bool
    foreign: bool


# On what a decision depends beside the bytes: rules, patient, character set.
Circumstances = tuple[object, ...]


@dataclass
class Series:
    """The runs of one series; their decisions hold under `circumstances` only."""

    runs: Runs[Decision]
    items: Items[ItemDecision] = field(default_factory=Items)
    circumstances: Circumstances = ()
    replacements: Replacements | None = None
    _cleaners: "OrderedDict[frozenset[object], Cleaner]" = field(default_factory=OrderedDict)

    def enter(self, circumstances: Circumstances, replacements: Replacements) -> Replacements:
        """Forget what was decided if circumstances are others now; return the replacements to use: the former ones if they are the same."""
        if self.circumstances != circumstances:
            self.runs.forget_outcomes()
            self.items.clear()
            self._cleaners.clear()
            self.circumstances, self.replacements = circumstances, None
        if self.replacements is None or self.replacements.count > _MOST_REPLACEMENTS:
            self.replacements = replacements
        return self.replacements

    def cleaner(self, learnt: Learnt, profile: Profile) -> Cleaner:
        """Return the cleaner for what was learnt from a file: the same one if exactly the same was learnt from a file before."""
        values = learnt.values
        cleaner = self._cleaners.pop(values, None) or learnt.cleaner(profile)
        self._cleaners[values] = cleaner
        if len(self._cleaners) > _CLEANERS:
            self._cleaners.popitem(last=False)
        return cleaner


class Recalled(NamedTuple):
    """A file seen through what is remembered of its series: the pieces of its data set, and its facts, read anew."""

    series: Series
    pieces: Sequence[Piece[Decision]]
    facts: Facts


class Memory:
    """The series that each thread saw last."""

    def __init__(self, series: int) -> None:
        """Remember so many series; none with 0."""
        self._recent = RecentSeries(series, lambda encoding: Series(Runs(encoding, steers, WRITTEN))) if series else None

    def recall(self, opened: Part10) -> Recalled | None:
        """Return what is remembered of a file's series; None if the file has to be read as a whole.

        That is so if it is the first of its series, its header is long or not well-formed, or nothing shall be remembered.
        """
        if self._recent is None:
            return None
        text = bytes(opened.data[: opened.start + LONGEST_HEADER])
        try:
            series = self._recent.find(text, opened.start, opened.encoding)
            if series is None:
                return None
            pieces = series.runs.cover(opened.data, text, opened.start)
            spans = [(piece.start, piece.end) for piece in pieces if piece.run is None]
            return Recalled(series, pieces, read_facts(opened.data, opened.start, opened.encoding, spans)) if spans else None
        except Malformed:
            return None
