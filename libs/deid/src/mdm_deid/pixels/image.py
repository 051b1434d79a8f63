"""The facts about an image that pixel rules and blanking need: its maker, its geometry, the position of its pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mdm_deid.encoding.element import PIXEL_DATA, Element, Encoding, elements, items

IMAGE_TYPE: Final = 0x00080008
MANUFACTURER: Final = 0x00080070
MODEL: Final = 0x00081090
US_REGIONS: Final = 0x00186011
PHOTOMETRIC: Final = 0x00280004
NUMBER_OF_FRAMES: Final = 0x00280008
PLANAR: Final = 0x00280006
LOSSY: Final = 0x00282110
SERIES: Final = 0x0020000E
SOP_INSTANCE: Final = 0x00080018
SOP_CLASS: Final = 0x00080016
MODALITY: Final = 0x00080060
BODY_PART: Final = 0x00180015
POSITION: Final = 0x00200032
ORIENTATION: Final = 0x00200037
SPACING: Final = 0x00280030
INTERCEPT: Final = 0x00281052
SLOPE: Final = 0x00281053
_PLACE = frozenset({SERIES, SOP_INSTANCE, SOP_CLASS, MODALITY, BODY_PART, POSITION, ORIENTATION, SPACING, INTERCEPT, SLOPE})
_TEXTS = frozenset({IMAGE_TYPE, MANUFACTURER, MODEL, PHOTOMETRIC, NUMBER_OF_FRAMES, LOSSY}) | _PLACE
_NUMBERS = {
    0x00280002: "samples",
    PLANAR: "planar",
    0x00280010: "rows",
    0x00280011: "columns",
    0x00280100: "bits_allocated",
    0x00280101: "bits_stored",
    0x00280103: "representation",
}
_LONGEST_TEXT = 1024
_LAST = PIXEL_DATA
# PS3.3 C.8.5.5: Region Location Min X0, Min Y0, Max X1, Max Y1.
_EDGES = (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)


class Box(NamedTuple):
    """A rectangle in pixels: left and top belong to it, right and bottom do not."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass
class Image:
    """Header values of one image; numbers are 0 and texts empty where the header has none or not one."""

    texts: dict[int, str] = field(default_factory=dict)
    rows: int = 0
    columns: int = 0
    samples: int = 1
    planar: int = 0
    bits_allocated: int = 0
    bits_stored: int = 0
    representation: int = 0
    regions: tuple[Box, ...] = ()
    pixels: Element | None = None

    @property
    def frames(self) -> int:
        """Number of Frames; 1 without the attribute, 0 if it is no number."""
        text = self.texts.get(NUMBER_OF_FRAMES, "").strip() or "1"
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    @property
    def photometric(self) -> str:
        """Photometric Interpretation."""
        return self.texts.get(PHOTOMETRIC, "").strip()


def read_image(data: memoryview, start: int, encoding: Encoding) -> Image:
    """Read the top level of a data set up to its pixel data.

    Raises:
        Malformed: it cannot be walked.
    """
    image = Image()
    for element in elements(data, start, len(data), encoding):
        tag, length = element.tag, element.end - element.value
        if tag in _NUMBERS and length == 2:
            setattr(image, _NUMBERS[tag], encoding.uint(data[element.value : element.end]))
        elif tag in _TEXTS and length <= _LONGEST_TEXT:
            image.texts[tag] = bytes(data[element.value : element.end]).decode("latin-1").strip(" \0")
        elif tag == US_REGIONS:
            image.regions = _regions(data, element, encoding)
        elif tag == PIXEL_DATA:
            image.pixels = element
        if tag >= _LAST:
            break
    return image


def _regions(data: memoryview, element: Element, encoding: Encoding) -> tuple[Box, ...]:
    """Return the boxes of the ultrasound regions; a region without all four edges makes the whole answer empty."""
    boxes: list[Box] = []
    for item in items(data, element, encoding):
        inside = elements(data, item.start, item.limit, item.encoding, 1)
        edges = {part.tag: item.encoding.uint(data[part.value : part.end]) for part in inside if part.tag in _EDGES}
        if set(edges) != set(_EDGES):
            return ()
        left, top, right, bottom = (edges[tag] for tag in _EDGES)
        boxes.append(Box(left, top, right + 1, bottom + 1))
    return tuple(boxes)


# Reads the image when a rule asks for it; most files need none.
ReadImage = Callable[[], Image]
