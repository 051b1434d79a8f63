"""Sealing: in threads and in worker processes, with workers that die or hang, and on a disk that is full."""

import errno
import importlib
import os
from pathlib import Path
from uuid import uuid4

import pytest
from mdm_crypto import stream
from mdm_dicom_srm.stage.sealing import seal as seal_module
from mdm_dicom_srm.stage.sealing.sealer import ProcessSealer, ThreadSealer
from mdm_service.errors import ConfigurationError

KEY = bytes(range(32))


@pytest.fixture
def hostile(monkeypatch):
    folder = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder)
    return importlib.import_module("hostile_deidentifier")


@pytest.mark.parametrize("make_sealer", [ThreadSealer, lambda make: ProcessSealer(make, 1)], ids=["thread", "process"])
def test_a_sealed_file_opens_with_its_key_and_guid_only(make_sealer, hostile, tmp_path):
    sealer = make_sealer(hostile.Hostile)
    guid = uuid4()
    sealed = sealer.seal(b"pixels", None, guid, KEY, tmp_path / "part").result(30)
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
    assert sealer.seal(b"good", None, uuid4(), KEY, tmp_path / "1").result(30).state is None
    assert sealer.seal(content, None, uuid4(), KEY, tmp_path / "2").result(30).reason == "STAGING_WORKER_LOST"
    assert sealer.seal(b"good", None, uuid4(), KEY, tmp_path / "3").result(30).state is None
    sealer.close()


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

    monkeypatch.setattr(seal_module, "_write", refuse)
    assert seal_module.seal(hostile.Hostile(), b"x", None, uuid4(), KEY, tmp_path / "part").state == state


def test_nothing_is_written_over(hostile, tmp_path):
    (tmp_path / "part").write_bytes(b"before")
    assert seal_module.seal(hostile.Hostile(), b"x", None, uuid4(), KEY, tmp_path / "part").state == "INTERNAL_ERROR"
    assert (tmp_path / "part").read_bytes() == b"before"


def test_large_files_are_encrypted_in_segments(hostile, tmp_path):
    content = os.urandom(3 * stream.SEGMENT_SIZE)
    guid = uuid4()
    sealed = seal_module.seal(hostile.Hostile(), content, None, guid, KEY, tmp_path / "part")
    assert sealed.size == stream.ciphertext_size(len(content) + 132)
    assert stream.decrypt(KEY, guid.bytes, (tmp_path / "part").read_bytes())[132:] == content
