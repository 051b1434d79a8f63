"""The record of de-identification (PS3.3 C.7.1.1): reading that of earlier steps, and extending it by ours."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from mdm_deid.encoding.charset import Charset
from mdm_deid.encoding.element import Element, Encoding, elements, items
from mdm_deid.outcome import Malformed
from mdm_deid.pixels.rule import CLEAN_PIXELS
from mdm_deid.rules.facts import METHOD, METHOD_CODES
from mdm_deid.rules.rule import FULL_DATES, MODIFIED_DATES, OPTION_CODES
from mdm_deid.text.cleaner import Cleaner, fit
from mdm_deid.text.identity import words

_CODE_VALUE, _SCHEME, _SCHEME_UID, _MEANING = 0x00080100, 0x00080102, 0x0008010C, 0x00080104
_DCM: Final = b"DCM"
_DCM_UID: Final = b"1.2.840.10008.2.16.4"
BASIC: Final = "113100"
# CID 7050 (PS3.16), whole; no code of it has been retired.
MEANINGS: Final = {
    BASIC: "Basic Application Confidentiality Profile",
    CLEAN_PIXELS: "Clean Pixel Data Option",
    **dict(OPTION_CODES.values()),
}
# What earlier steps cleaned stays clean. What they retained may be removed now, so only our codes say what is retained.
_LASTING: Final = frozenset(code for code, meaning in MEANINGS.items() if not meaning.startswith("Retain"))
_DATE_CODES: Final = {"UNMODIFIED": OPTION_CODES[FULL_DATES][0], "MODIFIED": OPTION_CODES[MODIFIED_DATES][0]}
# What was done to dates, from weak to strong: no step undoes an earlier one.
_DATES: Final = ("UNMODIFIED", "MODIFIED", "REMOVED")
_EDITION: Final = re.compile(r"(?<![^\W_])(20\d\d[a-e])(?![^\W_])")
_MAX_ITEMS: Final = 256
_MAX_VALUES: Final = 32
_MAX_METHOD: Final = 8192


@dataclass(frozen=True)
class Record:
    """What a file says of the steps before ours: codes of CID 7050, `dates` (`REMOVED`, …, or nothing), and the text of methods."""

    codes: frozenset[str] = frozenset()
    dates: str = ""
    methods: tuple[str, ...] = ()
    charset: Charset = field(default_factory=Charset)

    def codes_with(self, ours: Iterable[str], dates: str) -> tuple[str, ...]:
        """Return the codes after our step, in order: ours, earlier cleaning, and for dates the strongest step."""
        codes = (self.codes & _LASTING) | set(ours) - set(_DATE_CODES.values())
        code = _DATE_CODES.get(self.dates_with(dates))
        return tuple(sorted(codes | {code} if code else codes))

    def dates_with(self, ours: str) -> str:
        """Return what has happened to dates in all steps together: the strongest."""
        return max(ours, self.dates or ours, key=_DATES.index)

    def methods_with(self, ours: bytes, cleaner: Cleaner) -> bytes:
        """Return the values of De-identification Method: earlier ones as far as they name nobody, each once, and ours at the end.

        Names of programs that de-identify may stay. As every other word has to be one of the trade, the text can be judged even
        in a file that no longer names its patient.
        """
        if not self.methods:
            return ours
        judge = replace(cleaner, identity=replace(cleaner.identity, known=True), words=cleaner.words | words("deidentifiers"))
        values = (self.charset.encode(fit(_clean_method(text, judge), b"LO")) for text in self.methods)
        distinct = dict.fromkeys(value for value in values if value and value != ours)
        return b"\\".join([*list(distinct)[-_MAX_VALUES:], ours])


def read_record(data: memoryview, places: Iterable[Element], encoding: Encoding, charset: Charset) -> Record:
    """Return the record in these elements; unreadable values and codes of other schemes are ignored."""
    codes: set[str] = set()
    dates, methods = "", b""
    for element in places:
        raw = bytes(data[element.value : min(element.end, element.value + _MAX_METHOD)])
        if element.tag == METHOD_CODES:
            with suppress(Malformed):
                codes.update(_codes(data, element, encoding))
        elif element.tag == METHOD:
            methods = raw
        else:
            dates = raw.strip(b" \0").decode("latin-1").upper()
    if dates not in _DATES:
        dates = next((term for term, code in _DATE_CODES.items() if code in codes and term != _DATES[0]), "")
    return Record(frozenset(codes), dates, tuple(_texts(methods, charset)), charset)


def _clean_method(text: str, judge: Cleaner) -> str:
    """Return a method without words that may name someone; editions of the standard are kept, though they look like years."""
    pieces = _EDITION.split(text)
    left = [piece if index % 2 or not piece.strip() else judge.clean(piece) for index, piece in enumerate(pieces)]
    return text if left == pieces else " ".join(piece.strip() for piece in left if piece.strip())


def _texts(raw: bytes, charset: Charset) -> Iterator[str]:
    """Yield the values of a text that can be read."""
    whole = charset.decode(raw)
    values = whole.split("\\") if whole is not None else map(charset.decode, raw.split(b"\\"))
    yield from (text for value in values if (text := (value or "").strip(" \0")))


def _codes(data: memoryview, sequence: Element, encoding: Encoding) -> Iterator[str]:
    """Yield the codes of CID 7050 in a sequence.

    Raises:
        Malformed: it is no sequence; what came before the fault has been yielded.
    """
    for count, item in enumerate(items(data, sequence, encoding)):
        if count == _MAX_ITEMS:
            return
        values = {
            element.tag: bytes(data[element.value : element.end]).strip(b" \0")
            for element in elements(data, item.start, item.limit, item.encoding)
            if element.tag in (_CODE_VALUE, _SCHEME, _SCHEME_UID) and element.end - element.value <= 64
        }
        code = values.get(_CODE_VALUE, b"").decode("latin-1")
        if code in MEANINGS and (values.get(_SCHEME, b"").upper() == _DCM or values.get(_SCHEME_UID) == _DCM_UID):
            yield code


@lru_cache(64)
def code_items(codes: tuple[str, ...], encoding: Encoding) -> bytes:
    """Return the value of De-identification Method Code Sequence."""
    return b"".join(
        encoding.item(
            encoding.element(_CODE_VALUE, b"SH", code.encode("ascii"))
            + encoding.element(_SCHEME, b"SH", _DCM)
            + encoding.element(_MEANING, b"LO", MEANINGS[code].encode("ascii"))
        )
        for code in codes
    )
