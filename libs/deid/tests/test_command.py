"""The command `mdm deid`: what it writes, where, under which names, and what it says of the rest."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner
from mdm_client.cli.app import main
from mdm_deid import Profile, Pseudonymiser
from mdm_deid.cli.batch import find_files, run
from mdm_deid.cli.command import deid
from mdm_deid.cli.worker import Order, Task
from mdm_deid.pixels.rule import PixelRules

pytestmark = pytest.mark.integration
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"0123456789abcdef0123456789abcdef")
    return path


@pytest.fixture
def images(tmp_path: Path, ct_small: bytes, builder_files: dict[str, bytes]) -> Path:
    """A directory as a hospital exports it: names of patients in paths, several kinds of files."""
    folder = tmp_path / "export"
    (folder / "DOE^JANE").mkdir(parents=True)
    (folder / "DOE^JANE" / "ct.dcm").write_bytes(ct_small)
    (folder / "DOE^JANE" / "cut.dcm").write_bytes(ct_small[:2000])
    (folder / "DOE^JANE" / "readme.txt").write_text("hello")
    (folder / "empty").write_bytes(b"")
    for name, content in builder_files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def builder_files(explicit: Any) -> dict[str, bytes]:
    return {"us.dcm": explicit.file({0x00080060: explicit.element(0x00080060, "CS", b"US")}, ULTRASOUND)}


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(deid, [str(argument) for argument in arguments], standalone_mode=False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_file_gets_an_outcome_and_the_report_names_nobody(images: Path, secret: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    done = invoke(images, "-o", tmp_path / "out", "--secret-file", secret, "--report", report, "-j", 2)
    assert done.return_value == 1
    first, *entries, last = lines(report.read_text())
    assert re.fullmatch("[0-9a-f]{16}", first.pop("revision"))
    assert first == {"report": 1, "edition": "2026c", "profile": "basic", "pixel_rules": "", "check": True, "secret": "file"}
    assert Counter((entry["outcome"], entry.get("reason", "")) for entry in entries) == {
        ("RELEASED", ""): 1,
        ("FAILED", "truncated"): 1,
        ("FILTERED", "not_dicom"): 2,
        ("QUARANTINED", "ultrasound"): 1,
    }
    assert last["outcomes"] == {"FAILED": 1, "FILTERED": 2, "QUARANTINED": 1, "RELEASED": 1}
    released = next(entry for entry in entries if entry["outcome"] == "RELEASED")
    assert released["checked"] and released["counts"]["removed"] > 10
    output = pydicom.dcmread(tmp_path / "out" / released["output"])
    assert released["output"] == f"{output.PatientID}/{output.StudyInstanceUID}/{output.SOPInstanceUID}.dcm"
    assert released["bytes"] == (tmp_path / "out" / released["output"]).stat().st_size
    assert not [word for word in ("DOE", "JANE", "export", "CompressedSamples", "1.3.6.1.4.1.5962") if word in report.read_text()]
    assert "1 released; 2 filtered (not_dicom 2); 1 quarantined (ultrasound 1); 1 failed (truncated 1)" in done.output


def test_the_report_says_which_rules_for_attributes_were_for_a_file(images: Path, secret: Path, tmp_path: Path) -> None:
    profile, report = tmp_path / "site.toml", tmp_path / "report.jsonl"
    rules = "".join(f'[[attribute]]\naction = "remove"\nkeywords = ["KVP"]\nmodalities = ["{modality}"]\n' for modality in ("MR", "CT"))
    profile.write_text(f'name = "site"\nbase = "basic"\n{rules}')
    source = images / "DOE^JANE" / "ct.dcm"
    arguments = ["-o", tmp_path / "out", "--secret-file", secret, "--report", report, "--profile", profile]
    assert invoke(source, *arguments).return_value == 0
    assert lines(report.read_text())[1]["attribute_rules"] == [2]


def test_equal_secrets_give_equal_files_and_no_secret_is_said(images: Path, secret: Path, tmp_path: Path) -> None:
    source = images / "DOE^JANE" / "ct.dcm"
    assert invoke(source, "-o", tmp_path / "a", "--secret-file", secret).return_value == 0
    assert invoke(source, "-o", tmp_path / "b", "--secret-file", secret).return_value == 0
    again = invoke(source, "-o", tmp_path / "b", "--secret-file", secret, "--json")
    assert again.return_value == 0
    names = {folder: sorted(path.relative_to(tmp_path / folder) for path in (tmp_path / folder).rglob("*.dcm")) for folder in "ab"}
    assert names["a"] == names["b"] and len(names["a"]) == 1
    assert (tmp_path / "a" / names["a"][0]).read_bytes() == (tmp_path / "b" / names["a"][0]).read_bytes()
    one_off = invoke(source, "-o", tmp_path / "c")
    assert one_off.return_value == 0 and "no --secret-file" in one_off.stderr
    assert sorted(path.relative_to(tmp_path / "c") for path in (tmp_path / "c").rglob("*.dcm")) != names["a"]


def test_another_file_is_never_overwritten(images: Path, secret: Path, tmp_path: Path) -> None:
    source = images / "DOE^JANE" / "ct.dcm"
    invoke(source, "-o", tmp_path / "out", "--secret-file", secret)
    (written,) = (tmp_path / "out").rglob("*.dcm")
    written.write_bytes(b"something else")
    done = invoke(source, "-o", tmp_path / "out", "--secret-file", secret)
    assert done.return_value == 1 and "output_exists" in done.stderr
    assert written.read_bytes() == b"something else"
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == [written.name]


def test_a_short_secret_and_a_wrong_profile_are_refused(images: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"too short")
    runner = CliRunner()
    for arguments, message in (
        (["--secret-file", short], "at least 32"),
        (["--profile", "missing.toml"], "--profile: "),
        (["--pixel-rules", "missing.toml"], "--pixel-rules: "),
    ):
        done = runner.invoke(deid, [str(part) for part in (images, "-o", tmp_path / "out", *arguments)])
        assert done.exit_code == 2 and message in done.stderr


def test_a_pipe_a_device_and_a_missing_link_do_not_stop_the_run(tmp_path: Path, ct_small: bytes, secret: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to(folder / "missing")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "image").write_bytes(ct_small)
    done = invoke(folder, "-o", tmp_path / "out", "--secret-file", secret, "--json")
    reasons = {Path(line["input"]).name: line.get("reason", "") for line in lines(done.stdout)}
    assert reasons == {"image": "", "nowhere": "unreadable", "pipe": "not_a_file", "zero": "not_a_file"}


def order(output: Path, **settings: Any) -> Order:
    output.mkdir(exist_ok=True)
    return Order(Profile.shipped("basic"), Pseudonymiser(b"0" * 32), PixelRules(), output, **settings)


@pytest.mark.parametrize("strike, reason", [(signal.SIGKILL, "worker_lost"), (signal.SIGSTOP, "timeout")])
def test_a_worker_that_dies_or_hangs_costs_one_file(tmp_path: Path, ct_small: bytes, strike: signal.Signals, reason: str) -> None:
    tasks = []
    for number in (1, 2, 3):
        tasks.append(Task(number, tmp_path / f"{number}.dcm", True))
        tasks[-1].path.write_bytes(ct_small.replace(b"1.3.6.1.4.1.5962", b"1.3.6.1.4.1.596%d" % number))
    results = run(order(tmp_path / "out"), tasks, 1, 5.0)
    entries = [next(results)]
    (worker,) = workers_of(os.getpid())
    os.kill(worker, strike)
    entries += list(results)
    assert [(entry.number, entry.reason) for entry in entries] == [(1, ""), (2, reason), (3, "")]
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2
    assert not list((tmp_path / "out").glob(".mdm-deid-*"))
    assert workers_of(os.getpid()) == []


def command_line(process: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def workers_of(parent: int) -> list[int]:
    processes = [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return [process for process in processes if b"deid.worker" in command_line(process)]


def test_the_output_directory_is_not_an_input(tmp_path: Path, ct_small: bytes) -> None:
    (tmp_path / "image.dcm").write_bytes(ct_small)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.dcm").write_bytes(ct_small)
    assert [task.path.name for task in find_files([tmp_path], (tmp_path / "out").resolve())] == ["image.dcm"]


def test_preview_shows_the_regions_in_red(tmp_path: Path) -> None:
    from PIL import Image

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ULTRASOUND
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = "US", 4, 8, 1
    dataset.PhotometricInterpretation, dataset.BitsAllocated, dataset.BitsStored = "MONOCHROME2", 8, 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.PixelData = 7, 0, bytes(range(32))
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    (tmp_path / "us.dcm").write_bytes(buffer.getvalue())
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "top"\nsource = "test"\nmodalities = ["US"]\nsizes = [[8, 4]]\nblank = [[2, 0, 3, 1]]\n')
    done = invoke("preview", tmp_path / "us.dcm", "-o", tmp_path / "png", "--pixel-rules", rules)
    assert done.return_value == 0 and "top" in done.output
    target = tmp_path / "png" / "us.dcm.png"
    picture = Image.open(target)
    assert picture.size == (8, 4)
    assert [picture.getpixel((x, 0))[0] for x in range(8)] == [0, 1, 255, 255, 255, 5, 6, 7]
    assert picture.getpixel((3, 2)) == (19, 19, 19)
    assert target.stat().st_mode & 0o077 == 0
    assert invoke("preview", rules, "-o", tmp_path / "png").return_value == 1


def test_mdm_offers_the_command_without_loading_grpc(tmp_path: Path) -> None:
    assert "deid" in main.list_commands(None)
    code = "import mdm_deid.cli.command, sys; print(sorted({'grpc', 'psycopg', 'pynetdicom', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mdm_runs_it_and_ends_it_when_interrupted(tmp_path: Path, ct_small: bytes) -> None:
    (tmp_path / "in").mkdir()
    for number in range(300):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(ct_small.replace(b"5962.1.1.1.1.1.2", b"5962.1.1.1.1.%03d" % number))
    command = [sys.executable, "-c", "from mdm_client.cli import main; main()", "deid", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not list((tmp_path / "out").rglob("*.dcm")) and process.poll() is None:
            time.sleep(0.01)
        workers = workers_of(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode in (0, 130)
    assert not [worker for worker in workers if b"deid.worker" in command_line(worker)]
    assert all(pydicom.dcmread(path).PatientIdentityRemoved == "YES" for path in (tmp_path / "out").rglob("*.dcm"))
    assert not list((tmp_path / "out").glob(".mdm-deid-*"))
