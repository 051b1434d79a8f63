"""The data path from the PACS to plaintext at the user, beside the PACS itself, in one run: a table with targets, and where time goes.

    python bench/data_path [--images 1000] [--rounds 2] [--frames 200]

Ours is a local stack as in production (`own.py`), the reference an Orthanc at its best (`reference.py`). Images are CT with 292 elements,
of which 188 are private, 29 nested, and 173 differ from image to image (`mdm_testing.study`); every fetch of ours is of images that
nobody has fetched before. A round with few images warms every way up and is not counted; then ways take turns for --rounds rounds, and
medians are compared. Ours writes files, the reference receives into a buffer; neither waits for a disk.

On a machine with other work, rates depend on who gets a processor; the second table, processor time of all processes, much less.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import own
import reference
from mdm_local.pacs.kind import find_orthanc
from mdm_testing import machine
from mdm_testing.study import SMALL_SIDE, Study, describe, make_study
from measurement import WARM_UP, Measurement
from report import processor_table, table

HEADER = ["what", "reference, its best way", "ours (least–most)", "ours to it", "must", "goal"]


def shape(folder: Path) -> str:
    """Return a line about the headers."""
    elements, private, nested, differing = describe(*make_study(folder, Study.new(), 2, SMALL_SIDE))
    return f"headers of {elements} elements: {private} private, {nested} nested, {differing} differ from image to image"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="of each study, at least 12 (default: 1000)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--frames", type=int, default=200, help="of the large image, 0.52 MB each (default: 200)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends, too
    started, busy, begin = time.perf_counter(), machine.busy_seconds(), machine.state()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        headers = shape(folder)
        orthanc = stack.enter_context(reference.running(folder))
        ours = stack.enter_context(own.running(folder))
        client = stack.enter_context(ours.client())
        measurement = Measurement(ours, orthanc, client, folder, arguments.images, arguments.frames)
        measurement.warm_up()
        for number in range(arguments.rounds):
            measurement.round()
            print(f"round {number + 1} of {arguments.rounds}: load {machine.load()}", flush=True)
        used = sum(part.processor for part in measurement.used().values())
    seconds = time.perf_counter() - started
    others = (machine.busy_seconds() - busy - used) / seconds
    print(f"\n{begin}; {machine.versions(['mdm-client', 'grpcio', 'pydicom'], [[str(find_orthanc()), '--version']])}")
    print(f"{arguments.images:,} images, {headers}; {WARM_UP} images to warm up, then medians of {arguments.rounds} rounds in turn")
    print(
        f"{seconds / 60:.1f} minutes; load {machine.load()} at the end; other processes used {others:.1f} of {os.cpu_count()} processors\n"
    )
    print(table(HEADER, [row.cells() for row in measurement.rows]))
    print("\n" + processor_table(measurement.processor))


if __name__ == "__main__":
    main()
