"""Synthetic series of brains as scanners of three makers write them, with invented persons in every text; and a converter."""

import gzip
import hashlib
import io
import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
from mdm_testing.process import require_program
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
# Seven slices in a mosaic of three by three: only its header says that two tiles are empty.
SLICES, SIDE = 7, 16
B_VALUES = [0, 700, 700, 1400]
DIRECTIONS = [(0.0, 0.0, 0.0), (0.6, 0.8, 0.0), (0.0, 0.6, -0.8), (-0.8, 0.0, 0.6)]
# Every other slice first, in milliseconds.
TIMES = [0.0, 1000.0, 250.0, 1250.0, 500.0, 1500.0, 750.0]
ROW, COLUMN = (0.9781476, 0.0, 0.2079117), (0.0, 1.0, 0.0)
NORMAL = (-0.2079117, 0.0, 0.9781476)
CANARY = "Quigley^Zebedee"
SV10 = b"SV10\x04\x03\x02\x01"


def csa(elements: dict[str, tuple[bytes, list[bytes]]], modern: bool = True) -> bytes:
    """Return a CSA header: name -> (VR, items), in the format with or without SV10."""
    first = len(next(iter(elements.values()))[1])
    out = (SV10 if modern else b"") + struct.pack("<II", len(elements), 77)
    for name, (vr, items) in elements.items():
        out += struct.pack("<64si4siii", name.encode(), len(items), vr, 6, len(items), 77)
        for item in items:
            content = item + b"\0" if item else b""
            long = len(content) + (0 if modern else first)
            out += struct.pack("<iiii", long, len(content), 77, len(content)) + content + bytes(-len(content) % 4)
    return out + b"patient " + CANARY.encode() + bytes(4)


def numbers(*values: float) -> tuple[bytes, list[bytes]]:
    return b"FD", [f"{value:.8f}".encode() for value in values] + [b""] * 2


def protocol(**settings: object) -> bytes:
    """Return a protocol as Siemens keeps it: XML-like text around a section of settings."""
    lines = "".join(f"{key.replace('__', '.')}\t = \t{value}\n" for key, value in settings.items())
    text = f'tPatientName\t = \t""{CANARY}""\nsProtConsistencyInfo.tBaselineString = ""N4""\n{lines}tProtocolName = ""head of {CANARY}""\n'
    return f'<XProtocol> {{ <Name> "{CANARY}" }}\n### ASCCONV BEGIN ###\n{text}### ASCCONV END ###\n<{CANARY}>'.encode()


def private(dataset: Dataset, group: int, creator: str, elements: dict[int, tuple[str, Any]], block: int = 0x10) -> None:
    """Add private elements by the last byte of their element number, in the block given."""
    dataset.add_new((group, block), "LO", creator)
    for element, (vr, value) in elements.items():
        dataset.add_new((group, block << 8 | element), vr, value)


def pixels(seed: int, rows: int, columns: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 4000, (rows, columns), dtype="<u2").tobytes()


