"""`mdm mount` with a real kernel mount: what programs read there, and how it ends."""

import errno
import os
import signal
import subprocess
import tarfile
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from mdm.srm.v1 import srm_pb2
from mdm_client.filesystem.files import Files
from mdm_client.filesystem.tree import Tree
from mdm_client.mount.operations import CatalogOperations
from mdm_client.mount.place import KIND, mounted_kind, unmount
from mdm_testing.process import end_process, eventually, require_fuse, require_program

from client.tests.fake_catalog import Image
from client.tests.grid import FakeGrid
from client.tests.imaging import slices, written
from client.tests.mounting import gone, mdm, mount_point, mounted, start, until_ready

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _fuse():
    require_fuse()


@pytest.fixture
def series(grid):
    """Eight images. The catalog has the size of none, a wrong one, or the right one."""
    images = []
    for number, dataset in enumerate(slices(8), 1):
        data = written(dataset)
        size = (None, len(data) + 500, len(data) - 20, len(data))[number % 4]
        images.append(grid.add(f"/biomed/hospital-a/p1/{number:04d}.dcm", data, size=size))
    return images


def test_programs_read_what_they_would_read_of_a_disk(grid, series, tmp_path):
    with mounted(grid.config()) as top:
        place = top / "hospital-a" / "p1"
        assert sorted(path.name for path in place.iterdir()) == [f"{number:04d}.dcm" for number in range(1, 9)]
        archive = tmp_path / "all.tar"
        subprocess.run(["tar", "cf", archive, "-C", top, "hospital-a"], check=True, stderr=subprocess.PIPE)
        subprocess.run(["cp", "-r", place, tmp_path / "copy"], check=True)
        with tarfile.open(archive) as packed:
            for image in series:
                name = image.lfn.removeprefix("/biomed/")
                assert packed.extractfile(name).read() == image.plaintext
                assert (tmp_path / "copy" / Path(name).name).read_bytes() == image.plaintext
                assert (top / name).stat().st_size == len(image.plaintext)


def test_dcmtk_and_dcm2niix_are_content_with_it(grid, series, tmp_path):
    dcmdump, dcm2niix = require_program("dcmdump", "dcmtk"), require_program("dcm2niix", "dcm2niix")
    with mounted(grid.config()) as top:
        shown = subprocess.run(
            [dcmdump, "+P", "InstanceNumber", *sorted((top / "hospital-a/p1").iterdir())], capture_output=True, check=True
        )
        assert shown.stdout.count(b"InstanceNumber") == 8
        subprocess.run([dcm2niix, "-o", tmp_path, "-f", "volume", top / "hospital-a"], capture_output=True, check=True)
        assert (tmp_path / "volume.nii").stat().st_size > 352
        assert pydicom.dcmread(top / "hospital-a/p1/0007.dcm").InstanceNumber == 7


def test_a_series_is_staged_by_few_requests(grid):
    images = [grid.add(f"/biomed/hospital-a/p1/{number:04d}.bin", bytes([number]) * 99) for number in range(100)]
    with mounted(grid.config()) as top:
        place = top / "hospital-a/p1"
        assert [path.read_bytes() for path in sorted(place.iterdir())] == [image.plaintext for image in images]
    assert len(grid.srm.requests) < 12


def test_a_file_larger_than_memory_is_read_in_pieces(grid):
    content = os.urandom(5_000_000)
    grid.add("/biomed/large.bin", content, size=len(content))
    with mounted(grid.config(), "--memory", "1M") as top:
        with (top / "large.bin").open("rb") as file:
            file.seek(3_000_000)
            assert file.read(1000) == content[3_000_000:3_001_000]
        assert (top / "large.bin").read_bytes() == content


