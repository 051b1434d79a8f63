"""Cleaning of free text (Clean Descriptors): words that name someone are removed, whatever their case, order or separators."""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mdm_deid.text.identity import COMMON, LONG_NUMBER, PARTICLES, SUBSTRING, Identity, fold
from mdm_deid.text.vocabulary import beside_structures, names_nobody

_WORD: Final = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")
_MAX_ROUNDS: Final = 4
_MAX_LENGTH: Final = 1 << 14
_MOST_CLEANED: Final = 256
_OLDEST_AGE: Final = 89
_CJK: Final = "\u2e80"
_SEPARATORS: Final = " \t\r\n\f,.:;^/\\|_()[]{}'\"#&+*=<>-"
_MONTH = (
    r"(?:jan(?:uary|uar|vier|\.)?|feb(?:ruary|ruar|\.)?|f[eé]v(?:rier|\.)?|mar(?:ch|s|\.)?|m[aä]rz|apr(?:il|\.)?|avr(?:il|\.)?|may|mai|june?|juin|jun[i.]?"
    r"|july?|juil(?:let|\.)?|jul[i.]?|aug(?:ust|\.)?|ao[uû]t|sep(?:t(?:ember|embre)?)?\.?|oct(?:ober|obre|\.)?|okt(?:ober|\.)?|nov(?:ember|embre|\.)?"
    r"|dec(?:ember|\.)?|dez(?:ember|\.)?|d[eé]c(?:embre|\.)?)"
)
# Removed wherever it stands: it may identify, whatever the header says.
_SUSPECTS: Final = re.compile(
    "|".join(
        (
            r"(?<!\S)[^\s@]*@\S+",
            r"(?<!\w)(?:\w+://|www\.)\S+",
            r"\\\\\S+|(?<!\w)/(?:\w+/)+\S*|(?<!\w)[a-z]:\\\S*",  # paths
            r"(?<!\d)\d+(?:\.\d+){3,}",  # UIDs, network addresses
            r"(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}",
            r"(?<!\d)\+?\(?\d{2,5}\)?(?:[ ./-]\(?\d{2,5}\)?){2,}(?!\d)",  # telephone and social security numbers
            r"[a-z]{0,4}\d[\d-]{4,}\d[a-z]{0,3}",  # six and more digits
            r"(?<!\d)(?<!\d\.)\d{5}(?![\d.])",
            r"(?<!\w)(?:[^\W_]+[ ]){0,3}(?:street|road|avenue|ave|lane|boulevard|blvd|rue|calle"
            r"|platz|allee|straat|[^\W\d_]*str(?:asse|aße|\.)(?=\W|$))"
            r"(?!\w)(?:[ ]?,?[ ]?\d{1,4}[a-z]?(?!\w))?",  # addresses
            r"(?<!\w)(?=\w*[a-z])(?=\w*(?-i:[\u0391-\u03a9\u03bf\u03c1\u0400-\u052f]))\w+",  # Latin with letters that only look so
        )
    ),
    re.IGNORECASE,
)
# A name as PN writes it, unless all its words are of the trade: `Abdomen^Routine` is how some scanners name what they do.
_CARETS: Final = re.compile(r"(?<!\S)[^\s^]*\^\S*")
_DATES: Final = re.compile(
    "|".join(
        (
            r"(?<!\d)\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}(?!\d)",
            r"(?<!\d)\d{1,2}[-./]\d{1,2}[-./]\d{2,4}(?!\d)",
            r"(?<!\d)(?:0?[1-9]|[12]\d|3[01])\.? ?(?:0?[1-9]|1[0-2])\. ?(?:19|20)\d\d(?!\d)",
            r"(?<!\d)(?:0?[1-9]|1[0-2])[-/](?:19|20)\d\d(?!\d)",
            r"(?<!\d)(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)",
            rf"(?<!\w)\d{{1,2}}(?:st|nd|rd|th|\.)?[ _/-]*(?:of )?{_MONTH}(?:[ ,_/'-]*\d{{2,4}})?(?![^\W\d_])",
            rf"(?<![^\W\d_]){_MONTH}[ _-]*\d{{1,2}}(?:st|nd|rd|th)?(?:[ ,_-]+\d{{2,4}})?(?!\w)",
            rf"(?<![^\W\d_]){_MONTH}[ ,_/'-]*(?:19|20)\d\d(?!\d)",
            r"(?<!\w)['\u2019]\d\d(?!\d)",
            r"(?<!\d)(?:[01]?\d|2[0-3])[:h][0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?: ?[ap]\.?m\.?)?(?!\w)",
        )
    ),
    re.IGNORECASE,
)
_AGE: Final = re.compile(
    r"(?<![\d.])(\d{1,3})[ -]?(?:y(?:\.?\s?/?\s?o\.?|rs?\.?|ears?(?:[ -]old)?)?|j(?:ahre?n?)?|jährig\w*|ans|años|anni|jaar)(?![^\W\d_])"
    r"|(?<!\w)(?:age|aged|alter|âge|edad)\W{0,3}(\d{1,3})(?!\d)"
    r"|(?<!\w)(?-i:[MF])(\d\d)(?!\w)|(?<![\w.])(\d\d)(?-i:[MF])(?!\w)",
    re.IGNORECASE,
)
# After these the next words are a name, unless they are words of the trade.
_TITLE: Final = re.compile(
    r"(?<!\w)(?:(?i:dr|drs|prof|professor|doctor|doktor|docteur|mrs|miss|herrn?|frau|mme|mlle|madame|monsieur|sra|srta|dott|dottssa|dra|dhr|mevr"
    r"|physician|radiologist|technologist|operator|surgeon|nurse|patient'?s? name|name|pat\. ?name|nom|nombre|signed|dictated|reported|read"
    r"|referred|performed|ref|attn|mother|father|wife|husband|son|daughter|brother|sister|tel|phone|fax|mrn|pid|id|ssn|acc|accession|dob|born|geb)(?!\w)"
    r"|(?i:patient|pt|tech|op|oper|rad|phys|md|by|for|with)(?= ?:)"
    r"|Mr(?!\w)|Ms(?!\w)|(?i:mr|ms|hr|fr|sr)\.(?= *[^\W\d_]))[.:#]*(?i: by| of| no| nr)?[.:#]*"
)
_DEGREE: Final = re.compile(r"(?<!\w)(?i:m\.?d|ph\.?d|r\.?n|d\.?o|facr|frcr|b\.?sc|m\.?sc|r\.?t)\.?(?!\w)")
_LOOKALIKES: Final = (str.maketrans("0134578", "oieastb"), str.maketrans("0134578", "oleastb"))
_MAX_NAME: Final = 3
# What stands where something was removed, and in its place while more is looked for.
MARK: Final = "[...]"
_GAP: Final = "\ufffc"
_GAPS: Final = re.compile(rf"{_GAP}(?:[{re.escape(_SEPARATORS)}]*{_GAP})+")
# The longest value of a VR (PS3.5 table 6.2-1), in characters.
_LIMITS: Final = {b"SH": 16, b"LO": 64, b"ST": 1024, b"LT": 10240}
_SENTENCE_ENDS: Final = frozenset("\r\n;!?")


