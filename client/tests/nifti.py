"""dcm2niix and nibabel as judges of volumes, and synthetic series in space."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel
import numpy as np
from mdm_client.volume.geometry import Volume
from pydicom.dataset import Dataset

from client.tests.imaging import slices, written


def converted(files: Sequence[bytes], folder: Path) -> list[Any]:
    """Return the NIfTI images that dcm2niix makes of DICOM files."""
    source, made = folder / "dicom", folder / "nifti"
    for place in (source, made):
        place.mkdir()
    for number, data in enumerate(files):
        (source / f"{number}.dcm").write_bytes(data)
    subprocess.run([dcm2niix.bin, "-z", "n", "-f", "x", "-o", str(made), str(source)], check=True, capture_output=True)
    return [nibabel.load(path) for path in sorted(made.glob("*.nii"))]


def difference(volume: Volume, image: Any) -> tuple[float, float]:
    """Return the largest difference of affine and of values, once both are in the order of RAS."""
    ours = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array, volume.affine))
    theirs = nibabel.as_closest_canonical(image)
    assert ours.shape == theirs.shape
    values = np.abs(ours.get_fdata() - theirs.get_fdata())
    return float(np.abs(ours.affine - theirs.affine).max()), float(values.max())


def oblique(count: int, *, shear: float = 0.0, shuffle: bool = True) -> list[Dataset]:
    """Return slices that lie obliquely in space, of pixels that are not square, with noise of their own; `shear` tilts the gantry (mm)."""
    random = np.random.default_rng(7)
    turn = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.15, 1, 0.3], [-0.1, -0.25, 1]]))[0]
    turn *= np.sign(np.diag(turn))
    found = slices(count, 12)
    for number, dataset in enumerate(found):
        dataset.Rows, dataset.Columns = 10, 14
        dataset.PixelSpacing = [0.8, 0.6]
        dataset.SliceThickness = 2.5
        dataset.ImageOrientationPatient = [round(float(value), 12) for value in (*turn[:, 0], *turn[:, 1])]
        place = np.array([-20.5, 11.25, 300.0]) + turn[:, 2] * np.linalg.det(turn) * 2.5 * number + turn[:, 1] * shear * number
        dataset.ImagePositionPatient = [round(float(value), 10) for value in place]
        dataset.PixelRepresentation = 1
        dataset.PixelData = random.integers(-1000, 1000, (10, 14), dtype=np.int16).tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -100
    if shuffle:
        random.shuffle(found)  # type: ignore[arg-type]
    return found


def files_of(datasets: Sequence[Dataset]) -> list[bytes]:
    """Return datasets as files."""
    return [written(dataset) for dataset in datasets]
