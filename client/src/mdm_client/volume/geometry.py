"""Slices in space: checked, put in order, and the affine of the grid that they form."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from mdm_wire.errors import FailedPrecondition

#: Part of the distance between two slices by which one may be off; and the cosine below which directions differ.
_TOLERANCE = 0.02
_MM = 1e-3
_PARALLEL = 1e-3
#: DICOM's axes point to the patient's left and back, those of RAS to the right and front.
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Volume(NamedTuple):
    """A series as `array[i, j, k]` (with a fourth index for several volumes), and the 4 × 4 `affine` from indices to millimetres in RAS+.

    `i` counts columns of the images, `j` rows, `k` slices. The affine is that of `nibabel.Nifti1Image(array, affine)`.
    """

    array: Any
    affine: Any


@dataclass(frozen=True)
class Slice:
    """One plane of samples (rows × columns) with rescale applied, and where it is.

    `position` is the centre of the first sample, in millimetres of the patient's coordinates (LPS); `along_row` and `along_column` are
    unit vectors; `spacing` is between rows and between columns. `thickness` is the distance to the next slice, where the header says it.
    `marks` says, by attribute, which of several volumes the slice is of.
    """

    pixels: Any
    position: Any
    along_row: Any
    along_column: Any
    spacing: tuple[float, float]
    thickness: float | None = None
    marks: dict[str, Hashable] = field(default_factory=dict)

    @property
    def normal(self) -> Any:
        """The direction in which slices are counted."""
        return np.cross(self.along_row, self.along_column)


def stack(slices: Sequence[Slice]) -> Volume:
    """Return the volume of slices, which may come in any order.

    Raises:
        FailedPrecondition: VOLUME_EMPTY, VOLUME_SIZES_DIFFER, VOLUME_ORIENTATIONS_DIFFER, VOLUME_NOT_STRAIGHT, VOLUME_SLICES_MISSING,
            VOLUME_SLICES_REPEATED: they form no regular grid.
    """
    if not slices:
        raise FailedPrecondition("VOLUME_EMPTY", "there are no images that a volume could be made of")
    first = slices[0]
    _check_alike(slices)
    places: dict[int, list[Slice]] = {}
    ordered = sorted(slices, key=lambda item: float(item.position @ first.normal))
    for item in ordered:
        near = max(places) if places else -1
        if places and np.linalg.norm(item.position - places[near][0].position) < _MM:
            places[near].append(item)
        else:
            places[near + 1] = [item]
    groups = _volumes(list(places.values()))
    step = _step(groups[0])
    rows, columns = first.pixels.shape
    kind = np.result_type(*(item.pixels.dtype for item in slices))
    array = np.empty((columns, rows, len(groups[0]), len(groups)), dtype=kind, order="F")
    for number, group in enumerate(groups):
        for place, item in enumerate(group):
            array[:, :, place, number] = item.pixels.T
    start = groups[0][0]
    affine = np.eye(4)
    affine[:3, 0] = start.along_row * start.spacing[1]
    affine[:3, 1] = start.along_column * start.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = start.position
    return Volume(array if len(groups) > 1 else array[..., 0], _RAS @ affine)


def _check_alike(slices: Sequence[Slice]) -> None:
    first = slices[0]
    for item in slices:
        if item.pixels.shape != first.pixels.shape or not np.allclose(item.spacing, first.spacing, rtol=1e-3):
            raise FailedPrecondition(
                "VOLUME_SIZES_DIFFER",
                f"images of {_size(first)} and {_size(item)} cannot be one volume; give one series, or part of it",
            )
        turned = max(np.abs(item.along_row - first.along_row).max(), np.abs(item.along_column - first.along_column).max())
        if turned > _PARALLEL * 10:
            raise FailedPrecondition(
                "VOLUME_ORIENTATIONS_DIFFER", "the images have different orientations, as those of a localizer: they are no volume"
            )


def _size(item: Slice) -> str:
    rows, columns = item.pixels.shape
    return f"{columns} × {rows} pixels of {item.spacing[1]:g} × {item.spacing[0]:g} mm"


def _step(group: Sequence[Slice]) -> Any:
    """Return the vector from each slice to the next.

    Raises:
        FailedPrecondition: VOLUME_SLICES_MISSING, VOLUME_NOT_STRAIGHT.
    """
    first, last = group[0], group[-1]
    if len(group) == 1:
        return first.normal * (first.thickness or 1.0)
    distances = np.array([float((b.position - a.position) @ first.normal) for a, b in pairwise(group)])
    usual = float(np.median(distances))
    for number, distance in enumerate(distances):
        if abs(distance - usual) > max(usual * _TOLERANCE, 0.01):
            raise FailedPrecondition(
                "VOLUME_SLICES_MISSING",
                f"between slices {number + 1} and {number + 2} of {len(group)} are {distance:.2f} mm where others have {usual:.2f} mm: "
                "slices are missing, or were taken at uneven distances",
            )
    step = (last.position - first.position) / (len(group) - 1)
    for number, item in enumerate(group):
        if np.linalg.norm(first.position + number * step - item.position) > max(usual * _TOLERANCE * 2, 0.02):
            raise FailedPrecondition("VOLUME_NOT_STRAIGHT", f"slice {number + 1} of {len(group)} lies beside the line through the others")
    return step


def _volumes(places: list[list[Slice]]) -> list[list[Slice]]:
    """Return the slices of each volume, in order: one, or as many as each place has slices, if a mark of the header tells them apart.

    Raises:
        FailedPrecondition: VOLUME_SLICES_REPEATED, VOLUME_SLICES_MISSING.
    """
    counts = {len(place) for place in places}
    if counts == {1}:
        return [[place[0] for place in places]]
    if len(counts) > 1:
        raise FailedPrecondition(
            "VOLUME_SLICES_REPEATED",
            f"of {len(places)} places some have {max(counts)} slices and others {min(counts)}: slices are repeated, or some are missing",
        )
    for mark in places[0][0].marks:
        values = [{item.marks.get(mark): item for item in place} for place in places]
        if all(len(found) == len(place) and found.keys() == values[0].keys() for found, place in zip(values, places, strict=True)):
            return [[found[value] for found in values] for value in sorted(values[0], key=_order)]
    raise FailedPrecondition(
        "VOLUME_SLICES_REPEATED",
        f"each place has {counts.pop()} slices, and no time, echo, b-value or acquisition number tells them apart",
    )


def _order(value: Hashable) -> Any:
    """Return what sorts marks: one that is missing is first."""
    return (value is not None, value)
