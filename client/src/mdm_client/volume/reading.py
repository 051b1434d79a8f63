"""Slices out of DICOM files: plain images, enhanced multi-frame ones, and mosaics."""

import io
import math
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pydicom
from mdm_wire.errors import FailedPrecondition, MdmError
from pydicom import Dataset
from pydicom.pixels.utils import pixel_array

from mdm_client.volume import siemens
from mdm_client.volume.geometry import Slice

#: Attributes that may tell volumes at the same place apart, the most telling first, and the macro that holds them in enhanced images.
_MARKS = (
    ("TemporalPositionIndex", "FrameContentSequence"),
    ("TemporalPositionIdentifier", ""),
    ("EchoTime", ""),
    ("EffectiveEchoTime", "MREchoSequence"),
    ("DiffusionBValue", "MRDiffusionSequence"),
    ("AcquisitionNumber", ""),
    ("AcquisitionTime", ""),
    ("FrameAcquisitionNumber", "FrameContentSequence"),
)
#: float32 holds whole numbers up to 2^24.
_EXACT_BITS = 24


def read_slices(data: bytes) -> list[Slice]:
    """Return the slices of a DICOM file: one, or as many as it has frames or tiles.

    Raises:
        FailedPrecondition: NOT_AN_IMAGE, VOLUME_COLOUR, VOLUME_NO_GEOMETRY, VOLUME_MOSAIC, CANNOT_DECODE.
    """
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise FailedPrecondition("NOT_AN_IMAGE", f"an object of modality {dataset.get('Modality') or 'unknown'} has no pixels")
        if int(dataset.get("SamplesPerPixel", 1)) != 1 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            raise FailedPrecondition("VOLUME_COLOUR", "a colour image has no values that a volume could be made of")
        return list(_slices(dataset))
    except MdmError:
        raise
    except Exception as error:  # whatever decoders raise about what modalities wrote
        raise FailedPrecondition(
            "CANNOT_DECODE", f"an image cannot be decoded here ({type(error).__name__}): its compression has no decoder, or it is damaged"
        ) from error


def _slices(dataset: Dataset) -> Iterator[Slice]:
    pixels = pixel_array(dataset, raw=True)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        frames = pixels if pixels.ndim == 3 else pixels[None]
        for number, frame in enumerate(frames):
            yield _enhanced(dataset, number, frame)
    elif "MOSAIC" in (dataset.get("ImageType") or ()):
        yield from _mosaic(dataset, _rescaled(dataset, pixels, dataset))
    elif "GridFrameOffsetVector" in dataset:
        yield from _dose(dataset, pixels)
    elif pixels.ndim == 3:
        raise FailedPrecondition("VOLUME_NO_GEOMETRY", "the frames of the image have no positions: they are no slices of a volume")
    else:
        yield Slice(_rescaled(dataset, pixels, dataset), *_place(dataset, dataset, dataset), _thickness(dataset), _marks(dataset))


def _enhanced(dataset: Dataset, number: int, frame: Any) -> Slice:
    """Return a frame of an enhanced image, placed by its own functional groups or the shared ones (PS3.3 C.7.6.16)."""
    own = dataset.PerFrameFunctionalGroupsSequence[number]
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]

    def macro(name: str) -> Dataset:
        found = own.get(name) or shared[0].get(name)
        return found[0] if found else Dataset()

    measures = macro("PixelMeasuresSequence")
    place = _place(macro("PlanePositionSequence"), macro("PlaneOrientationSequence"), measures)
    values = _rescaled(dataset, frame, macro("PixelValueTransformationSequence"))
    marks: dict[str, Hashable] = {}
    for keyword, group in _MARKS:
        value = macro(group).get(keyword) if group else dataset.get(keyword)
        if value is not None:
            marks[keyword] = _plain(value)
    if "DiffusionBValue" in marks:
        gradient = macro("MRDiffusionSequence").get("DiffusionGradientDirectionSequence")
        direction = tuple(gradient[0].DiffusionGradientOrientation) if gradient else ()
        marks["DiffusionBValue"] = (marks["DiffusionBValue"], direction)
    # Volumes that several marks tell apart only together: by their place among the dimensions, without that of the slice's position.
    index = macro("FrameContentSequence").get("DimensionIndexValues")
    if index is not None:
        marks["DimensionIndexValues"] = tuple(int(value) for value in _other_dimensions(dataset, index))
    return Slice(values, *place, _thickness(measures), marks)


