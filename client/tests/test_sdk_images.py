"""Tables and volumes by the SDK, over a grid of fakes."""

import datetime
import warnings

import numpy as np
import pandas
import pyarrow
import pytest
from mdm_client import Client
from mdm_wire.errors import FailedPrecondition, Invalid, NotFound

from client.tests.imaging import imaging_grid, slices
from client.tests.nifti import oblique


@pytest.fixture
def imaging(pki, tmp_path):
    with imaging_grid(pki, tmp_path / "grid") as served, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield served


@pytest.fixture
def client(imaging):
    with Client.load(imaging.config()) as opened:
        yield opened


def test_records_become_a_table_with_types(imaging, client):
    study = imaging.add_study(slices(2), StudyDate="2001-05-06")
    imaging.add_study(slices(1))
    sql = 'SELECT study, StudyDate FROM "/biomed/hospital-a/studies" ORDER BY StudyDate DESC'
    frame = client.images(sql)
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["study", "StudyDate"]
    assert (frame.study[0], frame.StudyDate[0], len(frame)) == (study, datetime.date(2001, 5, 6), 2)
    numbered = 'SELECT InstanceNumber, Modality FROM "/biomed/hospital-a/images" WHERE study = :study ORDER BY InstanceNumber'
    table = client.images(numbered, parameters={"study": study}, kind="arrow")
    assert table.schema.field("InstanceNumber").type == pyarrow.int64()
    assert table.to_pylist() == [{"InstanceNumber": 1, "Modality": "CT"}, {"InstanceNumber": 2, "Modality": "CT"}]
    empty = client.images("SELECT study FROM \"/biomed/hospital-a/studies\" WHERE study = 'none'")
    assert (list(empty.columns), len(empty)) == (["study"], 0)


def test_a_series_is_the_same_volume_by_uid_by_directory_and_by_pattern(imaging, client):
    series = oblique(5)
    imaging.add_study(series, slices(1))
    uid = series[0].SeriesInstanceUID
    by_uid = client.volume(uid)
    array, affine = by_uid
    assert (array.shape, affine.shape) == ((14, 10, 5), (4, 4))
    lfn = imaging.image_of(series[0].SOPInstanceUID).lfn.rpartition("/")[0]
    for name in (lfn, f"{lfn}/*.dcm"):
        again = client.volume(name)
        assert np.array_equal(again.array, array)
        assert np.array_equal(again.affine, affine)
    single = client.volume(str(imaging.image_of(series[0].SOPInstanceUID).guid))
    assert single.array.shape == (14, 10, 1)


def test_a_series_that_is_not_there_or_has_no_volume_is_one_clear_line(imaging, client, monkeypatch):
    imaging.add_study(slices(2), oblique(3))
    with pytest.raises(NotFound, match="no images of it that you may see"):
        client.volume("1.2.3.4")
    with pytest.raises(NotFound):
        client.volume("/biomed/hospital-a/nobody")
    with pytest.raises(Invalid):
        client.volume("not a name")
    with pytest.raises(FailedPrecondition, match="cannot be one volume"):
        client.volume("/biomed/hospital-a/")
    missing = oblique(4)
    imaging.add_study(missing)
    imaging.image_of(missing[0].SOPInstanceUID).readable = False
    with pytest.raises(NotFound):
        client.volume(missing[0].SeriesInstanceUID)
    monkeypatch.setattr("mdm_client.image.reader.importlib.util.find_spec", lambda name: None)
    with pytest.raises(Invalid, match="pip install 'mdm-client\\[volume\\]'"):
        client.volume("1.2.3.4")


def test_a_volume_leaves_nothing_on_disk(imaging, client, tmp_path, monkeypatch):
    series = oblique(3)
    imaging.add_study(series)
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    client.volume(series[0].SeriesInstanceUID)
    assert sorted(path for path in tmp_path.rglob("*")) == before
