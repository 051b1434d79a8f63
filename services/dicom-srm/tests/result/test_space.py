"""What every space for results does, on a local disk and in SeaweedFS's S3."""

import hashlib
import os
import shutil
from uuid import uuid4

import pytest
from mdm_dicom_srm.config import S3Settings
from mdm_dicom_srm.result.store.local import LocalSpace
from mdm_dicom_srm.result.store.s3 import open_s3
from mdm_service.settings import ConfigurationError
from mdm_testing.seaweed import BUCKET, running_seaweed
from mdm_wire.errors import Aborted, Corrupt, Exhausted, FailedPrecondition, Invalid, NotFound, Unavailable

PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory):
    with running_seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def open_space(request, tmp_path):
    """Return what opens the same space again, as another process would."""
    if request.param == "local":
        return lambda: LocalSpace(tmp_path / "results")
    server = request.getfixturevalue("seaweed")
    settings = S3Settings(
        bucket=BUCKET,
        prefix="site/",
        endpoint=server.endpoint,
        access_key_file=server.access_key_file,
        secret_key_file=server.secret_key_file,
        part_bytes=PART,
    )
    return lambda: open_s3(settings)


def parts_of(content, size=1 << 20):
    return iter([content[start : start + size] for start in range(0, len(content), size)])


def test_what_is_written_whole_and_right_is_kept_byte_for_byte(open_space, tmp_path):
    space, guid, content = open_space(), uuid4(), os.urandom(2 * PART + 12_345)
    place = space.begin(guid)
    assert space.received(guid, place) == 0
    assert space.write(guid, place, 0, len(content), parts_of(content)) == len(content)
    space.finish(guid, place, len(content), hashlib.sha256(content).digest())
    space.finish(guid, place, len(content), hashlib.sha256(content).digest())  # the answer to the first one was lost
    assert open_space().copy_to(guid, tmp_path / "copy") == len(content)
    assert (tmp_path / "copy").read_bytes() == content
    space.remove(guid, place)
    with pytest.raises(NotFound):
        space.copy_to(guid, tmp_path / "again")
    space.remove(guid, place)


def test_an_upload_goes_on_in_another_process_where_the_first_one_ended(open_space, tmp_path):
    guid, content = uuid4(), os.urandom(3 * PART)
    first = open_space()
    place = first.begin(guid)
    here = first.write(guid, place, 0, len(content), parts_of(content[: PART + 999]))
    second = open_space()
    assert second.received(guid, place) == here
    assert PART <= here <= PART + 999
    for wrong in (0, here - 1, here + 1):
        with pytest.raises(Invalid, match="go on there"):
            second.write(guid, place, wrong, len(content), parts_of(content[wrong:]))
    with pytest.raises(FailedPrecondition):
        second.finish(guid, place, len(content), hashlib.sha256(content).digest())
    assert second.write(guid, place, here, len(content), parts_of(content[here:])) == len(content)
    second.finish(guid, place, len(content), hashlib.sha256(content).digest())
    second.copy_to(guid, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_what_is_not_what_was_sent_is_refused_and_leaves_nothing(open_space, tmp_path):
    space, guid, content = open_space(), uuid4(), b"x" * 1000
    place = space.begin(guid)
    space.write(guid, place, 0, len(content), parts_of(content))
    with pytest.raises(Corrupt):
        open_space().finish(guid, place, len(content), hashlib.sha256(b"other").digest())
    space.remove(guid, place)
    with pytest.raises(NotFound):
        space.copy_to(guid, tmp_path / "copy")


def test_more_than_the_file_has_is_refused_and_two_streams_do_not_mix(open_space):
    space, guid = open_space(), uuid4()
    place = space.begin(guid)
    with pytest.raises(Invalid, match="bytes"):
        space.write(guid, place, 0, 10, iter([b"x" * 11]))

    def meanwhile():
        with pytest.raises(Aborted):
            space.write(guid, place, 0, 10, iter([b"y" * 10]))
        yield b"x" * 10

    assert space.write(guid, place, 0, 10, meanwhile()) == 10


def test_a_full_disk_refuses_and_keeps_what_has_arrived(tmp_path, monkeypatch):
    space, guid = LocalSpace(tmp_path / "results"), uuid4()
    place = space.begin(guid)
    usage = shutil.disk_usage(tmp_path)

    def running_full():
        yield b"x" * 100
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=50))
        yield b"y" * 100

    with pytest.raises(Exhausted, match="no room"):
        space.write(guid, place, 0, 300, running_full())
    assert space.received(guid, place) == 100
    monkeypatch.undo()
    assert space.write(guid, place, 100, 300, iter([b"y" * 200])) == 300


def test_files_are_for_the_service_only(tmp_path):
    space, guid = LocalSpace(tmp_path / "results"), uuid4()
    space.write(guid, space.begin(guid), 0, 3, iter([b"abc"]))
    for path in (tmp_path / "results").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        LocalSpace(tmp_path / "file")


@pytest.mark.integration
def test_a_bucket_that_refuses_is_away(seaweed, tmp_path):
    (tmp_path / "wrong").write_text("wrong")
    settings = S3Settings(
        bucket=BUCKET, endpoint=seaweed.endpoint, access_key_file=seaweed.access_key_file, secret_key_file=tmp_path / "wrong"
    )
    with pytest.raises(Unavailable):
        open_s3(settings).begin(uuid4())
    with pytest.raises(ConfigurationError):
        open_s3(settings.model_copy(update={"access_key_file": tmp_path / "none"}))