def image(maker: str, model: str, series: int, number: int, side: int = SIDE, sop_class: str = MR) -> Dataset:
    """Return what all makers write alike; one slice at the origin, tilted."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid(entropy_srcs=[maker, str(series), str(number)])
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240312"
    dataset.StudyTime = dataset.SeriesTime = "101500.000000"
    dataset.AcquisitionTime = dataset.ContentTime = f"1016{number:02d}.000000"
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "MR", maker, model
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = CANARY, "PID-445566", "19700101"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = "EP", "SK", "2D"
    dataset.ScanOptions, dataset.SequenceName = "", "epfid2d1_16"
    dataset.SliceThickness, dataset.SpacingBetweenSlices, dataset.RepetitionTime, dataset.EchoTime = "3", "3.3", "2000", "30"
    dataset.MagneticFieldStrength, dataset.FlipAngle, dataset.EchoNumbers, dataset.EchoTrainLength = "3", "80", "1", "16"
    dataset.PixelBandwidth, dataset.AcquisitionMatrix = "2000", [SIDE, 0, 0, SIDE]
    dataset.InPlanePhaseEncodingDirection, dataset.PatientPosition = "COL", "HFS"
    dataset.NumberOfPhaseEncodingSteps, dataset.ProtocolName, dataset.SeriesDescription = "16", "head", "head"
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[maker])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[maker, str(series)])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[maker, "frame"])
    dataset.StudyID, dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = "1", series, 1, number
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-20.0, -24.0, 10.0], [*ROW, *COLUMN]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.Rows, dataset.Columns = 1, "MONOCHROME2", side, side
    dataset.PixelSpacing, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = ["3", "3"], 16, 12, 11
    dataset.PixelRepresentation, dataset.PixelData = 0, pixels(number, side, side)
    return dataset


def at_slice(dataset: Dataset, index: int) -> None:
    dataset.ImagePositionPatient = [round(start + 3.3 * index * step, 6) for start, step in zip((-20.0, -24.0, 10.0), NORMAL, strict=True)]
    dataset.SliceLocation = f"{3.3 * index:.4f}"


def siemens(series: int, diffusion: bool) -> Iterator[Dataset]:
    """Yield mosaics, one a volume, that only the CSA headers say how to cut."""
    for volume in range(len(B_VALUES)):
        dataset = image("SIEMENS", "Prisma", series, volume + 1, side=3 * SIDE)
        dataset.ImageType, dataset.SoftwareVersions = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "syngo MR E11"
        dataset.SequenceName = "ep_b700#1" if diffusion else "epfid2d1_16"
        tiles = np.zeros((3 * SIDE, 3 * SIDE), "<u2")
        for index in range(SLICES):
            row, column = index // 3 * SIDE, index % 3 * SIDE
            tiles[row : row + SIDE, column : column + SIDE] = np.frombuffer(pixels(100 * volume + index, SIDE, SIDE), "<u2").reshape(
                SIDE, SIDE
            )
        dataset.PixelData = tiles.tobytes()
        elements = {
            "EchoLinePosition": (b"IS", [b"8"]),
            "UsedPatientWeight": (b"IS", [b"71"]),
            "PatientName": (b"PN", [CANARY.encode()]),
            "NumberOfImagesInMosaic": (b"US", [str(SLICES).encode(), b""]),
            "SliceNormalVector": numbers(*NORMAL),
            "MosaicRefAcqTimes": numbers(*TIMES),
            "BandwidthPerPixelPhaseEncode": numbers(62.5),
            "PhaseEncodingDirectionPositive": (b"IS", [b"1"]),
            "ProtocolSliceNumber": (b"IS", [b"0"]),
            "ImageComments": (b"LT", [b"seen by " + CANARY.encode()]),
        }
        if diffusion:
            elements["B_value"] = (b"IS", [str(B_VALUES[volume]).encode()])
            if B_VALUES[volume]:
                elements["DiffusionGradientDirection"] = numbers(*DIRECTIONS[volume])
                elements["DiffusionDirectionality"] = (b"CS", [b"DIRECTIONAL"])
        settings = {"sSliceArray__ucMode": "0x4", "sPat__lAccelFactPE": 2, "sKSpace__lPhaseEncodingLines": SIDE}
        series_header = csa({"tName": (b"UN", [CANARY.encode()]), "MrPhoenixProtocol": (b"UN", [protocol(**settings)])})
        private(
            dataset, 0x0029, "SIEMENS CSA HEADER", {0x08: ("CS", "IMAGE NUM 4"), 0x10: ("OB", csa(elements)), 0x20: ("OB", series_header)}
        )
        yield dataset


def siemens_xa(series: int, diffusion: bool) -> Iterator[Dataset]:
    """Yield enhanced multi-frames, one a volume or one for all of diffusion; what is Siemens' own is in private sequences."""
    volumes = range(len(B_VALUES))
    for number, inside in enumerate([list(volumes)] if diffusion else [[volume] for volume in volumes]):
        dataset = image("Siemens Healthineers", "Vida", series, number + 1, sop_class=ENHANCED_MR)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RepetitionTime", "EchoTime"):
            delattr(dataset, keyword)
        dataset.SoftwareVersions, dataset.NumberOfFrames = "syngo MR XA30", SLICES * len(inside)
        places = [(volume, index) for volume in inside for index in range(SLICES)]
        dataset.PixelData = b"".join(pixels(100 * volume + index, SIDE, SIDE) for volume, index in places)
        dataset.AcquisitionDateTime = f"20240312101{number}00.000000"
        shared, measures, timing, echo, orientation = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = ["3", "3"], "3", "3.3"
        timing.RepetitionTime, timing.FlipAngle, echo.EffectiveEchoTime = "2000", "80", 30.0
        orientation.ImageOrientationPatient = [*ROW, *COLUMN]
        shared.PixelMeasuresSequence, shared.MRTimingAndRelatedParametersSequence = Sequence([measures]), Sequence([timing])
        shared.MREchoSequence, shared.PlaneOrientationSequence = Sequence([echo]), Sequence([orientation])
        geometry = Dataset()
        geometry.InPlanePhaseEncodingDirection, geometry.MRAcquisitionFrequencyEncodingSteps = "COLUMN", SIDE
        geometry.MRAcquisitionPhaseEncodingStepsInPlane = SIDE
        shared.MRFOVGeometrySequence = Sequence([geometry])
        parameters = Dataset()
        parameters.PatientComments = CANARY
        private(
            parameters,
            0x0021,
            "SIEMENS MR SDS 01",
            {0x09: ("LO", "p2"), 0x19: ("OB", protocol(sPat__lAccelFactPE=2)), 0x11: ("LO", CANARY), 0x5A: ("CS", "EP")},
        )
        private(shared, 0x0021, "SIEMENS MR SDS 01", {0xFE: ("SQ", Sequence([parameters]))})
        dataset.SharedFunctionalGroupsSequence = Sequence([shared])
        dataset.PerFrameFunctionalGroupsSequence = Sequence([_xa_frame(volume, index, diffusion) for volume, index in places])
        yield dataset


