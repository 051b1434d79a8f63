"""The words that name nobody: cleaning keeps only these and measures; and the attributes that are labels."""

import csv
import re
from functools import cache
from importlib import resources
from typing import Final

from mdm_deid.encoding.element import tag_of
from mdm_deid.text.identity import COMMON, fold, words
from mdm_deid.text.term import is_term

_PARTS: Final = re.compile(r"\d+|[^\W\d_]+")
_TOKENS: Final = re.compile(r"[0-9A-Za-z]+")
_CAMEL: Final = re.compile(r"[A-Z]+(?![a-z])|[^\W\d_][^\W\d_A-Z]*")
_LETTERS: Final = re.compile(r"[A-Za-z]+")
# Sizes, and doses with their fractions as TG-263 writes them.
_SIZE: Final = re.compile(r"\d{1,4}(?:[xX]\d{1,4}){1,2}|\d{1,4}(?:p\d{1,2})?c?Gy(?:x\d{1,2})?(?![^\W\d_])")
_CJK: Final = "\u2e80"
_SHORT_CODE: Final = 2
_MAX_PARTS: Final = 4
_MAX_DIGITS: Final = 3
# TG-263: a structure that is for optimisation only has `z` or `_` before its name; planning systems write `x` as well.
_HELPER: Final = re.compile(r"(?<![^\W_])[zx](?=[A-Z])")


@cache
def vocabulary() -> frozenset[str]:
    """Return the words of the standard, of institutions, of radiology and radiotherapy, folded."""
    trade = words("trade") | words("negation") | words("radiotherapy")
    parts = {part for name in structures() for part in _LETTERS.findall(name) if len(part) > 1}
    parts |= {piece for part in parts for piece in _CAMEL.findall(part) if len(piece) > 1}
    return frozenset((_listed("vocabulary.txt") | COMMON | set(map(fold, trade | parts))) - words("names"))


@cache
def structures() -> frozenset[str]:
    """Return the names of structures in radiotherapy, as AAPM TG-263 spells them, without side, margin and number."""
    return _listed("structures.txt")


def _listed(name: str) -> frozenset[str]:
    text = (resources.files("mdm_deid") / "data" / name).read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


def names_nobody(word: str, also: frozenset[str] = frozenset()) -> bool:
    """Return whether a word without separators is of the trade: known, `also` known, a number, or known with few digits (`T2w`, `64x0`).

    Anything else may be a name, a place or an identifier that is nowhere else in the file.
    """
    known = vocabulary()
    whole = fold(word)
    if whole.isdigit() or len(whole) == 1 or whole in known or whole in also:
        return True
    parts = _PARTS.findall(_SIZE.sub("", word))
    letters = [part for part in parts if not part.isdigit()]
    digits = "".join(part for part in parts if part.isdigit())
    if len(parts) > _MAX_PARTS or (len(digits) > _MAX_DIGITS and not (len(digits) == _MAX_DIGITS + 1 and digits[-1] == "0")):
        return False
    if len(parts) == _MAX_PARTS and all(len(part) == 1 for part in letters):
        return False
    return all(len(part) == 1 or _known(part, known | also if also else known) for part in letters)


def _known(letters: str, known: frozenset[str]) -> bool:
    """Return whether letters are a word, its plural, or words run together and set apart by capitals or by nothing (`頭部造影`)."""
    whole = fold(letters)
    if whole in known or (len(whole) > _MAX_PARTS and whole.removesuffix("s") in known):
        return True
    if min(whole) >= _CJK:
        return _signs().fullmatch(whole) is not None
    pieces = _CAMEL.findall(letters)
    return len(pieces) > 1 and "".join(pieces) == letters and all(len(piece) > 1 and fold(piece) in known for piece in pieces)


@cache
def _signs() -> re.Pattern[str]:
    return re.compile(f"(?:{'|'.join(word for word in vocabulary() if min(word) >= _CJK)})+")


def terms(tag: int, value: bytes) -> bytes:
    """Return a value of VR CS without what is no term: what the standard lists for the attribute `tag`, words of the standard and of
    radiology, such with few digits, two letters.
    """
    codes = [code if is_term(tag, code) or _of_the_trade(code) else b"" for code in value.strip(b" \0").split(b"\\")]
    return b"\\".join(codes).rstrip(b"\\")


def _of_the_trade(code: bytes) -> bool:
    text = code.decode("latin-1")
    return text.isascii() and all(map(_is_term_word, _TOKENS.findall(text)))


def _is_term_word(word: str) -> bool:
    return len(word) <= _SHORT_CODE or (len(word) <= _MAX_PARTS if word.isdigit() else names_nobody(word))


@cache
def _encoders() -> frozenset[str]:
    return words("encoders")


def known_to_encoders(word: str) -> bool:
    """Return whether an ASCII word is one that encoders write into their comments: a product, or a version with few digits."""
    if word.isdigit():
        return len(word) <= _MAX_PARTS
    return names_nobody(word, _encoders())


@cache
def label_tags() -> frozenset[int]:
    """Return the attributes whose value is a label."""
    text = (resources.files("mdm_deid") / "data" / "labels.csv").read_text(encoding="utf-8")
    return frozenset(tag_of(line["tag"]) for line in csv.DictReader(text.splitlines()))


@cache
def _structure() -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(structures(), key=len, reverse=True)))
    return re.compile(rf"(?<![^\W\d_])(?:{names})(?![^\W\d_])", re.IGNORECASE)


def beside_structures(label: str) -> str:
    """Return what stands in a label beside names of structures (AAPM TG-263), some of which are also persons' (`Carina`)."""
    return _structure().sub(" ", _HELPER.sub("", label))
