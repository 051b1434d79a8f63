"""De-identification profiles: the TOML of one, every key checked when it is loaded, every error with its line."""

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from mdm_deid.outcome import Outcome, ProfileError
from mdm_deid.rules.private import PRIVATE_LISTS
from mdm_deid.rules.rule import CONDITIONS, FULL_DATES, MODIFIED_DATES, OPTIONS, Action, AttributeRule, InstanceRule
from mdm_deid.text.identity import fold

SHIPPED: Final = ("basic", "research", "neuro", "strict")
_KEYS: Final = frozenset({"name", "base", "options", "dates", "release", "allow", "words", "private_lists", "rule", "attribute"})
_RULE_KEYS: Final = frozenset({"reason", "outcome", *CONDITIONS})
_ATTRIBUTE_CONDITIONS: Final = ("sop_classes", "modalities", "manufacturers", "models")
_ATTRIBUTE_KEYS: Final = frozenset({"action", "tags", "keywords", "private_creator", "value", *_ATTRIBUTE_CONDITIONS})
_TAG: Final = re.compile(r"\(?([0-9A-Fa-fxX]{4}),? ?([0-9A-Fa-fxX]{4})\)?")
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
_HEADER: Final = re.compile(r"\s*\[\[?\s*([\w-]+)\s*\]\]?")
_TEXT_VRS: Final = frozenset(["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"])
_CLEANED_VRS: Final = frozenset(["LO", "LT", "SH", "ST", "UC", "UT", "SQ"])
_ALL: Final = 0xFFFFFFFF
_BIRTH_DATE: Final = 0x00100030
# Patient's Name and ID, the record of what was done: written by the de-identifier itself.
_WRITTEN: Final = frozenset({0x00080005, 0x00100010, 0x00100020, 0x00120062, 0x00120063, 0x00120064, 0x00280303})


@dataclass(frozen=True)
class Profile:
    """A checked profile. Of `rules` and `attribute_rules` alike, the first that matches decides.

    `allow`, if given, lists the attributes besides which nothing stays but what the IOD demands. `words` may stay
    in text that is cleaned, besides those of the package; folded. `private_lists` name lists of private attributes that stay (see
    `private.py`).
    """

    name: str
    options: frozenset[str] = frozenset()
    rules: tuple[InstanceRule, ...] = field(default=())
    attribute_rules: tuple[AttributeRule, ...] = field(default=())
    allow: frozenset[int] | None = None
    words: frozenset[str] = frozenset()
    private_lists: frozenset[str] = frozenset()

    @property
    def dates(self) -> str:
        """`remove`, `shift` or `keep`."""
        return "shift" if MODIFIED_DATES in self.options else "keep" if FULL_DATES in self.options else "remove"

    def fingerprint(self) -> str:
        """Return a digest of the profile's settings."""
        rules = [(rule.reason, str(rule.outcome), _plain(rule.conditions)) for rule in self.rules]
        attribute_rules = [
            (str(rule.action), rule.patterns, rule.creator, rule.value, _plain(rule.conditions)) for rule in self.attribute_rules
        ]
        allow = None if self.allow is None else sorted(self.allow)
        lists = (sorted(self.words), sorted(self.private_lists))
        content = (self.name, sorted(self.options), rules, attribute_rules, allow, *lists)
        return hashlib.sha256(repr(content).encode()).hexdigest()

    @classmethod
    def load(cls, path: Path | None) -> "Profile":
        """Read a TOML profile, or the shipped `basic` one for None.

        Raises:
            ProfileError: an unknown key, option, condition or value; the message names it and its line.
            OSError: the file cannot be read.
        """
        if path is None:
            return cls.shipped("basic")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ProfileError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error
        return _parse(text, str(path))

    @classmethod
    def shipped(cls, name: str) -> "Profile":
        """Return one of the profiles that come with the package, named in `SHIPPED`.

        Raises:
            ProfileError: there is no such profile.
        """
        if name not in SHIPPED:
            raise ProfileError(f"no shipped profile {name!r}: there are {', '.join(SHIPPED)}")
        text = (resources.files("mdm_deid") / "data" / f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, name)


def _plain(conditions: Mapping[int, frozenset[str]]) -> list[tuple[int, list[str]]]:
    return sorted((tag, sorted(values)) for tag, values in conditions.items())


