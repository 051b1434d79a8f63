"""De-identification, one thread, file to file on a memory-backed folder, beside dicom-anonymizer, dicognito and deid (all in Python).

Run: python bench/deid.py [--profile]   (peers that are not installed, see requirements/bench.in, are left out)
Prints processor milliseconds per file (median) and how many times as long each peer takes as our profile `basic` with its self-check,
which is how we run; with --profile, where our time goes.
Single files: each is of another patient, study and series than the one before, so that nothing is remembered of it.
Series: images of one series one after the other; in the first 15 of 290 elements differ from image to image, in the second 120.
"""

import contextlib
import cProfile
import importlib.util
import io
import itertools
import logging
import os
import pstats
import random
import shutil
import statistics
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

# This script's folder has a deid.py, which is not the package of that name.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
_SECRET = b"benchmark secret, thirty-two bytes"
# Long enough for a steady median, short enough for slow peers.
_BUDGET_SECONDS = 4.0
_WARM_UP, _MOST_RUNS = 2, 200

Run = Callable[[Path, Path], None]


def main() -> None:
    """Print one line per input."""
    warnings.simplefilter("ignore")
    logging.disable()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    ways: dict[str, Run] = {f"{name}+check": ours(name, check=True) for name in ("basic", "research", "strict")}
    ways |= {name: ours(name, check=False) for name in ("basic", "research")} | {"copying": copy}
    others = {name: make() for name, make in PEERS.items() if importlib.util.find_spec(name) is not None}
    print(f"{'file':<26}{'KiB':>7}" + "".join(f"{name:>18}" for name in [*ways, *others]))
    for number, (label, contents) in enumerate(inputs()):
        sources = [folder / f"in-{number}-{index}" / "in.dcm" for index in range(len(contents))]
        for source, content in zip(sources, contents, strict=True):
            source.parent.mkdir()
            source.write_bytes(content)
        times = {name: measure(run, sources, folder / "out.dcm") for name, run in {**ways, **others}.items()}
        cells = [f"{time:.2f}" + (f" ({time / times['basic+check']:.1f}x)" if name in others else "") for name, time in times.items()]
        print(f"{label:<26}{len(contents[0]) / 1024:>7.0f}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
        shutil.rmtree(folder)
        folder.mkdir()
    folder.rmdir()
    if "--profile" in sys.argv:
        where()


def where() -> None:
    """Print the functions that take most of the time."""
    for label, contents in inputs():
        for name, run in (("research", plain("research").deidentify), ("research+check", checked("research").deidentify)):
            for content in contents[:5]:
                run(content)
            profiler = cProfile.Profile()
            profiler.enable()
            for content in contents[5:10]:
                run(content)
            profiler.disable()
            out = io.StringIO()
            pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(6)
            print(f"\n{label}, {name}")
            print("\n".join(line for line in out.getvalue().splitlines()[6:] if line.strip()))


def inputs() -> Iterator[tuple[str, list[bytes]]]:
    """Yield the files by name."""
    small, mr = (TEST_FILES / "CT_small.dcm").read_bytes(), (TEST_FILES / "MR_small.dcm").read_bytes()
    yield "CT_small", singles(small, 200)
    yield "CT 512x512", singles(enlarged(small, 512), 60)
    yield "MR 1024x1024", singles(enlarged(mr, 1024), 30)
    yield "enhanced, 1,000 frames", singles(multiframe(small), 12)
    yield "20,000 nested, private", singles(nested(mr), 12)
    yield "series, 15 vary", series(small, 100, every=False)
    yield "series, 120 vary", series(small, 100, every=True)


def singles(content: bytes, count: int) -> list[bytes]:
    """Return the file as of so many patients: names and identifiers end in other letters, UIDs in other digits."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    uids = [str(dataset[keyword].value).encode() for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    names = [text.encode() for text in (str(dataset.PatientName), str(dataset.PatientID)) if len(text) > 3]
    files = []
    for number in range(count):
        # A number may stand in measurements, too.
        letters = bytes(b"BCDFGHJKLMNPQRSTVWXZ"[number // 20**place % 20] for place in range(3))
        file = content
        for text, end in (*((uid, b"%03d" % number) for uid in uids), *((name, letters) for name in names)):
            file = file.replace(text, text[:-3] + end)
        files.append(file)
    return files


def series(original: bytes, count: int, every: bool) -> list[bytes]:
    """Return images of 512 x 512 with 290 elements, 170 of them in sequences, of which 15 change or, with `every`, 120."""
    dataset, source = pydicom.dcmread(io.BytesIO(enlarged(original, 512))), random.Random(1)
    private = [element.tag for element in dataset if element.tag.is_private and not element.tag.is_private_creator]
    for tag in (*private[20:], 0xFFFCFFFC):
        del dataset[tag]
    describe(dataset)
    pixels, files = dataset.PixelData, []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.3.6.1.4.1.5962.1.1.9.{number}"
        for keyword in ("ContentTime", "AcquisitionTime", "InstanceCreationTime"):
            setattr(dataset, keyword, f"1130{number % 60:02d}.{number:06d}")
        dataset.AcquisitionDateTime = f"199704301129{number % 60:02d}.{number:06d}"
        dataset.InstanceNumber, dataset.SliceLocation, dataset.ImagePositionPatient = number + 1, number * 5, [-158.1, -179.0, number * 5]
        dataset.XRayTubeCurrent, dataset.Exposure, dataset.WindowCenter = 170 + number % 40, 150 + number % 50, 40 + number % 7
        dataset.ReconstructionDiameter = 300 + number
        for index, item in enumerate(dataset.SourceImageSequence[:2]):
            item.ReferencedSOPInstanceUID = f"1.3.6.1.4.1.5962.9.4.{number}.{index}"
        if every:
            vary(dataset, source)
        dataset.PixelData = pixels[number * 2 :] + pixels[: number * 2]
        files.append(saved(dataset))
    return files


def describe(dataset: Dataset) -> None:
    """Add what clinical images have: people, places, descriptions, codes, and references in sequences."""
    for keyword, text in {
        "PatientName": "Kowalczyk^Anna Maria",
        "PatientID": "PAT-0815-77",
        "PatientBirthDate": "19610317",
        "AccessionNumber": "ACC998877",
        "ReferringPhysicianName": "House^Gregory",
        "PerformingPhysicianName": "Wilson^James",
        "StudyDescription": "CT Abdomen with contrast",
        "SeriesDescription": "Abdomen 5.0 B30f",
        "ProtocolName": "Abdomen Routine",
        "InstitutionAddress": "Main street 5, Springfield",
        "DeviceSerialNumber": "SN123456",
        "RequestedProcedureDescription": "CT abdomen",
        "BodyPartExamined": "ABDOMEN",
    }.items():
        setattr(dataset, keyword, text)

    def item(**values: object) -> Dataset:
        made = Dataset()
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return made

    def code(value: str, scheme: str, meaning: str) -> Sequence:
        return Sequence([item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)])

    def reference(uid: str) -> Dataset:
        return item(ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID="1.3.6.1.4.1.5962.9." + uid)

    step = item(ScheduledProcedureStepDescription="CT Abdomen", ScheduledProcedureStepID="SPS-1", RequestedProcedureID="RP-1")
    step.ScheduledProtocolCodeSequence = code("CTABD", "99SITE", "CT Abdomen")
    dataset.RequestAttributesSequence = Sequence([step])
    dataset.ReferencedStudySequence = Sequence([reference("1")])
    dataset.ReferencedImageSequence = Sequence([reference(f"3.{number}") for number in range(8)])
    sources = [reference(f"4.{number}") for number in range(10)]
    for source in sources:
        source.PurposeOfReferenceCodeSequence = code("121322", "DCM", "Source image for image processing operation")
        source.SpatialLocationsPreserved = "YES"
    dataset.SourceImageSequence = Sequence(sources)
    dataset.ProcedureCodeSequence = code("CTABD", "99SITE", "CT Abdomen")
    dataset.AnatomicRegionSequence = code("818983003", "SCT", "Abdomen")
    exposures = [item(AcquisitionType="SPIRAL", KVP=120, XRayTubeCurrentInmA=170.0 + number) for number in range(8)]
    for exposure in exposures:
        exposure.ExposureTimeInms, exposure.RevolutionTime, exposure.DataCollectionDiameter = 1601.0, 0.5, 480
        exposure.SingleCollimationWidth, exposure.TotalCollimationWidth = 0.6, 19.2
    dataset.CTExposureSequence = Sequence(exposures)


def vary(dataset: Dataset, source: random.Random) -> None:
    """Give new values to times, numbers and UIDs at all depths, but for those that say how the pixels lie, and of study and series."""
    for element in dataset.iterall():
        number = f"{source.uniform(0, 1000):.4f}"
        if element.tag.group in (0x0010, 0x0028, 0x7FE0) or element.tag in (0x0020000D, 0x0020000E) or "Class" in element.keyword:
            continue
        if element.VR == "UI":
            element.value = f"1.3.6.1.4.1.5962.7.{source.randrange(10**9)}"
        elif element.VR == "TM":
            element.value = f"112936.{source.randrange(10**6):06d}"
        elif element.VR in ("DS", "IS", "FD", "FL", "US", "SS", "UL", "SL"):
            value = float(number) if element.VR in ("DS", "FD", "FL") else int(float(number))
            element.value = [value] * element.VM if element.VM > 1 else value


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
    """As Siemens angiography systems write: 20,000 elements in sequences in sequences, public and in private blocks."""
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


def copy(source: Path, target: Path) -> None:
    """Read and write the file: what no de-identifier can save."""
    target.write_bytes(source.read_bytes())


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


def measure(run: Run, sources: list[Path], target: Path) -> float:
    """Return the median processor time in milliseconds over the files one after the other, after two to warm up; a slow way has one run."""
    times: list[float] = []
    end = time.monotonic() + _BUDGET_SECONDS
    for number, source in enumerate(itertools.cycle(sources)):
        start = time.process_time()
        run(source, target)
        times.append(time.process_time() - start)
        if number >= _MOST_RUNS or time.monotonic() > end:
            break
    return statistics.median(times[_WARM_UP:] or times[-1:]) * 1000


if __name__ == "__main__":
    main()