def _xa_frame(volume: int, index: int, diffusion: bool) -> Dataset:
    frame, content, position, whole = Dataset(), Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", index + 1, [1, index + 1, volume + 1]
    content.FrameAcquisitionDateTime = f"2024031210150{volume}.000000"
    at_slice(whole, index)
    position.ImagePositionPatient = whole.ImagePositionPatient
    frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([position])
    if diffusion:
        gradient, direction = Dataset(), Dataset()
        gradient.DiffusionDirectionality = "DIRECTIONAL" if B_VALUES[volume] else "NONE"
        gradient.DiffusionBValue = float(B_VALUES[volume])
        direction.DiffusionGradientOrientation = list(DIRECTIONS[volume])
        if B_VALUES[volume]:
            gradient.DiffusionGradientDirectionSequence = Sequence([direction])
        frame.MRDiffusionSequence = Sequence([gradient])
    parameters = Dataset()
    private(
        parameters,
        0x0021,
        "SIEMENS MR SDI 02",
        {
            0x04: ("DS", f"{TIMES[index] / 1000:g}"),
            0x1C: ("IS", "1"),
            0x53: ("FD", 62.5),
            0x5F: ("LO", CANARY),
        },
        block=0x11,
    )
    private(frame, 0x0021, "SIEMENS MR SDI 02", {0xFE: ("SQ", Sequence([parameters]))}, block=0x11)
    return frame


def ge_protocol(*lines: str) -> bytes:
    packed = gzip.compress("\n".join(lines).encode(), mtime=0)
    return struct.pack("<I", len(packed)) + packed