class Table:
    """One table of the document, with the lines of its keys."""

    def __init__(self, content: Mapping[str, Any], file: str, name: str, lines: Mapping[str, int], first: int) -> None:
        self._content = content
        self._file, self._name, self._lines, self._first = file, name, lines, first

    def error(self, key: str, problem: str, line: int | None = None) -> ProfileError:
        """Return the error to raise about `key`."""
        line = line or self._lines.get(key, self._first)
        return ProfileError(": ".join(part for part in (f"{self._file}, line {line}", self._name, key, problem) if part))

    def check_keys(self, known: frozenset[str]) -> None:
        """Refuse unknown keys."""
        for key in self._content:
            if key not in known:
                raise self.error("", f"unknown key {key!r}: known are {', '.join(sorted(known))}", self._lines.get(key))

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        value = self._content.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, "must be a non-empty string")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; none if the key is not there."""
        value = self._content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, "must be a list of strings")
        return value

    def choice(self, key: str, kind: Callable[[str], Any], known: list[str]) -> Any:
        """Return the value, converted by `kind`."""
        value = self.text(key)
        if value not in known:
            raise self.error(key, f"must be one of {', '.join(known)}")
        return kind(value)


def _parse(text: str, where: str) -> Profile:
    """Return the profile that `text` describes; `where` is the file's name in errors.

    Raises:
        ProfileError: with the line and the key.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: {error}") from error
    places = _places(text)
    top = Table(document, where, "", places.get(("", 0), {}), 1)
    top.check_keys(_KEYS)
    try:
        base = Profile.shipped(top.text("base")) if "base" in top else Profile(name="")
    except ProfileError as error:
        raise top.error("base", str(error)) from None
    options = _options(top, base)
    released = set(top.texts("release"))
    for reason in sorted(released - {rule.reason for rule in base.rules}):
        raise top.error("release", f"the base profile has no rule {reason!r}")
    kept = tuple(rule for rule in base.rules if rule.reason not in released)
    rules = tuple(_instance_rule(table) for table in _tables(document, "rule", where, places))
    attribute_rules = tuple(_attribute_rule(table) for table in _tables(document, "attribute", where, places))
    allow = frozenset(_tag_of(top, "allow", word) for word in top.texts("allow")) if "allow" in top else base.allow
    words, lists = base.words | _words(top), base.private_lists | _private_lists(top)
    return Profile(top.text("name"), options, rules + kept, attribute_rules + base.attribute_rules, allow, words, lists)


def _places(text: str) -> dict[tuple[str, int], dict[str, int]]:
    """Return the line of each key: (table, which of that name) -> key -> line; the table's own line under the key ''."""
    places: dict[tuple[str, int], dict[str, int]] = {("", 0): {}}
    count: dict[str, int] = {}
    current = places["", 0]
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            name = header[1]
            count[name] = count.get(name, 0) + 1
            current = places.setdefault((name, count[name]), {"": number})
        elif key := re.match(r"\s*([\w-]+)\s*=", line):
            current.setdefault(key[1], number)
    return places


def _tables(document: Mapping[str, Any], name: str, where: str, places: Mapping[tuple[str, int], dict[str, int]]) -> list[Table]:
    entries = document.get(name, [])
    if not isinstance(entries, list):
        entries = [entries]
    tables = []
    for number, entry in enumerate(entries, 1):
        lines = places.get((name, number), {})
        table = Table(entry if isinstance(entry, dict) else {}, where, f"{name} {number}", lines, lines.get("", 1))
        if not isinstance(entry, dict):
            raise table.error("", "must be a table")
        tables.append(table)
    return tables


def _options(top: Table, base: Profile) -> frozenset[str]:
    options = frozenset(top.texts("options")) if "options" in top else base.options
    for option in sorted(options - OPTIONS):
        raise top.error("options", f"{option!r} is not one of {', '.join(sorted(OPTIONS))}")
    if {FULL_DATES, MODIFIED_DATES} <= options:
        raise top.error("options", "full and modified dates exclude each other")
    wanted = Profile("", options).dates
    if "dates" in top and top.text("dates") != wanted:
        raise top.error("dates", f"these options need {wanted!r}, not {top.text('dates')!r}")
    return options


def _words(top: Table) -> frozenset[str]:
    for word in top.texts("words"):
        if not _WORD.fullmatch(word):
            raise top.error("words", f"{word!r} is not a word of two or more letters")
    return frozenset(map(fold, top.texts("words")))


def _private_lists(top: Table) -> frozenset[str]:
    for name in top.texts("private_lists"):
        if name not in PRIVATE_LISTS:
            raise top.error("private_lists", f"{name!r} is not one of {', '.join(sorted(PRIVATE_LISTS))}")
    return frozenset(top.texts("private_lists"))


