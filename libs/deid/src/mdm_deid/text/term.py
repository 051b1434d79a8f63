"""Terms that the standard defines for an attribute (PS3.3, PS3.16), and makers of devices: they name nobody, but only in that attribute."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from importlib import resources
from typing import Any, Final, NamedTuple

from mdm_deid.encoding.charset import Charset
from mdm_deid.encoding.element import MAX_DEPTH, UNDEFINED, Element, Encoding, Header, elements, items, skip, standard_vr
from mdm_deid.outcome import Malformed

CODE_VALUE: Final = 0x00080100
CODING_SCHEME: Final = 0x00080102
CODE_MEANING: Final = 0x00080104
CODED_ENTRY: Final = frozenset((CODE_VALUE, CODING_SCHEME, CODE_MEANING))
_MANUFACTURER: Final = 0x00080070
# Elements of an odd group that reserve blocks (PS3.5 7.8.1).
_CREATORS: Final = range(0x10, 0x100)
_PADDING: Final = b" \0"
# Some meanings have these between their words, so that browsers may break the line there.
_INVISIBLE: Final = {0x200B: None}
# What a fully specified name of SNOMED CT ends with: `Liver structure (body structure)`.
_HIERARCHY: Final = re.compile(r" \([a-z /]+\)$")
_LONGEST_MEANING: Final = 64


@cache
def _terms() -> dict[int, frozenset[bytes]]:
    """Return tag -> defined terms and enumerated values (data/terms.tsv), and of Manufacturer the makers (data/makers.txt)."""
    rows = (line.split(b"\t") for line in _lines("terms.tsv"))
    return {int(tag, 16): frozenset(terms) for tag, *terms in rows} | {_MANUFACTURER: frozenset(_lines("makers.txt"))}


def _lines(name: str) -> list[bytes]:
    text = (resources.files("mdm_deid") / "data" / name).read_bytes()
    return [line for line in text.splitlines() if not line.startswith(b"#")]


def is_term(tag: int, value: bytes) -> bool:
    """Return whether one value, blanks and nulls around it left out, is a term of this attribute, or a maker in Manufacturer."""
    return value.strip(_PADDING) in _terms().get(tag, ())


def only_terms(tag: int, value: bytes) -> bool:
    """Return whether all values of an attribute are terms of it."""
    terms = _terms().get(tag)
    return terms is not None and all(not part.strip(_PADDING) or part.strip(_PADDING) in terms for part in value.split(b"\\"))


@cache
def _codes() -> dict[tuple[str, str], list[str]]:
    """Return (coding scheme, code value) -> meanings of the codes of PS3.16 as pydicom has them, those of its context groups first.

    Codes of SNOMED RT come by pydicom's map to SNOMED CT.
    """
    # Read when first asked for, which few files do: it takes a third of a second.
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    codes: dict[tuple[str, str], list[str]] = {}
    table: dict[str, dict[str, Any]] = concepts
    for scheme, names in table.items():
        for rows in names.values():
            for code, (meaning, groups) in rows.items():
                written = meaning.translate(_INVISIBLE)
                writings = [written] if groups else [_HIERARCHY.sub("", written), written]
                known = codes.setdefault((scheme, code), [])
                codes[scheme, code] = writings + known if groups else known + writings
    snomed = {("SRT", old): codes["SCT", new] for old, new in mapping["SRT"].items() if ("SCT", new) in codes}
    return snomed | codes


def meanings(scheme: str, code: str) -> Sequence[str]:
    """Return the meanings of a code of PS3.16, the usual writing first; none if PS3.16 does not have it."""
    return _codes().get((scheme, code), ())


class CodedEntry(NamedTuple):
    """A coded entry of the standard (PS3.3 8.8): what it means, and the elements of its item that say nothing but that."""

    meaning: str
    plain: frozenset[int]


def coded_entry(data: memoryview, pos: int, limit: int, encoding: Encoding) -> CodedEntry | None:
    """Return the standard's coded entry in the item that begins at `pos`; None if its code is not one of the standard's.

    Raises:
        Malformed: the item cannot be walked.
    """
    values: dict[int, str] = {}
    for element in elements(data, pos, limit, encoding):
        if element.tag > CODE_MEANING:
            break
        if element.tag in CODED_ENTRY and element.length != UNDEFINED:
            values[element.tag] = bytes(data[element.value : element.end]).strip(_PADDING).decode("latin-1")
    known = meanings(values.get(CODING_SCHEME, ""), values.get(CODE_VALUE, ""))
    if not known:
        return None
    same = values.get(CODE_MEANING, "").casefold() in map(str.casefold, known)
    return CodedEntry(known[0], CODED_ENTRY if same else CODED_ENTRY - {CODE_MEANING})


def term_spans(
    data: memoryview, pos: int, limit: int, encoding: Encoding, keeps_creator: Callable[[int, str], bool], depth: int = 0
) -> Iterator[tuple[int, int]]:
    """Yield where terms and coded entries of the standard stand, each in the attribute that they belong to, at any depth.

    So too private creators for which `keeps_creator` (group, creator) holds: makers write their names into them.

    Raises:
        Malformed: the data set cannot be walked.
    """
    entry = coded_entry(data, pos, limit, encoding) if depth else None
    for element in elements(data, pos, limit, encoding, depth):
        if _is_sequence(element):
            if depth < MAX_DEPTH:
                for item in items(data, element, encoding, depth):
                    yield from term_spans(data, item.start, item.limit, item.encoding, keeps_creator, depth + 1)
        elif (entry is not None and element.tag in entry.plain) or _reserves(data, element, keeps_creator):
            yield element.value, element.end
        elif element.tag in _terms():
            yield from _parts(data, element)


def _is_sequence(element: Element) -> bool:
    return element.vr == b"SQ" or (element.vr in (b"", b"UN") and standard_vr(element.tag) == b"SQ")


def _reserves(data: memoryview, element: Element, keeps_creator: Callable[[int, str], bool]) -> bool:
    group, number = element.tag >> 16, element.tag & 0xFFFF
    if not group & 1 or number not in _CREATORS:
        return False
    return keeps_creator(group, bytes(data[element.value : element.end]).strip(_PADDING).decode("latin-1"))


def _parts(data: memoryview, element: Element) -> Iterator[tuple[int, int]]:
    """Yield which of an element's values are terms."""
    start = element.value
    for part in bytes(data[element.value : element.end]).split(b"\\"):
        if is_term(element.tag, part):
            yield start, start + len(part)
        start += len(part) + 1


