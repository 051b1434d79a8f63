"""A head made of ellipsoids, in any pose, as the images of a CT or an MR series; and where in it brain and face are."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
CENTRE = np.array([0.0, 20.0, 5.0])
# (middle, half axes) in mm; x to the left, y to the back, z up.
CRANIUM = ((0, 20, 5), (84, 104, 94))
_FACE = (
    ((0, -32, -58), (60, 46, 62)),
    ((0, -84, -42), (11, 24, 20)),  # nose
    ((0, -58, -106), (26, 24, 18)),  # chin
    ((87, 25, -15), (7, 14, 28)),  # ears
    ((-87, 25, -15), (7, 14, 28)),
)
_EYES = (((31, -66, -30), (12, 12, 12)), ((-31, -66, -30), (12, 12, 12)))
_AXES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
}


@dataclass(frozen=True)
class Pose:
    """How the head is held, in degrees: chin down, turned to the left, leant to the side; its size, 1 for an adult's, and where it lies."""

    pitch: float = 0
    yaw: float = 0
    roll: float = 0
    size: float = 1.0
    shift: tuple[float, float, float] = (0, 0, 0)

    def to_head(self, points: Floats) -> Floats:
        """Return places in the patient as places in the head that stands straight."""
        pitch, yaw, roll = np.radians([self.pitch, self.yaw, self.roll])
        about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        about_y = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
        return np.asarray((points - CENTRE - np.array(self.shift)) @ (about_z @ about_y @ about_x) / self.size + CENTRE)


def inside(points: Floats, body: tuple[tuple[float, ...], tuple[float, ...]], scale: float = 1.0) -> Mask:
    """Return which points are in an ellipsoid."""
    return np.asarray((((points - np.array(body[0])) / (np.array(body[1]) * scale)) ** 2).sum(axis=-1) <= 1)


def brain(head: Floats) -> Mask:
    """Return which places of the head are brain: its base rises to the front."""
    above = head[..., 2] > -30 - (head[..., 1] + 60) * 0.27
    return inside(head, CRANIUM, 0.88) & above


def tissue(head: Floats) -> Mask:
    """Return which places of the head are tissue, neck included."""
    found = inside(head, CRANIUM)
    for body in _FACE:
        found |= inside(head, body)
    neck = (head[..., 0] / 55) ** 2 + ((head[..., 1] - 38) / 60) ** 2 <= 1
    return np.asarray(found | (neck & (head[..., 2] < -40)))


def face(head: Floats) -> Mask:
    """Return which places are the face: nose, mouth, chin, and the eyes as far as they lie before the cranium."""
    found = inside(head, _FACE[1]) | inside(head, _FACE[2]) | (inside(head, _FACE[0]) & (head[..., 1] < -55))
    for eye in _EYES:
        found |= inside(head, eye)
    return np.asarray(found & ~inside(head, CRANIUM, 0.97) & tissue(head))


def values(head: Floats, modality: str) -> Floats:
    """Return Hounsfield units, or the intensities of a T1-weighted MR."""
    body, within = tissue(head), brain(head)
    skull = inside(head, CRANIUM, 0.95) & ~inside(head, CRANIUM, 0.89)
    if modality == "CT":
        found = np.where(body, 40.0, -1000.0)
        found[skull] = 900
        found[within] = 35
        return found
    found = np.where(body, 420.0, 0.0)
    found[skull] = 60
    found[within] = 300
    return found


@dataclass(frozen=True)
class Scan:
    """How images are taken: plane, ends of the stack and of the field of view in mm, spacing, and the noise of a voxel."""

    modality: str = "CT"
    plane: str = "axial"
    low: tuple[float, float, float] = (-120, -135, -150)
    high: tuple[float, float, float] = (120, 150, 120)
    pixel: float = 2.0
    slice: float = 5.0
    noise: float = 0.0
    table: bool = False


def places(scan: Scan) -> tuple[Floats, Floats, Floats]:
    """Return the first pixel's place of each image, and the steps to the next column and row."""
    row, column = (np.array(axis, float) for axis in _AXES[scan.plane])
    across = np.cross(row, column)
    low, high = np.array(scan.low, float), np.array(scan.high, float)
    start = np.where(row + column + across >= 0, low, high)
    depth = float(np.abs(across) @ (high - low))
    count = int(depth / scan.slice) + 1
    return start + np.arange(count)[:, None] * across * scan.slice, row * scan.pixel, column * scan.pixel


def points(scan: Scan) -> Floats:
    """Return where each pixel of each image lies: (images, rows, columns, 3)."""
    origins, row, column = places(scan)
    size = np.array(scan.high) - np.array(scan.low)
    rows, columns = (int(abs(axis) @ size / (axis @ axis)) for axis in (column, row))
    return np.asarray(
        origins[:, None, None] + np.arange(rows)[None, :, None, None] * column + np.arange(columns)[None, None, :, None] * row
    )


def volume(pose: Pose, scan: Scan, seed: int = 1) -> Floats:
    """Return what the images show."""
    at = points(scan)
    found = values(pose.to_head(at), scan.modality)
    if scan.table:
        rest = (at[..., 1] > 132) & (at[..., 1] < 140)
        found[rest] = 120 if scan.modality == "CT" else 0
    if scan.noise:
        source = np.random.default_rng(seed)
        noise = source.normal(0, scan.noise, found.shape)
        found = found + noise if scan.modality == "CT" else np.hypot(found + noise, source.normal(0, scan.noise, found.shape))
    return found


def series(shown: Floats, scan: Scan, uid: str = "1.2.3.7", **elements: Any) -> list[bytes]:
    """Return the images as Part 10 files."""
    origins, row, column = places(scan)
    return [_image(shown[n], origins[n], row, column, scan, uid, n, elements) for n in range(len(shown))]


def _image(shown: Floats, origin: Floats, row: Floats, column: Floats, scan: Scan, uid: str, n: int, elements: dict[str, Any]) -> bytes:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage if scan.modality == "CT" else MRImageStorage
    image.SOPInstanceUID = f"{uid}.{n + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3.6", uid, "1.2.3.8"
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    image.PatientName, image.PatientID = "DOE^JANE", "4711"
    image.Modality, image.ImageType = scan.modality, ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.BodyPartExamined, image.InstanceNumber = "HEAD", n + 1
    image.ImagePositionPatient = [round(float(value), 4) for value in origin]
    image.ImageOrientationPatient = [float(value) for value in (*row / np.linalg.norm(row), *column / np.linalg.norm(column))]
    image.PixelSpacing, image.SliceThickness = [scan.pixel, scan.pixel], scan.slice
    image.Rows, image.Columns = shown.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    offset = 1024 if scan.modality == "CT" else 0
    if scan.modality == "CT":
        image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.PixelData = np.clip(np.rint(shown + offset), 0, 4095).astype("<u2").tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()
