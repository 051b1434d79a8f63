"""The identifying values of a file in all forms in which text may repeat them: names, identifiers, dates."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import resources
from typing import Final

from mdm_deid.encoding.element import Buffer
from mdm_deid.text.pattern import Patterns

# A name or number shorter than this counts as a whole word only.
SUBSTRING: Final = 4
# Numbers shorter than this stand in measurements too often to be looked for in what is not free text.
LONG_NUMBER: Final = 6
_MIN_ID: Final = 3
_MAX_VALUE: Final = 1024
# Forms times bytes, above which looking for each would take longer than looking closely at every text.
_MAX_SEARCH: Final = 300_000_000
_WORD: Final = re.compile(r"[^\W_]+")
_LETTERS: Final = re.compile(r"[^\W\d_]+")
_DATE: Final = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")
_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_UMLAUTS: Final = (("ae", "a"), ("oe", "o"), ("ue", "u"))
_EXPANDED: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_FOLDED: Final = {"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ı": "i"}


@cache
def words(section: str) -> frozenset[str]:
    """Return a section of the package's list of words: `particles` of names, or `common` words of the trade."""
    text = (resources.files("mdm_deid") / "data" / "words.txt").read_text(encoding="utf-8")
    part = text.split(f"[{section}]")[1].split("[")[0]
    return frozenset(word for line in part.splitlines() if not line.startswith("#") for word in line.split())


PARTICLES: Final = words("particles")
COMMON: Final = words("common")


def fold(text: str) -> str:
    """Return letters without case, accents and width, so that spellings of one name compare equal; other characters stay."""
    if text.isascii():
        return text.lower()
    return "".join(map(_fold_character, text))


@lru_cache(4096)
def _fold_character(character: str) -> str:
    bare = "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
    return "".join(_FOLDED.get(part, part) for part in bare.casefold())


def speaks_of_none(text: str) -> bool:
    """Return whether a text has only words of the medical trade."""
    return all(fold(word) in COMMON for word in _WORD.findall(text))


@dataclass(frozen=True)
class Identity:
    """The values that must not remain in text, folded and without separators.

    `names` are parts of persons' names and their usual shortenings, `others` identifiers, words of institutions and places,
    and dates in the ways they are written. `known` says whether the file names its patient at all: text of a file that does
    not cannot be judged.
    """

    names: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    initials: frozenset[str] = frozenset()
    known: bool = False
    raw: frozenset[bytes] = frozenset()
    #: Those of `raw` that do not stand in a table of numbers by chance.
    binary: frozenset[bytes] = frozenset()
    longest: int = 0

    def occurs_in(self, content: Buffer) -> bool:
        """Return quickly whether one of these may be in ASCII text, whatever separates its parts; True may be wrong, False never is.

        Names of less than three letters, others of less than four and short numbers are not looked for.
        """
        if len(self.raw) * len(content) > _MAX_SEARCH:
            return True
        squeezed = bytes(content).translate(_LOWER, _SEPARATORS)
        return bool(self._patterns.occurring(squeezed))

    @cached_property
    def _patterns(self) -> Patterns:
        return Patterns(self.raw)


_SEPARATORS: Final = bytes(code for code in range(128) if not chr(code).isalnum())
_LOWER: Final = bytes(ord(chr(code).lower()) if code < 128 else code for code in range(256))


@lru_cache(64)
def identity(learnt: frozenset[tuple[bytes, str]], dates_stay: bool) -> Identity:
    """Return what to look for, from (VR, value) of what was taken away; `dates_stay`: other dates may be written out.

    The names of persons come by VR PN, dates by DA and DT, all else as identifiers or names of places.
    """
    names: set[str] = set()
    others: set[str] = set()
    initials: set[str] = set()
    known = False
    for vr, text in learnt:
        for value in text[:_MAX_VALUE].split("\\"):
            if vr == b"PN":
                known |= _learn_name(value, names, initials)
            elif vr in (b"DA", b"DT"):
                others |= _date_forms(value, dates_stay)
            else:
                known |= _learn_label(value, others)
    longest = max(map(len, names | others), default=0)
    raw = frozenset(_raw_forms(names, SUBSTRING - 1) | _raw_forms(others, SUBSTRING))
    binary = frozenset(form for form in raw if len(form) > SUBSTRING)
    return Identity(frozenset(names), frozenset(others), frozenset(initials), known, raw, binary, longest)


