"""A coarse volume of a series: slices are reduced as they are read, checked as a stack, and sampled on a grid of patient coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mdm_deid.outcome import FaceUnmasked

Floats = NDArray[np.float64]
#: Slices are reduced to pixels of about this size, in mm, or smaller.
_PIXEL: Final = 2.5
_STEP: Final = 3.0
#: A series has at most so many slices.
MAX_SLICES: Final = 3_000
_FEWEST: Final = 10
# In mm: slices are no thicker apart, a stack no shorter, a slice no smaller.
_GREATEST_GAP: Final = 12.0
_SHORTEST: Final = 80.0
_MOST_VOXELS: Final = 4_000_000


@dataclass(frozen=True)
class Slice:
    """One image, reduced.

    `origin` is the middle of its first pixel in patient coordinates (mm), `row` the step to the next column and `column` that to the
    next row, of the original pixels; `shape` is rows and columns of the original, `member` its name (`rule.member`). `far_from_head`: its
    header names a part of the body from which no head can be seen.
    """

    origin: Floats
    row: Floats
    column: Floats
    shape: tuple[int, int]
    values: NDArray[np.float32] = field(repr=False)
    modality: str
    member: bytes = b""
    far_from_head: bool = False

    @property
    def normal(self) -> Floats:
        """The unit vector across the image."""
        across = np.cross(self.row, self.column)
        return np.asarray(across / np.linalg.norm(across))


def reduced(values: NDArray[np.float32], spacing: tuple[float, float]) -> NDArray[np.float32]:
    """Return the means of blocks of pixels; rows and columns that fill no block are left out."""
    down, across = (max(1, int(_PIXEL // size)) for size in spacing)
    rows, columns = values.shape[0] // down * down, values.shape[1] // across * across
    blocks = values[:rows, :columns].reshape(rows // down, down, columns // across, across)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


@dataclass(frozen=True)
class Grid:
    """Values on a cubic grid along the patient's axes; `inside`: the images show that place."""

    values: NDArray[np.float32] = field(repr=False)
    inside: NDArray[np.bool_] = field(repr=False)
    origin: Floats
    step: float
    modality: str

    def points(self, places: NDArray[np.int64]) -> Floats:
        """Return where voxels lie."""
        return np.asarray(self.origin + places * self.step)

    def lookup(self, mask: NDArray[np.bool_], points: Floats) -> NDArray[np.bool_]:
        """Return the mask's value at points; False beyond the grid."""
        places = np.rint((points - self.origin) / self.step).astype(np.int64)
        good = ((places >= 0) & (places < mask.shape)).all(axis=-1)
        places = np.clip(places, 0, np.array(mask.shape) - 1)
        return np.asarray(mask[places[..., 0], places[..., 1], places[..., 2]] & good)


def stack(slices: Sequence[Slice]) -> list[Slice]:
    """Return the slices in order of position if they are one regular stack.

    Raises:
        FaceUnmasked: they are not, or are too few.
    """
    if len(slices) < _FEWEST:
        raise FaceUnmasked("too_few_slices")
    if len(slices) > MAX_SLICES:
        raise FaceUnmasked("too_many_slices")
    first = min(slices, key=lambda one: one.member)
    for one in slices:
        same = one.shape == first.shape and one.modality == first.modality
        if not same or not np.allclose([one.row, one.column], [first.row, first.column], atol=2e-3 * float(np.linalg.norm(first.row))):
            raise FaceUnmasked("mixed_orientations")
    ordered = sorted(slices, key=lambda one: (float(one.origin @ first.normal), one.member))
    positions = np.array([float(one.origin @ first.normal) for one in ordered])
    gaps = np.diff(positions)
    usual = float(np.median(gaps))
    if (gaps < 0.2 * usual).any() or usual < 0.05:
        raise FaceUnmasked("duplicate_positions")
    if (gaps > 1.6 * usual + 0.1).any():
        raise FaceUnmasked("gaps")
    if usual > _GREATEST_GAP:
        raise FaceUnmasked("slices_too_far_apart")
    steps = np.diff([one.origin for one in ordered], axis=0) / gaps[:, None]
    # A tilted gantry moves every image by the same; anything else is no stack.
    if np.abs(steps - np.median(steps, axis=0)).max() > 0.15:
        raise FaceUnmasked("irregular_geometry")
    rows, columns = first.shape
    if (
        positions[-1] - positions[0] < _SHORTEST
        or min(rows * float(np.linalg.norm(first.column)), columns * float(np.linalg.norm(first.row))) < _SHORTEST
    ):
        raise FaceUnmasked("field_of_view")
    return ordered


def sample(ordered: Sequence[Slice]) -> Grid:
    """Return the volume of a stack on a grid; what no image shows has the value 0.

    Raises:
        FaceUnmasked: the axes span no volume, or too large a one.
    """
    first, last = ordered[0], ordered[-1]
    rows, columns = first.shape
    across = (last.origin - first.origin) / (len(ordered) - 1)
    matrix = np.stack([across, first.column, first.row], axis=1)  # slice, row, column -> patient
    if abs(np.linalg.det(matrix)) < 1e-4:
        raise FaceUnmasked("irregular_geometry")
    limits = np.array([len(ordered), rows, columns]) - 1
    corners = first.origin + np.array([[i, j, k] for i in (0, limits[0]) for j in (0, limits[1]) for k in (0, limits[2])]) @ matrix.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.ceil((high - low) / _STEP).astype(int) + 1
    if int(np.prod(size)) > _MOST_VOXELS:
        raise FaceUnmasked("too_large")
    volume = np.stack([one.values for one in ordered])
    shrink = np.array([1, rows // volume.shape[1], columns // volume.shape[2]])
    back = np.linalg.inv(matrix)
    values, inside = np.zeros(size, np.float32), np.zeros(size, bool)
    ys, zs = np.meshgrid(low[1] + _STEP * np.arange(size[1]), low[2] + _STEP * np.arange(size[2]), indexing="ij")
    for n in range(size[0]):
        points = np.stack([np.full_like(ys, low[0] + _STEP * n), ys, zs], axis=-1)
        places = (points - first.origin) @ back.T
        good = ((places > -0.5) & (places < limits + 0.5)).all(axis=-1)
        reduced_places = np.rint((places - (shrink - 1) / 2) / shrink).astype(int)
        reduced_places = np.clip(reduced_places, 0, np.array(volume.shape) - 1)
        values[n] = np.where(good, volume[tuple(np.moveaxis(reduced_places, -1, 0))], 0)
        inside[n] = good
    return Grid(values, inside, low, _STEP, first.modality)
