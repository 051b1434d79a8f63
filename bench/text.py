"""Recall of the search for text in pixels, on images that this script makes and on those that packages ship.

`python bench/text.py [--images N] [--seed N] [--minutes M]` prints a table; Control-C ends it with what it has.

An image is missed if a line of it is not covered: at least 80 % of its
ink must lie in the regions that were found. Needs the extra `text` of mdm-deid.
"""

import argparse
import io
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mdm_deid.outcome import Malformed, Withheld
from mdm_deid.pixels.text_detector import TextDetector
from mdm_deid.pixels.text_line import NotLooked, merged, pictures
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SIZES = (8, 10, 12, 14, 18, 24, 36)
CONTRASTS = (0.15, 0.3, 0.6, 1.0)
NOISES = (0.0, 0.03, 0.08)
BACKGROUNDS = ("US", "SC", "CR", "CT")
WORDS = ("DOE^JANE", "Müller, Karl", "ID 4711-0815", "13.03.1947", "St. Mary Hospital", "Acc 20260317", "Dr. O'Neill", "F 079Y")
COVERED = 0.8
#: What packages ship with text in the pixels, as read by people: a part of one of the lines.
SHIPPED = {
    "US1_UNCR.dcm": ("BAPTIST", "GE", "LYMPH", "22G22"),
    "examples_rgb_color.dcm": ("BAPTIST", "LYMPH", "NODE"),
    "examples_ybr_color.dcm": ("Gen", "P21", "0.9"),
    "examples_palette.dcm": ("Gen", "C5-1", "11cm", "2D"),
}


@dataclass(frozen=True)
class Made:
    """An image with a line of text: how it was made, where the ink is, and the file."""

    background: str
    size: int
    contrast: float
    noise: float
    frames: int
    ink: np.ndarray
    part10: bytes


def fonts() -> list[str]:
    """Return the font files of this machine that write what we write; Pillow's own comes first, as "".

    Fonts of symbols are left out by name.
    """
    found = sorted(str(path) for path in Path("/usr/share/fonts").rglob("*.ttf") if "Math" not in path.name)
    return ["", *found]


