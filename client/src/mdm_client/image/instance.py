"""One DICOM file in memory: its header as DICOM JSON, its frames as they are stored, its bulk data."""

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pydicom
from mdm_wire.errors import Corrupt, Invalid, NotFound
from pydicom import DataElement, Dataset, config, encaps
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

#: Binary values up to this size stand in the metadata themselves.
INLINE_BYTES = 2048
_PIXEL_TAGS = {0x7FE00010: "OW", 0x7FE00008: "OF", 0x7FE00009: "OD"}
_BINARY = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN"})
#: Palettes and documents: viewers fetch them by address, however small they are.
_ALWAYS_APART = frozenset({0x00281201, 0x00281202, 0x00281203, 0x00420011})
#: A spacing that is not positive makes an image black in viewers: it is left out.
_POSITIVE = frozenset({0x00280030, 0x00181164, 0x00182010})
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Instance:
    """What is known of a file: its UIDs and syntax, its header as a DICOM JSON object, and where its pixels are.

    `pixel_offset` is where the value of the pixel data begins, 0 where there is none; `frame_bits` the size of one uncompressed frame.
    """

    study: str
    series: str
    uid: str
    sop_class: str
    modality: str
    syntax: UID
    frames: int
    frame_bits: int
    bits_allocated: int
    pixel_offset: int
    pixel_bytes: int
    header: bytes

    @property
    def has_pixels(self) -> bool:
        """Whether it is an image."""
        return self.pixel_offset > 0

    def held_bytes(self) -> int:
        """Return about how much memory it takes, in bytes."""
        return len(self.header)


def read_instance(data: bytes, root: str) -> Instance:
    """Return what a file says; the addresses of its bulk data begin with `root`.

    Raises:
        Corrupt: DICOM_MALFORMED.
    """
    try:
        dataset, offset, size = _read_header(data)
        study, series, uid = str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)
        _complete(dataset, offset)
        address = f"{root}/studies/{study}/series/{series}/instances/{uid}"
        document = _document(dataset, f"{address}/bulkdata")
        document["00083002"] = {"vr": "UI", "Value": [str(dataset.file_meta.TransferSyntaxUID)]}
        document["00081190"] = {"vr": "UR", "Value": [address]}
        if offset:
            document["7FE00010"] = {"vr": "OW", "BulkDataURI": f"{address}/bulkdata/7FE00010"}
        allocated = _int(dataset, "BitsAllocated")
        return Instance(
            study,
            series,
            uid,
            str(dataset.get("SOPClassUID", "")),
            str(dataset.get("Modality", "")),
            dataset.file_meta.TransferSyntaxUID,
            max(_int(dataset, "NumberOfFrames", 1), 1),
            _int(dataset, "Rows") * _int(dataset, "Columns") * _samples(dataset) * allocated,
            allocated,
            offset,
            size,
            json.dumps(document, separators=(",", ":"), allow_nan=False).encode(),
        )
    except (AttributeError, EOFError, ValueError, TypeError, KeyError, OSError, NotImplementedError) as error:
        raise Corrupt("DICOM_MALFORMED", f"a file cannot be read as DICOM ({type(error).__name__})") from error


def _read_header(data: bytes) -> tuple[Any, int, int]:
    """Return the dataset without pixel data, and offset and length of its value (0 where there is none, -1 where it is encapsulated)."""
    config.settings.reading_validation_mode = config.IGNORE  # what modalities write is shown as it is
    stream = io.BytesIO(data)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        return dataset, 0, 0
    start = stream.tell()
    order: Literal["big", "little"] = "big" if syntax == ExplicitVRBigEndian else "little"
    element = data[start : start + 12]
    if len(element) < 12:
        return dataset, 0, 0
    tag = int.from_bytes(element[:2], order) << 16 | int.from_bytes(element[2:4], order)
    if tag not in _PIXEL_TAGS:
        return dataset, 0, 0
    implicit = syntax == ImplicitVRLittleEndian
    size = int.from_bytes(element[4:8] if implicit else element[8:12], order)
    return dataset, start + (8 if implicit else 12), -1 if size == _UNDEFINED else size


def _complete(dataset: Dataset, offset: int) -> None:
    """Add what viewers cannot do without and some files lack."""
    if offset and "BitsAllocated" in dataset:
        if "BitsStored" not in dataset:
            dataset.BitsStored = dataset.BitsAllocated
        if "HighBit" not in dataset:
            dataset.HighBit = int(dataset.BitsStored) - 1


def _int(dataset: Dataset, keyword: str, default: int = 0) -> int:
    value = dataset.get(keyword)
    return default if value in (None, "") else int(value)


def _samples(dataset: Dataset) -> int:
    """Return the samples that are stored for each pixel: of subsampled colour, two (PS3.3 C.7.6.3.1.2)."""
    return 2 if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" else _int(dataset, "SamplesPerPixel", 1)


def _document(dataset: Dataset, address: str) -> dict[str, Any]:
    document = {}
    for tag in sorted(dataset.keys()):
        found = _element(dataset, tag, address)
        if found is not None:
            document[f"{tag:08X}"] = found
    return document


