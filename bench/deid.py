"""De-identification, one thread, file to file on a memory-backed folder, beside dicom-anonymizer, dicognito and deid.

Run: python bench/deid.py [--profile]   (peers that are not installed, see requirements/bench.in, are left out)
Prints processor milliseconds per file (median) and how many times as long each peer takes as our profile `basic`;
with --profile, where our time goes.
"""

import contextlib
import cProfile
import importlib.util
import io
import logging
import os
import pstats
import statistics
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pydicom
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.rules.profile import SHIPPED
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

# This script's folder has a deid.py, which is not the package of that name.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
_SECRET = b"benchmark secret, thirty-two bytes"
# Long enough for a steady median, short enough for slow peers.
_BUDGET_SECONDS = 4.0

Run = Callable[[Path, Path], None]


def main() -> None:
    """Print one line per input."""
    warnings.simplefilter("ignore")
    logging.disable()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    ways: dict[str, Run] = {name: ours(name, check=False) for name in SHIPPED}
    ways["basic+check"] = ours("basic", check=True)
    others = {name: make() for name, make in PEERS.items() if importlib.util.find_spec(name) is not None}
    names = [*ways, *others]
    print(f"{'file':<26}{'KiB':>7}" + "".join(f"{name:>17}" for name in names))
    for number, (label, content) in enumerate(inputs().items()):
        source = folder / f"in-{number}" / "in.dcm"
        source.parent.mkdir()
        source.write_bytes(content)
        times = {name: measure(run, source, folder / "out.dcm") for name, run in {**ways, **others}.items()}
        cells = [f"{times[name]:.2f}" + (f" ({times[name] / times['basic']:.1f}x)" if name in others else "") for name in names]
        print(f"{label:<26}{len(content) / 1024:>7.0f}" + "".join(f"{cell:>17}" for cell in cells), flush=True)
    if "--profile" in sys.argv:
        where()


def where() -> None:
    """Print the functions that take most of the time, for the smallest and the most nested file."""
    for label, content in inputs().items():
        for name, run in (("basic", plain("basic").deidentify), ("check", checked("basic").deidentify)):
            run(content)
            profiler = cProfile.Profile()
            profiler.enable()
            for _ in range(5):
                run(content)
            profiler.disable()
            out = io.StringIO()
            pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(6)
            print(f"\n{label}, {name}")
            print("\n".join(line for line in out.getvalue().splitlines()[6:] if line.strip()))


def inputs() -> dict[str, bytes]:
    """Return the files by name."""
    small, mr = (TEST_FILES / "CT_small.dcm").read_bytes(), (TEST_FILES / "MR_small.dcm").read_bytes()
    return {
        "CT_small": small,
        "CT 512x512": enlarged(small, 512),
        "MR 1024x1024": enlarged(mr, 1024),
        "enhanced, 1,000 frames": multiframe(small),
        "20,000 nested, private": nested(mr),
    }


def enlarged(original: bytes, side: int) -> bytes:
    """Return a real header with `side` x `side` x 16 bits of pixels that compress no better than noise does."""
    dataset = pydicom.dcmread(io.BytesIO(original))
    dataset.Rows = dataset.Columns = side
    state, words = 1, []
    for _ in range(4096):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        words.append(state >> 16 & 0x0FFF)
    dataset.PixelData = struct.pack("<4096H", *words) * (side * side // 4096)
    return saved(dataset)


def multiframe(original: bytes) -> bytes:
    """1,000 frames of functional groups, about 18,000 elements and items in all."""
    dataset = pydicom.dcmread(io.BytesIO(original))
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    frames = []
    for number in range(1000):
        position, content, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, number]
        content.FrameAcquisitionNumber = number
        content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = "20200101120000"
        for keyword in ("FrameComments", "FrameLabel", "StackID"):
            setattr(content, keyword, "text")
        content.DimensionIndexValues = [1, number]
        frame.PlanePositionSequence, frame.FrameContentSequence = Sequence([position]), Sequence([content])
        for keyword in ("SliceThickness", "RepetitionTime", "EchoTime", "FlipAngle", "KVP"):
            setattr(position, keyword, 1)
        for keyword in ("Rows", "Columns", "BitsStored"):
            setattr(position, keyword, 16)
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return saved(dataset)