@dataclass(frozen=True)
class Cleaner:
    """Cleans the text of one file.

    `dates_stay`: dates may stay; `ages_stay`: ages up to 89 may; `certain`: all identifying values could be read, else text outside
    ASCII cannot be compared with them; `words`: words of the site that name nobody.
    """

    identity: Identity
    dates_stay: bool
    ages_stay: bool
    certain: bool = True
    words: frozenset[str] = frozenset()
    # Frames repeat their texts.
    _cleaned: dict[str, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    def clean(self, text: str) -> str:
        """Return `text` with a mark for what names someone; "" if the file does not name its patient, as nothing can be judged then."""
        if text not in self._cleaned:
            if len(self._cleaned) >= _MOST_CLEANED:
                self._cleaned.clear()
            self._cleaned[text] = self._without(text, suspects=True) if self._can_judge(text) else ""
        return self._cleaned[text]

    def mark_known(self, text: str) -> str:
        """Return `text` with a mark for what the file is known to name; other text stays, dates and numbers included."""
        if not (self.certain or text.isascii()):
            return ""
        return self._without(text, suspects=False)

    def keeps(self, label: str) -> bool:
        """Return whether a label may stay: it consists of structures' names and words that name nobody, without identifying values."""
        beside = beside_structures(label)
        plain = self.clean(beside) == beside if _WORD.search(beside) else self._can_judge(label)
        return plain and self.mark_known(label) == label

    def _can_judge(self, text: str) -> bool:
        return self.identity.known and len(text) <= _MAX_LENGTH and _readable(text) and (self.certain or text.isascii())

    def _without(self, text: str, suspects: bool) -> str:
        """Return `text` if nothing is cut out, else the rest with marks; "" if no word is left."""
        left = self._cut_out(text.replace(MARK, _GAP), suspects)
        if left == text.replace(MARK, _GAP):
            return text
        return left.replace(_GAP, MARK) if _WORD.search(left) else ""

    def _cut_out(self, text: str, suspects: bool) -> str:
        for _ in range(_MAX_ROUNDS):
            words = [_Word(match.start(), match.end(), match[0]) for match in _WORD.finditer(text)]
            spans = self._suspects(text, words) if suspects else []
            strange = {index for index, word in enumerate(words) if not names_nobody(word.text, self.words)} if suspects else set()
            removed = self._named(words, suspects, strange) | set(_words_in(words, spans))
            if removed:
                removed.update(*_beside(text, words, removed))
            spans += [(words[index].start, words[index].end) for index in removed]
            if not spans:
                return text
            text = _cut(text, spans)
        return ""

    def _named(self, words: list["_Word"], dates: bool, strange: set[int]) -> set[int]:
        """Return the words that the identity has, the `strange` ones, and the initials, titles and particles beside a person's name."""
        squeezed, starts, bounds = _squeeze(words)
        found: set[int] = set()
        persons: set[int] = set()
        for first, last in self._matches(squeezed, starts, bounds, dates):
            piece = squeezed[first:last]
            into = persons if piece in self.identity.names else found
            into.update(range(bisect_right(starts, first) - 1, bisect_right(starts, last - 1)))
        persons |= self._initials(words) | self._disguised(words) | strange
        for step in (1, -1):
            for index in sorted(persons, reverse=step < 0):
                beside = index + step
                while 0 <= beside < len(words) and (len(words[beside].folded) == 1 or words[beside].folded in PARTICLES):
                    persons.add(beside)
                    beside += step
        return found | persons

    def _matches(self, squeezed: str, starts: list[int], bounds: list[int], dates: bool) -> Iterator[tuple[int, int]]:
        """Yield where the identity stands: from boundary to boundary, across words and separators, or within a word if long enough.

        Stretches of the text are looked up in the identity, so that its size does not matter.
        """
        known, longest = self.identity, self.identity.longest
        stretches = itertools.chain(_between(bounds, longest), _within(squeezed, starts, longest))
        for first, last in stretches:
            piece = squeezed[first:last]
            if dates and piece.isdigit():
                matches = piece in known.others or piece.lstrip("0") in known.others
            else:
                matches = piece in known.names or (piece in known.others and (not piece.isdigit() or len(piece) >= LONG_NUMBER))
            if matches:
                yield first, last

    def _disguised(self, words: list["_Word"]) -> set[int]:
        """Return names in which digits stand for letters."""
        names = self.identity.names
        mixed = ((index, word.folded) for index, word in enumerate(words) if not word.text.isalpha() and not word.text.isdigit())
        return {index for index, folded in mixed if any(folded.translate(table) in names for table in _LOOKALIKES)}

    def _initials(self, words: list["_Word"]) -> set[int]:
        """Return runs of single letters that are a person's initials."""
        found: set[int] = set()
        run: list[int] = []
        for index in range(len(words) + 1):
            if index < len(words) and len(words[index].folded) == 1 and words[index].folded.isalpha():
                run.append(index)
                continue
            if len(run) > 1 and "".join(words[at].folded for at in run) in self.identity.initials:
                found.update(run)
            run = []
        return found

    def _suspects(self, text: str, words: list["_Word"]) -> list[tuple[int, int]]:
        spans = [match.span() for match in _SUSPECTS.finditer(text) if not (self.dates_stay and _DATES.fullmatch(match[0]))]
        if not self.dates_stay:
            spans += [match.span() for match in _DATES.finditer(text)]
        for match in _AGE.finditer(text):
            if not self.ages_stay or int(match[match.lastindex or 0]) > _OLDEST_AGE:
                spans.append(match.span())
        starts = [word.start for word in words]
        for match in _TITLE.finditer(text):
            followers = _name_after(words, starts, match.end(), text)
            if followers:
                spans.append((match.start(), followers[-1].end))
        for match in _DEGREE.finditer(text):
            spans += [(word.start, match.end()) for word in _name_before(words, starts, match.start())]
        return spans


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    text: str

    @property
    def folded(self) -> str:
        return fold(self.text)


def _squeeze(words: list[_Word]) -> tuple[str, list[int], list[int]]:
    """Return the words run together, where each begins, and where a word or a part of one (`DoeT2`) begins or ends."""
    starts: list[int] = []
    bounds: list[int] = [0]
    length, parts = 0, []
    for word in words:
        folded = word.folded
        starts.append(length)
        if len(folded) == len(word.text):
            for index in range(1, len(folded)):
                before, after = word.text[index - 1], word.text[index]
                if before.isdigit() != after.isdigit() or (before.islower() and after.isupper()):
                    bounds.append(length + index)
        parts.append(folded)
        length += len(folded)
        bounds.append(length)
    return "".join(parts), starts, bounds


def _between(bounds: list[int], longest: int) -> Iterator[tuple[int, int]]:
    """Yield every stretch from one boundary to another."""
    for index, first in enumerate(bounds):
        for last in itertools.islice(bounds, index + 1, None):
            if last > first + longest:
                break
            yield first, last


def _within(squeezed: str, starts: list[int], longest: int) -> Iterator[tuple[int, int]]:
    """Yield every stretch inside a word that is long enough to count; a single sign is where words are not set apart."""
    for begin, end in itertools.pairwise([*starts, len(squeezed)]):
        shortest = 1 if max(squeezed[begin:end], default="") >= _CJK else SUBSTRING
        for first in range(begin, end - shortest + 1):
            for last in range(first + shortest, min(end, first + longest) + 1):
                yield first, last


def _name_after(words: list[_Word], starts: list[int], position: int, text: str) -> list[_Word]:
    """Return the words of a name that follows a title on the same line."""
    first = bisect_left(starts, position)
    name: list[_Word] = []
    for word in words[first : first + _MAX_NAME]:
        between = text[position : word.start]
        if word.folded in COMMON or not _SENTENCE_ENDS.isdisjoint(between):
            break
        name.append(word)
        position = word.end
    return name


def _name_before(words: list[_Word], starts: list[int], position: int) -> list[_Word]:
    """Return the words of a name before an academic degree."""
    last = bisect_left(starts, position)
    name: list[_Word] = []
    for word in reversed(words[max(0, last - _MAX_NAME) : last]):
        if word.folded in COMMON or word.folded.isdigit():
            break
        name.append(word)
    return name


def _beside(text: str, words: list[_Word], removed: set[int]) -> Iterator[list[int]]:
    """Yield the words of each name written like PN of which a word is removed."""
    for match in _CARETS.finditer(text):
        together = list(_words_in(words, [match.span()]))
        if not removed.isdisjoint(together):
            yield together


def _words_in(words: list[_Word], spans: list[tuple[int, int]]) -> Iterator[int]:
    """Yield the words that a span overlaps."""
    starts = [word.start for word in words]
    for start, end in spans:
        index = max(0, bisect_right(starts, start) - 1)
        while index < len(words) and words[index].start < end:
            if words[index].end > start:
                yield index
            index += 1


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    """Return `text` with a gap in place of each of `spans` and the separators around it."""
    pieces, position = [], 0
    for start, end in sorted(spans):
        pieces.append(text[position:start])
        position = max(position, end)
    pieces.append(text[position:])
    stripped = (piece.strip(_SEPARATORS) for piece in pieces)
    return _GAPS.sub(_GAP, f" {_GAP} ".join(stripped).strip())


def fit(text: str, vr: bytes) -> str:
    """Return text without its last words if marks have made it too long for its VR."""
    limit = _LIMITS.get(vr, len(text))
    if len(text) <= limit:
        return text
    left = text[: limit - len(MARK)].rsplit(" ", 1)[0].removesuffix(MARK).rstrip()
    return f"{left} {MARK}" if _WORD.search(left) else ""


def _readable(text: str) -> bool:
    """Return whether the text has only characters that are plausible in text."""
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)