def background(kind: str, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Return grey values from 0 to 1 like those of a kind of image."""
    rows, columns = {"US": (480, 640), "SC": (600, 800), "CR": (1024, 832), "CT": (512, 512)}[kind]
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    if kind == "US":
        angle, radius = np.arctan2(x - columns / 2, y + 40), np.hypot(x - columns / 2, y + 40)
        sector = (np.abs(angle) < 0.7) & (radius < rows)
        grey = np.where(sector, rng.gamma(2.0, 0.12, (rows, columns)), 0.02)
    elif kind == "SC":
        grey = np.where((y // 120 % 2) == 0, 0.85, 0.75)
    elif kind == "CR":
        grey = 0.25 + 0.45 * np.exp(-(((x - columns / 2) / 300) ** 2) - ((y - rows / 2) / 420) ** 2)
    else:
        body = ((x - 256) / 190) ** 2 + ((y - 256) / 150) ** 2 < 1
        grey = np.where(body, 0.45, 0.0) + 0.4 * (((x - 256) / 30) ** 2 + ((y - 330) / 30) ** 2 < 1)
    return np.clip(grey + rng.normal(0, noise or 1e-4, grey.shape), 0, 1)


def make(kind: str, size: int, contrast: float, noise: float, rng: np.random.Generator, names: list[str]) -> Made:
    """Make an image with one line of text at a place of its own; one in five has several frames, with text in one of them."""
    grey = background(kind, rng, noise)
    rows, columns = grey.shape
    name = names[int(rng.integers(len(names)))]
    font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    text = WORDS[int(rng.integers(len(WORDS)))]
    *_, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font)
    mask = Image.new("L", (columns, rows), 0)
    place = (int(rng.integers(2, max(3, columns - right - 2))), int(rng.integers(2, max(3, rows - bottom - 2))))
    ImageDraw.Draw(mask).text(place, text, fill=255, font=font)
    ink = np.asarray(mask).astype(np.float32) / 255
    under = float(np.median(grey[max(0, place[1]) : place[1] + bottom, max(0, place[0]) : place[0] + right]))
    shade = under + contrast if under + contrast <= 1 else max(0.0, under - contrast)
    written = np.clip(grey * (1 - ink) + shade * ink, 0, 1)
    frames = [written]
    if rng.random() < 0.2:
        others = [np.clip(grey + rng.normal(0, 0.01, grey.shape), 0, 1) for _ in range(4)]
        frames = [*others[:2], written, *others[2:]]
    return Made(kind, size, contrast, noise, len(frames), ink > 0.3, part10(kind, frames))


def part10(kind: str, frames: list[np.ndarray]) -> bytes:
    """Return frames as a file, with the bits that images of the kind have."""
    bits, most = (8, 255) if kind in ("US", "SC") else (16, 4095)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = kind, 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = frames[0].shape
    dataset.NumberOfFrames, dataset.PixelRepresentation = len(frames), 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, 8 if bits == 8 else 12, 7 if bits == 8 else 11
    dataset.PixelData = np.stack([(frame * most).astype(f"<u{bits // 8}") for frame in frames]).tobytes()
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def is_found(detector: TextDetector, made: Made) -> bool:
    """Return whether the regions that are found cover the ink."""
    covered = np.zeros(made.ink.shape, bool)
    for line in merged([line for picture in pictures(made.part10) for line in detector.find(picture)]):
        covered[line.box.top : line.box.bottom, line.box.left : line.box.right] = True
    return bool((covered & made.ink).sum() >= COVERED * made.ink.sum())


def cases(images: int) -> Iterator[tuple[str, int, float, float]]:
    """Yield combinations, each about as often as any other."""
    every = list(itertools.product(BACKGROUNDS, SIZES, CONTRASTS, NOISES))
    order = np.random.default_rng(0).permutation(len(every))
    for number in range(images):
        yield every[order[number % len(every)]]


def measure_synthetic(detector: TextDetector, images: int, seed: int, seconds: float) -> None:
    """Print recall on made images, by what they differ in; after `seconds` no other one is begun."""
    end = time.monotonic() + seconds
    rng, names = np.random.default_rng(seed), fonts()
    right, total, used = Counter[tuple[str, str]](), Counter[tuple[str, str]](), 0.0
    for kind, size, contrast, noise in cases(images):
        if time.monotonic() > end:
            break
        made = make(kind, size, contrast, noise, rng, names)
        begun = time.process_time()
        try:
            found = is_found(detector, made)
        except KeyboardInterrupt:
            break
        used += time.process_time() - begun
        facts = (
            ("all", ""),
            ("background", kind),
            ("letters, px", f"{size:2}"),
            ("contrast", f"{contrast:.2f}"),
            ("noise", f"{noise:.2f}"),
        )
        for key in (*facts, ("frames", str(made.frames))):
            total[key] += 1
            right[key] += found
    done = max(total["all", ""], 1)
    print(f"{total['all', '']} made images, {len(names)} fonts, {used / done:.1f} s of the processor for each\n")
    print("| by | value | images | found | recall |\n|---|---|---|---|---|")
    for key in sorted(total):
        print(f"| {key[0]} | {key[1]} | {total[key]} | {right[key]} | {right[key] / total[key]:.3f} |")


def measure_shipped(detector: TextDetector) -> None:
    """Print which lines are found in images that packages ship."""
    print("\n| shipped image | lines known | found |\n|---|---|---|")
    for name, known in SHIPPED.items():
        for path in get_testdata_files(name):
            lines = [line for picture in pictures(Path(path).read_bytes(), 1) for line in detector.find(picture)]
            texts = " ".join(line.text for line in lines).upper()
            found = [part for part in known if part.upper() in texts]
            print(f"| {name} | {len(known)} | {len(found)} |")


def measure_false(detector: TextDetector) -> None:
    """Print in how many shipped images without text a line is found."""
    looked, wrong = 0, []
    for path in map(Path, get_testdata_files("*.dcm")):
        if path.name in SHIPPED or looked >= 40:
            continue
        try:
            lines = [line for picture in pictures(path.read_bytes(), 1) for line in detector.find(picture)]
        except (Malformed, Withheld, NotLooked):
            continue
        looked += 1
        if any(sum(character.isalnum() for character in line.text) >= 2 for line in lines):
            wrong.append(path.name)
    print(f"\n{looked} other shipped images: lines in {len(wrong)}: {', '.join(wrong)}")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=336)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no other made image after this time")
    parser.add_argument("--shipped-only", action="store_true")
    options = parser.parse_args()
    detector = TextDetector()
    if not options.shipped_only:
        measure_synthetic(detector, options.images, options.seed, options.minutes * 60)
    measure_shipped(detector)
    measure_false(detector)


if __name__ == "__main__":
    main()