def test_it_is_for_its_user_only_and_nothing_can_be_changed(grid, series):
    with mounted(grid.config()) as top:
        image = top / "hospital-a/p1/0001.dcm"
        assert [image.stat().st_mode & 0o7777, image.parent.stat().st_mode & 0o7777] == [0o400, 0o500]
        for change in (image.unlink, lambda: image.write_bytes(b""), lambda: (image.parent / "new").touch(), image.parent.rmdir):
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno in (errno.EROFS, errno.EACCES)
        if os.getuid() == 0:
            other = subprocess.run(["ls", str(top)], user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False)
            assert other.returncode != 0 and "Permission denied" in other.stderr


@pytest.mark.parametrize("target", ["../../../../../../../etc/passwd", "/biomed/other/x", "..", "/"])
def test_a_link_out_of_what_is_mounted_leads_nowhere(target):
    operations = CatalogOperations(Tree, Files, "/biomed/hospital-a")
    with pytest.raises(OSError) as caught:
        operations._link(SimpleNamespace(lfn="/biomed/hospital-a/x", link_target=target))
    assert caught.value.errno == errno.ENOENT
    assert operations._link(SimpleNamespace(lfn="/biomed/hospital-a/p1/x", link_target="../p2/y")) == "../p2/y"
    assert operations._link(SimpleNamespace(lfn="/biomed/hospital-a/p1/x", link_target="/biomed/hospital-a/p2")) == "../p2"


def test_links_lead_where_the_catalog_says(grid, series):
    grid.catalog.links["/biomed/w"] = "/biomed/hospital-a/p1"
    with mounted(grid.config()) as top:
        assert [path.name for path in top.iterdir() if path.is_symlink()] == ["w"]


def test_odd_names_are_names_and_impossible_ones_are_not_there(grid):
    grid.add("/biomed/a b%20#?[1]ü\\'.dcm", b"odd")
    with mounted(grid.config()) as top:
        assert [path.read_bytes() for path in top.iterdir()] == [b"odd"]
        for name in (b"\xff\xfe", b"a\x01b", "u\u0308".encode(), b"n" * 300):
            assert not (top / os.fsdecode(name)).exists()


def test_a_directory_of_ten_thousand_is_listed_whole(grid):
    names = [f"/biomed/many/{number:05d}.dcm" for number in range(10_000)]
    grid.catalog.images.update({lfn: Image(lfn, b"", size=7) for lfn in names})
    with mounted(grid.config()) as top:
        listed = subprocess.run(["ls", "-l", str(top / "many")], capture_output=True, text=True, check=True).stdout.splitlines()
        assert len(listed) == 10_001 and listed[-1].split()[4] == "7"


def test_a_file_that_cannot_be_had_is_an_error_of_its_own(grid, series):
    series[0].states = [srm_pb2.STATUS_CODE_FILE_LOST]
    series[1].states = [srm_pb2.STATUS_CODE_AUTHORIZATION_FAILURE]
    series[2].ciphertext = series[2].ciphertext[:-1] + b"?"
    with mounted(grid.config()) as top:
        numbers = []
        for name in ("0001", "0002", "0003"):
            with pytest.raises(OSError) as caught:
                (top / f"hospital-a/p1/{name}.dcm").read_bytes()
            numbers.append(caught.value.errno)
        assert numbers == [errno.ENOENT, errno.EACCES, errno.EIO]
        assert (top / "hospital-a/p1/0004.dcm").read_bytes() == series[3].plaintext


def test_a_grid_that_goes_away_is_an_error_not_a_wait(pki, tmp_path):
    (tmp_path / "grid").mkdir()
    with mount_point() as top:
        with FakeGrid(pki, tmp_path / "grid").serving() as grid:
            grid.add("/biomed/hospital-a/1.dcm", b"one")
            grid.add("/biomed/hospital-b/2.dcm", b"two")
            process = start(grid.config(), top)
            until_ready(process)
            assert (top / "hospital-a/1.dcm").read_bytes() == b"one"
        with pytest.raises(OSError) as caught:
            list((top / "hospital-b").iterdir())
        assert caught.value.errno == errno.EIO
        assert end_process(process) == 0
        process.communicate()
        gone(top)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_the_process_ends_the_directory_can_be_used_again(grid, series, number):
    with mount_point() as top:
        process = start(grid.config(), top)
        until_ready(process)
        opened = os.open(top / "hospital-a/p1/0001.dcm", os.O_RDONLY)
        assert os.read(opened, 1)
        process.send_signal(number)
        process.communicate(timeout=60)
        with suppress(OSError):  # the kernel says that nobody is there any more
            os.close(opened)
        with again(grid, top):
            assert (top / "hospital-a/p1/0001.dcm").read_bytes() == series[0].plaintext


