"""The detector of text: RapidOCR, whose models come with its wheel; it runs on the processor, offline.

It needs the extra `text`. Other modules do not import this one; `text_worker` runs it in a process of its own.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from PIL import Image
from rapidocr_onnxruntime import RapidOCR

from mdm_deid.pixels.image import Box
from mdm_deid.pixels.text_line import TextLine, merged

# Tiles of the second pass, enlarged twice to what the detector takes without making it smaller; letters on the edge of one are whole
# in the next.
_TILE: Final = 960
_OVERLAP: Final = 96
_LARGEST: Final = 1920
_ENLARGED: Final = 2
# Lower than for reading: what cannot be read may still be text.
_SCORE: Final = 0.4
# What has no more different greys than this has no letters.
_FLAT: Final = 4
# Around a line, in parts of its height and in pixels.
_MARGIN, _LEAST_MARGIN = 0.2, 2


class TextDetector:
    """Finds lines of text in pictures, in one thread."""

    def __init__(self) -> None:
        """Load the models: 0.3 s, 130 MB."""
        self._ocr = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1, text_score=_SCORE)

    def find(self, picture: Any) -> list[TextLine]:
        """Return the lines in a picture of rows x columns of 8 bits, from the top.

        Large letters are found in the picture as a whole, small ones in enlarged tiles.
        """
        rows, columns = picture.shape
        found: list[TextLine] = []
        scale = min(1.0, _LARGEST / max(rows, columns))
        found += self._pass(picture, 0, 0, scale, (columns, rows))
        for left, top in itertools.product(_starts(columns), _starts(rows)):
            tile = picture[top : top + _TILE, left : left + _TILE]
            if int(tile.max()) - int(tile.min()) > _FLAT:
                found += self._pass(tile, left, top, _ENLARGED, (columns, rows))
        return merged(found)

    def _pass(self, picture: Any, left: int, top: int, scale: float, size: tuple[int, int]) -> Iterator[TextLine]:
        height, width = picture.shape
        image = Image.fromarray(picture)
        if scale != 1:
            image = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
        lines, _ = self._ocr(np.asarray(image.convert("RGB")))
        for corners, text, score in lines or ():
            xs, ys = [point[0] / scale for point in corners], [point[1] / scale for point in corners]
            margin = max(_LEAST_MARGIN, _MARGIN * (max(ys) - min(ys)))
            box = Box(
                max(0, int(left + min(xs) - margin)),
                max(0, int(top + min(ys) - margin)),
                min(size[0], int(left + max(xs) + margin) + 1),
                min(size[1], int(top + max(ys) + margin) + 1),
            )
            if box.left < box.right and box.top < box.bottom:
                yield TextLine(box, str(text), float(score))


def _starts(length: int) -> list[int]:
    """Return where tiles begin that cover a length with overlaps."""
    if length <= _TILE:
        return [0]
    return [*range(0, length - _TILE, _TILE - _OVERLAP), length - _TILE]
