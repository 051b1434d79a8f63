"""Any input gets an outcome: what fuzzing found, files larger than the memory, and work in proportion to the input."""

import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Malformed, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.cli.batch import run
from mdm_deid.cli.preview import preview
from mdm_deid.cli.worker import Order, Task
from mdm_deid.encoding.element import EXPLICIT_LE, Header
from mdm_deid.pixels.rule import PixelRules

DEFLATED = b"\2\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
SHARED = 0x52009229


@pytest.fixture
def checked(pseudonymiser: Pseudonymiser) -> CheckedDeidentifier:
    profile = dataclasses.replace(Profile.shipped("basic"), rules=())
    return CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile)


def test_a_private_sequence_that_is_none_does_not_fail_the_check(explicit: Any, checked: CheckedDeidentifier) -> None:
    content = explicit.file({0x00091001: explicit.element(0x00091001, "SQ", b"\xff\xff\xff\xff not items")})
    assert checked.deidentify(content).checked


def test_broken_deflation_is_malformed_everywhere(checked: CheckedDeidentifier) -> None:
    content = bytes(128) + b"DICM" + DEFLATED + b"\xed\xfe\xff not deflated"
    assert checked.deidentify(content).reason == "malformed"
    with pytest.raises(Malformed, match="malformed"):
        preview(content, PixelRules())


@pytest.mark.parametrize("private", [True, False])
def test_work_grows_with_the_number_of_nested_elements(
    explicit: Any, checked: CheckedDeidentifier, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    reads = 0
    real = EXPLICIT_LE.header

    def counting(data: Any, pos: int, limit: int) -> Header:
        nonlocal reads
        reads += 1
        return real(data, pos, limit)

    monkeypatch.setattr(EXPLICIT_LE, "header", counting)

    def cost(count: int, depth: int) -> int:
        nonlocal reads
        element = explicit.element(0x00281050, "DS", b"1.5 ")
        for _ in range(depth):
            tag = 0x00091001 if private else SHARED
            element = explicit.element(tag, "SQ", explicit.item(element, undefined=True), undefined=True)
        items = b"".join(explicit.item(element, undefined=True) for _ in range(count))
        content = explicit.file({SHARED: explicit.element(SHARED, "SQ", items, undefined=True)})
        reads = 0
        assert checked.deidentify(content).outcome is Outcome.RELEASED
        return reads

    cost(10, 3)  # from its second file on, runs of a series are remembered
    few, many = cost(500, 3), cost(2000, 3)
    assert many < 4.2 * few
    shallow, deep = cost(100, 10), cost(100, 40)
    assert deep < 4.5 * shallow


@pytest.mark.integration
def test_a_file_larger_than_the_memory_passes(tmp_path: Path, ct_small: bytes) -> None:
    """A sparse multi-frame file of 700 MB, with 200 MB of memory for the worker."""
    frames = 700
    dataset = pydicom.dcmread(io.BytesIO(ct_small))
    dataset.Rows = dataset.Columns = 1024
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.NumberOfFrames = frames
    dataset.PixelData = b""
    del dataset.DataSetTrailingPadding
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    head = buffer.getvalue()
    assert head.endswith(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 0))
    source = tmp_path / "large.dcm"
    with source.open("wb") as file:
        file.write(head[:-4] + struct.pack("<I", frames << 20))
        file.truncate(len(head) + (frames << 20))
    order = Order(Profile.shipped("basic"), Pseudonymiser(b"0" * 32), PixelRules(), tmp_path / "out", memory=200 << 20)
    order.output.mkdir()
    try:
        (entry,) = run(order, [Task(1, source, True)], 1, 110)
        assert (entry.outcome, entry.reason, entry.checked) == (Outcome.RELEASED, "", True)
        assert entry.size > frames << 20
    finally:
        for path in files(tmp_path):
            path.unlink()


def files(folder: Path) -> Iterator[Path]:
    yield from [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.integration
def test_a_file_that_needs_more_memory_than_there_is_fails_alone(tmp_path: Path, ct_small: bytes) -> None:
    deflater = zlib.compressobj(wbits=-15)
    body = ct_small[ct_small.index(b"\x08\0\x05\0CS") :] + struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, 400 << 20) + bytes(400 << 20)
    (tmp_path / "bomb.dcm").write_bytes(bytes(128) + b"DICM" + DEFLATED + deflater.compress(body) + deflater.flush())
    (tmp_path / "image.dcm").write_bytes(ct_small)
    order = Order(Profile.shipped("basic"), Pseudonymiser(b"0" * 32), PixelRules(), tmp_path / "out", memory=200 << 20)
    order.output.mkdir()
    entries = list(run(order, [Task(1, tmp_path / "bomb.dcm", True), Task(2, tmp_path / "image.dcm", True)], 1, 60))
    assert [(entry.outcome, entry.reason) for entry in entries] == [(Outcome.FAILED, "out_of_memory"), (Outcome.RELEASED, "")]
