"""The mounted catalog on a whole stack: what it shows, and that nothing hangs when dicom-srm does."""

import errno
import subprocess
from pathlib import Path

import pytest
from mdm_client.mount.place import mounted_kind, unmount
from mdm_testing.derived import ct_series
from mdm_testing.process import eventually, require_fuse
from mdm_testing.stack import Mdm, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
COUNT = 4


@pytest.fixture
def names(stack: Stack, mdm: Mdm, tmp_path: Path) -> list[str]:
    """The images of a new series, none of which was fetched yet."""
    require_fuse()
    images = ct_series(tmp_path, COUNT)
    stack.store(*(image.path for image in images))
    return [str(row["lfn"]) for row in mdm.registered(images[0].patient_id, COUNT)]


@pytest.fixture
def place(tmp_path: Path):
    """A directory for a mount, which ends with the test."""
    directory = tmp_path / "mounted"
    yield directory
    if mounted_kind(directory):
        unmount(directory)


def test_it_shows_the_catalog_with_true_sizes_and_the_files_that_get_fetches(mdm: Mdm, names: list[str], place: Path):
    done = mdm("alice", "mount", str(place))
    assert done.code == 0 and "biomed" in [path.name for path in place.iterdir()], done.err
    before = {name: Path(f"{place}{name}").stat().st_size for name in names}
    read = {name: Path(f"{place}{name}").read_bytes() for name in names}
    assert {name: len(data) for name, data in read.items()} == before
    _, fetched = mdm.get("alice", *names)
    assert sorted(path.read_bytes() for path in fetched) == sorted(read.values())
    assert mdm("alice", "mount", "--unmount", str(place)).code == 0


def test_a_user_without_rights_sees_no_image(mdm: Mdm, names: list[str], place: Path):
    done = mdm("mallory", "mount", str(place), "/biomed")
    if done.code == 0:
        assert not Path(f"{place}{names[0].removeprefix('/biomed')}").exists()


def test_a_site_that_hangs_is_an_error_and_then_works_again(stack: Stack, mdm: Mdm, names: list[str], place: Path):
    directory = names[0].rpartition("/")[0]
    assert mdm("alice", "mount", "--timeout", "3", str(place), directory).code == 0
    images = [place / name.rpartition("/")[2] for name in names]
    stack.freeze("dicom-srm")
    try:
        with pytest.raises(OSError) as caught:
            images[0].read_bytes()
        assert caught.value.errno == errno.EIO
        assert len(list(place.iterdir())) == COUNT
    finally:
        stack.thaw("dicom-srm")
    assert eventually(images[0].read_bytes, ignored=(OSError,))[128:132] == b"DICM"
    copied = subprocess.run(["cp", "-r", place, place.parent / "copy"], capture_output=True, text=True, check=False)
    assert copied.returncode == 0, copied.stderr
    assert [(place.parent / "copy" / image.name).read_bytes() == image.read_bytes() for image in images] == [True] * COUNT
