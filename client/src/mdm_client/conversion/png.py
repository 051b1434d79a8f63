"""Images as PNG files, decoded from memory: one for each frame."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mdm_wire.errors import FailedPrecondition

from mdm_client.dicomweb.rendering import draw
from mdm_client.image.instance import read_instance
from mdm_client.local_file import AtomicFile

_SUFFIX = ".png"


def pictures(data: bytes, path: str, window: tuple[float, float] | None, bits: int) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each frame's picture; `path` is the DICOM file's own, below the output directory.

    Grey pictures have 8 or 16 `bits`, which the window is spread over; colour has 8 bits for each of red, green and blue.

    Raises:
        FailedPrecondition: NOT_AN_IMAGE, CANNOT_RENDER. Corrupt: DICOM_MALFORMED.
    """
    instance = read_instance(data, "")
    if not instance.has_pixels:
        raise FailedPrecondition("NOT_AN_IMAGE", f"an object of modality {instance.modality or 'unknown'} has no pixels to draw")
    pure = PurePosixPath(path)
    stem = pure.with_suffix("") if pure.suffix.lower() == ".dcm" else pure
    for number in range(1, instance.frames + 1):
        file = io.BytesIO()
        draw(data, number, window, bits).save(file, "PNG")
        mark = f"-{number:04d}" if instance.frames > 1 else ""
        yield f"{stem}{mark}{_SUFFIX}", file.getvalue()


def write_pictures(
    data: bytes, path: str, output: Path, window: tuple[float, float] | None, bits: int, *, durable: bool = False, replace: bool = False
) -> list[str]:
    """Write the pictures of a DICOM file below `output` and return their paths there; each appears when it is whole.

    Raises:
        MdmError: as `pictures`. OSError: a picture cannot be written; FileExistsError where one has its name, unless `replace`.
    """
    written = []
    for name, content in pictures(data, path, window, bits):
        place = output / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with AtomicFile(place, durable, replace=replace) as file:
            file.write(content)
        written.append(name)
    return written
