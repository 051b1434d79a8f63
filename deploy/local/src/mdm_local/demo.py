"""The demonstration: a walk through the main job with real images, which is also a check that it works."""

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from mdm_site.site import IMAGES, PATIENTS, VO, SiteError, collection
from pynetdicom import AE

from mdm_local.layout import PACS, default_root
from mdm_local.pacs.kind import LOCAL_AE_TITLE
from mdm_local.sample import Sample, samples
from mdm_local.stack import Stack

_REGISTRATION_SECONDS = 60.0
_SHOWN = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "AccessionNumber", "StudyDate", "InstitutionName"),
    *("ReferringPhysicianName", "OperatorsName", "DeviceSerialNumber", "StudyInstanceUID", "SOPInstanceUID"),
    *("Modality", "Rows", "Columns", "SliceThickness", "PixelSpacing"),
)
_WIDTH = 38


@dataclass(frozen=True)
class CommandResult:
    """Output and exit code of a command, and the seconds it took."""

    code: int
    out: str
    err: str
    seconds: float


class Demo:
    """The steps, in order. Each checks what it shows, and raises SiteError if that is wrong."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._folder = stack.layout.root / "demo"
        self._images, self._patients = (collection(stack.state.name, name) for name in (IMAGES, PATIENTS))
        self._samples = samples()
        self._open = [sample for sample in self._samples if not sample.held]
        self._summary: list[str] = []
        self._known_before = len(self._visible())

    def run(self) -> None:
        """Walk through all steps and print the summary."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        rows = self._register(self._store())
        self._hold_back()
        self._query()
        original, fetched = self._fetch(rows)
        self._compare(original, fetched)
        self._refuse(rows)
        self._lose_a_keystore(rows)
        self._conclude()

    def _store(self) -> float:
        pacs = self._stack.pacs
        _title(
            f"A modality stores {len(self._samples)} images in the PACS ({pacs.kind}, {pacs.ae_title}@{pacs.host}:{pacs.port}) by C-STORE"
        )
        ae = AE(LOCAL_AE_TITLE)
        for context in {(s.dataset.SOPClassUID, s.dataset.file_meta.TransferSyntaxUID) for s in self._samples}:
            ae.add_requested_context(*context)
        association = ae.associate(pacs.host, pacs.port, ae_title=pacs.ae_title)
        if not association.is_established:
            raise SiteError("the PACS does not accept an association")
        began = time.monotonic()
        for sample in self._samples:
            status = association.send_c_store(sample.dataset)
            if "Status" not in status or status.Status != 0:
                raise SiteError(f"the PACS refused an image ({sample.description})")
            print(f"  {sample.dataset.PatientName!s:<16} {sample.patient_id}  {sample.description}")
        association.release()
        return began

    def _register(self, began: float) -> list[dict[str, str]]:
        """Wait until every image is visible on the grid."""
        rows: list[dict[str, str]] = []
        while len(rows) < len(self._open):
            if time.monotonic() - began > _REGISTRATION_SECONDS:
                log = self._stack.log_of("dicom-srm")
                raise SiteError(f"{len(rows)} of {len(self._open)} images registered in {_REGISTRATION_SECONDS:.0f} s; see {log}")
            time.sleep(0.2)
            rows = self._visible()
        if self._known_before:
            self._note(f"registered       {len(rows)} images; {self._known_before} were from an earlier run and kept their names")
        else:
            self._note(
                f"registered       {len(rows)} images, visible on the grid {time.monotonic() - began:.1f} s after the first was stored"
            )
        return rows

    def _visible(self) -> list[dict[str, str]]:
        """Return the images of the invented patients; only a physician may ask for them by patient."""
        ids = ", ".join(f"'{patient}'" for patient in sorted({sample.patient_id for sample in self._samples}))
        sql = (
            f'SELECT i.guid, i.lfn, p.PatientID FROM "{self._images}" AS i JOIN "{self._patients}" AS p ON i.patient = p.patient '  # noqa: S608  constants
            f"WHERE p.PatientID IN ({ids})"
        )
        answer = self._mdm("carol", "--json", "query", sql)
        return [json.loads(line) for line in answer.out.splitlines()] if answer.code == 0 else []

    def _hold_back(self) -> None:
        _title("An image that may show a name in its pixels is held back for a person to look at")
        held = [sample for sample in self._samples if sample.held]
        for sample in held:
            self._show("operator", "register", "--study", str(sample.dataset.StudyInstanceUID), "--wait")
        self._note(f"held back        {len(held)} image by the site's policy")

    def _query(self) -> None:
        _title("Alice, a researcher, looks for images by what they are")
        attributes = "Modality, Rows, Columns, NumberOfFrames, TransferSyntaxUID, guid"
        sql = f'SELECT {attributes} FROM "{self._images}" WHERE Rows >= 64 ORDER BY Modality LIMIT 10'  # noqa: S608  constants
        answer = self._show("alice", "query", sql)
        self._note(f"query            {len(answer.out.splitlines()) - 2} rows in {answer.seconds:.2f} s, the start of the command included")

    def _fetch(self, rows: Sequence[dict[str, str]]) -> tuple[Sample, Path]:
        _title("Alice fetches them: from the PACS, de-identified, encrypted, sent, decrypted by her own process")
        folder = self._folder / "alice"
        answer = self._show("alice", "get", *(row["lfn"] for row in rows), "-o", str(folder), shown="get LFN… -o " + str(folder))
        files = _files(folder)
        self._check_content(files)
        size = sum(path.stat().st_size for path in files)
        self._note(
            f"fetched          {len(files)} files, {size / 1e6:.1f} MB in {answer.seconds:.2f} s; pixel data of all equal the originals'"
        )
        by_pixels = {_pixels(path): path for path in files}
        original = self._samples[0]
        return original, by_pixels[_digest(original.dataset.PixelData)]

    def _check_content(self, files: Sequence[Path]) -> None:
        wanted = sorted(_digest(sample.dataset.PixelData) for sample in self._open)
        if sorted(map(_pixels, files)) != wanted:
            raise SiteError("the pixel data that arrived is not what was stored")
        secrets = {secret.encode() for sample in self._samples for secret in sample.secrets}
        for path in files:
            content = path.read_bytes()
            if any(secret in content for secret in secrets):
                raise SiteError(f"{path}: an identifying value survived")

    def _compare(self, original: Sample, fetched: Path) -> None:
        _title("What the header lost, and what it kept")
        before, after = original.dataset, pydicom.dcmread(fetched)
        print(f"  {'':<24} {'in the PACS':<{_WIDTH}} at alice's")
        for keyword in _SHOWN:
            print(f"  {keyword:<24} {_text(before, keyword):<{_WIDTH}} {_text(after, keyword)}")
        counts = [(sum(1 for _ in dataset.iterall()), sum(1 for e in dataset if e.tag.is_private)) for dataset in (before, after)]
        print(f"  {'elements (private)':<24} {f'{counts[0][0]} ({counts[0][1]})':<{_WIDTH}} {counts[1][0]} ({counts[1][1]})")
        values = sum(len(sample.secrets) for sample in self._samples)
        self._note(f"identity         none of {values} identifying values and original UIDs is in any fetched file")

    def _refuse(self, rows: Sequence[dict[str, str]]) -> None:
        _title("Mallory has a valid certificate, and no rights")
        folder = self._folder / "mallory"
        answer = self._show("mallory", "get", rows[0]["lfn"], "-o", str(folder))
        seen = self._mdm("mallory", "--json", "query", f'SELECT guid FROM "{self._images}"')  # noqa: S608  constants
        if answer.code == 0 or _files(folder) or seen.out.strip():
            raise SiteError("mallory got something")
        self._note("mallory          refused by name, as if the file did not exist; a query shows nothing")

    def _lose_a_keystore(self, rows: Sequence[dict[str, str]]) -> None:
        _title("One of three keystores goes down; Alice fetches again")
        self._stack.stop("keystore-b")
        try:
            folder = self._folder / "alice-again"
            answer = self._show("alice", "get", *(row["lfn"] for row in rows), "-o", str(folder), shown="get LFN… -o " + str(folder))
            files = _files(folder)
            self._check_content(files)
        finally:
            self._stack.start("keystore-b")
        self._note(f"keystore down    {len(files)} files again in {answer.seconds:.2f} s with two of three keystores")

    def _conclude(self) -> None:
        _title("Summary")
        print("\n".join(f"  {line}" for line in self._summary))
        root = self._stack.layout.root
        options = "" if root == default_root() else f" --data-dir {shlex.quote(str(root))}"
        command = Path(sys.executable).parent / "mdm"
        print(f"\nThe stack stays up. Try   {_relative(command)} --config {_relative(self._stack.layout.client('alice'))} ls -l -R /{VO}")
        print(f"See the images with       {_relative(command)} --config {_relative(self._stack.layout.client('alice'))} view")
        print(f"                          (it opens your browser; `{_relative(command)} view --fetch-viewer` first installs OHIF)")
        print(f"Stop it with              {_relative(command.with_name('mdm-local'))} down{options}     (--purge removes it)")

    def _note(self, line: str) -> None:
        self._summary.append(line)

    def _show(self, user: str, *arguments: str, shown: str = "") -> CommandResult:
        """Run `mdm` as a user and print the command with its output."""
        print(f"  {user}$ mdm {shown or shlex.join(arguments)}")
        answer = self._mdm(user, *arguments)
        for line in (answer.out + answer.err).splitlines():
            print(f"    {line}")
        if answer.code != 0 and user not in ("mallory", "operator"):
            raise SiteError(f"mdm {arguments[0]} failed with code {answer.code}")
        return answer

    def _mdm(self, user: str, *arguments: str) -> CommandResult:
        command = [str(Path(sys.executable).parent / "mdm"), "--config", str(self._stack.layout.client(user)), *arguments]
        environment = {**os.environ, "COLUMNS": "150"}
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180, check=False)
        return CommandResult(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def run_demo(stack: Stack, pacs_kind: str = "auto") -> None:
    """Bring the stack up and demonstrate it.

    Raises:
        SiteError: a step failed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    began = time.monotonic()
    _title(f"Bringing up the stack in {stack.layout.root}")
    stack.up(pacs_kind)
    if PACS not in stack.components:
        raise SiteError(f"{stack.layout.root}: this stack has no PACS to store images in")
    demo = Demo(stack)
    demo.run()
    print(f"\nThe whole demonstration took {time.monotonic() - began:.0f} s.")


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    if keyword not in dataset:
        return "(removed)"
    text = str(dataset[keyword].value)
    if not text or text == "None":
        return "(empty)"
    return text if len(text) < _WIDTH else text[: _WIDTH - 2] + "…"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _pixels(path: Path) -> str:
    return _digest(pydicom.dcmread(path).PixelData)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