@contextmanager
def again(grid, top):
    """A second mount of a directory, which unmounts what is dead there."""
    process = start(grid.config(), top)
    until_ready(process)
    yield
    assert end_process(process) == 0
    process.communicate()


def test_what_a_dead_process_left_is_unmounted_by_the_next(grid, series):
    with mount_point() as top:
        process = start(grid.config(), top)
        until_ready(process)
        # fusermount3 unmounts after its parent's death; that it dies too is what leaves a dead directory.
        children = subprocess.run(["pgrep", "-f", f"^fusermount3 .*{top}"], capture_output=True, text=True, check=True).stdout.split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        process.kill()
        process.communicate()
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            top.stat()
        with again(grid, top):
            assert (top / "hospital-a").is_dir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["at once", "as the kernel mounts it"])
def test_a_mount_that_is_ended_while_it_begins_leaves_no_dead_directory(grid, series, number, moment):
    with mount_point() as top:
        top.mkdir()
        process = start(grid.config(), top)
        if moment == "as the kernel mounts it":
            eventually(lambda: mounted_kind(top) == KIND, interval=0.0)
        process.send_signal(number)
        process.communicate(timeout=60)
        gone(top)


def test_unmount_ends_it_while_programs_read(grid, series):
    with mount_point() as top:
        process = start(grid.config(), top)
        until_ready(process)
        with (top / "hospital-a/p1/0001.dcm").open("rb") as opened:
            assert mdm(grid.config(), "mount", "--unmount", str(top)).returncode == 0
            gone(top)
            assert opened.read() == series[0].plaintext
        assert process.wait(60) == 0
        process.communicate()
        refused = mdm(grid.config(), "mount", "--unmount", str(top))
        assert refused.returncode == 3 and "not mounted" in refused.stderr


def test_of_two_mounts_of_one_directory_one_is_refused(grid, series):
    with mount_point() as top:
        both = [start(grid.config(), top) for _ in range(2)]
        lines = [process.stdout.readline() for process in both]
        assert sorted(lines) == [b"", b"mounted\n"]
        refused, serving = (both[lines.index(line)] for line in (b"", b"mounted\n"))
        assert b"mounted there already" in refused.communicate()[1]
        later = mdm(grid.config(), "mount", str(top))
        assert later.returncode == 1 and "mounted there already" in later.stderr
        assert end_process(serving) == 0
        serving.communicate()


def test_in_the_background_it_stays_when_the_command_has_ended(grid, series):
    with mount_point() as top:
        done = mdm(grid.config(), "mount", str(top), "/biomed")
        assert done.returncode == 0 and done.stderr == ""
        assert (top / "hospital-a/p1/0002.dcm").read_bytes() == series[1].plaintext
        assert unmount(top) == 1


def test_what_cannot_be_mounted_is_one_line(grid, series, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for directory, target, said in [
        (tmp_path / "full", "/biomed", "not empty"),
        (tmp_path / "full/file", "/biomed", "cannot be mounted on"),
        (tmp_path / "new", "/biomed/none", "No such"),
        (tmp_path / "new", "/biomed/hospital-a/p1/0001.dcm", "No such"),
    ]:
        refused = mdm(grid.config(), "mount", str(directory), target)
        assert refused.returncode != 0 and refused.stderr.count("\n") == 1 and said in refused.stderr
    assert not mounted_kind(tmp_path / "new")