def nested(original: bytes) -> bytes:
    """As angiography systems of Siemens write: 20,000 elements in sequences in sequences, public and in private blocks."""
    dataset = pydicom.dcmread(io.BytesIO(original))
    for tag, creator in ((0x00190010, "SIEMENS MR HEADER"), (0x00210010, "SIEMENS MED"), (0x00290010, "SIEMENS CSA HEADER")):
        dataset.add_new(tag, "LO", creator)
    dataset.add_new(0x00291010, "OB", b"SV10\4\3\2\1" + bytes(20_000))

    def item(number: int) -> Dataset:
        inner, outer = Dataset(), Dataset()
        inner.ReferencedSOPInstanceUID, inner.ReferencedSOPClassUID = f"1.3.12.2.1107.5.2.{number}", "1.2.840.10008.5.1.4.1.1.4"
        inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "121322", "DCM", "Source image for image processing"
        inner.ContentDate, inner.ContentTime = "20200101", "101010"
        outer.PurposeOfReferenceCodeSequence = Sequence([inner])
        outer.ReferencedFrameNumber = number
        return outer

    dataset.SourceImageSequence = Sequence([item(number) for number in range(1000)])
    dataset.add_new(0x00211001, "SQ", Sequence([item(number) for number in range(1000)]))
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    """Return the Part 10 bytes."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def plain(profile: str) -> Deidentifier:
    """Return our de-identifier."""
    return Deidentifier(Profile.shipped(profile), Pseudonymiser(_SECRET))


def checked(profile: str) -> CheckedDeidentifier:
    """Return our de-identifier with the self-check."""
    return CheckedDeidentifier(plain(profile), Profile.shipped(profile))


def ours(profile: str, check: bool) -> Run:
    """Return our way from file to file."""
    deidentify = checked(profile).deidentify if check else plain(profile).deidentify

    def run(source: Path, target: Path) -> None:
        result = deidentify(source.read_bytes())
        if result.outcome is not Outcome.RELEASED or result.data is None:
            raise SystemExit(f"not released: {result.reason}")
        with target.open("wb") as file:
            file.writelines(result.data)

    return run


def dicom_anonymizer() -> Run:
    """Return dicom-anonymizer's own file-to-file call."""
    from dicomanonymizer import anonymize_dicom_file

    def run(source: Path, target: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            anonymize_dicom_file(str(source), str(target))

    return run


def dicognito() -> Run:
    """Return dicognito's anonymizer between pydicom's reading and writing, as its command does."""
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer(seed="benchmark")

    def run(source: Path, target: Path) -> None:
        with pydicom.dcmread(source) as dataset:
            anonymizer.anonymize(dataset)
            dataset.save_as(target)

    return run


def deid() -> Run:
    """Return deid with its default recipe."""
    from deid.config import DeidRecipe
    from deid.dicom import replace_identifiers

    recipe = DeidRecipe()

    def run(source: Path, target: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            replace_identifiers([str(source)], deid=recipe, save=True, overwrite=True, output_folder=str(target.parent))

    return run


PEERS: dict[str, Callable[[], Run]] = {"dicomanonymizer": dicom_anonymizer, "dicognito": dicognito, "deid": deid}


def measure(run: Run, source: Path, target: Path) -> float:
    """Return the median processor time in milliseconds, after one run to warm up."""
    run(source, target)
    times: list[float] = []
    end = time.monotonic() + _BUDGET_SECONDS
    while not times or (len(times) < 200 and time.monotonic() < end):
        start = time.process_time()
        run(source, target)
        times.append(time.process_time() - start)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    main()
