"""Frames as pictures: decoded, windowed and scaled, for rendered resources and thumbnails."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from mdm_wire.errors import FailedPrecondition, Invalid
from PIL import Image
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_voi_lut, convert_color_space
from pydicom.pixels.utils import pixel_array

from mdm_client.dicomweb.presentation import Presentation, of_image

_MAX_SIDE = 8192
_PERCENT = (1.0, 99.0)
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


@dataclass(frozen=True)
class Picture:
    """How a frame is drawn: media type, size to fit into (0: as it is), window (None: the image's own), quality of JPEG."""

    media_type: str = "image/jpeg"
    width: int = 0
    height: int = 0
    window: tuple[float, float] | None = None
    quality: int = 90

    @classmethod
    def of_query(cls, query: Mapping[str, str], media_type: str, size: tuple[int, int] = (0, 0)) -> "Picture":
        """Return what `viewport`, `window` and `quality` of an address ask for.

        Raises:
            Invalid: PICTURE_PARAMETER.
        """
        try:
            width, height = (int(float(part)) for part in query["viewport"].split(",")[:2]) if "viewport" in query else size
            window = None
            if "window" in query:
                center, extent = (float(part) for part in query["window"].split(",")[:2])
                window = (center, extent)
            quality = int(query.get("quality", 90))
        except ValueError as error:
            raise Invalid("PICTURE_PARAMETER", "viewport is W,H; window is CENTER,WIDTH,FUNCTION; quality is 1 to 100") from error
        if not (0 <= width <= _MAX_SIDE and 0 <= height <= _MAX_SIDE and 1 <= quality <= 100) or (window and window[1] < 1):
            raise Invalid("PICTURE_PARAMETER", f"a picture is at most {_MAX_SIDE} wide and high, a window at least 1, quality 1 to 100")
        return cls(media_type, width, height, window, quality)


def draw(
    data: bytes, number: int, window: tuple[float, float] | None = None, bits: int = 8, states: Sequence[Presentation] = ()
) -> Image.Image:
    """Return frame `number`, counted from 1, of a DICOM file as a picture in grey or RGB.

    The window is the one given (centre, width), else the image's own, else what shows most of its values. With 16 `bits`, grey has 65,536
    levels of the window; colour has 8 bits always. Of presentation `states` the last one that refers to the frame is applied, in 8 bits.

    Raises:
        FailedPrecondition: CANNOT_RENDER: no pixels, or no decoder for their compression.
    """
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        pixels = pixel_array(dataset, index=number - 1, raw=True)
        uid = str(dataset.get("SOPInstanceUID", ""))
        state = of_image(states, uid, number)
        if state is None:
            return Image.fromarray(_displayed(dataset, pixels, window, bits))
        if pixels.ndim == 2 and int(dataset.get("BitsAllocated", 8)) > 1 and dataset.get("PhotometricInterpretation") != "PALETTE COLOR":
            shown = (state.grey(dataset, pixels, window, number) * 255).astype(np.uint8)
        else:
            shown = _displayed(dataset, pixels, window, 8)
        return state.finished(Image.fromarray(shown), uid, number)
    except Exception as error:  # whatever decoders raise about what modalities wrote
        raise FailedPrecondition(
            "CANNOT_RENDER", f"the image cannot be drawn here ({type(error).__name__}); a viewer may show it"
        ) from error


def render(data: bytes, number: int, picture: Picture, states: Sequence[Presentation] = ()) -> bytes:
    """Return frame `number`, counted from 1, of a DICOM file as a picture in a file; presentation `states` as for `draw`.

    Raises:
        FailedPrecondition: as `draw`.
    """
    image = draw(data, number, picture.window, states=states)
    if picture.width and picture.height:
        image.thumbnail((picture.width, picture.height), Image.Resampling.BILINEAR)
    written = io.BytesIO()
    options = {"quality": picture.quality} if picture.media_type == "image/jpeg" else {}
    image.save(written, _FORMATS[picture.media_type], **options)
    return written.getvalue()


def explicit_frame(data: bytes, number: int) -> bytes:
    """Return a frame decoded, in little endian.

    Raises:
        FailedPrecondition: CANNOT_DECODE: there is no decoder for its compression.
    """
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        pixels = pixel_array(dataset, index=number - 1, raw=True)
        return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()
    except Exception as error:  # as above
        raise FailedPrecondition(
            "CANNOT_DECODE", f"the image cannot be decoded here ({type(error).__name__}); ask for it as it is stored"
        ) from error


def _displayed(dataset: Any, pixels: Any, window: tuple[float, float] | None, bits: int) -> Any:
    """Return pixels as grey of 8 or 16 bits, or as RGB."""
    kind, white = (np.uint16, 65535) if bits == 16 else (np.uint8, 255)
    colour = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if colour == "PALETTE COLOR":
        return _eight_bits(apply_color_lut(pixels, dataset))
    if pixels.ndim == 3:
        converted = convert_color_space(pixels, colour, "RGB") if colour.startswith("YBR_FULL") else pixels
        return _eight_bits(converted)
    if int(dataset.get("BitsAllocated", 8)) == 1:
        return ((pixels > 0) * white).astype(kind)
    values = apply_rescale(pixels, dataset)
    window = window or _own_window(dataset)
    if window:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    else:
        values = apply_voi_lut(values, dataset) if "VOILUTSequence" in dataset else values
        low, high = np.percentile(values, _PERCENT)
    grey = (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * white).astype(kind)
    return white - grey if colour == "MONOCHROME1" else grey


def _own_window(dataset: Any) -> tuple[float, float] | None:
    """Return the first window that the image names; None without one, or where a table takes its place."""
    found = [dataset.get(keyword) for keyword in ("WindowCenter", "WindowWidth")]
    if "VOILUTSequence" in dataset or any(value in (None, "") for value in found):
        return None
    center, width = (float(value[0] if isinstance(value, MultiValue) else value) for value in found)
    return (center, width) if width >= 1 else None


def _eight_bits(pixels: Any) -> Any:
    if pixels.dtype == np.uint8:
        return pixels
    high = max(int(pixels.max()), 1)
    return (pixels.astype(np.float64) * (255 / max(high, 255 if high < 256 else 65535))).astype(np.uint8)
