"""Files without the Part 10 envelope, and what else a directory holds: read where that is certain, else named in the report."""

import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.cli import batch
from mdm_deid.cli.command import deid

SYNTAXES = ("implicit", "explicit", "big")


def body_of(content: bytes) -> bytes:
    """Cut the envelope of a file that the builders wrote: preamble, prefix, and file meta as long as it says."""
    return content[144 + int.from_bytes(content[140:144], "little") :]


def image(builder: Any) -> bytes:
    numbers = {0x00280010: 2, 0x00280011: 2, 0x00280100: 16, 0x00280101: 16, 0x00280002: 1}
    order = "big" if builder.name == "big" else "little"
    elements = {tag: builder.element(tag, "US", value.to_bytes(2, order)) for tag, value in numbers.items()}
    elements[0x00080060] = builder.element(0x00080060, "CS", b"CT")
    elements[0x00100010] = builder.element(0x00100010, "PN", b"Canary^Cora")
    inside = builder.element(0x00080100, "SH", b"T-A0100")
    elements[0x00082218] = builder.element(0x00082218, "SQ", builder.item(inside), undefined=True)
    elements[0x7FE00010] = builder.element(0x7FE00010, "OW", bytes(range(8)))
    return builder.file(elements)


@pytest.fixture(scope="module")
def checked(basic: Deidentifier) -> CheckedDeidentifier:
    return CheckedDeidentifier(basic, Profile.shipped("basic"))


@pytest.mark.parametrize("name", SYNTAXES)
@pytest.mark.parametrize("before", [b"", bytes(128)], ids=["bare", "zeros before"])
def test_a_data_set_alone_gives_what_its_file_gives(name: str, before: bytes, checked: CheckedDeidentifier, builders: Any) -> None:
    content = image(builders[name])
    whole, bare = checked.deidentify(content), checked.deidentify(before + body_of(content))
    assert bare.outcome is Outcome.RELEASED, bare.reason
    assert bare.data is not None and whole.data is not None
    assert b"".join(bare.data) == b"".join(whole.data)
    assert pydicom.dcmread(io.BytesIO(b"".join(bare.data))).file_meta.TransferSyntaxUID == builders[name].syntax


@pytest.mark.parametrize("cut", [128, 132], ids=["preamble lost", "preamble and prefix lost"])
@pytest.mark.parametrize("name", [*SYNTAXES, "deflated"])
def test_file_meta_information_is_read_without_what_should_come_before_it(
    name: str, cut: int, checked: CheckedDeidentifier, builders: Any
) -> None:
    content = image(builders[name])
    found = checked.deidentify(content[cut:])
    assert found.data is not None and b"".join(found.data) == b"".join(checked.deidentify(content).data or [])


@pytest.mark.parametrize("name", SYNTAXES)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body[:-3],
        lambda body: body + b"trailing text",
        lambda body: body[:40],
        lambda body: body.replace(b"1.2.840.10008.5.1.4.1.1.2", b"Doe^Jane^^^^^^^^^^^^^^^^^"),
    ],
    ids=["cut", "surplus", "only a beginning", "no SOP class"],
)
def test_a_data_set_that_is_not_certain_fails_and_is_never_taken_for_something_else(
    name: str, spoil: Any, basic: Deidentifier, builders: Any
) -> None:
    found = basic.deidentify(spoil(body_of(image(builders[name]))))
    assert (found.outcome, found.reason) == (Outcome.FAILED, "uncertain_encoding")


def test_compressed_pixels_without_an_envelope_are_of_an_unknown_transfer_syntax(explicit: Any, basic: Deidentifier) -> None:
    fragments = explicit.item(b"") + explicit.item(b"\xff\xd8\xff\xd9")
    content = explicit.file({0x7FE00010: explicit.element(0x7FE00010, "OB", fragments, undefined=True)})
    assert basic.deidentify(body_of(content)).reason == "unknown_transfer_syntax"


def test_of_everything_in_a_directory_the_report_says_what_became_of_it(tmp_path: Path, explicit: Any, implicit: Any) -> None:
    source, outside = tmp_path / "in", tmp_path / "elsewhere"
    for folder in (source / "locked", outside):
        folder.mkdir(parents=True)
    content = image(explicit)
    directory = explicit.file({}, "1.2.840.10008.1.3.10")
    wanted = {
        "a-part10": (content, "RELEASED", ""),
        "b-bare": (body_of(content).replace(b"1.2.3.4.5", b"1.2.3.4.6"), "RELEASED", ""),
        "c-implicit": (body_of(image(implicit)).replace(b"1.2.3.4.5", b"1.2.3.4.7"), "RELEASED", ""),
        "d-truncated": (content[:-4], "FAILED", "truncated"),
        "e-bare-truncated": (body_of(content)[:-4], "FAILED", "uncertain_encoding"),
        "f-empty": (b"", "FAILED", "empty"),
        "g-preamble-only": (bytes(128), "FAILED", "truncated"),
        "h-readme.txt": (b"Bring the CDs to room 12.", "FILTERED", "not_dicom"),
        "i-picture.jpg": (b"\xff\xd8\xff\xe0" + bytes(300), "FILTERED", "not_dicom"),
        "DICOMDIR": (directory, "FILTERED", "media_directory"),
    }
    for name, (data, _, _) in wanted.items():
        (source / name).write_bytes(data)
    expected = {name: (outcome, reason) for name, (_, outcome, reason) in wanted.items()}
    (outside / "x.dcm").write_bytes(content)
    (source / "linked").symlink_to(outside)
    (source / "loop").symlink_to(source)
    (source / "lost").symlink_to(tmp_path / "nowhere")
    expected |= {"linked": ("FILTERED", "linked_directory"), "loop": ("FILTERED", "linked_directory"), "lost": ("FAILED", "unreadable")}
    if os.geteuid():  # root reads everything
        (source / "locked").chmod(0)
        expected["locked"] = ("FAILED", "unreadable")
    try:
        arguments = [str(source), "-o", str(tmp_path / "out"), "--json", "--report", str(tmp_path / "report")]
        done = CliRunner().invoke(deid, arguments, standalone_mode=False)
    finally:
        (source / "locked").chmod(0o700)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {Path(entry["input"]).name: (entry["outcome"], entry.get("reason", "")) for entry in found} == expected
    assert len(found) == len(expected) == len((tmp_path / "report").read_text().splitlines()) - 2
    assert done.return_value == 1


def test_a_directory_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, explicit: Any) -> None:
    (tmp_path / "in" / "locked").mkdir(parents=True)
    (tmp_path / "in" / "a.dcm").write_bytes(image(explicit))
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    tasks = batch.find_files([tmp_path / "in"], tmp_path / "out")
    assert sorted(task.path.name for task in tasks) == ["a.dcm", "locked"]


def test_random_bytes_are_never_a_data_set(pseudonymiser: Pseudonymiser) -> None:
    generator = random.Random(11)
    deidentifier = Deidentifier(Profile.shipped("basic"), pseudonymiser)
    for start in (b"\x08\0", b"\0\x08", b"\x08\0\x16\0", b"\x02\0\x10\0UI", b"DICM\x02\0"):
        for _ in range(200):
            found = deidentifier.deidentify(start + generator.randbytes(generator.randrange(400)))
            assert found.outcome is Outcome.FAILED, found
