"""De-identification profiles: the options of the standard, rules for attributes, and which instances wait for a person."""

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Final

from mdm_deid.outcome import Outcome, ProfileError

FULL_DATES: Final = "retain_longitudinal_full_dates"
MODIFIED_DATES: Final = "retain_longitudinal_modified_dates"
# Option name -> its code in PS3.16 CID 7050.
OPTION_CODES: Final = {
    "clean_graphics": ("113103", "Clean Graphics Option"),
    "clean_structured_content": ("113104", "Clean Structured Content Option"),
    "clean_descriptors": ("113105", "Clean Descriptors Option"),
    FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    MODIFIED_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "retain_patient_characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain_device_identity": ("113109", "Retain Device Identity Option"),
    "retain_uids": ("113110", "Retain UIDs Option"),
    "retain_safe_private": ("113111", "Retain Safe Private Option"),
    "retain_institution_identity": ("113112", "Retain Institution Identity Option"),
}
OPTIONS: Final = frozenset(OPTION_CODES)
SHIPPED: Final = ("basic", "research", "neuro", "strict")
# Condition of a rule -> the attribute it looks at.
CONDITIONS: Final = {
    "sop_classes": 0x00080016,
    "modalities": 0x00080060,
    "manufacturers": 0x00080070,
    "models": 0x00081090,
    "image_types": 0x00080008,
    "conversion_types": 0x00080064,
    "burned_in_annotation": 0x00280301,
    "recognizable_visual_features": 0x00280302,
}


@dataclass(frozen=True)
class Rule:
    """Instances that match any condition get `outcome` with `reason`; values may hold the wildcards `*` and `?`."""

    reason: str
    outcome: Outcome
    conditions: Mapping[int, frozenset[str]]

    def matches(self, values: Mapping[int, str]) -> bool:
        """Tell whether any value (multi-valued ones separated by a backslash) meets a condition."""
        return any(meets(values.get(tag, ""), wanted) for tag, wanted in self.conditions.items())


@lru_cache(1024)
def meets(value: str, wanted: frozenset[str]) -> bool:
    """Tell whether a part of a multi-valued text is one of `wanted`, which are in upper case and may hold wildcards."""
    for part in value.upper().split("\\"):
        text = part.strip(" \0")
        if text in wanted or any(fnmatch.fnmatchcase(text, pattern) for pattern in wildcards(wanted)):
            return True
    return False


@cache
def wildcards(wanted: frozenset[str]) -> tuple[str, ...]:
    """Return those of `wanted` that are patterns."""
    return tuple(text for text in wanted if "*" in text or "?" in text)


class Action(StrEnum):
    """What an attribute rule does. What the IOD demands stays valid: `remove` leaves a Type 1 attribute a dummy."""

    KEEP = "keep"
    CLEAN = "clean"
    SHIFT = "shift"
    UID = "uid"
    REMOVE = "remove"
    EMPTY = "empty"
    REPLACE = "replace"


@dataclass(frozen=True)
class Edit:
    """A rule for attributes; it comes before the table of the standard and all options.

    `patterns` are (mask, tag); with a private `creator` they match the group and the last byte of the element, whatever
    block the creator reserved. Every one of `conditions` must hold for the instance.
    """

    action: Action
    patterns: tuple[tuple[int, int], ...]
    creator: str = ""
    value: str = ""
    conditions: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def applies(self, values: Mapping[int, str]) -> bool:
        """Tell whether the rule is for this instance."""
        return all(meets(values.get(tag, ""), wanted) for tag, wanted in self.conditions.items())

    def names(self, tag: int) -> bool:
        """Tell whether the rule is for this attribute."""
        return any(tag & mask == wanted for mask, wanted in self.patterns)


@dataclass(frozen=True)
class Profile:
    """A checked profile. Of rules and edits alike, the first that matches decides.

    `allow`, if given, is the list of attributes besides which nothing stays but what the IOD cannot do without. `words` may stay
    in text that is cleaned, besides those of the package; folded. `private_lists` name lists of private attributes that stay (see
    `private.py`).
    """

    name: str
    options: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = field(default=())
    edits: tuple[Edit, ...] = field(default=())
    allow: frozenset[int] | None = None
    words: frozenset[str] = frozenset()
    private_lists: frozenset[str] = frozenset()

    @property
    def dates(self) -> str:
        """`remove`, `shift` or `keep`."""
        return "shift" if MODIFIED_DATES in self.options else "keep" if FULL_DATES in self.options else "remove"

    def fingerprint(self) -> str:
        """Return a digest that changes with anything the profile says, and with nothing else."""
        rules = [(rule.reason, str(rule.outcome), _plain(rule.conditions)) for rule in self.rules]
        edits = [(str(edit.action), edit.patterns, edit.creator, edit.value, _plain(edit.conditions)) for edit in self.edits]
        allow = None if self.allow is None else sorted(self.allow)
        lists = (sorted(self.words), sorted(self.private_lists))
        content = (self.name, sorted(self.options), rules, edits, allow, *lists)
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


def _parse(text: str, where: str) -> Profile:
    from mdm_deid.rules.profile_file import parse  # which needs the classes above

    return parse(text, where)
