"""Processor milliseconds per file of de-identification, one thread; beside dicom-anonymizer where that is importable.

Run: python bench/deid.py
"""

import contextlib
import importlib.util
import io
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
from mdm_dicom_srm.deid import Deidentifier, Outcome, Profile, Pseudonymiser
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def main() -> None:
    """Print one line per file."""
    deidentifiers = {
        name: Deidentifier(Profile.shipped(name), Pseudonymiser(b"benchmark secret, thirty-two bytes")) for name in ("basic", "research")
    }
    other = dicom_anonymizer()
    print(f"{'file':<22}{'KiB':>8}{'basic ms':>10}{'research ms':>13}{'dicom-anonymizer ms':>21}")
    for name, content in inputs().items():
        cells = [f"{measure(lambda d=d, c=content: released(d, c)):.3f}" for d in deidentifiers.values()]
        beside = f"{measure(lambda c=content: other(c), 20):.3f}" if other else "not installed"
        print(f"{name:<22}{len(content) / 1024:>8.0f}{cells[0]:>10}{cells[1]:>13}{beside:>21}")


def inputs() -> dict[str, bytes]:
    """Return the files by name: a real small CT, a synthetic 0.5 MB CT, one with 1,000 frames, nested."""
    small = (TEST_FILES / "CT_small.dcm").read_bytes()
    return {"CT_small": small, "CT 512x512 synthetic": large_ct(small), "1,000 frames, nested": nested(small)}


def large_ct(small: bytes) -> bytes:
    """CT_small's header with 512 x 512 x 16 bit of pixels."""
    dataset = pydicom.dcmread(io.BytesIO(small))
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = struct.pack("<H", 1000) * (512 * 512)
    return saved(dataset)


def nested(small: bytes) -> bytes:
    """1,000 frames of functional groups, about 18,000 elements and items in all."""
    dataset = pydicom.dcmread(io.BytesIO(small))
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


def saved(dataset: Dataset) -> bytes:
    """Return the Part 10 bytes."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def released(deidentifier: Deidentifier, content: bytes) -> None:
    """De-identify, refusing to measure a file that is not released."""
    result = deidentifier.deidentify(content)
    if result.outcome is not Outcome.RELEASED:
        raise SystemExit(f"not released: {result.reason}")


def measure(run: Callable[[], None], repeat: int = 200) -> float:
    """Return the median processor time of a run in milliseconds, after one to warm up."""
    run()
    times = []
    for _ in range(repeat):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return statistics.median(times) * 1000


def dicom_anonymizer() -> Callable[[bytes], None] | None:
    """Return dicom-anonymizer's file-to-file call on a memory-backed folder, or None if it is not installed."""
    if importlib.util.find_spec("dicomanonymizer") is None:
        return None
    from dicomanonymizer import anonymize_dicom_file

    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))

    def run(content: bytes) -> None:
        source = folder / "in.dcm"
        source.write_bytes(content)
        with contextlib.redirect_stdout(io.StringIO()):
            anonymize_dicom_file(str(source), str(folder / "out.dcm"))

    return run


if __name__ == "__main__":
    main()
