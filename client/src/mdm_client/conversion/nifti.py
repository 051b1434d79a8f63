"""NIfTI volumes with sidecars, by dcm2niix."""

import gzip
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from mdm_wire.errors import FailedPrecondition, Invalid, MdmError

_BASE = "x"
#: Sidecars without names and dates, values of the defaults file ignored, inner gzip: the same result on every machine.
_OPTIONS = ("-b", "y", "-ba", "y", "-z", "i", "-g", "i", "-w", "2", "-f", _BASE)
_SIDECARS = (".nii.gz", ".json", ".bval", ".bvec")
#: What dcm2niix warns of that makes a volume other than the series was, by the beginning of its words.
_WORTH_TELLING = {
    "Missing images?": "images seem to be missing",
    "Interslice distance varies": "slices are at uneven distances",
    "Unable to stack": "images could not be stacked into one volume",
    "Slices not stacked": "images could not be stacked into one volume",
    "Unable to equalize": "slices are at uneven distances",
    "Saving mixed": "images of different kinds were mixed",
}
_EQUALISED, _DIRECTIONS = re.compile(r"_Eq(_\d+)?$"), re.compile(r"_i\d{3,}")
_LEAST_FREE = 1024 * 1024


@dataclass(frozen=True)
class Volume:
    """What dcm2niix made: files by suffix (`.nii.gz`, `.json`, `.bval`, `.bvec`), and what it put after the name, such as `_e2`."""

    mark: str
    files: dict[str, Path]


@dataclass(frozen=True)
class Converted:
    """The volumes of a series, and what a person should know of them."""

    volumes: list[Volume]
    remarks: list[str]


def find_program() -> str:
    """Return the path of dcm2niix: of its package, else of the system.

    Raises:
        Invalid: DCM2NIIX_MISSING.
    """
    if find_spec("dcm2niix") is not None:
        import dcm2niix

        return str(dcm2niix.bin)
    found = shutil.which("dcm2niix")
    if found is None:
        raise Invalid("DCM2NIIX_MISSING", "this needs dcm2niix: pip install 'mdm-client[nifti]', or the system's package dcm2niix")
    return found


@contextmanager
def private_folder(output: Path) -> Iterator[Path]:
    """Yield a folder beside the output's files that only this user may enter; with all that is in it, it is removed at the end.

    Raises:
        OSError: it cannot be made.
    """
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".mdm-", dir=output, ignore_cleanup_errors=True) as name:
        yield Path(name)


def convert(program: str, files: Sequence[Path], folder: Path) -> Converted:
    """Convert the DICOM files of one series, in a new folder below `folder`.

    Raises:
        FailedPrecondition: NOT_A_VOLUME: dcm2niix makes nothing of them. MdmError: LOCAL_DISK_FULL, CONVERTER_FAILED.
    """
    work = Path(mkdtemp(dir=folder))
    source, made = work / "dicom", work / "nifti"
    source.mkdir()
    made.mkdir()
    for number, path in enumerate(files):
        path.rename(source / f"{number:06d}.dcm")
    try:
        done = subprocess.run(
            [program, *_OPTIONS, "-o", str(made), str(source)], capture_output=True, check=False, stdin=subprocess.DEVNULL, cwd=work
        )
    except OSError as error:
        raise Invalid("DCM2NIIX_MISSING", f"dcm2niix cannot be started: {error.strerror}") from error
    finally:
        shutil.rmtree(source, ignore_errors=True)
    volumes = _volumes(made)
    if shutil.disk_usage(folder).free < _LEAST_FREE:
        raise MdmError("LOCAL_DISK_FULL", "the disk is full")
    if not volumes:
        if done.returncode in (0, 2):
            raise FailedPrecondition("NOT_A_VOLUME", "dcm2niix finds no image in it that could be a volume")
        raise MdmError("CONVERTER_FAILED", f"dcm2niix ended with code {done.returncode}")
    for volume in volumes:
        _check_whole(volume.files[".nii.gz"])
    return Converted(volumes, _remarks(done.stdout.decode(errors="replace"), volumes))


def _volumes(made: Path) -> list[Volume]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(made.iterdir()):
        suffix = next((suffix for suffix in _SIDECARS if path.name.endswith(suffix)), None)
        if suffix is not None:
            path.chmod(0o600)
            found.setdefault(path.name.removesuffix(suffix).removeprefix(_BASE), {})[suffix] = path
    return [Volume(mark, files) for mark, files in sorted(found.items()) if ".nii.gz" in files]


def _remarks(output: str, volumes: Sequence[Volume]) -> list[str]:
    """Return what dcm2niix says of the images, in words of our own: its lines may quote headers."""
    found = {told: None for line in output.splitlines() for words, told in _WORTH_TELLING.items() if words in line}
    if any(_EQUALISED.search(volume.mark) for volume in volumes):
        found["a copy with even distances (_Eq) was made"] = None
    if any(_DIRECTIONS.search(volume.mark) for volume in volumes):
        found["images of different orientations or kinds became volumes of their own"] = None
    return list(found)


def _check_whole(path: Path) -> None:
    """Check that a volume has all the bytes that its header says (NIfTI-1, nifti1.h).

    Raises:
        MdmError: CONVERTER_FAILED.
    """
    try:
        with gzip.open(path) as file:
            header = file.read(352)
            sizes = [int.from_bytes(header[place : place + 2], "little", signed=True) for place in range(40, 56, 2)]
            bits = int.from_bytes(header[72:74], "little")
            expected = bits // 8
            for size in sizes[1 : sizes[0] + 1]:
                expected *= size
            count = 0
            while part := file.read(4 * 1024 * 1024):
                count += len(part)
    except (OSError, EOFError) as error:
        raise MdmError("CONVERTER_FAILED", "dcm2niix wrote a volume that cannot be read; is the disk full?") from error
    if count < expected:
        raise MdmError("CONVERTER_FAILED", "dcm2niix wrote a volume that is not whole; is the disk full?")
