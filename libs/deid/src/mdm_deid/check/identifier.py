"""Which values of an original identify, and the forms in which each could still stand in what was made of it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from pydicom._uid_dict import UID_dictionary

from mdm_deid.encoding.charset import Charset, charset
from mdm_deid.encoding.codec import (
    EXPLICIT_LE,
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
from mdm_deid.encoding.part10 import Part10, envelope_end
from mdm_deid.outcome import Malformed
from mdm_deid.rules.date import possible_digits
from mdm_deid.rules.facts import CHARACTER_SET
from mdm_deid.rules.profile import Action, Profile
from mdm_deid.rules.table import Row, load_rows

# Codes, numbers and times of day say nothing by themselves.
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
# Rows with one of these options name places, devices or procedures: their words occur in honest attributes as well.
_SHARED_OPTIONS = ("clean_descriptors", "retain_device_identity", "retain_institution_identity", "retain_patient_characteristics")


@dataclass
class Needles:
    """Values in lower case (as bytes, in their own character set) -> the tag that had them.

    `own` identify wherever they turn up; `shared` do unless an attribute that may stay holds them too; `uids` are whole UIDs.
    `honest` is the text of the attributes that may stay, `terms` the words of coded values: a name of few letters that is one of
    them (Max, May) does not identify.
    """

    own: dict[bytes, int] = field(default_factory=dict)
    shared: dict[bytes, int] = field(default_factory=dict)
    uids: dict[bytes, int] = field(default_factory=dict)
    honest: list[bytes] = field(default_factory=list)
    terms: set[bytes] = field(default_factory=set)
    #: The character set where the walk has come to, and the codecs of all that were met.
    charset: Charset = field(default_factory=Charset)
    codecs: set[str] = field(default_factory=lambda: {"latin-1"})
    #: Length of the value of the top level's pixel data.
    pixel_bytes: int = 0


@cache
def _rows() -> dict[int, Row]:
    return {row.tag: row for row in load_rows()}


class NeedleCase:
    """Knows, for one profile, which attributes' values must not remain; the engine's rules are not asked."""

    def __init__(self, profile: Profile) -> None:
        self._options = profile.options
        self._dates = profile.dates
        # Of the profile's own rules those that leave values, whatever instances they are for.
        staying = [edit for edit in profile.edits if edit.action in (Action.KEEP, Action.CLEAN)]
        self._staying = [edit for edit in staying if not edit.creator]
        self._private_stays = (
            "retain_safe_private" in profile.options or bool(profile.private_lists) or any(edit.creator for edit in staying)
        )

    def collect(self, content: memoryview, opened: Part10) -> Needles:
        """Gather from a file, its meta information included.

        Raises:
            Malformed: the file cannot be walked.
        """
        needles = Needles()
        self._meta(needles, content)
        self._level(needles, opened.data, opened.start, len(opened.data), opened.encoding, 0, False)
        if opened.deflated:
            needles.pixel_bytes = 0
        return needles

    def _meta(self, needles: Needles, content: memoryview) -> None:
        """Add the application entities that the file meta information names."""
        pos = envelope_end(content)
        while pos is not None and bytes(content[pos : pos + 2]) == b"\2\0":
            tag, _, value, length = EXPLICIT_LE.header(content, pos, len(content))
            pos = value + length
            if tag in _APPLICATION_ENTITIES:
                self._add(needles, needles.own, tag, bytes(content[value:pos]))

    def _level(self, needles: Needles, data: memoryview, pos: int, limit: int, encoding: Encoding, depth: int, private: bool) -> int:
        """Gather from elements up to `limit` or the item delimiter; return where to go on. Nothing is read twice."""
        while pos < limit:
            head = encoding.header(data, pos, limit)
            tag, vr, value, length = head
            if tag == ITEM_END:
                return value
            hidden = private or bool(tag >> 16 & 1)
            if tag < _PIXEL_GROUP and _is_sequence(head):
                inner = IMPLICIT_LE if vr == b"UN" else encoding
                if length == UNDEFINED:
                    pos = self._items(needles, data, value, limit, inner, depth + 1, hidden)
                    continue
                # What is removed unread may be anything; what comes before the fault is known.
                with suppress(Malformed):
                    self._items(needles, data, value, min(limit, value + length), inner, depth + 1, hidden)
            pos = skip(data, head, limit, encoding, depth)
            if tag == PIXEL_DATA and depth == 0:
                needles.pixel_bytes = pos - value
            elif tag < _PIXEL_GROUP and tag >> 24 != _OVERLAYS and pos - value <= _LONGEST and not _is_sequence(head):
                self._value(needles, tag, vr, bytes(data[value:pos]), hidden)
        return pos

    def _items(self, needles: Needles, data: memoryview, pos: int, limit: int, encoding: Encoding, depth: int, private: bool) -> int:
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
            outside = needles.charset
            pos = self._level(needles, data, value, end, encoding, depth, private)
            needles.charset = outside
        return pos

    def _value(self, needles: Needles, tag: int, read: bytes, raw: bytes, private: bool) -> None:
        """Note a value; `read` is the VR as the file has it."""
        if tag == CHARACTER_SET:
            needles.charset = charset(raw.decode("latin-1"))
            needles.codecs.add(needles.charset.codec)
        vr = standard_vr(tag) or read
        if private:
            self._private(needles, tag, read, raw)
        elif b"PN" in (vr, read):
            self._names(needles, tag, raw)
        elif vr == b"UI":
            self._uid_values(needles, tag, raw)
        elif vr in _TEXT_VRS:
            if vr in (b"DA", b"DT"):
                raw = b"\\".join({part: None for value in raw.split(b"\\") for part in (value, *possible_digits(value))})
            row = _rows().get(tag)
            if row is None or self._may_stay(row, vr) or any(edit.names(tag) for edit in self._staying):
                needles.honest.append(raw.lower())
            elif any(option in row.options for option in _SHARED_OPTIONS):
                self._add(needles, needles.shared, tag, raw)
            else:
                self._add(needles, needles.own, tag, raw)
        elif vr == b"CS":
            needles.honest.append(raw.lower())
            needles.terms.update(_TERM.findall(raw.lower()))

    def _may_stay(self, row: Row, vr: bytes) -> bool:
        """Tell whether the profile lets the value, or what cleaning leaves of it, remain."""
        if vr in (b"DA", b"DT"):
            # A shifted date may equal another one of the original; of the birth date there is just one.
            return self._dates == "keep" or (self._dates == "shift" and row.tag != _BIRTH_DATE)
        return any(row.options.get(option) in ("K", "C") for option in self._options)

    def _uid_values(self, needles: Needles, tag: int, raw: bytes) -> None:
        if "retain_uids" in self._options:
            return
        for part in raw.split(b"\\"):
            uid = part.strip(b" \0")
            if len(uid) >= _SHORTEST_UID and uid.decode("latin-1") not in UID_dictionary and not _STANDARD_UID.fullmatch(uid):
                needles.uids.setdefault(uid, tag)

    def _private(self, needles: Needles, tag: int, vr: bytes, raw: bytes) -> None:
        """Names in private elements identify; other text counts unless the profile keeps private elements."""
        if vr == b"PN":
            self._names(needles, tag, raw)
        elif not self._private_stays and vr in (b"", b"LO", b"LT", b"SH", b"ST", b"UN", b"UT"):
            value = raw.strip(b" \0")
            if tag & 0xFFFF >= 0x1000 and _PRINTABLE.fullmatch(value) and _LETTERS.search(value):
                needles.shared.setdefault(value.lower(), tag)

    @staticmethod
    def _names(needles: Needles, tag: int, raw: bytes) -> None:
        for writing in _writings(raw, needles.charset):
            for part in _name_parts(writing):
                needles.own.setdefault(part, tag)

    @staticmethod
    def _add(needles: Needles, where: dict[bytes, int], tag: int, raw: bytes) -> None:
        for writing in _writings(raw, needles.charset):
            for part in writing.split(b"\\"):
                value = part.strip(b" \0").lower()
                if len(value) >= _SHORTEST and value not in _NO_ONE:
                    where.setdefault(value, tag)


def _is_sequence(head: Header) -> bool:
    tag, vr, _, length = head
    return vr == b"SQ" or (vr in (b"", b"UN") and (length == UNDEFINED or standard_vr(tag) == b"SQ"))


def _name_parts(raw: bytes) -> Iterator[bytes]:
    """Yield the components of a person's name and their words; of one or two letters they are not looked for."""
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
            # One sign of Chinese says too little.
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
                # The haystack is in lower case as far as ASCII goes.
                yield variant.encode(encoding).lower()
            except (UnicodeEncodeError, LookupError):
                continue
