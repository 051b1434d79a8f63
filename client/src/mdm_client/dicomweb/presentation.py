"""Softcopy presentation states (PS3.3 A.33): how somebody wanted images to be seen, applied to pictures of them.

Applied are, in this order: modality and VOI transformation, presentation LUT shape, shutters, graphic annotations and texts, displayed
area, rotation and flip. Overlays, presentation LUTs given as tables, and magnification are not.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont, ImageOps
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_rescale, apply_voi

#: Grayscale and Color Softcopy Presentation State Storage.
CLASSES = ("1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.11.2")
_MODALITY = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
_INK = (255, 224, 64)
_WHITE = 65535
_MOST_SIDE = 8192
_FARTHEST = 4.0 * _MOST_SIDE
Point = tuple[float, float]


@dataclass(frozen=True)
class Presentation:
    """A presentation state."""

    dataset: Dataset

    @classmethod
    def read(cls, data: bytes) -> "Presentation":
        """Return the state in a DICOM file."""
        return cls(pydicom.dcmread(io.BytesIO(data), force=True))

    def refers(self, uid: str, frame: int) -> bool:
        """Return whether the state is for a frame, counted from 1, of an image."""
        series = self.dataset.get("ReferencedSeriesSequence") or ()
        return any(_names(item, uid, frame) for item in series)

    def grey(self, image: Dataset, pixels: Any, window: tuple[float, float] | None, frame: int) -> Any:
        """Return stored grey values as 0 (black) to 1; a `window` (centre, width) takes the place of the state's own."""
        uid = str(image.get("SOPInstanceUID", ""))
        modality = self.dataset if any(keyword in self.dataset for keyword in _MODALITY) else image
        values = apply_rescale(pixels, modality).astype(np.float64)
        voi = next(self._items("SoftcopyVOILUTSequence", uid, frame), None)
        if voi is not None and "VOILUTSequence" in voi and window is None:
            table = voi.VOILUTSequence[0]
            most = (1 << int(table.LUTDescriptor[2])) - 1
            holder = Dataset()
            holder.file_meta, holder.VOILUTSequence = self.dataset.file_meta, voi.VOILUTSequence
            scaled = apply_voi(values.astype(np.int64), holder) / max(most, 1)
        else:
            if window is None and voi is not None and "WindowCenter" in voi:
                window = (_first(voi.WindowCenter), _first(voi.WindowWidth))
            low, high = (window[0] - window[1] / 2, window[0] + window[1] / 2) if window else (float(values.min()), float(values.max()))
            scaled = (values - low) / max(high - low, 1e-9)
        clipped = np.clip(scaled, 0.0, 1.0)
        return 1.0 - clipped if self.dataset.get("PresentationLUTShape") == "INVERSE" else clipped

    def finished(self, picture: Image.Image, uid: str, frame: int) -> Image.Image:
        """Return a picture of an image with shutters, annotations and displayed area of the state, turned as it says."""
        picture = self._shuttered(picture)
        annotations = list(self._items("GraphicAnnotationSequence", uid, frame))
        if annotations:
            picture = picture.convert("RGB")
            _annotate(picture, annotations, "PIXEL", (1.0, 1.0))
        area = next(self._items("DisplayedAreaSelectionSequence", uid, frame), None)
        if area is not None:
            picture = _cropped(picture, area)
        turns = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
        turn = turns.get(int(self.dataset.get("ImageRotation") or 0))
        picture = picture.transpose(turn) if turn is not None else picture
        picture = ImageOps.mirror(picture) if self.dataset.get("ImageHorizontalFlip") == "Y" else picture
        if annotations:
            _annotate(picture, annotations, "DISPLAY", (float(picture.width), float(picture.height)))
        return picture

    def _items(self, keyword: str, uid: str, frame: int) -> Iterator[Dataset]:
        """Yield items of a sequence that are for a frame: those that name it, and those that name none."""
        for item in self.dataset.get(keyword) or ():
            if not item.get("ReferencedImageSequence") or _names(item, uid, frame):
                yield item

    def _shuttered(self, picture: Image.Image) -> Image.Image:
        shapes = self.dataset.get("ShutterShape") or ()
        shapes = {shapes} if isinstance(shapes, str) else set(shapes)
        if not shapes & {"RECTANGULAR", "CIRCULAR", "POLYGONAL"}:
            return picture
        shown = Image.new("L", picture.size, 255)
        for shape in sorted(shapes & {"RECTANGULAR", "CIRCULAR", "POLYGONAL"}):
            opening = Image.new("L", picture.size, 0)
            _open(ImageDraw.Draw(opening), shape, self.dataset)
            shown = Image.fromarray(np.minimum(np.asarray(shown), np.asarray(opening)))
        value = int(self.dataset.get("ShutterPresentationValue") or 0) * 255 // _WHITE
        closed = Image.new("RGB", picture.size, (value, value, value)).convert(picture.mode)
        return Image.composite(picture, closed, shown)


def of_image(states: Iterable[Presentation], uid: str, frame: int) -> Presentation | None:
    """Return the last of the states that refer to a frame of an image."""
    return next(iter([state for state in states if state.refers(uid, frame)][::-1]), None)


def _names(item: Dataset, uid: str, frame: int) -> bool:
    """Return whether the referenced images of an item have a frame among them."""
    for reference in item.get("ReferencedImageSequence") or ():
        if str(reference.get("ReferencedSOPInstanceUID", "")) == uid:
            frames = reference.get("ReferencedFrameNumber")
            if frames is None or frame in ([int(frames)] if isinstance(frames, int | str) else [int(number) for number in frames]):
                return True
    return False


