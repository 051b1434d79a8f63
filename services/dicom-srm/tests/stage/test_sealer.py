"""Sealing: in threads and in worker processes, with workers that die or hang, and on a disk that is full."""

import errno
import importlib
import os
from pathlib import Path
from uuid import uuid4

import pytest
from mdm_crypto import stream
from mdm_dicom_srm.shared_memory import BlockPool
from mdm_dicom_srm.stage.sealing import sealed_file
from mdm_dicom_srm.stage.sealing.processes import ProcessSealer
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from mdm_service.settings import ConfigurationError

KEY = bytes(range(32))


@pytest.fixture
def hostile(monkeypatch):
    folder = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
    return importlib.import_module("hostile_deidentifier")


@pytest.mark.parametrize("make_sealer", [ThreadSealer, lambda make: ProcessSealer(make, 1)], ids=["thread", "process"])
def test_a_sealed_file_opens_with_its_key_and_guid_only(make_sealer, hostile, tmp_path):
    sealer = make_sealer(hostile.Hostile)
    guid = uuid4()
    sealed = sealer.seal(b"pixels", None, guid, KEY, tmp_path / "part", "CN=alice").result(30)
    sealer.close()
    ciphertext = (tmp_path / "part").read_bytes()
    assert (sealed.state, sealed.size) == (None, len(ciphertext))
    assert stream.decrypt(KEY, guid.bytes, ciphertext).endswith(b"DICMpixels")
    with pytest.raises(stream.StreamError):
        stream.decrypt(KEY, uuid4().bytes, ciphertext)
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"die", b"hang"])
def test_a_worker_that_dies_or_hangs_costs_one_image(content, hostile, tmp_path):
    sealer = ProcessSealer(hostile.Hostile, 1, timeout=2)
    assert sealer.seal(b"good", None, uuid4(), KEY, tmp_path / "1", "CN=alice").result(30).state is None
    assert sealer.seal(content, None, uuid4(), KEY, tmp_path / "2", "CN=alice").result(30).reason == "STAGING_WORKER_LOST"
    assert sealer.seal(b"good", None, uuid4(), KEY, tmp_path / "3", "CN=alice").result(30).state is None
    sealer.close()


def test_what_a_worker_had_at_once_with_the_image_that_killed_it_is_sealed_all_the_same(hostile, tmp_path):
    sealer = ProcessSealer(hostile.Hostile, 1, timeout=5)
    contents = [b"good %d" % number for number in range(40)]
    contents[17] = b"die"
    guids = [uuid4() for _ in contents]
    paths = [tmp_path / str(number) for number in range(40)]
    waiting = [sealer.seal(content, None, guid, KEY, path, "CN=alice") for content, guid, path in zip(contents, guids, paths, strict=True)]
    sealed = [future.result(60) for future in waiting]
    sealer.close()
    assert [number for number, one in enumerate(sealed) if one.state is not None] == [17]
    assert sealed[17].reason == "STAGING_WORKER_LOST"
    for content, guid, path in zip(contents, guids, paths, strict=True):
        assert content == b"die" or stream.decrypt(KEY, guid.bytes, path.read_bytes())[132:] == content


@pytest.mark.parametrize("make_sealer", [ThreadSealer, lambda make: ProcessSealer(make, 1)], ids=["thread", "process"])
def test_shared_memory_is_used_again_once_its_files_are_sealed(make_sealer, hostile, tmp_path):
    sealer, pool, seen = make_sealer(hostile.Hostile), BlockPool(1000, spare=1), set()
    for number in range(5):
        guid, content = uuid4(), bytes([number]) * 700
        sealed = sealer.seal(pool.put(content), None, guid, KEY, tmp_path / str(number), "CN=alice").result(30)
        assert sealed.state is None
        assert stream.decrypt(KEY, guid.bytes, (tmp_path / str(number)).read_bytes())[132:] == content
        block = pool.take()
        seen.add(block.number)
        block.release()
    sealer.close()
    assert len(seen) == 1


def test_workers_that_cannot_make_a_deidentifier_stop_the_start(hostile, capfd):
    with pytest.raises(ConfigurationError, match=r"spool\.processes"):
        ProcessSealer(hostile.broken, 2)
    assert "RuntimeError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "state"), [(errno.ENOSPC, "NO_FREE_SPACE"), (errno.EDQUOT, "NO_FREE_SPACE"), (errno.EIO, "INTERNAL_ERROR")]
)
def test_a_disk_that_refuses_is_told_apart(number, state, hostile, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, "refused")

    monkeypatch.setattr(sealed_file, "write", refuse)
    assert sealed_file.seal(hostile.Hostile(), b"x", None, uuid4(), KEY, tmp_path / "part").state == state


def test_nothing_is_written_over(hostile, tmp_path):
    (tmp_path / "part").write_bytes(b"before")
    assert sealed_file.seal(hostile.Hostile(), b"x", None, uuid4(), KEY, tmp_path / "part").state == "INTERNAL_ERROR"
    assert (tmp_path / "part").read_bytes() == b"before"


def test_large_files_are_encrypted_in_segments(hostile, tmp_path):
    content = os.urandom(3 * stream.SEGMENT_SIZE)
    guid = uuid4()
    sealed = sealed_file.seal(hostile.Hostile(), content, None, guid, KEY, tmp_path / "part")
    assert sealed.size == stream.ciphertext_size(len(content) + 132)
    assert stream.decrypt(KEY, guid.bytes, (tmp_path / "part").read_bytes())[132:] == content
