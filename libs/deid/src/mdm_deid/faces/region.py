"""The region that is blanked: what lies in front of and below the cranium, described in its coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mdm_deid.faces.cranium import Cranium, Floats, Mask, find_cranium, surface, tissue, turned
from mdm_deid.faces.place import Place
from mdm_deid.faces.volume import Grid
from mdm_deid.outcome import FaceUnmasked

# Angles are in degrees, heights above the cranium's middle and turns from the front. Distances are relative: 1 is the cranium's surface.
#
# Where, going down, the profile of a face leaves the cranium's, and by how much; measured on the mean head of fsaverage (FreeSurfer).
_PROFILE_AT: Final = -24.0
_PROFILE_LEAVES: Final = 1.15
# How much a nose stands out from what is to its sides.
_NOSE: Final = 0.04
# What lies nearer than this is never blanked, by height: the brain of fsaverage and a margin of 8 degrees and of 2 % and more.
_HEIGHTS: Final = np.array([-55.0, -40.0, -30.0, -22.0, -12.0])
_NEAREST: Final = np.array([0.82, 0.89, 0.94, 0.975, 1.0])
# To the sides, where the temples are, all of the cranium stays.
_SIDES: Final = (40.0, 65.0)
_WIDEST: Final = 76.0
_HIGHEST: Final = 10.0
# How often the head is turned until its face is level to within `_LEVEL`, by how much at a time, and what is level enough in the end;
# and the cosine of the greatest angle to the patient's own front, beyond which a header is not believed.
_TURNS: Final = 4
_LEVEL: Final = 2.5
_GREATEST_PITCH: Final = 40.0
_GREATEST_DOUBT: Final = 8.0
_LEAST_UPRIGHT: Final = 0.55
_ROWS_AT_ONCE: Final = 128


@dataclass(frozen=True)
class FaceRegion:
    """What is blanked, in patient coordinates: the cranium's axes follow the height of its face."""

    cranium: Cranium

    def numbers(self) -> tuple[float, ...]:
        """Return what `from_numbers` reads: centre, axes and half lengths."""
        cranium = self.cranium
        return tuple(float(value) for part in (cranium.centre, cranium.axes, cranium.lengths) for value in part.flat)

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> "FaceRegion":
        """Return the region that `numbers` wrote."""
        values = np.array(numbers, np.float64)
        return cls(Cranium(values[:3], values[3:12].reshape(3, 3), values[12:15], 0.0, 1.0))

    def contains(self, points: Floats) -> Mask:
        """Return for points (…, 3) in mm whether they belong to the face."""
        relative = self.cranium.relative(points)
        distance = np.linalg.norm(relative, axis=-1)
        turn = np.degrees(np.arctan2(np.abs(relative[..., 0]), -relative[..., 1]))
        height = np.degrees(np.arcsin(np.clip(relative[..., 2] / np.maximum(distance, 1e-9), -1, 1)))
        within = np.interp(height, _HEIGHTS, _NEAREST)
        nearest = within + (1 - within) * np.clip((turn - _SIDES[0]) / (_SIDES[1] - _SIDES[0]), 0, 1)
        return np.asarray((distance > nearest) & (turn < _WIDEST) & (height < _HIGHEST))


def find_face(grid: Grid) -> FaceRegion:
    """Return the region of the face in a volume.

    Raises:
        FaceUnmasked: no head is found, or not where its front is.
    """
    head = tissue(grid)
    cranium = find_cranium(head, grid)
    for _ in range(_TURNS):
        away = _leaves(cranium, head, grid) - _PROFILE_AT
        if abs(away) < _LEVEL:
            break
        angle = np.clip(away, -_GREATEST_PITCH, _GREATEST_PITCH)
        cranium = turned(cranium, head, grid, float(np.radians(angle)))
    else:
        if abs(_leaves(cranium, head, grid) - _PROFILE_AT) > _GREATEST_DOUBT:
            raise FaceUnmasked("face_not_level")
    if cranium.axes[1, 1] < _LEAST_UPRIGHT:
        raise FaceUnmasked("face_not_level")
    return FaceRegion(cranium)


def spans(region: FaceRegion, place: Place, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Return for each row of an image the spans of columns within the region: sorted, apart, the end not included."""
    found: list[list[tuple[int, int]]] = []
    along = np.array(place.origin) + np.arange(columns)[:, None] * np.array(place.row)
    for first in range(0, rows, _ROWS_AT_ONCE):
        down = np.arange(first, min(rows, first + _ROWS_AT_ONCE))[:, None, None] * np.array(place.column)
        inside = region.contains(along[None] + down)
        edges = np.diff(np.pad(inside.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        for row in edges:
            starts, ends = np.flatnonzero(row == 1), np.flatnonzero(row == -1)
            found.append(list(zip(starts.tolist(), ends.tolist(), strict=True)))
    return found


def _leaves(cranium: Cranium, head: Mask, grid: Grid) -> float:
    """Return the height at which the face leaves the cranium.

    Raises:
        FaceUnmasked: the images do not show so much of it; what is in front has no nose, or the back has one.
    """
    heights = np.arange(30.0, -66.0, -2.0)
    middle, seen = _profile(cranium, head, grid, heights, (-6.0, 0.0, 6.0))
    sides, _ = _profile(cranium, head, grid, heights, (-26.0, 26.0))
    out = middle > _PROFILE_LEAVES
    ahead = np.flatnonzero(out[:-2] & out[1:-1] & out[2:])
    if not len(ahead):
        raise FaceUnmasked("no_face_in_front" if seen[heights > -58].all() else "face_not_shown")
    first = int(ahead[0])
    if not seen[first : first + 3].all():
        raise FaceUnmasked("face_cut_off")
    nose = float(np.max((middle - sides)[max(0, first - 3) : first + 10]))
    behind, _ = _profile(cranium, head, grid, heights, (174.0, 180.0, 186.0))
    beside, _ = _profile(cranium, head, grid, heights, (154.0, 206.0))
    rear = float(np.max((behind - beside)[heights > -50]))
    if nose < _NOSE or rear > nose:
        raise FaceUnmasked("no_nose")
    return float(heights[first])


def _profile(cranium: Cranium, head: Mask, grid: Grid, heights: Floats, turns: tuple[float, ...]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how far the body reaches at each height, relative to the cranium, as the mean of some turns; and whether it ends in air."""
    high, turn = np.meshgrid(np.radians(heights), np.radians(turns), indexing="ij")
    along = np.stack([np.cos(high) * np.sin(turn), -np.cos(high) * np.cos(turn), np.sin(high)], axis=-1) * cranium.lengths
    size = np.linalg.norm(along, axis=-1, keepdims=True)
    reach, seen = surface(head, grid, cranium.centre, ((along / size) @ cranium.axes).reshape(-1, 3))
    relative = reach.reshape(high.shape) / size[..., 0]
    return relative.mean(axis=1), np.asarray(seen.reshape(high.shape).all(axis=1))
