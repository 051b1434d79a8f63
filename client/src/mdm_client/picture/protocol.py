"""Pictures as terminals take them: kitty's graphics protocol, sixel, half blocks in colours, and plain characters."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

_CHUNK = 4096
#: Greys and colours of a sixel picture: terminals have 256 registers at least, and fewer are written faster.
_SIXEL_COLOURS = 128
_REPEATED = re.compile(rb"(.)\1{3,}", re.DOTALL)
_RAMP = " .:-=+*#%@"
_RESET = "\x1b[0m"
#: xterm's palette of 256: a cube of 6 × 6 × 6 after 16 colours of the user's choice, then 24 greys.
_CUBE = np.array([0, 95, 135, 175, 215, 255])


def kitty(image: Image.Image) -> Iterator[str]:
    """Yield a picture in kitty's graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol): PNG in chunks, no answer wanted."""
    file = io.BytesIO()
    image.save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    first = "a=T,f=100,q=2,"
    for start in range(0, len(text), _CHUNK):
        more = int(start + _CHUNK < len(text))
        yield f"\x1b_G{first}m={more};{text[start : start + _CHUNK]}\x1b\\"
        first = ""
    yield "\n"


def sixel(image: Image.Image) -> Iterator[str]:
    """Yield a picture as sixels (DEC STD 070): bands of six rows, in each a line for each colour."""
    reduced = image.convert("RGB").quantize(_SIXEL_COLOURS, dither=Image.Dither.NONE)
    indices = np.asarray(reduced)
    palette = np.array(reduced.getpalette(), dtype=np.uint8).reshape(-1, 3)
    height, width = indices.shape
    yield f'\x1bP0;1;0q"1;1;{width};{height}'
    for number in np.unique(indices):
        red, green, blue = (round(int(part) * 100 / 255) for part in palette[number])
        yield f"#{number};2;{red};{green};{blue}"
    weights = (1 << np.arange(6, dtype=np.uint8))[:, None]
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        lines = []
        for number in np.unique(band):
            bits = ((band == number) * weights[: len(band)]).sum(axis=0, dtype=np.uint8) + 63
            lines.append(f"#{number}" + _REPEATED.sub(_repeat, bits.astype(np.uint8).tobytes().rstrip(b"?")).decode("ascii"))
        yield "$".join(lines) + "-"
    yield "\x1b\\\n"


def _repeat(found: "re.Match[bytes]") -> bytes:
    return b"!%d%b" % (len(found[0]), found[1])


def blocks(image: Image.Image) -> Iterator[str]:
    """Yield a picture of one column and two rows of pixels for each character, in 24-bit colours."""
    return _blocks(image, lambda pixel: f"2;{pixel[0]};{pixel[1]};{pixel[2]}")


def blocks256(image: Image.Image) -> Iterator[str]:
    """Yield the same in xterm's 256 colours."""
    return _blocks(image, lambda pixel: f"5;{nearest_of_256(pixel)}")


def _blocks(image: Image.Image, colour: Callable[[Any], str]) -> Iterator[str]:
    pixels = np.asarray(image.convert("RGB"))
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        line, before = [], ""
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            style = f"\x1b[38;{colour(top)};48;{colour(bottom)}m"
            line.append("▀" if style == before else f"{style}▀")
            before = style
        yield "".join(line) + _RESET + "\n"


def nearest_of_256(pixel: Any) -> int:
    """Return the number in xterm's palette of the colour that is nearest: of the cube, or a grey."""
    steps = [int(np.abs(_CUBE - value).argmin()) for value in pixel]
    cube = sum((int(_CUBE[step]) - value) ** 2 for step, value in zip(steps, pixel, strict=True))
    level = min(max(round((sum(pixel) / 3 - 8) / 10), 0), 23)
    grey = sum((8 + 10 * level - value) ** 2 for value in pixel)
    return 232 + level if grey < cube else 16 + 36 * steps[0] + 6 * steps[1] + steps[2]


def plain(image: Image.Image) -> Iterator[str]:
    """Yield a picture in characters alone, the denser the brighter; one character stands for one column and two rows."""
    wide = image.convert("L").resize((image.width, max(image.height // 2, 1)), Image.Resampling.BOX)
    levels = (np.asarray(wide, dtype=int) * len(_RAMP)) // 256
    for row in levels:
        yield "".join(_RAMP[level] for level in row).rstrip() + "\n"


#: Ways to draw by name, and whether they have pixels of their own instead of characters.
PROTOCOLS: dict[str, tuple[Callable[[Image.Image], Iterator[str]], bool]] = {
    "kitty": (kitty, True),
    "sixel": (sixel, True),
    "blocks": (blocks, False),
    "blocks256": (blocks256, False),
    "plain": (plain, False),
}
