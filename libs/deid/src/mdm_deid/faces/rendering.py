"""A head drawn as a surface from the front and from the side, as it is and as it would leave: for the person who judges a mask."""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mdm_deid.faces.cranium import Floats, Mask, tissue
from mdm_deid.faces.region import FaceRegion
from mdm_deid.faces.volume import Grid

Bytes = NDArray[np.uint8]
_ENLARGED: Final = 2
_GAP: Final = 12
_LIGHT: Final = np.array([-0.35, 0.45, 0.82])


def draw_head(grid: Grid, region: FaceRegion | None) -> bytes:
    """Return as PNG, in grey, the head from the front and from its left, and below both without the face if there is a mask.

    It shows a face: it identifies as much as the images do.
    """
    head = tissue(grid)
    shown = [_views(head)]
    if region is not None:
        places = np.stack(np.meshgrid(*(np.arange(size) for size in head.shape), indexing="ij"), axis=-1)
        shown.append(_views(head & ~region.contains(grid.points(places))))
    # Takes a while to import; only pictures need it.
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(np.concatenate(shown), "L").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _views(head: Mask) -> Bytes:
    """Return a head (left, back, up) seen from the front and from the left, beside each other."""
    front = _shaded(head.transpose(1, 2, 0)[:, ::-1])
    side = _shaded(head.transpose(0, 2, 1)[::-1, ::-1])
    gap = np.zeros((front.shape[0], _GAP), np.uint8)
    return np.concatenate([front, gap, side], axis=1)


def _shaded(solid: Mask) -> Bytes:
    """Return a body (depth, rows, columns) lit from the upper left."""
    hit: Mask = np.asarray(solid.any(axis=0))
    depth = np.where(hit, np.argmax(solid, axis=0), solid.shape[0]).astype(np.float64)
    depth = _smooth(depth, hit).repeat(_ENLARGED, 0).repeat(_ENLARGED, 1)
    hit = np.asarray(hit.repeat(_ENLARGED, 0).repeat(_ENLARGED, 1))
    for _ in range(2):
        depth = _smooth(depth, hit)
    down, across = np.gradient(depth * _ENLARGED)
    normal = np.stack([across, down, np.full_like(depth, _ENLARGED)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.clip(normal @ _LIGHT, 0, 1)
    near = 1 - 0.35 * np.clip((depth - depth[hit].min()) / max(1.0, float(np.ptp(depth[hit]))), 0, 1) if hit.any() else depth
    return np.asarray(np.where(hit, 30 + 225 * light * near, 0), np.uint8)


def _smooth(depth: Floats, hit: Mask) -> Floats:
    """Return the means of each place and its neighbours that belong to the body."""
    padded, counted = np.pad(np.where(hit, depth, 0), 1), np.pad(hit.astype(np.float64), 1)
    rows, columns = depth.shape
    total, count = np.zeros_like(depth), np.zeros_like(depth)
    for down in range(3):
        for across in range(3):
            total += padded[down : down + rows, across : across + columns]
            count += counted[down : down + rows, across : across + columns]
    return np.asarray(np.where(hit, total / np.maximum(count, 1), depth))
