"""Where an image lies in the patient, what its values mean, and its name among those of its series."""

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from mdm_deid.pixels.image import INTERCEPT, ORIENTATION, POSITION, SERIES, SLOPE, SOP_INSTANCE, SPACING, Image

_IDENTIFIES: Final = (SOP_INSTANCE, SERIES, POSITION, ORIENTATION, SPACING, INTERCEPT, SLOPE)
_MEMBER_BYTES: Final = 12


@dataclass(frozen=True)
class Place:
    """Where an image lies in the patient, in mm: the middle of its first pixel, the steps to the next column and to the next row."""

    origin: tuple[float, ...]
    row: tuple[float, ...]
    column: tuple[float, ...]


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