def _raw_forms(forms: Iterable[str], shortest: int) -> set[bytes]:
    """Return the forms that can occur in ASCII text, as bytes; other text is searched closely anyway."""
    return {form.encode("ascii") for form in forms if form.isascii() and len(form) >= (LONG_NUMBER if form.isdigit() else shortest)}


def _learn_name(value: str, names: set[str], initials: set[str]) -> bool:
    """Learn a person's name: each part, the parts run together, and an initial run together with the family name."""
    learnt = False
    for writing in value.split("="):
        written = _LETTERS.findall(unicodedata.normalize("NFC", writing))
        names.update(fold(part.lower().translate(_EXPANDED)) for part in written if not part.isascii())
        names.update(form for part in written if not part.isascii() for form in _damaged(part))
        parts = [part for part in map(fold, written) if part]
        words = [part for part in parts if part not in PARTICLES and (len(part) > 1 or not part.isascii())]
        if not words:
            continue
        learnt = learnt or any(part not in COMMON for part in words)
        for word in words:
            names.add(word)
            names.update(_spellings(word))
        family, *given = words
        for other in given:
            names.update((family + other, other + family))
        for other in parts[1:]:
            names.update((other[0] + family, family + other[0]))
        if len(parts) > 1:
            letters = "".join(part[0] for part in parts)
            initials.update((letters, letters[1:] + letters[0], letters[0] + letters[1], letters[1] + letters[0]))
    return learnt


def _damaged(part: str) -> set[str]:
    """Return a name as systems write it that lose its accents, or read UTF-8 as Latin-1; separators, `M?ller`, are left out anyway."""
    lost = "".join(character for character in part if character.isascii())
    misread = part.encode("utf-8").decode("latin-1")
    forms = {fold(lost), "".join(map(fold, _WORD.findall(misread)))}
    return {form for form in forms if len(lost) >= SUBSTRING and form not in COMMON}


def _spellings(word: str) -> set[str]:
    """Return a name as written without its umlauts, or with the other form of Mac."""
    other = (
        {"mac" + word[2:]}
        if word.startswith("mc")
        else {"mc" + word[3:]}
        if word.startswith("mac") and len(word) > SUBSTRING + 2
        else set()
    )
    return other | {short for pair, vowel in _UMLAUTS if pair in word and len(short := word.replace(pair, vowel)) >= SUBSTRING}


def _learn_label(value: str, others: set[str]) -> bool:
    """Learn an identifier, or the name of an institution or place; return whether it is one."""
    words = [fold(word) for word in _WORD.findall(unicodedata.normalize("NFC", value))]
    whole = "".join(words)
    if not whole.strip("0"):
        return False
    if len(whole) >= _MIN_ID and not (whole.isalpha() and whole in COMMON):
        others.add(whole)
        if whole.lstrip("0").isdigit() and len(whole.lstrip("0")) >= _MIN_ID:
            others.add(whole.lstrip("0"))
    for word in words:
        digits = re.sub(r"\D", "", word)
        if len(digits) >= SUBSTRING:
            others.update({digits, word, digits.lstrip("0")} if len(digits.lstrip("0")) >= SUBSTRING else {digits, word})
        elif len(word) >= SUBSTRING and not digits and word not in COMMON:
            others.add(word)
    digits = re.sub(r"\D", "", whole)
    if len(digits) >= LONG_NUMBER:
        # An identifier is often given by its last digits.
        others.update(digits[-count:] for count in (SUBSTRING, SUBSTRING + 1, SUBSTRING + 2))
    return any(character.isdigit() for character in whole) and len(whole) >= _MIN_ID


def _date_forms(value: str, dates_stay: bool) -> set[str]:
    """Return the ways a date is written, separators left out; its year alone too, unless dates stay."""
    match = _DATE.match(value.strip(" \0"))
    if match is None:
        return set()
    year, month, day = match.groups()
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return set()
    forms = {year} if not dates_stay else set()
    for two in {(day, month), (day.lstrip("0"), month.lstrip("0"))}:
        for one, other in (two, two[::-1]):
            forms.update((year + one + other, one + other + year, one + other + year[2:]))
    forms.add(year[2:] + month + day)
    name = _MONTHS[int(month) - 1]
    for text in (name, name[:3]):
        for number in {day, day.lstrip("0")}:
            forms.update((number + text + year, text + number + year, year + text + number, number + text + year[2:]))
    return {form for form in forms if len(form) >= SUBSTRING}
