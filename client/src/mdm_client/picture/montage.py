"""Which images and frames a picture shows, and several of them side by side."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pydicom
from mdm_wire.errors import FailedPrecondition, Invalid, MdmError, NotFound
from PIL import Image, ImageOps

from mdm_client.dicomweb.presentation import Presentation
from mdm_client.dicomweb.rendering import draw
from mdm_client.image.fetching import FileRef
from mdm_client.image.instance import Instance, read_instance
from mdm_client.image.reader import ImageReader

TILES = 16
_GAP = 2


@dataclass(frozen=True)
class View:
    """What of images is shown: a frame counted from 1 (0: all, or the middle one of a single picture), and a window (centre, width).

    Of presentation `states`, those that refer to an image are applied to it.
    """

    frame: int = 0
    window: tuple[float, float] | None = None
    tiles: int = TILES
    states: tuple[Presentation, ...] = ()


@dataclass(frozen=True)
class Shown:
    """A picture, and the words below it."""

    image: Image.Image
    caption: str


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` places of `count`, evenly spread, from the first to the last."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count // 2]
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def show(reader: ImageReader, refs: Sequence[FileRef], view: View) -> Shown:
    """Return one picture of images: one image or frame, or a montage of up to `view.tiles` of them.

    Raises:
        FailedPrecondition: NOT_AN_IMAGE, CANNOT_RENDER. NotFound: FRAME_NOT_FOUND. MdmError: none can be had.
    """
    if len(refs) == 1:
        [(_, data)] = reader.read(refs)
        if isinstance(data, MdmError):
            raise data
        return _one(data, view)
    pictures: list[Image.Image] = []
    failure: MdmError | None = None
    described = ""
    for _, data in reader.read([refs[place] for place in spread(len(refs), view.tiles)]):
        try:
            if isinstance(data, MdmError):
                raise data
            instance = _read(data)
            pictures.append(draw(data, _frame(instance, view), view.window, states=view.states))
            described = described or _described(instance, pictures[0])
        except MdmError as error:
            failure = failure or error
    if not pictures:
        raise failure or NotFound("NO_IMAGE", "no image that could be drawn")
    return Shown(montage(pictures), f"{described}, {len(pictures)} of {len(refs)} images")


def sample(reader: ImageReader, refs: Sequence[FileRef], view: View) -> Image.Image:
    """Return the picture that stands for images: of the middle one, or of the nearest to it that can be drawn.

    Raises:
        MdmError: as `show`.
    """
    middle = len(refs) // 2
    failure: MdmError | None = None
    for place in sorted(range(len(refs)), key=lambda number: abs(number - middle))[: view.tiles]:
        [(_, data)] = reader.read([refs[place]])
        try:
            if isinstance(data, MdmError):
                raise data
            return draw(data, _frame(_read(data), view), view.window, states=view.states)
        except MdmError as error:
            failure = failure or error
    raise failure or NotFound("NO_IMAGE", "no image that could be drawn")


def written(picture: Image.Image, size: int, kind: str) -> bytes:
    """Return a picture as a file of a kind that Pillow names, its longest side at most `size`."""
    picture.thumbnail((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def montage(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures side by side, in rows, each fitted into the size of the first."""
    size = pictures[0].size
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    step = (size[0] + _GAP, size[1] + _GAP)
    whole = Image.new("RGB", (columns * step[0] - _GAP, rows * step[1] - _GAP))
    for number, picture in enumerate(pictures):
        fitted = picture if picture.size == size else ImageOps.pad(picture.convert("RGB"), size)
        whole.paste(fitted, (number % columns * step[0], number // columns * step[1]))
    return whole


def _one(data: bytes, view: View) -> Shown:
    instance = _read(data)
    if instance.frames > 1 and not view.frame:
        places = spread(instance.frames, view.tiles)
        pictures = [draw(data, place + 1, view.window, states=view.states) for place in places]
        return Shown(montage(pictures), f"{_described(instance, pictures[0])}, {len(pictures)} of {instance.frames} frames")
    picture = draw(data, _frame(instance, view), view.window, states=view.states)
    frames = f", frame {_frame(instance, view)} of {instance.frames}" if instance.frames > 1 else ""
    return Shown(picture, f"{_described(instance, picture)}{frames}")


def _frame(instance: Instance, view: View) -> int:
    """Return the frame that is meant, or the middle one.

    Raises:
        NotFound: FRAME_NOT_FOUND.
    """
    if view.frame > instance.frames:
        raise NotFound("FRAME_NOT_FOUND", f"there is no frame {view.frame}: the image has {instance.frames}")
    return view.frame or (instance.frames + 1) // 2


def _read(data: bytes) -> Instance:
    """Return what a file says.

    Raises:
        FailedPrecondition: NOT_AN_IMAGE. Corrupt: DICOM_MALFORMED.
    """
    instance = read_instance(data, "")
    if not instance.has_pixels and "PixelData" not in pydicom.dcmread(io.BytesIO(data), force=True):  # deflated ones are looked into
        raise FailedPrecondition("NOT_AN_IMAGE", f"an object of modality {instance.modality or 'unknown'} has no pixels to draw")
    return instance


def _described(instance: Instance, picture: Image.Image) -> str:
    return f"{instance.modality or 'image'} of {picture.width} × {picture.height}"


def fitted(image: Image.Image, columns: int, rows: int, cell: tuple[int, int], enlarge: float) -> Image.Image:
    """Return an image scaled to fit into characters of `cell` pixels, enlarged by `enlarge` at most.

    Raises:
        Invalid: TERMINAL_TOO_SMALL.
    """
    room = (columns * cell[0], rows * cell[1])
    factor = min(room[0] / image.width, room[1] / image.height, enlarge)
    size = (round(image.width * factor), round(image.height * factor))
    if min(size) < 1 or min(room) < 4:
        raise Invalid("TERMINAL_TOO_SMALL", f"a terminal of {columns} × {rows} characters has no room for a picture")
    kind = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX
    return image.convert("RGB").resize(size, kind)


def fitted_png(png: bytes, columns: int, rows: int, cell: tuple[int, int], enlarge: float) -> Image.Image:
    """Return a PNG file's picture, scaled as `fitted` does."""
    with Image.open(io.BytesIO(png)) as image:
        return fitted(image, columns, rows, cell, enlarge)
