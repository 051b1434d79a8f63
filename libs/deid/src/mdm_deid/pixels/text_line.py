"""Lines of text in an image: what a detector returns, and the pictures that it is given."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mdm_deid.encoding.part10 import open_part10
from mdm_deid.pixels.blanking import decoded_frames
from mdm_deid.pixels.image import Box, Image, read_image

#: Frames of one instance that are looked at, at most, and the pixels of one frame.
MOST_FRAMES: Final = 1024
MOST_PIXELS: Final = 64 << 20
# Nearly all grey values lie between these percentiles; where that is less than so much of the range, they get a picture of their own.
_PERCENT: Final = (0.2, 99.8)
_MOST: Final = 0.5
# Of the smaller of two boxes, what the other has to cover for both to be of one line.
_SAME: Final = 0.6
# What a palette is made of: first entry, size and entries of three components, the entries as they are or in segments; and of which
# sign the numbers are where a header does not say their VR.
_PALETTE: Final = (0x00280103, *(group + part for group in (0x00281100, 0x00281200, 0x00281220) for part in (1, 2, 3)))


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text: the rectangle around it with a margin, how it reads, and how sure that is, 0 to 1. Its text may identify."""

    box: Box
    text: str
    score: float


class NotLooked(Exception):
    """An image could not be looked at; `reason` is a stable code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def pictures(part10: bytes, frame: int = 0) -> Iterator[Any]:
    """Yield what is to be looked at, as arrays of rows x columns of 8 bits: one frame, counted from 1; or, for 0, the whole instance.

    Of several frames these are the first, the last, and the brightest and darkest value of each pixel over all of them, in which text of
    any frame shows.

    Raises:
        NotLooked: `frame_unknown`, `too_many_frames`, `too_many_pixels`.
        Unblankable, Malformed: it cannot be decoded.
    """
    opened = open_part10(part10)
    image = read_image(opened.data, opened.start, opened.encoding)
    if frame > image.frames:
        raise NotLooked("frame_unknown")
    if image.frames > MOST_FRAMES:
        raise NotLooked("too_many_frames")
    if image.rows * image.columns > MOST_PIXELS:
        raise NotLooked("too_many_pixels")
    import numpy as np

    coloured = _palette(part10) if image.photometric == "PALETTE COLOR" else None
    first: Any = None
    last: Any = None
    brightest: Any = None
    darkest: Any = None
    for number, (raw, decoded) in enumerate(decoded_frames(image, opened), 1):
        if frame not in (0, number):
            continue
        grey = _grey(raw, decoded)
        if coloured is not None:
            grey = coloured(grey)
        if frame:
            yield from _eight_bits(grey)
            return
        if first is None:
            first, brightest, darkest = grey, grey.copy(), grey.copy()
        else:
            np.maximum(brightest, grey, out=brightest)
            np.minimum(darkest, grey, out=darkest)
        last = grey
    for grey in (first,) if image.frames == 1 else (first, last, brightest, darkest):
        if grey is not None:
            yield from _eight_bits(grey)


def merged(lines: Sequence[TextLine]) -> list[TextLine]:
    """Return lines from the top; those that mostly cover each other are one, as the surest reads, with a box around all of them."""
    kept: list[TextLine] = []
    for line in sorted(lines, key=lambda item: -item.score):
        at = next((number for number, other in enumerate(kept) if _same(line.box, other.box)), None)
        if at is None:
            kept.append(line)
        else:
            first = kept[at]
            kept[at] = TextLine(_around(first.box, line.box), first.text, first.score)
    return sorted(kept, key=lambda item: (item.box.top, item.box.left))


def _same(box: Box, other: Box) -> bool:
    width = min(box.right, other.right) - max(box.left, other.left)
    height = min(box.bottom, other.bottom) - max(box.top, other.top)
    return width > 0 and height > 0 and width * height >= _SAME * min(_area(box), _area(other))


def _area(box: Box) -> int:
    return (box.right - box.left) * (box.bottom - box.top)


def _around(box: Box, other: Box) -> Box:
    return Box(min(box.left, other.left), min(box.top, other.top), max(box.right, other.right), max(box.bottom, other.bottom))


def _palette(part10: bytes) -> Callable[[Any], Any] | None:
    """Return what has each index of a palette replaced by the largest component of its colour.

    None where the palette cannot be read: indices show the edges of most letters all the same.
    """
    import numpy as np
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_color_lut

    tables = dcmread(io.BytesIO(part10), force=True, specific_tags=[*_PALETTE])
    try:
        apply_color_lut(np.zeros((1, 1), np.uint8), tables)
    except Exception:  # whatever pydicom raises about what modalities wrote
        return None
    return lambda indices: apply_color_lut(indices, tables)[..., :3].max(axis=-1)


def _grey(raw: bytearray, image: Image) -> Any:
    """Return a decoded frame as rows x columns of numbers; of a colour, the largest component, so that none hides on black."""
    import numpy as np

    if image.bits_allocated not in (8, 16, 32):
        raise NotLooked("pixel_layout")
    kind = f"<{'i' if image.representation else 'u'}{image.bits_allocated // 8}"
    values = np.frombuffer(bytes(raw), kind)
    if image.samples == 1:
        return values.reshape(image.rows, image.columns)
    shape = (3, image.rows, image.columns) if image.planar == 1 else (image.rows, image.columns, 3)
    colours = values.reshape(shape)
    if image.photometric.startswith("YBR"):
        return colours[0] if image.planar == 1 else colours[..., 0]
    return colours.max(axis=0 if image.planar == 1 else 2)


def _eight_bits(grey: Any) -> Iterator[Any]:
    """Yield a picture of all grey values; and where a few values take most of the range, one with the contrast of the others.

    Nothing is cut off at the bright end of the first: text is often brighter than all the rest, and covers little.
    """
    import numpy as np

    low, high = float(grey.min()), float(grey.max())
    yield _stretched(grey, low, high)
    common = [float(value) for value in np.percentile(grey, _PERCENT)]
    if 0 < common[1] - common[0] < _MOST * (high - low):
        yield _stretched(grey, *common)


def _stretched(grey: Any, low: float, high: float) -> Any:
    import numpy as np

    return (np.clip((grey.astype(np.float32) - low) / max(high - low, 1.0), 0, 1) * 255).astype(np.uint8)
