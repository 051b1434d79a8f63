"""The top level of a data set: what is written in every file, what waits for a cleaner, and what was decided in earlier files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mdm_deid.encoding.element import PIXELS, Encoding
from mdm_deid.encoding.remembered_run import Items, Piece
from mdm_deid.rules.cleaning import LateElements, Learnt
from mdm_deid.rules.element_pass import NO_TAG, ElementPass, Written
from mdm_deid.rules.facts import Facts
from mdm_deid.rules.memory import Decision, ItemDecision, Series
from mdm_deid.rules.operation import Level, Rules
from mdm_deid.rules.payload import Payload
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.replacement import Replacements
from mdm_deid.text.cleaner import Cleaner


class _Again(NamedTuple):
    """Elements of which some inside sequences wait for a cleaner: in the output, in the input, the private creators before them."""

    start: int
    stop: int
    first: int
    last: int
    creators: dict[int, str]
    decision: Decision | None


class DataSetPass(ElementPass):
    """One pass over one data set. Nothing it takes from earlier files depends on more than it was looked up by (decision 0023)."""

    def __init__(
        self,
        data: memoryview,
        rules: Rules,
        replacements: Replacements,
        facts: Facts,
        payload: Payload,
        cleaner: Cleaner | None = None,
        search: bool = False,
        items: Items[ItemDecision] | None = None,
    ) -> None:
        """Prepare a first pass, or with a `cleaner` the second one; `search`: all text is searched for what the first has learnt.

        `items` are those that earlier files of a series had, and what was made of them under the same circumstances.
        """
        super().__init__(data, rules, replacements, facts, payload, cleaner, search)
        self._facts = facts
        self._items = None if search else items
        self._ours: Mapping[int, Written] = {}
        # Where elements inside sequences wait for a cleaner, and where runs at the top level have some that do.
        self._again: list[_Again] = []
        self._remembered: list[tuple[int, Decision]] = []

    def data_set(
        self, pieces: Sequence[Piece[Decision]], encoding: Encoding, written: Iterable[tuple[int, Written]]
    ) -> list[memoryview | bytes]:
        """Return the data set that is in these pieces, which follow each other, with the elements `written` in their places.

        `written` is in tag order; what the input has under these tags is dropped.

        Raises:
            Malformed: an element cannot be read with certainty.
        """
        out: list[memoryview | bytes] = []
        self._ours = dict(written)
        places = iter([*self._ours.items(), (NO_TAG, b"")])
        stop, element = next(places)
        creators = dict[int, str]()
        for piece in pieces:
            pos = piece.start
            while pos < piece.end:
                if piece.run is not None and piece.first < stop:
                    self._run(piece, encoding, creators, out)
                    break
                if piece.run is None:
                    pos = self._read(pos, piece.end, stop, encoding, creators, out)
                    if pos == piece.end:
                        break
                self._write(stop, element, out)
                (stop, element), creators = next(places), {}
        while stop != NO_TAG:
            self._write(stop, element, out)
            stop, element = next(places)
        return out

    def _write(self, tag: int, element: Written, out: list[memoryview | bytes]) -> None:
        if tag in PIXELS:
            self._bulk.add(len(out))
        if callable(element):
            self._late.add(element, 0, out)
        else:
            out.append(element)

    def _read(self, pos: int, end: int, stop: int, encoding: Encoding, creators: dict[int, str], out: list[memoryview | bytes]) -> int:
        """Process elements of the top level until `end` or a tag >= `stop`; return where to go on."""
        start, first, before = len(out), pos, dict(creators)
        again, self._late.again = self._late.again, False
        limit, root = len(self._data), self._rules.root
        pos = self._walk(pos, limit, root, encoding, 0, out, until=end, stop=stop, ours=self._ours, creators=creators)
        if self._late.again:
            self._again.append(_Again(start, len(out), first, pos, before, None))
        self._late.again |= again
        return pos

    def _run(self, piece: Piece[Decision], encoding: Encoding, creators: dict[int, str], out: list[memoryview | bytes]) -> None:
        """Process elements that came in an earlier file with the same bytes: take the former decision, if it holds here."""
        run = piece.run
        decision = run.outcome if run is not None else None
        holds = decision is None or all(creators.get(block, "") == name for block, name in decision.creators)
        if run is None or self._search is not None or not holds:
            self._read(piece.start, piece.end, NO_TAG, encoding, creators, out)
            return
        if decision is None:
            decision = run.outcome = self._decide(piece, encoding, creators)
        start = len(out)
        out += decision.parts
        if decision.waiting:
            self._remembered.append((start, decision))
        if decision.again:
            self._again.append(_Again(start, len(out), piece.start, piece.end, dict(creators), decision))
        self._take(decision)

    def _decide(self, piece: Piece[Decision], encoding: Encoding, creators: dict[int, str]) -> Decision:
        """Process a run and return all that it led to, without leaving a trace in this pass."""
        before = self._learnt, self._late, self._foreign, self.counts
        self._learnt, self._late, self._foreign, self.counts = Learnt(), LateElements(self._replacements, None), False, Counter()
        out: list[memoryview | bytes] = []
        try:
            self._walk(
                piece.start, len(self._data), self._rules.root, encoding, 0, out, until=piece.end, ours=self._ours, creators=creators
            )
            blocks = dict.fromkeys(tag >> 8 for tag in piece.run.tags if tag & 0x10000) if piece.run else {}
            return Decision(
                creators=tuple((block, creators.get(block, "")) for block in blocks),
                parts=[bytes(part) for part in out] if self._late.waiting else [b"".join(out)],
                waiting=tuple(self._late.waiting),
                learnt=self._learnt,
                counts=dict(self.counts),
                again=self._late.again,
                foreign=self._foreign,
            )
        finally:
            self._learnt, self._late, self._foreign, self.counts = before

    def finish(self, out: list[memoryview | bytes], profile: Profile, encoding: Encoding, series: Series | None = None) -> Cleaner | None:
        """Finish the first pass: clean the text in `out`, all identifying values being known.

        Returns a cleaner if a second pass over everything is needed instead, because what stays may repeat what was removed.
        """
        cleaner = series.cleaner(self._learnt, profile) if series else self._learnt.cleaner(profile)
        if self._foreign or cleaner.identity.occurs_in(b"".join(part for index, part in enumerate(out) if index not in self._bulk)):
            return cleaner
        self._late.finish(out, cleaner)
        for start, decision in self._remembered:
            if decision.late is None or decision.late[0] is not cleaner:
                decision.late = cleaner, [make(cleaner) for _, make in decision.waiting]
            for (index, _), element in zip(decision.waiting, decision.late[1], strict=True):
                out[start + index] = element
        self._clean_sequences(out, cleaner, encoding)
        return None

    def _clean_sequences(self, out: list[memoryview | bytes], cleaner: Cleaner, encoding: Encoding) -> None:
        """Process the elements again in which text inside sequences waited for the cleaner."""
        second = DataSetPass(self._data, self._rules, self._replacements, self._facts, self._payload, cleaner, items=self._items)
        second._ours = self._ours
        for place in reversed(self._again):
            decision = place.decision
            if decision is not None and decision.again_left is not None and decision.again_left[0] is cleaner:
                out[place.start : place.stop] = decision.again_left[1]
                continue
            left: list[memoryview | bytes] = []
            second._walk(
                place.first,
                len(self._data),
                self._rules.root,
                encoding,
                0,
                left,
                until=place.last,
                ours=self._ours,
                creators=place.creators,
            )
            if decision is not None:
                left = [b"".join(left)]
                decision.again_left = cleaner, left
            out[place.start : place.stop] = left

    def _item_content(self, sequence: int, start: int, end: int, level: Level, encoding: Encoding, depth: int) -> bytes:
        """Return an item's elements, de-identified: as they became before, if the item came in an earlier file of the series."""
        out: list[memoryview | bytes] = []
        if self._items is None or not self._items.remembers(sequence, end - start):
            self._walk(start, end, level, encoding, depth, out)
            return b"".join(out)
        circumstances = bytes(self._data[start:end]), level, self._charset, encoding.index, depth
        known = self._items.get(sequence, *circumstances)
        if known is None and self._cleaner is None:
            known = self._decide_item(start, end, level, encoding, depth)
            self._items.put(known, *circumstances)
        elif known is None or (known.again and self._cleaner is not None):
            self._walk(start, end, level, encoding, depth, out)
            return b"".join(out)
        self._take(known)
        return known.content

    def _decide_item(self, start: int, end: int, level: Level, encoding: Encoding, depth: int) -> ItemDecision:
        """Process an item and return all that it led to, without leaving a trace in this pass unless it is malformed."""
        before = self._learnt, self._late, self._foreign, self.counts
        self._learnt, self._late, self._foreign, self.counts = Learnt(), LateElements(self._replacements, None), False, Counter()
        out: list[memoryview | bytes] = []
        whole = False
        try:
            self._walk(start, end, level, encoding, depth, out)
            whole = True
        finally:
            decision = ItemDecision(b"".join(out) if whole else b"", self._learnt, dict(self.counts), self._late.again, self._foreign)
            self._learnt, self._late, self._foreign, self.counts = before
            if not whole:
                # Where a fault is passed over, what came before it counts.
                self._take(decision)
        return decision

    def _take(self, decision: Decision | ItemDecision) -> None:
        """Take over what a decision says beside the output."""
        self._learnt.update(decision.learnt)
        self._late.again |= decision.again
        self._foreign |= decision.foreign
        for action, count in decision.counts.items():
            self.counts[action] += count
