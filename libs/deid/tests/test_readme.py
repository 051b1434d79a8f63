"""The example of the README runs as it stands there."""

import re
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def run_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})


def test_the_example_releases_an_image_without_its_patient(tmp_path, monkeypatch):
    original = Path(get_testdata_file("CT_small.dcm"))
    (tmp_path / "image.dcm").write_bytes(original.read_bytes())
    (tmp_path / "site.secret").write_bytes(bytes(range(32)))
    run_example(tmp_path, monkeypatch)
    before, after = pydicom.dcmread(original), pydicom.dcmread(tmp_path / "released.dcm")
    assert after.PatientID not in ("", before.PatientID)
    assert after.PixelData == before.PixelData


def test_the_example_prints_why_nothing_is_released(tmp_path, monkeypatch, capsys):
    (tmp_path / "image.dcm").write_bytes(b"not DICOM" * 100)
    (tmp_path / "site.secret").write_bytes(bytes(range(32)))
    run_example(tmp_path, monkeypatch)
    assert capsys.readouterr().out.startswith("FAILED ")
    assert not (tmp_path / "released.dcm").exists()