def ge_user_data(polarity: int) -> bytes:
    """Return user defined data of version 26 that say EPI and a polarity, full of text otherwise."""
    data = bytearray((CANARY.encode() * 200)[:2000])
    start, moved = 64, 0x4C
    struct.pack_into("<H", data, 24, start)
    struct.pack_into("<f", data, start, 26.002)
    for at, value in ((moved + 0x3A, 0x800 | 0x21), (moved + 0x30, 4 * polarity | 0x50), (moved + 0x394 - 0x8C, 0)):
        struct.pack_into("<H", data, start + at, value)
    return bytes(data)


def ge(series: int, diffusion: bool) -> Iterator[Dataset]:
    """Yield single slices; timing is in the RTIA timer and the protocol, gradients and b-value are in GE's own elements."""
    block = ge_protocol(
        f'PATIENTNAME "{CANARY}"', 'PSEQ "Gradient Echo"', 'IOPT "EPI, FMRI"', 'SLICEORDER "1"', f'NOSLC "{SLICES}"', 'VIEWORDER "1"'
    )
    for number in range(len(B_VALUES) * SLICES):
        volume, index = divmod(number, SLICES)
        dataset = image("GE MEDICAL SYSTEMS", "DISCOVERY MR750", series, number + 1)
        dataset.ImageType, dataset.SoftwareVersions = ["ORIGINAL", "PRIMARY", "OTHER"], "27\\LX\\MR Software release:DV26.0_R05_2008.a"
        dataset.ScanOptions, dataset.ImagesInAcquisition = ["EPI_GEMS", "PFF"], len(B_VALUES) * SLICES
        dataset.TemporalPositionIdentifier, dataset.NumberOfTemporalPositions = volume + 1, len(B_VALUES)
        at_slice(dataset, index)
        x, y, z = DIRECTIONS[volume]
        acquisition = {0x9C: ("LO", "epi2" if diffusion else "epi"), 0x9E: ("LO", "EPI2" if diffusion else "EPI"), 0xA2: ("SL", 7680)}
        if diffusion:
            acquisition |= {
                0xBB: ("DS", f"{x:.6f}"),
                0xBC: ("DS", f"{y:.6f}"),
                0xBD: ("DS", f"{z:.6f}"),
                0xDF: ("DS", "1"),
                0xE0: ("DS", "3"),
            }
        private(dataset, 0x0019, "GEMS_ACQU_01", {**acquisition, 0x0F: ("DS", "1"), 0x99: ("LO", CANARY)})
        private(dataset, 0x0021, "GEMS_RELA_01", {0x4F: ("SS", SLICES), 0x5E: ("DS", f"{TIMES[index] / 100:.6f}")})
        private(dataset, 0x0025, "GEMS_SERS_01", {0x1B: ("OB", block)})
        own: dict[int, tuple[str, Any]] = {0x2A: ("OB", ge_user_data(1)), 0x2C: ("SS", 500), 0x2F: ("SS", 0), 0x83: ("DS", ["0.5", "1"])}
        if diffusion:
            own[0x39] = ("IS", [B_VALUES[volume] + 1000000000, 8, 0, 0])
        private(dataset, 0x0043, "GEMS_PARM_01", {**own, 0x95: ("LO", CANARY)})
        yield dataset


