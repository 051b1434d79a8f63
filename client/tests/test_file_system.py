"""fsspec's mdm:// on a grid of fakes: listing, whole and ranged reading, what is asked of the site, and every kind of error."""

import errno
import io
import pickle

import dask.dataframe
import fsspec
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from mdm.srm.v1 import srm_pb2
from mdm_client import Client, ClientConfig, RetryPolicy
from mdm_client.filesystem import files as files_module
from mdm_client.filesystem.spec import MdmFileSystem
from mdm_client.filesystem.tree import Tree
from mdm_testing.process import free_port
from mdm_wire.errors import Forbidden, NotFound

from client.tests.fake_catalog import PINNED
from client.tests.imaging import slices, written

BASE = "/biomed/hospital-a/p1/series"


@pytest.fixture
def mdm(grid):
    """The file system under Alice's configuration."""
    opened = MdmFileSystem(str(grid.config()), timeout=5.0, skip_instance_cache=True)
    yield opened
    opened.close()


@pytest.fixture
def series(grid):
    """Ten images of a series."""
    return [grid.add(f"{BASE}/{number:04d}.dcm", written(dataset)) for number, dataset in enumerate(slices(10), 1)]


def test_a_file_is_read_through_the_address_alone(grid, series, monkeypatch):
    monkeypatch.setenv("MDM_CONFIG", str(grid.config()))
    with fsspec.open(f"mdm://{BASE}/0003.dcm") as file:
        assert pydicom.dcmread(file).InstanceNumber == 3
    fsspec.filesystem("mdm").close()


def test_listing_shows_directories_files_and_what_links_lead_to(grid, series, mdm):
    grid.catalog.links["/biomed/w"] = "/biomed/hospital-a"
    assert mdm.ls("mdm:///biomed", detail=False) == ["/biomed/hospital-a", "/biomed/w"]
    assert [item["type"] for item in mdm.ls("/biomed")] == ["directory", "link"]
    assert mdm.glob("mdm:///biomed/**/000[12].dcm") == [f"{BASE}/0001.dcm", f"{BASE}/0002.dcm"]
    assert len(mdm.find("/biomed/hospital-a")) == 10
    assert mdm.isdir("/biomed/w") and mdm.isfile(f"{BASE}/0001.dcm") and not mdm.exists("/biomed/none")
    with mdm.open("/biomed/w/p1/series/0002.dcm") as file:
        assert file.read() == series[1].plaintext


def test_many_files_are_one_request_to_the_site(grid, series, mdm):
    paths = mdm.glob(f"{BASE}/*.dcm")
    assert mdm.cat(paths) == {image.lfn: image.plaintext for image in series}
    assert len(grid.srm.requests) == 1 and grid.srm.streams == 1
    with fsspec.core.OpenFiles([fsspec.core.OpenFile(mdm, path) for path in paths], fs=mdm) as opened:
        assert [file.read() for file in opened] == [image.plaintext for image in series]
    assert len(grid.srm.requests) == 2


def test_files_of_a_listed_directory_are_fetched_ahead_of_their_reader(grid, mdm):
    images = [grid.add(f"{BASE}/{number:04d}.bin", bytes([number]) * 100) for number in range(60)]
    mdm.ls(BASE)
    for image in images:
        with mdm.open(image.lfn) as file:
            assert file.read() == image.plaintext
    assert len(grid.srm.requests) < 10


def test_a_file_that_may_not_be_read_does_not_keep_the_others_from_being_read(grid, series, mdm):
    series[4].readable = False
    found = mdm.cat(mdm.glob(f"{BASE}/*.dcm"), on_error="return")
    assert isinstance(found.pop(series[4].lfn), FileNotFoundError)
    assert found == {image.lfn: image.plaintext for image in series if image.readable}
    assert len(mdm.cat(mdm.glob(f"{BASE}/*.dcm"), on_error="omit")) == 9
    with pytest.raises(FileNotFoundError):
        mdm.cat(mdm.glob(f"{BASE}/*.dcm"))


@pytest.fixture
def large(grid):
    """A file of 3.3 segments: of a memory of 1 MiB, files of more than a quarter are read piece by piece."""
    content = np.random.default_rng(7).bytes(3_500_000)
    return grid.add("/biomed/hospital-a/large.bin", content, size=len(content))


@pytest.fixture
def ranged(grid, large):
    opened = MdmFileSystem(str(grid.config()), timeout=5.0, memory=2**20, skip_instance_cache=True)
    yield opened
    opened.close()


@pytest.mark.parametrize(("start", "end"), [(0, 10), (1_048_500, 1_048_700), (2_000_000, 2_000_001), (-7, None), (0, None), (9, 5)])
def test_a_piece_of_a_large_file_is_what_is_there(large, ranged, start, end):
    assert ranged.cat_file(large.lfn, start, end) == large.plaintext[start:end]


def test_a_piece_of_a_large_file_takes_only_its_segments(grid, large, ranged):
    with ranged.open(large.lfn, block_size=4096) as file:
        file.seek(1_200_000)
        assert file.read(100) == large.plaintext[1_200_000:1_200_100]
    # The header, the last segment, which proves the size, and the segment that holds the piece.
    assert grid.srm.offsets == [0, 3 * 2**20, 2**20]
    assert len(grid.srm.released) == 1


def test_a_large_file_is_read_in_order_by_one_call(grid, large, ranged):
    with ranged.open(large.lfn) as file:
        assert file.read() == large.plaintext
    assert grid.srm.offsets == [0, 3 * 2**20, 40]


def test_reading_goes_on_where_the_site_broke_off(grid, large, ranged):
    large.breaks = [10**9, 10**9, 2_000_000]
    with ranged.open(large.lfn) as file:
        assert file.read() == large.plaintext


