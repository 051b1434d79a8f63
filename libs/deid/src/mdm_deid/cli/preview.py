"""A picture of an image with the regions a rule would blank, for the person who decides whether to trust the rule."""

import array
import io
import sys
from collections.abc import Iterator
from itertools import islice

from mdm_deid.encoding.part10 import Part10, open_part10
from mdm_deid.pixels.blanking import Unblankable, decoded_frames
from mdm_deid.pixels.image import Image, read_image
from mdm_deid.pixels.rule import PixelRule, PixelRules
from mdm_deid.rules.facts import read_facts


def preview(part10: bytes | memoryview, rules: PixelRules, frame: int = 0) -> tuple[bytes, str]:
    """Return one frame as PNG with the regions of the matching rule in red, and the rule's name (empty if none matches).

    The picture shows what the image shows: it identifies as much as the original does.

    Raises:
        Malformed: not a DICOM file that can be read.
        Unblankable: its pixels cannot be decoded here, or it has fewer frames.
    """
    opened = open_part10(part10)
    facts = read_facts(opened.data, opened.start, opened.encoding)
    image = read_image(opened.data, opened.start, opened.encoding)
    rule = rules.find(facts.texts, lambda: image)
    pixels, decoded = _frame(image, opened, frame)
    return _png(image.columns, image.rows, _rows(pixels, decoded, rule)), rule.name if rule else ""


def _frame(image: Image, opened: Part10, number: int) -> tuple[bytearray, Image]:
    found = next(islice(decoded_frames(image, opened), number, None), None)
    if found is None:
        raise Unblankable("no_such_frame")
    return found


def _rows(pixels: bytearray, image: Image, rule: PixelRule | None) -> Iterator[bytes]:
    """Yield rows of RGB, the blanked spans tinted."""
    planes = _planes(pixels, image)
    spans = rule.blanked(image) if rule else []
    for y in range(image.rows):
        row = bytearray(3 * image.columns)
        for sample in range(3):
            row[sample::3] = planes[sample][y * image.columns : (y + 1) * image.columns]
        for left, right in spans[y] if spans else ():
            row[3 * left : 3 * right : 3] = b"\xff" * (right - left)
        yield bytes(row)


def _planes(pixels: bytearray, image: Image) -> list[bytes]:
    """Return the red, green and blue plane, 8 bits each."""
    if image.samples == 1:
        grey = _eight_bits(bytes(pixels), image)
        if image.photometric == "MONOCHROME1":
            grey = grey.translate(bytes(range(255, -1, -1)))
        return [grey] * 3
    size = image.bits_allocated // 8
    if image.planar == 1:
        plane = len(pixels) // 3
        parts = [bytes(pixels[sample * plane : (sample + 1) * plane]) for sample in range(3)]
    else:
        whole = bytes(pixels)
        parts = [_every_third(whole, sample * size, size) for sample in range(3)]
    planes = [_eight_bits(part, image) for part in parts]
    return _rgb(planes) if image.photometric == "YBR_FULL" else planes


def _every_third(samples: bytes, start: int, size: int) -> bytes:
    """Return one colour of a frame of colour by pixel, `size` bytes a sample."""
    if size == 1:
        return samples[start::3]
    return b"".join(samples[n : n + size] for n in range(start, len(samples), 3 * size))


def _eight_bits(samples: bytes, image: Image) -> bytes:
    """Return samples stretched from their least and greatest value to 0 to 255; 8-bit samples stay."""
    if image.bits_allocated == 8:
        return samples
    code = {(16, 0): "H", (16, 1): "h", (32, 0): "I", (32, 1): "i"}[image.bits_allocated, image.representation & 1]
    values = array.array(code, samples)
    if sys.byteorder == "big":
        values.byteswap()
    low, high = min(values), max(values)
    scale = 255 / (high - low or 1)
    return bytes(int((value - low) * scale) for value in values)


def _rgb(planes: list[bytes]) -> list[bytes]:
    """Convert by PS3.3 C.7.6.3.1.2."""
    out = [bytearray(len(planes[0])) for _ in range(3)]
    for n, (y, b, r) in enumerate(zip(*planes, strict=True)):
        out[0][n] = min(255, max(0, round(y + 1.402 * (r - 128))))
        out[1][n] = min(255, max(0, round(y - 0.344136 * (b - 128) - 0.714136 * (r - 128))))
        out[2][n] = min(255, max(0, round(y + 1.772 * (b - 128))))
    return [bytes(plane) for plane in out]


def _png(width: int, height: int, rows: Iterator[bytes]) -> bytes:
    """Return an RGB picture in PNG."""
    # Takes a while to import; only previews need it.
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.frombytes("RGB", (width, height), b"".join(rows)).save(buffer, "PNG")
    return buffer.getvalue()
