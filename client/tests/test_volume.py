"""Volumes out of DICOM files: beside dcm2niix on public and synthetic series, and what is refused."""

import copy
import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from mdm_client.volume.geometry import Volume, stack
from mdm_client.volume.reading import read_slices
from mdm_wire.errors import FailedPrecondition
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from client.tests.imaging import slices
from client.tests.nifti import converted, difference, files_of, oblique

_NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


@pytest.fixture(autouse=True)
def quiet():
    """What modalities wrote makes pydicom and nibabel remark on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def volume_of(files: list[bytes]) -> Volume:
    return stack([item for data in files for item in read_slices(data)])


def public(name: str) -> bytes:
    if (_NICOM / name).exists():
        data = (_NICOM / name).read_bytes()
        return gzip.decompress(data) if name.endswith(".gz") else data
    path = get_testdata_file(name, download=False)
    assert path, name
    return Path(str(path)).read_bytes()


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (["siemens_dwi_0.dcm.gz"], (128, 128, 48)),  # a mosaic
        (["siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz"], (128, 128, 48, 2)),  # two of them
        (["philips_mprage.dcm.gz"], (256, 256, 176)),  # enhanced multi-frame, sagittal
        (["eCT_Supplemental.dcm"], (512, 512, 2)),  # enhanced CT
        (["liver.dcm"], (512, 512, 3)),  # a segmentation: single bits
        (["CT_small.dcm"], (128, 128, 1)),
        (["MR_small.dcm"], (64, 64, 1)),
        (["decimal_rescale.dcm"], (128, 96, 1)),  # a slope that is no whole number
    ],
)
def test_a_volume_is_the_one_that_dcm2niix_makes_of_public_images(names, shape, tmp_path):
    files = [public(name) for name in names]
    volume = volume_of(files)
    assert volume.array.shape == shape
    (image,) = converted(files, tmp_path)
    assert difference(volume, image) == (pytest.approx(0, abs=1e-3), 0)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_an_oblique_series_in_any_order_is_the_one_that_dcm2niix_makes(count, tmp_path):
    files = files_of(oblique(count))
    volume = volume_of(files)
    assert volume.array.shape == (14, 10, count)
    (image,) = converted(files, tmp_path)
    assert difference(volume, image) == (pytest.approx(0, abs=1e-4), 0)


def test_indices_lead_to_the_place_that_the_header_says():
    """DICOM's own formula (PS3.3 C.7.6.2.1.1) for each sample of each slice, also where the gantry is tilted."""
    datasets = oblique(5, shear=0.7)
    volume = volume_of(files_of(datasets))
    ordered = sorted(datasets, key=lambda dataset: dataset.InstanceNumber)
    for k, dataset in enumerate(ordered):
        row, column = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        for i, j in ((0, 0), (13, 9), (5, 7)):
            place = np.array(dataset.ImagePositionPatient, float) + row * 0.6 * i + column * 0.8 * j
            expected = place * [-1, -1, 1]
            assert (volume.affine @ [i, j, k, 1])[:3] == pytest.approx(expected, abs=1e-6)
            assert volume.array[i, j, k] == int(dataset.pixel_array[j, i]) * 2 - 100


def test_several_times_become_a_fourth_dimension():
    first, second = oblique(4), oblique(4)
    for time, series in enumerate((first, second), 1):
        for dataset in series:
            dataset.TemporalPositionIdentifier = 3 - time
            dataset.RescaleIntercept = time
    volume = volume_of(files_of([*first, *second]))
    assert volume.array.shape == (14, 10, 4, 2)
    assert np.all(volume.array[..., 0] - volume.array[..., 1] == 1)


def test_a_dose_is_in_its_unit_and_at_its_planes():
    dataset = slices(1, 4)[0]
    dataset.Modality = "RTDOSE"
    dataset.NumberOfFrames, dataset.GridFrameOffsetVector, dataset.DoseGridScaling = 3, [0, 2.5, 5], 0.25
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.PixelData = np.arange(48, dtype=np.uint16).tobytes()
    volume = volume_of(files_of([dataset]))
    assert volume.array[1, 2, 2] == (32 + 2 * 4 + 1) * 0.25
    assert volume.affine[2, 2] == 2.5


def _remove(number: int) -> Callable[[list[Dataset]], None]:
    return lambda series: series.__delitem__(number)


def _each(**values: Any) -> Callable[[list[Dataset]], None]:
    def change(series: list[Dataset]) -> None:
        for dataset in series:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return change


def _one(**values: Any) -> Callable[[list[Dataset]], None]:
    return lambda series: _each(**values)(series[1:2])


def _repeat(series: list[Dataset]) -> None:
    again = copy.deepcopy(series[2])
    again.SOPInstanceUID = generate_uid()
    series.append(again)


def _twice(series: list[Dataset]) -> None:
    series += [copy.deepcopy(dataset) for dataset in series]


def _colour(series: list[Dataset]) -> None:
    _each(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7)(series)
    for dataset in series:
        dataset.PixelRepresentation = 0
        dataset.PixelData = bytes(3 * 140)


def _no_pixels(series: list[Dataset]) -> None:
    del series[0].PixelData


def _frames(series: list[Dataset]) -> None:
    del series[1:]
    series[0].NumberOfFrames = 2
    series[0].PixelData = series[0].PixelData * 2


def _mosaic(series: list[Dataset]) -> None:
    del series[1:]
    series[0].ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]


def _cut(series: list[Dataset]) -> None:
    series[0].PixelData = series[0].PixelData[:100]


def _enhanced_without_place(series: list[Dataset]) -> None:
    del series[1:]
    series[0].NumberOfFrames = 1
    series[0].PerFrameFunctionalGroupsSequence = Sequence([Dataset()])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_remove(2), "VOLUME_SLICES_MISSING"),
        (_repeat, "VOLUME_SLICES_REPEATED"),
        (_twice, "VOLUME_SLICES_REPEATED"),
        (_one(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "VOLUME_ORIENTATIONS_DIFFER"),
        (_one(PixelSpacing=[0.8, 0.7]), "VOLUME_SIZES_DIFFER"),
        (_one(Rows=7, Columns=20), "VOLUME_SIZES_DIFFER"),
        (_one(ImagePositionPatient=None), "VOLUME_NO_GEOMETRY"),
        (_each(PixelSpacing=[0, 0]), "VOLUME_NO_GEOMETRY"),
        (_colour, "VOLUME_COLOUR"),
        (_no_pixels, "NOT_AN_IMAGE"),
        (_frames, "VOLUME_NO_GEOMETRY"),
        (_mosaic, "VOLUME_MOSAIC"),
        (_cut, "CANNOT_DECODE"),
        (_enhanced_without_place, "VOLUME_NO_GEOMETRY"),
    ],
)
def test_what_is_no_regular_grid_is_refused_with_the_reason(change, reason):
    series = oblique(6, shuffle=False)
    change(series)
    with pytest.raises(FailedPrecondition) as refused:
        volume_of(files_of(series))
    assert refused.value.reason == reason
    assert "\n" not in refused.value.message


def test_a_slice_beside_the_line_is_refused():
    series = oblique(6, shuffle=False)
    row = np.array(series[3].ImageOrientationPatient[:3], float)
    series[3].ImagePositionPatient = [float(a) + 0.5 * b for a, b in zip(series[3].ImagePositionPatient, row, strict=True)]
    with pytest.raises(FailedPrecondition) as refused:
        volume_of(files_of(series))
    assert refused.value.reason == "VOLUME_NOT_STRAIGHT"
    with pytest.raises(FailedPrecondition):
        stack([])
