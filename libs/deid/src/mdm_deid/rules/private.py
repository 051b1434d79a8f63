"""Private attributes that may stay: table E.3.10-1, lists of this package and rules of the profile, by private creator."""

import csv
import re
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from mdm_deid.encoding.element import UNDEFINED, Encoding, Header
from mdm_deid.rules.container import csa_numbers, protocol_numbers, protocol_text, user_data_numbers
from mdm_deid.rules.rule import Action, AttributeRule
from mdm_deid.rules.table import load_safe_private
from mdm_deid.rules.value import BINARY_VRS, FORMS, TEXT_VRS

# Takes a value, the VR to read it by and whether it is little endian; returns what of it stays, None if nothing does.
Reader = Callable[[bytes, bytes, bool], bytes | None]
_LISTS: Final = {"neuroimaging": "neuroimaging_private.csv"}
# Sequences that hold listed attributes and whose own creator the table does not name: Philips' private per frame sequence, which
# repeats scale slope and diffusion for each frame (dcm2niix, kPrivatePerFrameSq).
_SEQUENCES: Final = ((0x2005, 0x0F, "Philips MR Imaging DD 005"),)
_ITEM_TAG: Final = b"\xfe\xff\x00\xe0"
PRIVATE_LISTS: Final = frozenset(_LISTS)
_CONTAINERS: Final[dict[str, Callable[[bytes], bytes | None]]] = {
    "siemens_csa": csa_numbers,
    "siemens_protocol": protocol_text,
    "ge_protocol": protocol_numbers,
    "ge_user_data": user_data_numbers,
}
_NUMBER: Final = re.compile(rb" *(?:[-+]?[0-9]{1,12}(?:\.[0-9]{0,20})?(?:[eE][-+]?[0-9]{1,3})?)? *")
_FORMATS: Final = {b"FD": "d", b"FL": "f", b"SL": "i", b"SS": "h", b"UL": "I", b"US": "H", b"SV": "q", b"UV": "Q"}
_NUMBER_TEXT_VRS: Final = frozenset(b"DS IS LO SH ST LT UT CS".split())
# What measurements lie between; text read as a number of four or eight bytes seldom does.
_LEAST, _GREATEST = 1e-7, 1e8


@dataclass(frozen=True)
class PrivateAttribute:
    """A private attribute that may stay, encoded as `vr` (UN: in whatever it comes).

    With a `reader` only what that returns stays; without one the value does if it has the form of its VR. Of a sequence that is
    `listed_only` nothing stays but listed private attributes, as of one that no list names; the items of others are judged like any.
    """

    vr: bytes
    reader: Reader | None = None
    listed_only: bool = False

    def left_of(self, data: memoryview, head: Header, end: int, encoding: Encoding) -> bytes | None:
        """Return what may stay of a value that ends at `end`; None if nothing may, or it is encoded as what it is not."""
        _, vr, start, length = head
        same_class = self.vr == b"UN" or {vr, self.vr} <= TEXT_VRS or {vr, self.vr} <= BINARY_VRS
        if length == UNDEFINED or not (vr in (b"", b"UN") or same_class):
            return None
        if self.reader is not None:
            # What was written as UN comes from an implicit, and so a little endian, encoding.
            read_as = self.vr if vr in (b"", b"UN", b"OB", b"OW") else vr
            return self.reader(bytes(data[start:end]), read_as, encoding.little or vr == b"UN")
        form = FORMS.get(self.vr)
        return None if form is not None and not form(data, start, end) else bytes(data[start:end])


def is_sequence(listed: PrivateAttribute | None, data: memoryview, head: Header, end: int) -> bool:
    """Return whether an element is a sequence by its VR or its list, or, of unknown VR and unlisted, begins as one."""
    _, vr, value, length = head
    if vr == b"SQ" or (listed is not None and listed.vr == b"SQ"):
        return vr in (b"SQ", b"UN", b"") and (listed is None or listed.vr in (b"SQ", b"UN"))
    return listed is None and vr in (b"UN", b"") and (length == UNDEFINED or bytes(data[value : min(end, value + 4)]) == _ITEM_TAG)