def _element(dataset: Dataset, tag: BaseTag, address: str) -> dict[str, Any] | None:
    """Return an element in the DICOM JSON model; None where it is not for metadata or cannot be read."""
    if tag.group == 2 or tag.element == 0 or tag in _PIXEL_TAGS:
        return None
    try:
        element = dataset[tag]
        place = f"{address}/{tag:08X}"
        if element.VR == "SQ":
            items = [_document(item, f"{place}/{number}") for number, item in enumerate(element.value)]
            return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        if element.VR in _BINARY and (tag in _ALWAYS_APART or len(element.value or b"") > INLINE_BYTES):
            return {"vr": element.VR, "BulkDataURI": place}
        if tag in _POSITIVE and not all(float(part) > 0 for part in element.value or ()):
            return None
        found: dict[str, Any] = element.to_json_dict(None, 0)
    except (ValueError, TypeError, AttributeError, KeyError, LookupError, OverflowError, UnicodeError):
        return None
    if any(isinstance(value, float) and not math.isfinite(value) for value in found.get("Value", ())):
        return {"vr": found["vr"]}
    return found


def frame(data: bytes, instance: Instance, number: int) -> memoryview | bytes:
    """Return a frame, counted from 1, as it is stored; of an uncompressed image in little endian.

    Raises:
        NotFound: FRAME_NOT_FOUND: there is no such frame. Corrupt: DICOM_MALFORMED.
    """
    if not instance.has_pixels or not 1 <= number <= instance.frames:
        raise NotFound("FRAME_NOT_FOUND", f"{instance.uid}: frame {number} of {instance.frames if instance.has_pixels else 0}")
    if instance.pixel_bytes < 0:
        stream = io.BytesIO(data)
        stream.seek(instance.pixel_offset)
        try:
            return encaps.get_frame(stream, number - 1, number_of_frames=instance.frames)
        except (ValueError, EOFError) as error:
            raise Corrupt("DICOM_MALFORMED", f"{instance.uid}: its frames cannot be told apart") from error
    if instance.frame_bits % 8:
        return _unaligned(data, instance, number)
    size = instance.frame_bits // 8
    start = instance.pixel_offset + (number - 1) * size
    if start + size > len(data):
        raise Corrupt("DICOM_MALFORMED", f"{instance.uid}: frame {number} is not all there")
    found = memoryview(data)[start : start + size]
    return _little_endian(found, instance)


def _little_endian(found: memoryview, instance: Instance) -> memoryview | bytes:
    if instance.syntax != ExplicitVRBigEndian or instance.bits_allocated <= 8:
        return found
    swapped = bytearray(found)
    width = instance.bits_allocated // 8
    for byte in range(width):
        swapped[byte::width] = found[width - 1 - byte :: width]
    return bytes(swapped)


def _unaligned(data: bytes, instance: Instance, number: int) -> bytes:
    """Return a frame of single bits that does not begin at a byte."""
    first = (number - 1) * instance.frame_bits
    last = first + instance.frame_bits
    start = instance.pixel_offset
    value = int.from_bytes(data[start + first // 8 : start + -(-last // 8)], "little") >> first % 8
    return (value & (1 << instance.frame_bits) - 1).to_bytes(-(-instance.frame_bits // 8), "little")


def frame_syntax(instance: Instance) -> str:
    """Return the transfer syntax of what `frame` gives."""
    return str(instance.syntax) if instance.pixel_bytes < 0 else str(ExplicitVRLittleEndian)


def bulk_data(data: bytes, instance: Instance, path: str) -> Iterator[tuple[bytes, str]]:
    """Yield the parts of a bulk value, each with its media type; `path` is a tag, or tag/item/tag….

    Raises:
        NotFound: BULK_DATA_NOT_FOUND. Invalid: BULK_DATA_PATH.
    """
    if path.upper() == "7FE00010" and instance.has_pixels:
        if instance.pixel_bytes >= 0:
            yield data[instance.pixel_offset : instance.pixel_offset + instance.pixel_bytes], "application/octet-stream"
        else:
            for number in range(1, instance.frames + 1):
                yield bytes(frame(data, instance, number)), "application/octet-stream"
        return
    dataset: Dataset = _read_header(data)[0]
    element = _at(dataset, path)
    if element is None or not isinstance(element.value, bytes):
        raise NotFound("BULK_DATA_NOT_FOUND", f"{instance.uid}: there is no bulk data at {path}")
    kind = "application/octet-stream"
    if element.tag == 0x00420011:
        kind = str(dataset.get("MIMETypeOfEncapsulatedDocument") or kind)
    yield element.value, kind


def _at(dataset: Dataset, path: str) -> DataElement | None:
    *outer, last = path.split("/")
    try:
        for tag, item in zip(outer[::2], outer[1::2], strict=True):
            dataset = dataset[Tag(int(tag, 16))].value[int(item)]
        return dataset.get(Tag(int(last, 16)))
    except (KeyError, IndexError, TypeError):
        return None
    except ValueError as error:
        raise Invalid("BULK_DATA_PATH", "a path of bulk data is TAG, or TAG/ITEM/TAG…") from error