class Item:
    """The item whose elements lie in `start:limit` of the data, or end earlier with its delimiter."""

    def __init__(self, data: memoryview, start: int, limit: int, encoding: Encoding) -> None:
        self._data, self._start, self._limit, self._encoding = data, start, limit, encoding

    @cached_property
    def entry(self) -> CodedEntry | None:
        """The coded entry of the standard that the item is, if it is one.

        Raises:
            Malformed: the item cannot be walked.
        """
        return coded_entry(self._data, self._start, self._limit, self._encoding)

    def code(self, head: Header, start: int, end: int, charset: Charset, stays: Callable[[bytes], bool]) -> memoryview | bytes | None:
        """Return what stands in the place of an element of a coded entry of the standard: itself, or as bytes the standard's meaning.

        A meaning in other words gives way to the standard's where it would be removed or shortened, so that not all of it `stays`.
        None is returned where the element is to be judged as it would be elsewhere.

        Raises:
            Malformed: the item cannot be walked.
        """
        tag, vr, value, _ = head
        if self.entry is None:
            return None
        if tag in self.entry.plain:
            return self._data[start:end]
        meaning = None if stays(bytes(self._data[value:end])) else charset.encode(self.entry.meaning)
        if meaning is None or len(meaning) > _LONGEST_MEANING:
            return None
        return self._encoding.element(tag, b"LO" if vr == b"UN" else vr, meaning)

    def check_nothing_before(self, tag: int, end: int, depth: int) -> None:
        """Check that the elements before `end` have lower tags than the character set's `tag`, by which they would be read.

        Raises:
            Malformed: `late_character_set`, text stands before it, or it comes twice.
        """
        pos = self._start
        while pos < end:
            before = self._encoding.header(self._data, pos, end)
            if before[0] >= tag:
                raise Malformed("late_character_set")
            pos = skip(self._data, before, end, self._encoding, depth)
