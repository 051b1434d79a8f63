"""Finding the cranium in a coarse volume: tissue and air, the plane of symmetry, an ellipsoid through the upper and rear surface."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mdm_deid.faces.volume import Grid
from mdm_deid.outcome import FaceUnmasked

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Hounsfield units above which a CT shows tissue: fat is -100, air -1000, foam of headrests about -950.
_CT_TISSUE: Final = -400.0
# Semi-axes in mm that a head may have, left-right, front-back and up-down, from a newborn's to a large adult's.
_LEAST_AXES: Final = np.array([40.0, 48.0, 38.0])
_GREATEST_AXES: Final = np.array([105.0, 130.0, 130.0])
# Greatest share of the axes by which the surface may differ from the ellipsoid on average.
_GREATEST_RESIDUAL: Final = 0.07
# So much of the upper and rear surface has to be seen.
_LEAST_SEEN: Final = 0.7
# Half axes of the outside of a cranium, as they are to each other; how much their ratios (logarithms) vary, and how far a surface is
# from an ellipsoid.
_USUAL: Final = np.array([0.82, 1.0, 0.90])
_RATIO_SPREAD: Final = np.array([0.10, 0.05])
_SURFACE_SPREAD: Final = 0.02
_GREATEST_STEP: Final = np.array([20.0, 20.0, 0.2, 0.2, 0.2])
# How far the plane of symmetry is turned in search of the best one, and in which steps, in degrees; None: not searched.
_COARSE: Final = (None, (40.0, 8.0), None, (6.0, 2.0), None, None)
_FINE: Final = (None, (4.0, 2.0), None, None)
_STEP: Final = 2.0
_LONGEST: Final = 180.0


@dataclass(frozen=True)
class Cranium:
    """An ellipsoid in patient coordinates (mm; x to the left, y to the back, z to the head): centre, axes as rows, their half lengths.

    The rows of `axes` point to the left, to the back and up, as seen from the head. `residual` is how far the surface differs from it
    on average, as a share of its axes; `seen` how much of the upper and rear surface the images show.
    """

    centre: Floats
    axes: Floats
    lengths: Floats
    residual: float
    seen: float

    def relative(self, points: Floats) -> Floats:
        """Return points (…, 3) in the ellipsoid's own coordinates, in which it is the unit ball."""
        return ((points - self.centre) @ self.axes.T) / self.lengths


def find_cranium(head: Mask, grid: Grid) -> Cranium:
    """Return the cranium of a body whose head is at its upper end.

    Raises:
        FaceUnmasked: there is nothing of a head's size and shape.
    """
    fit = _settled(head, grid, _first_centre(head, grid), np.eye(3), _COARSE)
    return _plausible(fit)


def turned(cranium: Cranium, head: Mask, grid: Grid, angle: float) -> Cranium:
    """Return the cranium found anew, after `angle` (radians) about the axis from right to left has brought its face to the front.

    Raises:
        FaceUnmasked: see `find_cranium`.
    """
    return _plausible(_settled(head, grid, cranium.centre, pitch(angle) @ cranium.axes, _FINE))


def pitch(angle: float) -> Floats:
    """Return the rotation about the axis from right to left that raises the front."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])


def _settled(head: Mask, grid: Grid, centre: Floats, axes: Floats, searches: Sequence[tuple[float, float] | None]) -> Cranium:
    for search in searches:
        if search is not None:
            axes = _symmetry(head, grid, centre, axes, search)
        fit = _fit(head, grid, centre, axes)
        centre = centre + np.clip(fit.centre - centre, -25, 25)
    return fit


def _plausible(fit: Cranium) -> Cranium:
    if (fit.lengths < _LEAST_AXES).any() or (fit.lengths > _GREATEST_AXES).any() or fit.residual > _GREATEST_RESIDUAL:
        raise FaceUnmasked("no_head")
    if fit.seen < _LEAST_SEEN:
        raise FaceUnmasked("head_cut_off")
    return fit


def tissue(grid: Grid) -> Mask:
    """Return which voxels belong to the largest body in the volume, cavities included."""
    values = grid.values
    level = _CT_TISSUE if grid.modality == "CT" else _mr_level(values[grid.inside])
    solid = (values > level) & grid.inside
    # The skull is dark in MR, and what is around it thin: cavities are filled first, gaps of a voxel closed, and only then is what hangs
    # on by little, such as a headrest, cut off.
    filled = eroded(_filled(dilated(solid)))
    core = largest(eroded(filled))
    return _filled(filled & dilated(dilated(core))) & grid.inside


def _filled(body: Mask) -> Mask:
    """Return a body with its cavities: all that cannot be reached from the volume's border but through it."""
    return ~_flood(~body, ~body & _border(body.shape))


