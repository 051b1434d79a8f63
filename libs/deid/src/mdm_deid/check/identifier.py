"""The identifying values of an original, and the forms in which each could remain in the released file."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

from pydicom._uid_dict import UID_dictionary

from mdm_deid.encoding.charset import Charset, charset
from mdm_deid.encoding.element import (
    IMPLICIT_LE,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    Encoding,
    Header,
    skip,
    standard_vr,
)
from mdm_deid.encoding.part10 import Part10, file_meta
from mdm_deid.encoding.remembered_run import LONGEST_HEADER, SERIES, Items, RecentSeries, Runs
from mdm_deid.outcome import Malformed
from mdm_deid.rules.date import possible_digits
from mdm_deid.rules.facts import CHARACTER_SET, steers
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.rule import Action
from mdm_deid.rules.table import Row, load_rows

# Codes, numbers and times of day do not identify by themselves.
_TEXT_VRS = frozenset(b"AE DA DT LO LT PN SH ST UC UI UR UT".split())
_PIXEL_GROUP: Final = 0x7FE00000
_OVERLAYS: Final = 0x60
_APPLICATION_ENTITIES = frozenset({0x00020016, 0x00020017, 0x00020018})
_BIRTH_DATE: Final = 0x00100030
_NAME_PART, _SHORTEST, _SHORTEST_UID = 3, 4, 9
_LONGEST = 4096
_TERM = re.compile(rb"[0-9a-z]+")
_WORDS = re.compile(rb"[ ^=\-,;.'_]+")
_STANDARD_UID = re.compile(rb"1\.2\.840\.10008\.[0-9.]+")
_PLAIN = re.compile(rb"[\x00-\x1a\x1c-\x7f]*")
_PRINTABLE = re.compile(rb"[\x20-\x7e\x80-\xff]{6,256}")
_LETTERS = re.compile(rb"[A-Za-z\x80-\xff]{4}")
# What this package writes itself, and what stands where nothing was known.
_NO_ONE = frozenset(b"anon anonymized anonymous unknown none null not applicable patient name test".split())
# Rows with one of these options name places, devices or procedures: their words occur in attributes that stay as well.
_SHARED_OPTIONS = ("clean_descriptors", "retain_device_identity", "retain_institution_identity", "retain_patient_characteristics")


@dataclass
class IdentifyingValues:
    """Values in lower case (as bytes, in their own character set) -> the tag that had them.

    `own` identify wherever they turn up; `shared` do unless an attribute that may stay holds them too; `uids` are whole UIDs.
    `staying` are the texts of attributes that may stay, `terms` the words of coded values: a name of few letters that is one of
    them (Max, May) does not identify.
    """

    own: dict[bytes, int] = field(default_factory=dict)
    shared: dict[bytes, int] = field(default_factory=dict)
    uids: dict[bytes, int] = field(default_factory=dict)
    staying: list[bytes] = field(default_factory=list)
    terms: set[bytes] = field(default_factory=set)
    #: The character set where the walk has come to, and the codecs of all that were met.
    charset: Charset = field(default_factory=Charset)
    codecs: set[str] = field(default_factory=lambda: {"latin-1"})
    #: Length of the value of the top level's pixel data.
    pixel_bytes: int = 0
    #: The values of items that earlier files of the series had.
    seen: "Items[IdentifyingValues] | None" = None

    def add(self, other: "IdentifyingValues") -> None:
        """Add the values of elements that come after those met so far, at the same level."""
        for known, more in ((self.own, other.own), (self.shared, other.shared), (self.uids, other.uids)):
            for value, tag in more.items():
                known.setdefault(value, tag)
        self.staying += other.staying
        self.terms |= other.terms
        self.codecs |= other.codecs


class _Values(NamedTuple):
    """The values of a run, and the character set in which it was read."""

    charset: Charset
    values: IdentifyingValues


class _Series:
    """What is remembered of a series: the values of runs of elements, and of items."""

    def __init__(self, encoding: Encoding) -> None:
        self.runs = Runs[_Values](encoding, steers)
        self.items = Items[IdentifyingValues]()


@cache
def _rows() -> dict[int, Row]:
    return {row.tag: row for row in load_rows()}


class ValueCollector:
    """Collects the values that must not remain under one profile, independently of the engine, whose rules it checks."""

    def __init__(self, profile: Profile, remembered: int = SERIES) -> None:
        """`remembered`: of so many series each thread remembers the values that elements with the same bytes had."""
        self._recent = RecentSeries(remembered, _Series) if remembered else None
        self._options = profile.options
        self._dates = profile.dates
        # Of the profile's own rules those that leave values, whatever instances they are for.
        staying = [rule for rule in profile.attribute_rules if rule.action in (Action.KEEP, Action.CLEAN)]
        self._staying = [rule for rule in staying if not rule.creator]
        self._private_stays = (
            "retain_safe_private" in profile.options or bool(profile.private_lists) or any(rule.creator for rule in staying)
        )

    def collect(self, content: memoryview, opened: Part10) -> IdentifyingValues:
        """Gather from a file, its meta information included.

        Raises:
            Malformed: the file cannot be walked.
        """
        try:
            known = self._recalled(content, opened)
        except Malformed:
            known = None
        if known is None:
            known = self._new(content)
            self._level(known, opened.data, opened.start, len(opened.data), opened.encoding, 0, False)
        if opened.deflated:
            known.pixel_bytes = 0
        return known

    def _recalled(self, content: memoryview, opened: Part10) -> IdentifyingValues | None:
        """Gather, of runs that came in earlier files what they had then; None if nothing shall be remembered.

        Raises:
            Malformed: the file has to be read as a whole.
        """
        if self._recent is None:
            return None
        data, encoding = opened.data, opened.encoding
        text = bytes(data[: opened.start + LONGEST_HEADER])
        series = self._recent.find(text, opened.start, encoding)
        if series is None:
            return None
        known = self._new(content)
        known.seen = series.items
        for piece in series.runs.cover(data, text, opened.start):
            run = piece.run
            if run is None:
                self._level(known, data, piece.start, len(data), encoding, 0, False, until=piece.end)
                continue
            if run.outcome is None or run.outcome.charset is not known.charset:
                values = IdentifyingValues(charset=known.charset, seen=known.seen)
                self._level(values, data, piece.start, len(data), encoding, 0, False, until=piece.end)
                run.outcome = _Values(known.charset, values)
            known.add(run.outcome.values)
        return known

    def _new(self, content: memoryview) -> IdentifyingValues:
        known = IdentifyingValues()
        self._meta(known, content)
        return known

    def _meta(self, known: IdentifyingValues, content: memoryview) -> None:
        """Add the application entities that the file meta information names."""
        meta, _ = file_meta(content) or ({}, 0)
        for tag in _APPLICATION_ENTITIES & meta.keys():
            self._add(known, known.own, tag, bytes(meta[tag]))

    def _level(
        self,
        known: IdentifyingValues,
        data: memoryview,
        pos: int,
        limit: int,
        encoding: Encoding,
        depth: int,
        private: bool,
        until: int | None = None,
    ) -> int:
        """Gather from elements up to `limit` (or earlier `until`) or the item delimiter; return where to go on. Nothing is read twice."""
        until = limit if until is None else until
        while pos < until:
            head = encoding.header(data, pos, limit)
            tag, vr, value, length = head
            if tag == ITEM_END:
                return value
            hidden = private or bool(tag >> 16 & 1)
            if tag < _PIXEL_GROUP and _is_sequence(head):
                inner = IMPLICIT_LE if vr == b"UN" else encoding
                if length == UNDEFINED:
                    pos = self._items(known, tag, data, value, limit, inner, depth + 1, hidden)
                    continue
                # What is removed unread may be malformed; what comes before the fault still counts.
                with suppress(Malformed):
                    self._items(known, tag, data, value, min(limit, value + length), inner, depth + 1, hidden)
            pos = skip(data, head, limit, encoding, depth)
            if tag == PIXEL_DATA and depth == 0:
                known.pixel_bytes = pos - value
            elif tag < _PIXEL_GROUP and tag >> 24 != _OVERLAYS and pos - value <= _LONGEST and not _is_sequence(head):
                self._value(known, tag, vr, bytes(data[value:pos]), hidden)
        return pos

    def _items(
        self,
        known: IdentifyingValues,
        sequence: int,
        data: memoryview,
        pos: int,
        limit: int,
        encoding: Encoding,
        depth: int,
        private: bool,
    ) -> int:
        """Gather from the items of a sequence up to `limit` or its delimiter; return where to go on."""
        if depth > MAX_DEPTH:
            raise Malformed("nesting_too_deep")
        while pos < limit:
            tag, _, value, length = encoding.item_header(data, pos, limit)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM or (length != UNDEFINED and value + length > limit):
                raise Malformed("sequence_items")
            end = limit if length == UNDEFINED else value + length
            if length != UNDEFINED and known.seen is not None and known.seen.remembers(sequence, length):
                pos = self._item(known, known.seen, sequence, data, value, end, encoding, depth, private)
                continue
            outside = known.charset
            pos = self._level(known, data, value, end, encoding, depth, private)
            known.charset = outside
        return pos

    def _item(
        self,
        known: IdentifyingValues,
        items: Items[IdentifyingValues],
        sequence: int,
        data: memoryview,
        start: int,
        end: int,
        encoding: Encoding,
        depth: int,
        private: bool,
    ) -> int:
        """Gather from an item, if it came in an earlier file what it had then; return where to go on."""
        circumstances = bytes(data[start:end]), known.charset, encoding.index, depth, private
        values = items.get(sequence, *circumstances)
        if values is not None:
            known.add(values)
            return end
        values = IdentifyingValues(charset=known.charset, seen=items)
        try:
            pos = self._level(values, data, start, end, encoding, depth, private)
        finally:
            # Where a fault is passed over, what came before it counts.
            known.add(values)
        if pos == end:
            items.put(values, *circumstances)
        return pos

    def _value(self, known: IdentifyingValues, tag: int, read: bytes, raw: bytes, private: bool) -> None:
        """Note a value; `read` is the VR as the file has it."""
        if tag == CHARACTER_SET:
            known.charset = charset(raw.decode("latin-1"))
            known.codecs.add(known.charset.codec)
        vr = standard_vr(tag) or read
        if private:
            self._private(known, tag, read, raw)
        elif b"PN" in (vr, read):
            self._names(known, tag, raw)
        elif vr == b"UI":
            self._uid_values(known, tag, raw)
        elif vr in _TEXT_VRS:
            if vr in (b"DA", b"DT"):
                raw = b"\\".join({part: None for value in raw.split(b"\\") for part in (value, *possible_digits(value))})
            row = _rows().get(tag)
            if row is None or self._may_stay(row, vr) or any(rule.names(tag) for rule in self._staying):
                known.staying.append(raw.lower())
            elif any(option in row.options for option in _SHARED_OPTIONS):
                self._add(known, known.shared, tag, raw)
            else:
                self._add(known, known.own, tag, raw)
        elif vr == b"CS":
            known.staying.append(raw.lower())
            known.terms.update(_TERM.findall(raw.lower()))

    def _may_stay(self, row: Row, vr: bytes) -> bool:
        """Return whether the profile lets the value, or what cleaning leaves of it, remain."""
        if vr in (b"DA", b"DT"):
            # A shifted date may equal another one of the original; of the birth date there is just one.
            return self._dates == "keep" or (self._dates == "shift" and row.tag != _BIRTH_DATE)
        return any(row.options.get(option) in ("K", "C") for option in self._options)

    def _uid_values(self, known: IdentifyingValues, tag: int, raw: bytes) -> None:
        if "retain_uids" in self._options:
            return
        for part in raw.split(b"\\"):
            uid = part.strip(b" \0")
            if len(uid) >= _SHORTEST_UID and uid.decode("latin-1") not in UID_dictionary and not _STANDARD_UID.fullmatch(uid):
                known.uids.setdefault(uid, tag)

    def _private(self, known: IdentifyingValues, tag: int, vr: bytes, raw: bytes) -> None:
        """Names in private elements identify; other text counts unless the profile keeps private elements."""
        if vr == b"PN":
            self._names(known, tag, raw)
        elif not self._private_stays and vr in (b"", b"LO", b"LT", b"SH", b"ST", b"UN", b"UT"):
            value = raw.strip(b" \0")
            if tag & 0xFFFF >= 0x1000 and _PRINTABLE.fullmatch(value) and _LETTERS.search(value):
                known.shared.setdefault(value.lower(), tag)

    @staticmethod
    def _names(known: IdentifyingValues, tag: int, raw: bytes) -> None:
        for writing in _writings(raw, known.charset):
            for part in _name_parts(writing):
                known.own.setdefault(part, tag)

    @staticmethod
    def _add(known: IdentifyingValues, where: dict[bytes, int], tag: int, raw: bytes) -> None:
        for writing in _writings(raw, known.charset):
            for part in writing.split(b"\\"):
                value = part.strip(b" \0").lower()
                if len(value) >= _SHORTEST and value not in _NO_ONE:
                    where.setdefault(value, tag)


def _is_sequence(head: Header) -> bool:
    tag, vr, _, length = head
    return vr == b"SQ" or (vr in (b"", b"UN") and (length == UNDEFINED or standard_vr(tag) == b"SQ"))


def _name_parts(raw: bytes) -> Iterator[bytes]:
    """Yield the components of a person's name and their words; those of one or two letters are left out."""
    for component in re.split(rb"[\^=\\]", raw):
        value = component.strip(b" \0").lower()
        for part in {value, *_WORDS.split(value)}:
            if len(part) >= _NAME_PART and part not in _NO_ONE and not part.isdigit():
                yield part


def _writings(raw: bytes, charset: Charset) -> Iterator[bytes]:
    """Yield a value as it stands, and as UTF-8 what it says in its character set where that is more than ASCII."""
    yield raw
    if not _PLAIN.fullmatch(raw):
        for text in charset.readings(raw):
            # One Chinese character is too common.
            words = re.split(r"([\^=\\])", text)
            yield "".join(word if len(word) > 1 or not word.strip() or word in "^=\\" else "" for word in words).lower().encode()


def forms(value: bytes, codecs: Iterable[str]) -> Iterator[bytes]:
    """Yield a value that is not plain ASCII as it would stand in other encodings and cases."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    for variant in {text, text.lower(), text.upper(), text.title()}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", *codecs):
            try:
                # What is searched is in lower case as far as ASCII goes.
                yield variant.encode(encoding).lower()
            except (UnicodeEncodeError, LookupError):
                continue