class PrivateAttributes:
    """The private attributes that one profile keeps, for instances to which the same private rules apply."""

    def __init__(self, rules: Iterable[AttributeRule], options: Collection[str], private_lists: Iterable[str]) -> None:
        """Take a profile's private lists, those of its rules that name a creator, and the option for safe ones."""
        self._attribute_rules = tuple(rule for rule in rules if rule.creator)
        self._listed = dict(_safe()) if "retain_safe_private" in options else {}
        for name in sorted(private_lists):
            self._listed |= load_private_list(name)
        kept = {rule.creator for rule in self._attribute_rules if rule.action is Action.KEEP}
        self._creators = {(group, creator) for group, _, creator in self._listed}
        self._kept_creators = frozenset(kept)
        self.any = bool(self._listed or kept)

    def keeps_creator(self, group: int, creator: str) -> bool:
        """Return whether any private attribute of a creator may stay."""
        return creator in self._kept_creators or (group, creator) in self._creators

    def find(self, tag: int, creator: str) -> PrivateAttribute | None:
        """Return how a private attribute may stay, whatever block its creator reserved; None if it may not."""
        for rule in self._attribute_rules:
            if rule.creator == creator and rule.names(tag):
                return PrivateAttribute(b"UN") if rule.action is Action.KEEP else None
        return self._listed.get((tag >> 16, tag & 0xFF, creator))

    def removes(self, tag: int, creator: str) -> bool:
        """Return whether a rule of the profile removes the attribute by name."""
        return next(
            (rule.action is not Action.KEEP for rule in self._attribute_rules if rule.creator == creator and rule.names(tag)), False
        )


_Listed = dict[tuple[int, int, str], PrivateAttribute]


@cache
def _safe() -> _Listed:
    safe = {key: PrivateAttribute(vr.encode("ascii")) for key, vr in load_safe_private().items()}
    return safe | dict.fromkeys(_SEQUENCES, PrivateAttribute(b"SQ", listed_only=True))


@cache
def load_private_list(name: str) -> _Listed:
    """Return (group, low byte of the element, private creator) -> attribute of a list that comes with the package."""
    text = (resources.files("mdm_deid") / "data" / _LISTS[name]).read_text(encoding="utf-8")
    return {
        (int(line["group"], 16), int(line["element"][-2:], 16), line["private_creator"]): PrivateAttribute(
            line["vr"].encode("ascii"), _reader(line["values"], line["vm"]), listed_only=line["values"] == "listed_only"
        )
        for line in csv.DictReader(text.splitlines())
    }


def _reader(values: str, vm: str) -> Reader | None:
    """Return the reader that the column `values` names: numbers, `terms A|B`, `code REGEX`, or a container's name; none for sequences."""
    kind, _, rest = values.partition(" ")
    if kind in ("sequence", "listed_only"):
        return None
    if kind in _CONTAINERS:
        rebuild = _CONTAINERS[kind]
        return lambda value, _vr, _little: rebuild(value)
    low, _, high = vm.partition("-")
    count = range(int(low), 1 << 16 if high == "n" else int(high or low) + 1)
    if kind == "numbers":
        return lambda value, vr, little: value if all_numbers(value, vr, little, count) else None
    part = re.compile("|".join(map(re.escape, rest.split("|"))) if kind == "terms" else rest).fullmatch
    return lambda value, _vr, _little: value if _all_match(value, part, count) else None


def _all_match(value: bytes, match: Callable[[str], object], count: range) -> bool:
    text = value.decode("latin-1").rstrip(" \0")
    parts = [part.strip(" ") for part in text.split("\\")]
    return not text or (len(parts) in count and all(match(part) for part in parts))


def all_numbers(value: bytes, vr: bytes, little: bool, count: range) -> bool:
    """Return whether `value`, read by `vr`, has as many numbers as `count` allows and nothing else; nothing at all will do.

    Binary numbers that would be strange as measurements, and whose bytes are all printable, are taken for text.
    """
    if vr in _NUMBER_TEXT_VRS:
        parts = value.rstrip(b" \0").split(b"\\")
        return parts == [b""] or (len(parts) in count and all(_NUMBER.fullmatch(part) for part in parts))
    kind = _FORMATS.get(vr)
    width = struct.calcsize(kind) if kind else 0
    if not kind or len(value) % width:
        return False
    numbers = struct.unpack(f"{'<' if little else '>'}{len(value) // width}{kind}", value)
    return not numbers or (len(numbers) in count and all(_plain(value, index, width, number) for index, number in enumerate(numbers)))


def _plain(value: bytes, index: int, width: int, number: float) -> bool:
    if number != number:  # the bits of a NaN can say anything
        return False
    raw = value[index * width : (index + 1) * width]
    return width == 2 or _LEAST <= abs(number) <= _GREATEST or not all(0x20 <= byte < 0x7F for byte in raw)