def _first(value: Any) -> float:
    return float(value if isinstance(value, int | float | str) else value[0])


def _open(draw: ImageDraw.ImageDraw, shape: str, state: Dataset) -> None:
    """Draw what a shutter leaves open (PS3.3 C.7.6.11); rows and columns are counted from 1."""
    if shape == "RECTANGULAR":
        left, right = _near(state.ShutterLeftVerticalEdge), _near(state.ShutterRightVerticalEdge)
        upper, lower = _near(state.ShutterUpperHorizontalEdge), _near(state.ShutterLowerHorizontalEdge)
        if right > left and lower > upper:
            draw.rectangle((left - 1, upper - 1, right - 1, lower - 1), fill=255)
    elif shape == "CIRCULAR":
        row, column = (_near(value) - 1 for value in state.CenterOfCircularShutter)
        radius = _near(state.RadiusOfCircularShutter)
        draw.ellipse((column - radius, row - radius, column + radius, row + radius), fill=255)
    elif shape == "POLYGONAL":
        values = [_near(value) - 1 for value in state.VerticesOfThePolygonalShutter]
        draw.polygon([(values[at + 1], values[at]) for at in range(0, len(values) - 1, 2)], fill=255)


def _annotate(picture: Image.Image, annotations: Sequence[Dataset], units: str, scale: Point) -> None:
    """Draw graphics and texts whose coordinates are in `units`, multiplied by `scale` (PS3.3 C.10.5)."""
    draw = ImageDraw.Draw(picture)
    for annotation in annotations:
        for graphic in annotation.get("GraphicObjectSequence") or ():
            if graphic.get("GraphicAnnotationUnits") == units:
                values = [float(value) for value in graphic.get("GraphicData") or ()]
                points = [(_near(values[at] * scale[0]), _near(values[at + 1] * scale[1])) for at in range(0, len(values) - 1, 2)]
                _graphic(draw, str(graphic.get("GraphicType")), points, filled=graphic.get("GraphicFilled") == "Y")
        for text in annotation.get("TextObjectSequence") or ():
            corner = "BoundingBoxTopLeftHandCorner" if text.get("BoundingBoxTopLeftHandCorner") is not None else "AnchorPoint"
            kind = "BoundingBoxAnnotationUnits" if corner.startswith("Bounding") else "AnchorPointAnnotationUnits"
            if text.get(corner) is not None and text.get(kind) == units:
                column, row = (float(value) for value in text.get(corner))
                written = "".join(letter if letter.isprintable() else " " for letter in str(text.get("UnformattedTextValue") or ""))
                draw.text(
                    (_near(column * scale[0]), _near(row * scale[1])),
                    written,
                    fill=_INK,
                    font=ImageFont.load_default(max(10, picture.height // 32)),
                )


def _near(coordinate: Any) -> float:
    """Return a coordinate, drawn to where pictures end: what is far outside takes as long to draw as if it were seen.

    Raises:
        ValueError: not a number.
    """
    value = float(coordinate)
    if math.isnan(value):
        raise ValueError("not a coordinate")
    return min(max(value, -_FARTHEST), _FARTHEST)


def _graphic(draw: ImageDraw.ImageDraw, kind: str, points: list[Point], *, filled: bool) -> None:
    fill = _INK if filled else None
    if kind == "POINT" and points:
        [(column, row), *_] = points
        draw.ellipse((column - 2, row - 2, column + 2, row + 2), fill=_INK)
    elif kind in ("POLYLINE", "INTERPOLATED") and len(points) > 1:
        if filled and points[0] == points[-1]:
            draw.polygon(points, fill=fill)
        draw.line(points, fill=_INK, width=1)
    elif kind == "CIRCLE" and len(points) == 2:
        (column, row), edge = points
        radius = float(np.hypot(edge[0] - column, edge[1] - row))
        draw.ellipse((column - radius, row - radius, column + radius, row + radius), outline=_INK, fill=fill)
    elif kind == "ELLIPSE" and len(points) == 4:
        outline = _ellipse(points)
        draw.polygon(outline, outline=_INK, fill=fill)


def _ellipse(points: list[Point]) -> list[Point]:
    """Return points of an ellipse that is given by the ends of its major, then of its minor axis."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points
    middle, major, minor = ((ax + bx) / 2, (ay + by) / 2), ((bx - ax) / 2, (by - ay) / 2), ((dx - cx) / 2, (dy - cy) / 2)
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return [
        (float(middle[0] + np.cos(a) * major[0] + np.sin(a) * minor[0]), float(middle[1] + np.cos(a) * major[1] + np.sin(a) * minor[1]))
        for a in angles
    ]


def _cropped(picture: Image.Image, area: Dataset) -> Image.Image:
    """Return the displayed area: corners are column and row, counted from 1, and may lie outside, where it is black."""
    (left, top), (right, bottom) = (
        [int(value) for value in area.get(keyword) or (1, 1)]
        for keyword in ("DisplayedAreaTopLeftHandCorner", "DisplayedAreaBottomRightHandCorner")
    )
    if not (left < right and top < bottom and right - left < _MOST_SIDE and bottom - top < _MOST_SIDE):
        return picture
    return picture.crop((left - 1, top - 1, right, bottom))