def test_a_large_file_that_was_cut_altered_or_replaced_is_an_error(grid, large, ranged):
    whole = large.ciphertext
    for changed in (whole[: 2 * 2**20], whole[:-1], whole[:2_000_000] + b"x" + whole[2_000_001:]):
        large.ciphertext = changed
        with pytest.raises(OSError, match="not what was encrypted") as caught:
            ranged.cat_file(large.lfn)
        assert caught.value.errno == 5


def test_what_is_staged_anew_with_the_same_content_is_read_on(grid, large, ranged):
    with ranged.open(large.lfn, block_size=4096) as file:
        file.read(10)
        large.read_failures = [NotFound("NO_SUCH_TURL", "gone")]
        file.seek(2_500_000)
        assert file.read(10) == large.plaintext[2_500_000:2_500_010]
    assert len(grid.srm.requests) == 2


def test_a_permission_that_is_withdrawn_ends_the_reading_of_a_large_file(large, ranged):
    with ranged.open(large.lfn, block_size=4096) as file:
        file.read(10)
        large.read_failures = [Forbidden("NOT_AUTHORIZED", "you may not read it")]
        with pytest.raises(PermissionError):
            file.seek(2_500_000)
            file.read(10)


def test_what_is_staged_anew_with_other_content_ends_the_reading(grid, large, ranged):
    with ranged.open(large.lfn, block_size=4096) as file:
        file.read(10)
        other = grid.add("/biomed/hospital-a/other.bin", large.plaintext)
        large.ciphertext = large.ciphertext[:8] + other.ciphertext[8:]
        large.read_failures = [NotFound("NO_SUCH_TURL", "gone")]
        with pytest.raises(OSError, match="staged anew"):
            file.seek(2_500_000)
            file.read(10)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("mdm:///biomed/../etc/passwd", OSError),
        ("mdm:///biomed/none", FileNotFoundError),
        (f"mdm://{BASE}", IsADirectoryError),
        ("mdm:///biomed/a\x01b", OSError),
        (f"mdm:///biomed/{'n' * 300}", OSError),
    ],
)
def test_a_wrong_name_is_the_error_of_an_operating_system(series, mdm, path, kind):
    with pytest.raises(kind):
        mdm.open(path)
    assert not mdm.isfile(path)


def test_a_file_that_was_forbidden_or_lost_says_so(grid, series, mdm):
    series[0].states = [srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE]
    with pytest.raises(PermissionError):
        mdm.open(series[0].lfn)
    series[1].states = [srm_pb2.STATUS_CODE_FILE_LOST]
    with pytest.raises(FileNotFoundError, match="PACS"):
        mdm.open(series[1].lfn)
    series[2].states = [PINNED]
    with mdm.open(series[2].lfn) as file:
        assert file.size == len(series[2].plaintext)


def test_a_file_in_memory_is_closed_to_a_user_who_lost_it(grid, series):
    with Client.load(grid.config()) as client, files_module.Files(client, recheck_seconds=0.0) as files:
        entry = Tree(client.catalog, 60.0).target(series[0].lfn)
        assert files.open(entry).read_at(0, 4) == series[0].plaintext[:4]
        series[0].readable = False
        with pytest.raises(NotFound):
            files.open(entry)


def test_nothing_can_be_written(series, mdm):
    with pytest.raises(OSError, match="read-only"):
        mdm.open(f"{BASE}/new", "wb")


def test_names_with_odd_characters_are_names(grid, mdm):
    lfn = "/biomed/hospital-a/a b%20#?[1]ü.dcm"
    grid.add(lfn, b"odd")
    assert mdm.cat_file(lfn) == b"odd"
    assert mdm.ls("/biomed/hospital-a", detail=False) == [lfn]


def test_a_copy_and_a_pickle_work(grid, series, mdm, tmp_path):
    mdm.get(f"{BASE}/", f"{tmp_path}/got/", recursive=True)
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == [image.lfn.rpartition("/")[2] for image in series]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "got").iterdir()} == {0o600}
    again = pickle.loads(pickle.dumps(mdm))
    assert again.cat_file(series[0].lfn) == series[0].plaintext
    again.close()


def test_pandas_dask_and_nibabel_read_through_it(grid, monkeypatch, tmp_path):
    monkeypatch.setenv("MDM_CONFIG", str(grid.config()))
    table = pd.DataFrame({"volume_ml": [1.5, 2.5], "series": ["a", "b"]})
    for number in (1, 2):
        file = io.BytesIO()
        table.to_parquet(file)
        grid.add(f"/biomed/hospital-a/tables/{number}.parquet", file.getvalue())
    assert pd.read_parquet("mdm:///biomed/hospital-a/tables/1.parquet").equals(table)
    with_dask = dask.dataframe.read_parquet("mdm:///biomed/hospital-a/tables/*.parquet")
    assert with_dask.volume_ml.sum().compute(scheduler="synchronous") == 8.0
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    grid.add("/biomed/hospital-a/brain.nii", image.to_bytes())
    with fsspec.open("mdm:///biomed/hospital-a/brain.nii") as file:
        assert np.array_equal(np.asarray(nibabel.Nifti1Image.from_stream(file).dataobj), np.asarray(image.dataobj))
    fsspec.filesystem("mdm").close()


def test_a_catalog_that_is_away_is_an_error_not_a_wait(grid):
    config = ClientConfig.load(grid.config(catalog=f"127.0.0.1:{free_port()}"))
    away = MdmFileSystem(client=Client(config, RetryPolicy(1.0, 0.5)), skip_instance_cache=True)
    with pytest.raises(OSError, match="catalog") as caught:
        away.ls("/biomed")
    assert caught.value.errno == errno.EIO
    away.close()