def philips(series: int, diffusion: bool) -> Iterator[Dataset]:
    """Yield single slices with display and scale slopes, b-value and gradient direction in private elements."""
    for number in range(len(B_VALUES) * SLICES):
        volume, index = divmod(number, SLICES)
        dataset = image("Philips Medical Systems", "Ingenia", series, number + 1)
        dataset.ImageType, dataset.SoftwareVersions = ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], ["5.1.7", "5.1.7.2"]
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "2.5", "normalized"
        dataset.TemporalPositionIdentifier, dataset.NumberOfTemporalPositions = volume + 1, len(B_VALUES)
        at_slice(dataset, index)
        x, y, z = DIRECTIONS[volume]
        imaging: dict[int, tuple[str, Any]] = {
            0x0A: ("IS", index + 1),
            0x0B: ("CS", "TRANSVERSAL"),
            0x18: ("SL", SLICES),
            0x22: ("FL", 11.0),
        }
        if diffusion:
            imaging[0x03] = ("FL", float(B_VALUES[volume]))
            imaging[0x04] = ("CS", "O")
        stack = Dataset()
        private(
            stack, 0x2005, "Philips MR Imaging DD 001", {0x71: ("FL", 0.0), 0x72: ("FL", 0.0), 0x73: ("FL", 12.0), 0x77: ("LO", CANARY)}
        )
        private(dataset, 0x2001, "Philips Imaging DD 001", {**imaging, 0x5F: ("SQ", Sequence([stack])), 0xC8: ("LO", CANARY)})
        scale: dict[int, tuple[str, Any]] = {0x0D: ("FL", 0.0), 0x0E: ("FL", 0.0125), 0x63: ("SS", 0), 0xA0: ("FL", 2.0 * volume)}
        if diffusion:
            scale |= {0xB0: ("FL", x), 0xB1: ("FL", y), 0xB2: ("FL", z)}
        private(dataset, 0x2005, "Philips MR Imaging DD 001", {**scale, 0x5F: ("LO", CANARY)})
        yield dataset


MAKERS: dict[str, Callable[[int, bool], Iterator[Dataset]]] = {"Siemens": siemens, "Siemens XA": siemens_xa, "GE": ge, "Philips": philips}


def encoded(dataset: Dataset) -> bytes:
    """Return a data set as a file, explicit little endian."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


class Volume(NamedTuple):
    """What a converter made of a series."""

    shape: tuple[int, ...]
    values: str
    affine: tuple[float, ...]
    b_values: str
    b_vectors: str
    sidecar: dict[str, Any]


def convert(files: list[bytes], folder: Path) -> list[Volume]:
    """Return what dcm2niix makes of files, in an order that does not depend on names."""
    source, target = folder / "dicom", folder / "nifti"
    source.mkdir(parents=True)
    target.mkdir()
    for number, content in enumerate(files):
        (source / f"{number:03d}.dcm").write_bytes(content)
    subprocess.run(
        ["dcm2niix", "-b", "y", "-ba", "n", "-z", "n", "-f", "%s_%d", "-o", target, source], check=False, capture_output=True, timeout=100
    )
    return sorted(map(_volume, target.glob("*.nii")), key=lambda volume: (volume.shape, volume.values))


def _volume(path: Path) -> Volume:
    """Read a NIfTI-1 file by the layout of its header, and the files beside it."""
    content = path.read_bytes()
    dimensions = struct.unpack_from("<8h", content, 40)
    start = int(struct.unpack_from("<f", content, 108)[0])
    slope = struct.unpack_from("<2f", content, 112)
    spacing, rows = struct.unpack_from("<8f", content, 76), struct.unpack_from("<18f", content, 256)
    beside = {suffix: path.with_suffix(suffix) for suffix in (".bval", ".bvec", ".json")}
    texts = {suffix: file.read_text() if file.exists() else "" for suffix, file in beside.items()}
    values = hashlib.sha256(content[start:] + repr(slope).encode()).hexdigest()
    affine = tuple(round(number, 3) for number in (*spacing[:4], *rows))
    return Volume(dimensions[1 : dimensions[0] + 1], values, affine, texts[".bval"], texts[".bvec"], json.loads(texts[".json"] or "{}"))


@pytest.fixture(scope="session")
def make() -> Callable[[str, bool], list[bytes]]:
    """Return the files of a maker's functional or diffusion series."""
    return lambda maker, diffusion: [encoded(dataset) for dataset in MAKERS[maker](7 if diffusion else 5, diffusion)]


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[bytes]], list[Volume]]:
    require_program("dcm2niix", "dcm2niix")
    return lambda files: convert(files, tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="session")
def write_csa() -> Callable[..., bytes]:
    return csa
