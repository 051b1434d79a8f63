"""Studies of many images as a scanner writes them: long headers of which half varies from image to image.

The template is pydicom's CT_small, a real CT with 258 elements of which 179 are private, and what such a header has besides: sequences of
references, codes and requests. Of the elements about half get another value in each image, as acquisition times, positions, currents
and checksums have in a scanner's; pixels are noise, so that nothing can be compressed or remembered.
"""

import io
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from mdm_testing.image import example

#: Pixels in a row and in a column of an image of 0.5 MB, of one of 38 KB, and of each frame of the large multi-frame image.
LARGE_SIDE, SMALL_SIDE, FRAME_SIDE = 512, 128, 512
_PADDING = 0xFFFCFFFC
# What is one for a patient, study or series, or says how to read the pixels: the same in each image of a series.
_FIXED_GROUPS = (0x0002, 0x0010, 0x0011, 0x0028, 0x7FE0)
_FIXED = frozenset(
    (
        *("StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "SeriesNumber", "SliceThickness", "SpacingBetweenSlices", "KVP"),
        *("ImageOrientationPatient", "PixelSpacing", "DataCollectionDiameter", "ReconstructionDiameter", "SoftwareVersions"),
    )
)
_CODES = (("24627-2", "LN", "Chest CT"), ("P5-09051", "SRT", "Computed tomography"), ("T-D3000", "SRT", "Chest"))
_INTEGERS = {"SS": 30_000, "US": 60_000, "SL": 2_000_000_000, "UL": 4_000_000_000}


@dataclass(frozen=True)
class Study:
    """A study of one series: a number of 12 digits that is in its patient's ID and in all its UIDs."""

    token: str

    @classmethod
    def new(cls) -> "Study":
        """Return a study with a number of its own."""
        return cls(str(10**11 + secrets.randbelow(9 * 10**11)))

    @property
    def patient(self) -> str:
        """The Patient ID."""
        return f"BENCH{self.token}"

    @property
    def series(self) -> str:
        """The Series Instance UID."""
        return self._uid(2)

    def image(self, number: int) -> str:
        """Return the SOP Instance UID of an image."""
        return self._uid(3, number)

    def _uid(self, kind: int, number: int = 1) -> str:
        return f"1.2.826.0.1.3680043.8.498.{self.token}.{kind}.{number}"


# What headers are made with before they get a study's own number.
_NOBODY = Study("314159265358")


def make_study(folder: Path, study: Study, count: int, side: int = LARGE_SIDE) -> list[Path]:
    """Write `count` CT images of side × side 16-bit pixels into `folder`; return their paths in the order of the series."""
    size = side * side * 2
    noise = _noise(2 * size)
    paths = []
    for number, header in enumerate(_headers(count, side), start=1):
        paths.append(folder / f"{number:05}.dcm")
        start = number * 2_003 * 2 % size
        with paths[-1].open("wb") as file:
            file.write(_of(study, header))
            file.write(noise[start : start + size])
    return paths


def make_multi_frame(path: Path, study: Study, frames: int) -> None:
    """Write one image of `frames` frames of 512 × 512 16-bit pixels, 0.52 MB each."""
    [header] = _headers(1, FRAME_SIDE, frames)
    size = FRAME_SIDE * FRAME_SIDE * 2
    noise = _noise(2 * size)
    with path.open("wb") as file:
        file.write(_of(study, header))
        for frame in range(frames):
            start = frame * 2_003 * 2 % size
            file.write(noise[start : start + size])


def _of(study: Study, header: bytes) -> bytes:
    return header.replace(_NOBODY.token.encode(), study.token.encode())


@cache
def _noise(size: int) -> bytes:
    return numpy.random.default_rng(1).integers(0, 4096, size // 2, dtype=numpy.uint16).tobytes()


@lru_cache(maxsize=4)
def _headers(count: int, side: int, frames: int = 0) -> list[bytes]:
    """Return what is before the pixels of each image."""
    template = _template(side)
    if frames:
        template.NumberOfFrames = frames
    size = side * side * 2 * (frames or 1)
    template.PixelData = bytes(size)
    headers = []
    for number in range(1, count + 1):
        _vary(template, number)
        file = io.BytesIO()
        template.save_as(file, enforce_file_format=True)
        headers.append(file.getvalue()[:-size])
    return headers


def describe(first: Path, second: Path) -> tuple[int, int, int, int]:
    """Return of an image's elements, nested ones included: how many there are, are private, are nested, differ from another image's."""
    one, other = (pydicom.dcmread(path, stop_before_pixels=True) for path in (first, second))
    elements, others = list(one.iterall()), list(other.iterall())
    assert [element.tag for element in elements] == [element.tag for element in others]
    differing = sum(mine.VR != "SQ" and mine.value != theirs.value for mine, theirs in zip(elements, others, strict=True))
    return len(elements), sum(element.tag.is_private for element in elements), len(elements) - len(one), differing


def _template(side: int) -> FileDataset:
    dataset = example("CT_small.dcm")
    del dataset[_PADDING]
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = _NOBODY.patient, f"{_NOBODY.patient}^NAME", "19470313"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = (_NOBODY._uid(kind) for kind in (1, 2, 4))
    dataset.Rows = dataset.Columns = side
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    request = Dataset()
    request.ScheduledProcedureStepID, request.RequestedProcedureID = "SPS1", "RP1"
    request.ScheduledProtocolCodeSequence = Sequence([_code(*_CODES[0])])
    dataset.RequestAttributesSequence = Sequence([request])
    dataset.ProcedureCodeSequence = Sequence([_code(*_CODES[1])])
    dataset.AnatomicRegionSequence = Sequence([_code(*_CODES[2])])
    dataset.ReferencedImageSequence = Sequence([_reference(), _reference()])
    dataset.SourceImageSequence = Sequence([_reference()])
    block = dataset.private_block(0x0045, "BENCH NESTED", create=True)
    nested = Dataset()
    inner = nested.private_block(0x0045, "BENCH NESTED", create=True)
    for number in range(6):
        inner.add_new(number + 1, "DS", "1.5")
    block.add_new(0x01, "SQ", Sequence([nested]))
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _reference() -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    return reference


def _vary(dataset: FileDataset, number: int) -> None:
    """Give an image what differs from image to image."""
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(_NOBODY.image(number))
    for position, element in enumerate(_varying(dataset)):
        _vary_element(element, number, position)
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [-158.1, -179.0, round(-75.7 - 5 * number, 3)]
    dataset.SliceLocation = round(-77.2 - 5 * number, 3)
    for position, item in enumerate((*dataset.ReferencedImageSequence, *dataset.SourceImageSequence)):
        item.ReferencedSOPInstanceUID = _NOBODY._uid(5 + position, number)


def _varying(dataset: Dataset) -> Iterator[DataElement]:
    for element in dataset.iterall():
        fixed = element.tag.group in _FIXED_GROUPS or element.keyword in _FIXED or element.tag.is_private_creator
        if not fixed and element.VR in ("DS", "IS", "FL", "FD", "SS", "US", "SL", "UL", "TM", "OB"):
            yield element


def _vary_element(element: DataElement, number: int, position: int) -> None:
    """Give an element a value of its own, as long as the template's."""
    seed = number * 7919 + position * 104_729
    if element.VR == "TM":
        element.value = f"11{seed // 60 % 60:02}{seed % 60:02}"
    elif element.VR == "OB":
        element.value = seed.to_bytes(8, "little") + bytes(element.value)[8:]
    elif element.VR in _INTEGERS:
        element.value = _scalar_or_list(element, seed % _INTEGERS[element.VR])
    elif element.VR == "IS":
        element.value = str(seed % 4000 + 1)
    else:
        element.value = _scalar_or_list(element, round(seed % 100_000 / 64, 4))


def _scalar_or_list(element: DataElement, value: float) -> float | list[float]:
    count = element.VM
    return value if count <= 1 else [value + part for part in range(count)]