def _mr_level(values: NDArray[np.float32]) -> float:
    """Return the intensity between air and tissue: Otsu's threshold (IEEE SMC 9, 1979) on values up to a high percentile, lowered.

    Raises:
        FaceUnmasked: all values are alike.
    """
    high = float(np.percentile(values, 98))
    low = float(values.min())
    if not high > low:
        raise FaceUnmasked("no_contrast")
    counts, edges = np.histogram(np.clip(values, low, high), 256, (low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    total, whole = below[-1], sums[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (whole * below / total - sums) ** 2 / (below * (total - below))
    split = float(middles[int(np.nanargmax(between))])
    air = values[values < split]
    middle = float(np.median(air)) if air.size else low
    spread = float(np.median(np.abs(air - middle))) * 1.4826 if air.size else 0.0
    return min(split, max(middle + 5 * spread, middle + 0.5 * (split - middle)))


def _first_centre(head: Mask, grid: Grid) -> Floats:
    """Return a point in the middle of the uppermost part of the body."""
    points = grid.points(np.argwhere(head))
    if len(points) * grid.step**3 < 400_000:  # 0.4 litres; a newborn's head has 0.5
        raise FaceUnmasked("no_head")
    top = np.percentile(points[:, 2], 99.95)
    upper = points[points[:, 2] > top - 90]
    low, high = np.percentile(upper[:, :2], [2, 98], axis=0)
    return np.array([*((low + high) / 2), top - 75.0])


def directions(count: int = 1500) -> Floats:
    """Return unit vectors spread evenly over the sphere (Fibonacci's spiral)."""
    number = np.arange(count) + 0.5
    z = 1 - 2 * number / count
    angle = np.pi * (1 + 5**0.5) * number
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


_DIRECTIONS: Final = directions()


def surface(head: Mask, grid: Grid, centre: Floats, along: Floats) -> tuple[Floats, Mask]:
    """Return how far the body reaches from `centre` in each direction, in mm, and whether it ends there in air that the images show."""
    steps = np.arange(0.0, _LONGEST, _STEP)
    points = centre + along[:, None, :] * steps[None, :, None]
    within, seen = grid.lookup(head, points), grid.lookup(grid.inside, points)
    # The last voxel of tissue: hair, ears' hollows and sinuses do not end a head. From outside, so that nothing beside it counts.
    gone = ~within
    run = np.cumsum(gone, axis=1)
    ends = np.where((run == 0).all(axis=1), len(steps), np.argmax(run >= 1, axis=1))
    reach = steps[np.minimum(ends, len(steps) - 1)]
    rows = np.arange(len(along))
    at_end = seen[rows, np.minimum(ends, len(steps) - 1)] & (ends < len(steps)) & (ends > 0)
    return reach - _STEP / 2, at_end


def _fit(head: Mask, grid: Grid, centre: Floats, axes: Floats) -> Cranium:
    """Return the ellipsoid, symmetric to the plane of `axes`, through the surface above and behind `centre`."""
    along = _DIRECTIONS @ axes
    # Up and to the back: there the surface is the cranium's, whatever the face is like.
    wanted = _DIRECTIONS @ np.array([0.0, 0.45, 0.89]) > -0.05
    reach, seen = surface(head, grid, centre, along[wanted])
    good = seen & (reach > 25)
    if good.sum() < 60:
        raise FaceUnmasked("head_cut_off")
    points = _DIRECTIONS[wanted][good] * reach[good, None]
    usual = np.log(_USUAL * float(np.median(reach[good])) / _USUAL.mean())
    shape = np.array([0.0, 0.0, *usual])
    weights = np.ones(len(points))
    for _ in range(12):
        away = _distances(shape, points)
        scale = max(float(np.median(np.abs(away))) * 1.4826, 0.01)
        weights = 1 / (1 + (away / (2 * scale)) ** 2)
        shape = shape + _improvement(shape, points, weights)
    residual = float(np.mean(np.minimum(np.abs(_distances(shape, points)), 0.3)))
    return Cranium(centre + np.array([0.0, shape[0], shape[1]]) @ axes, axes, np.exp(shape[2:]), residual, float(good.mean()))


def _distances(shape: Floats, points: Floats) -> Floats:
    """Return how far points lie outside an ellipsoid, as a share of its half axes; `shape`: back, up, logarithms of the axes."""
    parts = (points - np.array([0.0, shape[0], shape[1]])) * np.exp(-shape[2:])
    return np.asarray(np.linalg.norm(parts, axis=1) - 1)


def _improvement(shape: Floats, points: Floats, weights: Floats) -> Floats:
    """Return a step of Gauss and Newton towards the surface, and towards the shape that crania have."""
    away = _distances(shape, points)
    slopes = np.stack([(_distances(shape + 1e-4 * unit, points) - away) / 1e-4 for unit in np.eye(5)], axis=1)
    root = np.sqrt(weights / weights.sum())[:, None]
    ratios = np.array([[0, 0, 1, -1, 0], [0, 0, 0, -1, 1]]) / _RATIO_SPREAD[:, None]
    wanted = np.array([np.log(_USUAL[0] / _USUAL[1]), np.log(_USUAL[2] / _USUAL[1])]) / _RATIO_SPREAD
    rows = np.concatenate([slopes * root / _SURFACE_SPREAD, ratios])
    target = np.concatenate([-away * root[:, 0] / _SURFACE_SPREAD, wanted - ratios @ shape])
    step = np.linalg.lstsq(rows, target, rcond=None)[0]
    return np.asarray(np.clip(step, -_GREATEST_STEP, _GREATEST_STEP))


def _symmetry(head: Mask, grid: Grid, centre: Floats, axes: Floats, search: tuple[float, float]) -> Floats:
    """Return axes of which the first is normal to the plane that mirrors the head best; the others stay as near to `axes` as they can.

    `search`: the greatest angle that is tried about the other two axes, and the step, in degrees.
    """
    points = grid.points(np.argwhere(head & ~eroded(head)))
    points = points[np.linalg.norm(points - centre, axis=1) < 130]
    points = points[:: max(1, len(points) // 2500)]
    offset = points - centre
    shell = head & ~eroded(eroded(head))
    best, found = -1.0, axes
    angles = np.radians(np.arange(-search[0], search[0] + 1e-6, search[1]))
    for yaw in angles:
        for roll in angles[np.abs(angles) <= np.radians(26)]:
            normal = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)]) @ axes
            mirrored = points - 2 * (offset @ normal)[:, None] * normal
            seen = int(grid.lookup(grid.inside, mirrored).sum())
            score = float(grid.lookup(shell, mirrored).sum()) / max(1, seen)
            if score > best + 1e-9:
                best, found = score, _axes_with(normal, axes)
    return found


def _axes_with(normal: Floats, axes: Floats) -> Floats:
    back = axes[1] - (axes[1] @ normal) * normal
    back /= np.linalg.norm(back)
    return np.stack([normal, back, np.cross(normal, back)])


def _border(shape: tuple[int, ...]) -> Mask:
    border = np.ones(shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    return border


def dilated(mask: Mask) -> Mask:
    """Return the voxels that belong to the mask, or of which one of the six neighbours does."""
    out = mask.copy()
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        out[tuple(ahead)] |= mask[tuple(behind)]
        out[tuple(behind)] |= mask[tuple(ahead)]
    return out


def eroded(mask: Mask) -> Mask:
    """Return the voxels whose six neighbours belong to the mask, too; beyond the volume everything does."""
    return ~dilated(~mask)


def _flood(open_: Mask, seeds: Mask) -> Mask:
    """Return what can be reached from the seeds through open voxels."""
    reached = seeds & open_
    count = -1
    while count != (now := int(reached.sum())):
        count = now
        for axis in range(3):
            _sweep(reached, open_, axis)
    return reached


def _sweep(reached: Mask, open_: Mask, axis: int) -> None:
    """Extend what is reached along one axis, both ways, as far as it goes."""
    moved, free = np.moveaxis(reached, axis, 0), np.moveaxis(open_, axis, 0)
    for n in range(1, len(moved)):
        moved[n] |= moved[n - 1] & free[n]
    for n in range(len(moved) - 2, -1, -1):
        moved[n] |= moved[n + 1] & free[n]


def largest(mask: Mask) -> Mask:
    """Return the largest body of voxels that touch by their faces.

    Raises:
        FaceUnmasked: there is none.
    """
    left, best, size = mask.copy(), mask, 0
    while int(left.sum()) > size:
        seed = np.zeros_like(mask)
        seed[tuple(np.argwhere(left)[len(np.argwhere(left)) // 2])] = True
        body = _flood(left, seed)
        if (count := int(body.sum())) > size:
            best, size = body, count
        left &= ~body
    if not size:
        raise FaceUnmasked("no_head")
    return best