def _conditions(table: Table, keys: tuple[str, ...]) -> dict[int, frozenset[str]]:
    return {CONDITIONS[key]: frozenset(value.upper() for value in table.texts(key)) for key in keys if key in table}


def _instance_rule(table: Table) -> InstanceRule:
    table.check_keys(_RULE_KEYS)
    outcome = table.choice("outcome", Outcome, ["QUARANTINED", "FILTERED"]) if "outcome" in table else Outcome.QUARANTINED
    conditions = _conditions(table, tuple(CONDITIONS))
    if not conditions:
        raise table.error("", "has no condition")
    return InstanceRule(table.text("reason"), outcome, conditions)


def _attribute_rule(table: Table) -> AttributeRule:
    table.check_keys(_ATTRIBUTE_KEYS)
    action: Action = table.choice("action", Action, [str(action) for action in Action])
    creator = table.text("private_creator") if "private_creator" in table else ""
    patterns = tuple(_pattern(table, word) for word in table.texts("tags"))
    patterns += tuple((_ALL, _tag_of(table, "keywords", word)) for word in table.texts("keywords"))
    if creator:
        patterns = _private_patterns(table, patterns, action)
    elif not patterns:
        raise table.error("", "names no attribute: give tags, keywords or private_creator")
    value = ""
    if action is Action.REPLACE:
        value = table.text("value")
    elif "value" in table:
        raise table.error("value", f"has no meaning with the action {action}")
    for mask, tag in patterns:
        _check_attribute(table, action, value, creator, mask, tag)
    return AttributeRule(action, patterns, creator, value, _conditions(table, _ATTRIBUTE_CONDITIONS))


def _pattern(table: Table, word: str) -> tuple[int, int]:
    """Return (mask, tag) of `(0018,1030)`, `60xx3000` and the like."""
    match = _TAG.fullmatch(word)
    if match is None:
        raise table.error("tags", f"{word!r} is not a tag such as (0018,1030), 00181030 or 60xx3000")
    digits = (match[1] + match[2]).lower()
    mask = int("".join("0" if digit == "x" else "f" for digit in digits), 16)
    return mask, int(digits.replace("x", "0"), 16)


def _tag_of(table: Table, key: str, word: str) -> int:
    tag = tag_for_keyword(word)
    if tag is None and (match := _TAG.fullmatch(word)) and "x" not in word.lower():
        tag = int(match[1] + match[2], 16)
    if tag is None:
        raise table.error(key, f"{word!r} is not a keyword of DICOM's dictionary")
    return tag


def _private_patterns(table: Table, patterns: tuple[tuple[int, int], ...], action: Action) -> tuple[tuple[int, int], ...]:
    if action not in (Action.KEEP, Action.REMOVE):
        raise table.error("action", "a private attribute can be kept or removed")
    for mask, tag in patterns:
        if not tag & 0x10000 or mask >> 16 != 0xFFFF:
            raise table.error("tags", f"{tag >> 16:04x} is not an odd group")
    return tuple((mask & 0xFFFF00FF, tag & 0xFFFF00FF) for mask, tag in patterns) or ((0, 0),)


def _check_attribute(table: Table, action: Action, value: str, creator: str, mask: int, tag: int) -> None:
    """Refuse what the de-identifier writes itself, and an action that the attribute's VR cannot take."""
    key = "keywords" if mask == _ALL and "keywords" in table else "tags"
    shown = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    if creator:
        return
    if any(written & mask == tag for written in _WRITTEN) or ((tag & mask) >> 16 <= 4 and mask >> 16 == 0xFFFF):
        raise table.error(key, f"{shown} is set by the de-identifier itself")
    if mask & 0x10000 and tag & 0x10000:
        raise table.error(key, f"{shown} is private: give its private_creator")
    if action in (Action.KEEP, Action.SHIFT) and _BIRTH_DATE & mask == tag:
        raise table.error("action", f"{shown} would reveal ages above 89; an age stays under retain_patient_characteristics")
    if action in (Action.KEEP, Action.REMOVE, Action.EMPTY):
        return
    if mask != _ALL or tag not in DicomDictionary:
        raise table.error(key, f"{shown}: {action} needs one attribute of DICOM's dictionary")
    vr = DicomDictionary[tag][0][:2]
    wanted = {Action.CLEAN: _CLEANED_VRS, Action.SHIFT: {"DA", "DT"}, Action.UID: {"UI"}, Action.REPLACE: _TEXT_VRS}[action]
    if vr not in wanted:
        raise table.error("action", f"{action} does not go with {shown}, whose VR is {vr}")
    if action is Action.REPLACE and not value.isascii():
        raise table.error("value", "must be ASCII")
