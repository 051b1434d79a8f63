"""The rules of a profile: options of the standard, rules for instances, rules for attributes."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, lru_cache
from typing import Final

from mdm_deid.outcome import Outcome

FULL_DATES: Final = "retain_longitudinal_full_dates"
CLEAN_FACES: Final = "clean_recognizable_visual_features"
#: The reason for which an image waits that may show a face, while no mask of its series says where.
FACE_UNMASKED: Final = "face_unmasked"
MODIFIED_DATES: Final = "retain_longitudinal_modified_dates"
# Option name -> its code in PS3.16 CID 7050.
OPTION_CODES: Final = {
    CLEAN_FACES: ("113102", "Clean Recognizable Visual Features Option"),
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
class InstanceRule:
    """Instances for which any condition holds get `outcome` with `reason` (unlike a `PixelRule`, for which all must hold).

    Values may contain the wildcards `*` and `?`.
    """

    reason: str
    outcome: Outcome
    conditions: Mapping[int, frozenset[str]]

    def matches(self, values: Mapping[int, str]) -> bool:
        """Return whether any value (multi-valued ones separated by a backslash) meets a condition."""
        return any(meets(values.get(tag, ""), wanted) for tag, wanted in self.conditions.items())


@lru_cache(1024)
def meets(value: str, wanted: frozenset[str]) -> bool:
    """Return whether a part of a multi-valued text is one of `wanted`, which are in upper case and may contain wildcards."""
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
    """The action of an attribute rule. The IOD stays valid: `remove` replaces a Type 1 attribute by a dummy."""

    KEEP = "keep"
    CLEAN = "clean"
    SHIFT = "shift"
    UID = "uid"
    REMOVE = "remove"
    EMPTY = "empty"
    REPLACE = "replace"


@dataclass(frozen=True)
class AttributeRule:
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
        """Return whether the rule applies to this instance."""
        return all(meets(values.get(tag, ""), wanted) for tag, wanted in self.conditions.items())

    def names(self, tag: int) -> bool:
        """Return whether the rule names this attribute."""
        return any(tag & mask == wanted for mask, wanted in self.patterns)
