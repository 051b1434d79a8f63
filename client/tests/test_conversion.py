"""mdm get --png, --nifti and --bids over a grid of fakes; dcm2niix is the real one, and so is the validator of BIDS."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from mdm_client.conversion import nifti
from mdm_client.conversion.guess import guess
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, generate_uid

from client.tests.imaging import imaging_grid, slices
from client.tests.nifti import oblique
from client.tests.test_cli import mdm, rows

_NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


@pytest.fixture
def imaging(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid") as served, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield served


def folder_of(imaging, dataset) -> str:
    return imaging.image_of(dataset.SOPInstanceUID).lfn.rpartition("/")[0]


def public(name: str) -> Dataset:
    place = _NICOM / name
    if place.exists():
        dataset = dcmread(io.BytesIO(gzip.decompress(place.read_bytes())))
    else:
        dataset = dcmread(str(get_testdata_file(name, download=False)))
    dataset.InstanceNumber = dataset.get("InstanceNumber") or 1
    return dataset


def mr(count: int = 12, number: int = 1, **values: Any) -> list[Dataset]:
    """Return an MR series of given times (milliseconds) and names."""
    series = oblique(count, shuffle=False)
    for dataset in series:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.Modality, dataset.SeriesNumber, dataset.Manufacturer = "MR", number, "Philips"
        dataset.PatientSex, dataset.PatientAge, dataset.StudyDate = "F", "034Y", "20010203"
        dataset.MRAcquisitionType = "3D"
        del dataset.RescaleSlope, dataset.RescaleIntercept
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
    return series


def times(count: int, number: int = 5) -> list[Dataset]:
    """Return an echo-planar series of `count` volumes of four slices."""
    found = []
    for time in range(1, count + 1):
        for dataset in mr(4, number, EchoTime=30, RepetitionTime=2000, ScanningSequence="EP", MRAcquisitionType="2D"):
            dataset.TemporalPositionIdentifier, dataset.NumberOfTemporalPositions = time, count
            dataset.InstanceNumber += 4 * (time - 1)
            dataset.SOPInstanceUID = generate_uid()
            found.append(dataset)
    return found


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_pictures_have_the_window_asked_for_and_a_file_for_each_frame(imaging, tmp_path):
    steps = slices(1, 32)[0]
    steps.PixelData = np.repeat(np.arange(32, dtype=np.uint16)[None] * 100, 32, 0).tobytes()
    frames, colour = public("emri_small.dcm"), public("US1_UNCR.dcm")
    imaging.add_study([steps], [frames], [colour])
    out = tmp_path / "out"
    config = imaging.config()
    found = mdm(config, "get", folder_of(imaging, steps), "-o", str(out), "--png", "--window", "576", "3200")
    assert (found.exit_code, files_below(out)) == (0, ["0001.png"]), found.stderr
    grey = np.asarray(Image.open(out / "0001.png"))
    expected = np.clip((np.arange(32) * 100 - 1024 + 1024) / 3200, 0, 1) * 255
    assert np.abs(grey[5].astype(float) - expected).max() <= 1
    deep = mdm(config, "get", folder_of(imaging, steps), "-o", str(out), "--png", "--window", "576", "3200", "--bits", "16", "-f")
    assert deep.exit_code == 0, deep.stderr
    picture = Image.open(out / "0001.png")
    assert picture.mode == "I;16"
    assert np.abs(np.asarray(picture)[5].astype(float) - expected * 257).max() <= 2
    multi = mdm(config, "get", folder_of(imaging, frames), "-o", str(tmp_path / "multi"), "--png")
    assert (multi.exit_code, files_below(tmp_path / "multi")) == (0, [f"0001-{number:04d}.png" for number in range(1, 11)])
    assert mdm(config, "get", folder_of(imaging, colour), "-o", str(tmp_path / "us"), "--png", "--bits", "16").exit_code == 0
    assert Image.open(next((tmp_path / "us").iterdir())).mode == "RGB"


def test_what_is_no_picture_fails_alone_and_nothing_that_exists_is_replaced(imaging, tmp_path):
    plan = public("rtplan.dcm")
    series = slices(2)
    study = imaging.add_study([plan], series)
    out = tmp_path / "out"
    config = imaging.config()
    target = f"/biomed/hospital-a/P{study[-8:]}/{study}"
    found = mdm(config, "get", target, "-o", str(out), "--png")
    assert (found.exit_code, len(files_below(out))) == (1, 2)
    assert "an object of modality RTPLAN has no pixels to draw" in found.stderr
    again = mdm(config, "--json", "get", folder_of(imaging, series[0]), "-o", str(out / series[0].SeriesInstanceUID), "--png")
    assert (again.exit_code, [row["reason"] for row in rows(again.stderr)]) == (1, ["LOCAL_FILE_EXISTS"] * 2)


def test_options_that_do_not_go_together_are_refused(imaging, tmp_path):
    config = imaging.config()
    for options in (
        ["--png", "--nifti"],
        ["--nifti", "--bids"],
        ["--nifti", "--bits", "16"],
        ["--window", "1", "2"],
        ["--png", "--window", "1", "0"],
        ["--png", "--skip-existing"],
    ):
        assert mdm(config, "get", "/biomed/x", "-o", str(tmp_path), *options).exit_code == 2, options


def test_a_series_becomes_a_volume_with_its_sidecar(imaging, client_volume, tmp_path):
    series = mr(9, 3, EchoTime=4, RepetitionTime=20, ScanningSequence="GR")
    study = imaging.add_study(series, [public("siemens_dwi_0.dcm.gz"), public("siemens_dwi_1000.dcm.gz")])
    out = tmp_path / "out"
    found = mdm(imaging.config(), "get", f"/biomed/hospital-a/P{study[-8:]}/{study}", "-o", str(out), "--nifti")
    assert found.exit_code == 0, found.stderr
    place = series[0].SeriesInstanceUID
    other = next(name for name in files_below(out) if not name.startswith(place)).partition("/")[0]
    assert files_below(out) == sorted(
        [f"{place}/series-3.json", f"{place}/series-3.nii.gz"]
        + [f"{other}/series-12{suffix}" for suffix in (".bval", ".bvec", ".json", ".nii.gz")]
    )
    image = nibabel.load(out / place / "series-3.nii.gz")
    volume = client_volume(place)
    ours = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array, volume.affine))
    theirs = nibabel.as_closest_canonical(image)
    assert np.array_equal(ours.get_fdata(), theirs.get_fdata())
    assert ours.affine == pytest.approx(theirs.affine, abs=1e-3)
    assert json.loads((out / place / "series-3.json").read_text())["EchoTime"] == 0.004
    assert all((path.stat().st_mode & 0o777) == 0o600 for path in out.rglob("*") if path.is_file())
    assert not list(out.glob(".mdm-*"))


@pytest.fixture
def client_volume(imaging):
    from mdm_client import Client

    with Client.load(imaging.config()) as client:
        yield client.volume


def test_series_that_are_no_plain_volume_are_converted_or_refused_each_with_a_line(imaging, tmp_path):
    gap = mr(8)
    del gap[3]
    mixed = mr(6)
    mixed[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    single, colour, plan = mr(1), public("US1_UNCR.dcm"), public("rtplan.dcm")
    imaging.add_study(gap, mixed, single, [colour], [plan])
    names = {name: folder_of(imaging, dataset) for name, dataset in
             {"gap": gap[0], "mixed": mixed[0], "single": single[0], "colour": colour, "plan": plan}.items()}  # fmt: skip
    out = tmp_path / "out"
    found = mdm(imaging.config(), "--json", "get", *names.values(), "-o", str(out), "--nifti")
    said = {(row.get("item"), row["reason"]): row["message"] for row in rows(found.stderr)}
    assert found.exit_code == 1
    assert "missing" in said[names["gap"], "VOLUME_DOUBTFUL"] or "uneven" in said[names["gap"], "VOLUME_DOUBTFUL"]
    assert (names["mixed"], "VOLUME_DOUBTFUL") in said
    assert "no image in it" in said[names["plan"], "NOT_A_VOLUME"]
    assert not any(item in (names["single"], names["colour"]) for item, _ in said)
    made = {row["name"] for row in rows(found.stdout)}
    assert made == set(names.values()) - {names["plan"]}


def test_a_series_of_which_a_file_is_missing_is_not_made(imaging, tmp_path):
    series = mr(6)
    imaging.add_study(series, mr(3, 2))
    broken = imaging.image_of(series[2].SOPInstanceUID)
    broken.ciphertext = broken.ciphertext[:-1] + bytes([broken.ciphertext[-1] ^ 1])
    out = tmp_path / "out"
    lfn = folder_of(imaging, series[0])
    found = mdm(imaging.config(), "get", lfn.rpartition("/")[0], "-o", str(out), "--nifti")
    assert found.exit_code == 1
    assert "1 of its 6 files could not be fetched: nothing was made of the rest" in found.stderr
    assert [name.rpartition("/")[2] for name in files_below(out)] == ["series-2.json", "series-2.nii.gz"]


def test_dcm2niix_that_is_missing_or_fails_is_one_line(imaging, tmp_path, monkeypatch):
    series = mr(3)
    imaging.add_study(series)
    config, target = imaging.config(), folder_of(imaging, series[0])
    monkeypatch.setattr("mdm_client.conversion.nifti.find_spec", lambda name: None)
    monkeypatch.setattr("mdm_client.conversion.nifti.shutil.which", lambda name: None)
    missing = mdm(config, "get", target, "-o", str(tmp_path / "a"), "--nifti")
    assert (missing.exit_code, len(missing.stderr.splitlines())) == (2, 1)
    assert "pip install 'mdm-client[nifti]'" in missing.stderr
    program = tmp_path / "dcm2niix"
    monkeypatch.setattr("mdm_client.conversion.nifti.shutil.which", lambda name: str(program))
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    failed = mdm(config, "get", target, "-o", str(tmp_path / "b"), "--nifti")
    assert "dcm2niix ended with code 3" in failed.stderr
    program.write_text(f'#!/bin/sh\n"{real()}" "$@"; for f in "${{14}}"/*.nii.gz; do truncate -s 300 "$f"; done\n')
    cut = mdm(config, "get", target, "-o", str(tmp_path / "c"), "--nifti")
    assert "cannot be read; is the disk full?" in cut.stderr, cut.stderr + cut.stdout
    assert files_below(tmp_path / "b") == files_below(tmp_path / "c") == []


def real() -> str:
    import dcm2niix

    return str(dcm2niix.bin)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("kind", ["--png", "--nifti", "--bids"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half(imaging, tmp_path, kind):
    series = mr(6, 1, Rows=256, Columns=256, EchoTime=4, RepetitionTime=20, ScanningSequence="GR")
    for dataset in series:
        dataset.PixelData = np.random.default_rng(1).integers(0, 4000, (256, 256), dtype=np.int16).tobytes()
    imaging.add_study(series)
    out = tmp_path / "small"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(out)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        found = mdm(imaging.config(), "get", folder_of(imaging, series[0]), "-o", str(out), kind)
        assert found.exit_code != 0
        assert "No space left on device" in found.stderr or "could not be fetched" in found.stderr
        assert not list(out.glob(".mdm-*")) and not list(out.rglob("*.part"))
        for path in out.rglob("*.png"):
            Image.open(path).load()
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_a_tree_of_bids_is_valid_and_what_is_unknown_is_left_out_and_named(imaging, tmp_path):
    dwi = [public("siemens_dwi_0.dcm.gz"), public("siemens_dwi_1000.dcm.gz")]
    for dataset in dwi:
        dataset.StudyDate = "20010203"
    known = [
        mr(12, 1, EchoTime=4, RepetitionTime=20, ScanningSequence="GR"),
        mr(12, 2, EchoTime=90, RepetitionTime=5000, ScanningSequence="SE"),
        mr(12, 3, EchoTime=120, RepetitionTime=8000, InversionTime=2400, ScanningSequence="IR"),
        times(12),
        mr(12, 9, SeriesDescription="t1_mprage_sag"),
    ]
    unknown = [slices(3), mr(5, 7), mr(5, 8, SeriesDescription="localizer"), mr(5, 10, ImageType=["DERIVED", "SECONDARY", "MPR"])]
    study = imaging.add_study(*known, dwi, *unknown)
    out = tmp_path / "bids"
    place = f"/biomed/hospital-a/P{study[-8:]}"
    found = mdm(imaging.config(), "--json", "get", place, "-o", str(out), "--bids")
    assert found.exit_code == 0, found.stderr
    subject = f"sub-P{study[-8:]}"
    names = [name for name in files_below(out) if name.endswith(".nii.gz")]
    kinds = sorted(name.rpartition("/")[2].split("_", 2)[2] for name in names)
    assert kinds == ["FLAIR.nii.gz", "T2w.nii.gz", "dwi.nii.gz", "run-1_T1w.nii.gz", "run-2_T1w.nii.gz", "task-unnamed_bold.nii.gz"]
    assert all(name.startswith(f"{subject}/ses-20010203x") for name in names)
    left = {row["item"]: row["message"] for row in rows(found.stderr)}
    assert [left[folder_of(imaging, series[0])].split()[0] for series in unknown] == ["CT", "neither", "its", "derived"]
    assert len(left) == 4
    table = list(csv.DictReader((out / "participants.tsv").open(), delimiter="\t"))
    assert table == [{"participant_id": subject, "sex": "F", "age": "34"}]
    bold = json.loads(next(out.rglob("*_bold.json")).read_text())
    assert (bold["TaskName"], bold["RepetitionTime"]) == ("unnamed", 2.0)
    assert validated(out) == []
    other = imaging.add_study(mr(12, 1, EchoTime=4, RepetitionTime=20, ScanningSequence="GR", PatientSex="M", PatientAge=""))
    assert mdm(imaging.config(), "get", f"/biomed/hospital-a/P{other[-8:]}", "-o", str(out), "--bids").exit_code == 0
    table = list(csv.DictReader((out / "participants.tsv").open(), delimiter="\t"))
    assert [(row["sex"], row["age"]) for row in table if row["participant_id"] != subject] == [("M", "n/a")]
    assert validated(out) == []
    again = mdm(imaging.config(), "--json", "get", f"/biomed/hospital-a/P{other[-8:]}", "-o", str(out), "--bids")
    assert (again.exit_code, rows(again.stderr)[-1]["reason"]) == (1, "LOCAL_FILE_EXISTS")
    (out / "dataset_description.json").unlink()
    assert validated(out) != []


def validated(tree: Path) -> list[dict[str, Any]]:
    """Return the errors that the BIDS validator finds."""
    program = Path(sys.executable).with_name("bids-validator-deno")
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run([str(program), str(tree), "--format", "json"], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    issues: list[dict[str, Any]] = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue.get("severity") == "error"]


@pytest.mark.parametrize(
    ("sidecar", "volumes", "b_values", "mark", "expected"),
    [
        ({"EchoTime": 0.003, "RepetitionTime": 2.3, "InversionTime": 0.9}, 1, [], "", "T1w"),
        ({"EchoTime": 0.01, "RepetitionTime": 0.5, "ScanningSequence": "SE"}, 1, [], "", "T1w"),
        ({"EchoTime": 0.02, "RepetitionTime": 3, "ScanningSequence": "SE"}, 1, [], "", "PDw"),
        ({"EchoTime": 0.02, "RepetitionTime": 0.6, "ScanningSequence": "GR"}, 1, [], "", ""),
        ({"ProtocolName": "ax T2* GRE"}, 1, [], "", "T2starw"),
        ({"SeriesDescription": "TOF_3D_multi-slab"}, 1, [], "", "angio"),
        ({"SeriesDescription": "gre_field_mapping"}, 1, [], "", ""),
        ({"SeriesDescription": "t1_mprage"}, 1, [], "_e2", ""),
        ({"SeriesDescription": "t1_mprage"}, 2, [], "", ""),
        ({"SeriesDescription": "t1", "ScanningSequence": "EP"}, 1, [], "", ""),
        ({}, 3, [0, 0, 0], "", ""),
        ({}, 3, [0, 1000], "", ""),
    ],
)
def test_a_guess_is_made_only_where_the_header_says_enough(sidecar, volumes, b_values, mark, expected):
    found = guess({"Modality": "MR", **sidecar}, volumes, b_values, mark)
    assert found.suffix == expected
    assert bool(found.left_out) == (not expected)


def test_the_private_folder_is_for_this_user_only_and_removed(tmp_path):
    with pytest.raises(RuntimeError), nifti.private_folder(tmp_path / "out") as folder:
        assert (folder.stat().st_mode & 0o777) == 0o700
        (folder / "1.dcm").write_bytes(b"pixels")
        raise RuntimeError
    assert list((tmp_path / "out").iterdir()) == []
