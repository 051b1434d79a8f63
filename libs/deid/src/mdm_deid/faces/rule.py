"""The mask of a series as a pixel rule: for the images that it was made from, and no others."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mdm_deid.pixels.drawn import DrawnRule
from mdm_deid.pixels.image import INTERCEPT, ORIENTATION, POSITION, SERIES, SLOPE, SOP_CLASS, SOP_INSTANCE, SPACING, Image
from mdm_deid.pixels.rule import CLEAN_FACES
from mdm_deid.rules.rule import FACE_UNMASKED

#: Changes with every change of what is blanked.
VERSION: Final = 1
MASKED: Final = "face"
NO_HEAD: Final = "no-head"
# Hounsfield units of air.
_AIR: Final = -1000.0
_CT: Final = "1.2.840.10008.5.1.4.1.1.2"
_IDENTIFIES: Final = (SOP_INSTANCE, SERIES, POSITION, ORIENTATION, SPACING, INTERCEPT, SLOPE)
_MEMBER_BYTES: Final = 12


@dataclass(frozen=True)
class Place:
    """Where an image lies in the patient, in mm: the middle of its first pixel, the steps to the next column and to the next row."""

    origin: tuple[float, ...]
    row: tuple[float, ...]
    column: tuple[float, ...]


@dataclass(frozen=True)
class FaceRule(DrawnRule):
    """Blanks the face on the images named in `members`; on those of a series without a head nothing.

    `region` are the numbers that describe it, empty without a head; see `FaceRegion`.
    """

    members: frozenset[bytes] = field(default=frozenset(), repr=False)
    region: tuple[float, ...] = ()

    @classmethod
    def of_series(cls, members: Sequence[bytes], region: tuple[float, ...]) -> "FaceRule":
        """Return the rule for a series."""
        name, codes = (MASKED, frozenset({CLEAN_FACES})) if region else (NO_HEAD, frozenset[str]())
        return cls(name, "faces", frozenset({FACE_UNMASKED}), codes=codes, members=frozenset(members), region=region)

    @property
    def needs_suspicion(self) -> bool:
        """Whether the rule is only for what the profile suspects by a rule."""
        return False

    def concerns(self, sop_class: str, modality: str) -> bool:
        """Return whether the rule may apply; `matches` decides."""
        return True

    def matches(self, image: Image) -> bool:
        """Return whether the mask was made from this image, as it is."""
        return member(image) in self.members

    def blanked(self, image: Image) -> list[list[tuple[int, int]]]:
        """Return for each row the spans of columns that show the face."""
        # NumPy is there where there are masks.
        from mdm_deid.faces.region import FaceRegion, spans

        place = place_of(image)
        if not self.region or place is None:
            return [[] for _ in range(image.rows)]
        return spans(FaceRegion.from_numbers(self.region), place, image.rows, image.columns)

    def blank_value(self, image: Image) -> int:
        """Return the stored value of air: in MR the least that there is, without signs 0."""
        if image.texts.get(SOP_CLASS) != _CT:
            return 0
        scale = rescale_of(image)
        bits = image.bits_stored or image.bits_allocated
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if image.representation & 1 else (0, (1 << bits) - 1)
        return max(low, min(high, round((_AIR - scale[1]) / scale[0]))) if scale else 0


def member(image: Image) -> bytes:
    """Return the name of an image among those of its series: a digest of what says which it is, where it lies and what its values mean."""
    words = [image.texts.get(tag, "") for tag in _IDENTIFIES] + [str(image.rows), str(image.columns), str(image.representation)]
    return hashlib.sha256("\0".join(words).encode()).digest()[:_MEMBER_BYTES]


def place_of(image: Image) -> Place | None:
    """Return where an image lies; None if its header does not say so with certainty (PS3.3 C.7.6.2.1.1)."""
    origin, turned, spacing = (numbers(image, tag, count) for tag, count in ((POSITION, 3), (ORIENTATION, 6), (SPACING, 2)))
    if origin is None or turned is None or spacing is None or min(spacing) <= 0.01 or max(spacing) > 20:
        return None
    row, column = turned[:3], turned[3:]
    lengths = [math.hypot(*row), math.hypot(*column)]
    across = sum(a * b for a, b in zip(row, column, strict=True))
    if any(abs(length - 1) > 0.02 for length in lengths) or abs(across) > 0.02:
        return None
    return Place(origin, tuple(value * spacing[1] for value in row), tuple(value * spacing[0] for value in column))


def rescale_of(image: Image) -> tuple[float, float] | None:
    """Return slope and intercept; 1 and 0 where the header has neither, None where they are no numbers."""
    if not image.texts.get(SLOPE) and not image.texts.get(INTERCEPT):
        return 1.0, 0.0
    slope, intercept = numbers(image, SLOPE, 1), numbers(image, INTERCEPT, 1)
    return (slope[0], intercept[0]) if slope and intercept and slope[0] > 1e-9 else None


def numbers(image: Image, tag: int, count: int) -> tuple[float, ...] | None:
    """Return the values of a DS attribute if they are `count` finite numbers."""
    try:
        values = tuple(float(part) for part in image.texts.get(tag, "").split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) and max(map(abs, values)) < 1e7 else None


def to_json(rule: FaceRule) -> dict[str, Any]:
    """Return what `from_json` reads."""
    return {"version": VERSION, "members": sorted(one.hex() for one in rule.members), "region": list(rule.region)}


def from_json(content: dict[str, Any]) -> FaceRule | None:
    """Return the rule that `to_json` wrote; None for one of another version."""
    if content["version"] != VERSION:
        return None
    return FaceRule.of_series([bytes.fromhex(one) for one in content["members"]], tuple(content["region"]))
