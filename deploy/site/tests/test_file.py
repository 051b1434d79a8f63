"""Files that hold secrets: for their owner only, and never half-written."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mdm_site.file import write_file


def test_only_the_owner_may_read_what_is_written_whatever_was_there(tmp_path):
    file = tmp_path / "key"
    file.write_bytes(b"old")
    file.chmod(0o644)
    write_file(file, b"new", private=True)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"new", 0o600)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    file = tmp_path / "key"
    write_file(file, b"old", private=True)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync", fail), "replace": (Path, "replace", fail)}[step])
    with pytest.raises(OSError, match="no space"):
        write_file(file, b"new", private=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("key", b"old")]


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    file = tmp_path / "key"
    contents = [bytes([n]) * 10_000 for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_file(file, content, private=True), contents))
    assert file.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [file]