def _dose(dataset: Dataset, pixels: Any) -> Iterator[Slice]:
    """Yield the planes of an RT dose, in its own unit (PS3.3 C.8.8.3.2); where an offset is no distance, it is refused."""
    position, along_row, along_column, spacing = _place(dataset, dataset, dataset)
    offsets = [float(value) for value in np.atleast_1d(dataset.GridFrameOffsetVector)]
    if offsets[0] != 0:
        raise FailedPrecondition("VOLUME_NO_GEOMETRY", "the planes of the dose are not given by their distance from the first one")
    scale = float(dataset.get("DoseGridScaling") or 1)
    for offset, plane in zip(offsets, pixels if pixels.ndim == 3 else pixels[None], strict=True):
        where = position + np.cross(along_row, along_column) * offset
        yield Slice((plane * scale).astype(np.float64), where, along_row, along_column, spacing, _thickness(dataset))


def _other_dimensions(dataset: Dataset, index: Any) -> list[Any]:
    values = list(index) if isinstance(index, (list, pydicom.multival.MultiValue)) else [index]
    pointers = [item.get("DimensionIndexPointer") for item in dataset.get("DimensionIndexSequence") or ()]
    spatial = {0x00200032, 0x00209057, 0x00201041}  # image position, in-stack position number, slice location
    return [value for value, pointer in zip(values, pointers, strict=False) if pointer not in spatial]


def _mosaic(dataset: Dataset, values: Any) -> Iterator[Slice]:
    """Yield the tiles of a mosaic as slices, where the header says how many there are and where they lie."""
    count, normal = siemens.tiles(dataset)
    position, along_row, along_column, spacing = _place(dataset, dataset, dataset)
    distance = _thickness(dataset)
    if not count or distance is None:
        raise FailedPrecondition(
            "VOLUME_MOSAIC", "the header of a mosaic does not say how many slices it has, or how far apart: the site's profile removed it"
        )
    side = math.ceil(math.sqrt(count))
    if values.shape[0] % side or values.shape[1] % side:
        raise FailedPrecondition("VOLUME_MOSAIC", f"a mosaic of {side} × {side} slices whose size is no multiple of that cannot be cut up")
    rows, columns = values.shape[0] // side, values.shape[1] // side
    # The position is that of an image of the mosaic's size around the same centre, not of a tile.
    corner = position + along_row * spacing[1] * (values.shape[1] - columns) / 2 + along_column * spacing[0] * (values.shape[0] - rows) / 2
    towards = np.cross(along_row, along_column) if normal is None else normal
    marks = _marks(dataset) | {"InstanceNumber": int(dataset.get("InstanceNumber") or 0)}
    for number in range(count):
        top, left = number // side * rows, number % side * columns
        tile = values[top : top + rows, left : left + columns]
        yield Slice(tile, corner + towards * distance * number, along_row, along_column, spacing, distance, marks)


def _rescaled(dataset: Dataset, pixels: Any, rescale: Dataset) -> Any:
    slope, intercept = (float(rescale.get(name, default) or default) for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    kind = np.float32 if int(dataset.get("BitsAllocated", 16)) <= _EXACT_BITS else np.float64
    return pixels.astype(kind) if (slope, intercept) == (1.0, 0.0) else (pixels * slope + intercept).astype(kind)


def _place(position: Dataset, orientation: Dataset, measures: Dataset) -> tuple[Any, Any, Any, tuple[float, float]]:
    """Return position, directions and spacing.

    Raises:
        FailedPrecondition: VOLUME_NO_GEOMETRY.
    """
    where = position.get("ImagePositionPatient")
    cosines = orientation.get("ImageOrientationPatient")
    spacing = measures.get("PixelSpacing")
    if not where or not cosines or not spacing or len(where) != 3 or len(cosines) != 6 or min(map(float, spacing)) <= 0:
        raise FailedPrecondition(
            "VOLUME_NO_GEOMETRY", "an image does not say its position, orientation and spacing: it is no slice of a volume"
        )
    directions = np.array(cosines, dtype=float).reshape(2, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.array(where, dtype=float), directions[0], directions[1], (float(spacing[0]), float(spacing[1]))


def _thickness(measures: Dataset) -> float | None:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = measures.get(keyword)
        if value not in (None, "") and float(value) > 0:
            return float(value)
    return None


def _marks(dataset: Dataset) -> dict[str, Hashable]:
    """Return what a plain image says of the volume that it is of."""
    values = {keyword: dataset.get(keyword) for keyword, _ in _MARKS}
    return {keyword: _plain(value) for keyword, value in values.items() if value not in (None, "")}


def _plain(value: Any) -> Hashable:
    return float(value) if isinstance(value, (int, float)) else str(value)
