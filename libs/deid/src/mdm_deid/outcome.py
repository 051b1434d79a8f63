"""The outcome of de-identification for one instance, and its reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """RELEASED: may leave. FILTERED: policy says no. QUARANTINED: a person must look. FAILED: could not be read."""

    RELEASED = "RELEASED"
    FILTERED = "FILTERED"
    QUARANTINED = "QUARANTINED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Result:
    """The outcome for one file.

    `reason` is a stable code, empty when released. `data` is the Part 10 file as buffers to be written one after the
    other, present only when released; the buffer that holds pixel data is a view of the input. `counts` maps an action
    (removed, emptied, replaced, uid, shifted, kept) to how many elements it met. `pixel_rule` names the rule that blanked
    pixels, if one did; the buffer of pixel data is then a copy. `attribute_rules` are the numbers, from 1, of the profile's
    attribute rules that apply to this instance. `checked`: the self-check ran and found nothing; `found` are the tags
    whose values it found.
    """

    outcome: Outcome
    reason: str = ""
    data: list[bytes | memoryview] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    pixel_rule: str = ""
    attribute_rules: tuple[int, ...] = ()
    checked: bool = False
    found: tuple[int, ...] = ()


class Withheld(Exception):
    """A person must look at the pixels, whose content could not be checked; `reason` is a stable code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FaceUnmasked(Exception):
    """No mask can be made of the face in a series; `detail` is a stable code of why, which identifies nobody."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Malformed(ValueError):
    """The bytes are not DICOM that can be read with certainty; `reason` is a stable code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProfileError(ValueError):
    """A profile is wrong; the message names the file, the line and the key."""
