"""Small and large files by fsspec and by the mounted catalog, beside `mdm get` of the same files.

Needs Orthanc and fuse3. Starts a local stack of its own. The files are staged before, so that retrieval and de-identification, which all
ways share, do not hide what differs. The reference is `mdm get` into a directory of a disk, start of the command included; of the others
nothing is written. `fsspec, one by one` opens each file of a listed directory in order, which has those that follow fetched meanwhile;
`mount, cold` is the first pass of a mount that was made for it. Prints medians of rounds in turn.
"""

import argparse
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from data_path import own
from mdm_client import Client
from mdm_client.filesystem.spec import MdmFileSystem
from mdm_client.mount.place import unmount
from mdm_testing import machine
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import BIN
from mdm_testing.study import SMALL_SIDE, Study, make_multi_frame, make_study

_RANGE_BYTES = 64 * 1024
_RANGES = 100


@contextmanager
def mounted(config: Path, lfn: str, folder: Path) -> Iterator[Path]:
    """A fresh mount of a directory of the catalog."""
    place = folder / f"mount-{time.monotonic_ns()}"
    subprocess.run([str(BIN / "mdm"), "--config", str(config), "mount", str(place), lfn], check=True, capture_output=True)
    try:
        yield place
    finally:
        unmount(place)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of some work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def small(system: own.Own, config: Path, directory: str, count: int, folder: Path) -> dict[str, float]:
    """Return the seconds of each way to have all files of a directory."""
    found = {"mdm get": system.by_command(directory, count)}
    ways: dict[str, Callable[[MdmFileSystem, list[str]], object]] = {
        "fsspec, cat of all": lambda files, paths: files.cat(paths),
        "fsspec, one by one": lambda files, paths: [files.open(path).read() for path in paths],
    }
    for name, way in ways.items():
        with Client.load(config) as client:
            files = MdmFileSystem(client=client, skip_instance_cache=True)
            paths = files.ls(directory, detail=False)
            assert len(paths) == count
            found[name] = timed(partial(way, files, paths))
            files.close()
    with mounted(config, directory, folder) as place:
        for name in ("mount, cold", "mount, again"):
            found[name] = timed(lambda: [path.read_bytes() for path in sorted(place.iterdir())])
    return found


def large(system: own.Own, config: Path, lfn: str, size: int, folder: Path) -> dict[str, float]:
    """Return the seconds of each way to have one large file, whole and by ranges."""
    directory, _, name = lfn.rpartition("/")
    offsets = random.Random(7).sample(range(size - _RANGE_BYTES), _RANGES)
    found = {"mdm get": system.by_command(directory, 1)}
    with Client.load(config) as client:
        files = MdmFileSystem(client=client, skip_instance_cache=True)
        found["fsspec, whole"] = timed(lambda: files.cat_file(lfn))
        with files.open(lfn, cache_type="none") as file:
            found["fsspec, a range"] = statistics.median(timed(lambda at=at: (file.seek(at), file.read(_RANGE_BYTES))) for at in offsets)
        files.close()
    with mounted(config, directory, folder) as place:
        found["mount, whole"] = timed(lambda: subprocess.run(["cat", place / name], stdout=subprocess.DEVNULL, check=True))
    with mounted(config, directory, folder) as place:
        descriptor = os.open(place / name, os.O_RDONLY)
        found["mount, a range"] = statistics.median(timed(lambda at=at: os.pread(descriptor, _RANGE_BYTES, at)) for at in offsets)
        os.close(descriptor)
    return found


def show(title: str, rounds: list[dict[str, float]], count: int, unit: str) -> None:
    """Print medians, and the rate of what is counted."""
    print(f"\n{title}\n\n| | s | {unit}/s | beside mdm get |\n|---|---|---|---|")
    reference = statistics.median(found["mdm get"] for found in rounds)
    for name in rounds[0]:
        seconds = statistics.median(found[name] for found in rounds)
        rate = "" if name.endswith("a range") else f"{count / seconds:,.0f}"
        print(f"| {name} | {seconds:.4f} | {rate} | {f'{reference / seconds:.2f} ×' if rate else ''} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="small files, 38 KB each")
    parser.add_argument("--frames", type=int, default=200, help="frames of 0.5 MB of the large file")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    begin = machine.state()
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        stack = LocalStack(folder / "stack")
        opened.callback(stack.down)
        stack.up()
        system, config, names = own.Own(stack, folder), stack.client_config(own.USER), {}
        for count in (options.files, 1):
            study = Study.new()
            with tempfile.TemporaryDirectory() as images:
                if count == 1:
                    make_multi_frame(Path(images, "large.dcm"), study, options.frames)
                    paths = [Path(images, "large.dcm")]
                else:
                    paths = make_study(Path(images), study, count, SMALL_SIDE)
                system.supply.put(paths)
                system.supply.register(Path(images), count)
            names[count] = system.supply.names(study)
            system.by_command(names[count][0].rpartition("/")[0], count)  # staged from here on
        with Client.load(config) as client:
            size = MdmFileSystem(client=client, skip_instance_cache=True).info(names[1][0])["size"]
        directory = names[options.files][0].rpartition("/")[0]
        rounds = [small(system, config, directory, options.files, folder) for _ in range(options.rounds)]
        show(f"{options.files:,} files of 38 KB, staged", rounds, options.files, "files")
        rounds = [large(system, config, names[1][0], size, folder) for _ in range(options.rounds)]
        show(f"one file of {size / 1e6:.0f} MB, staged; a range is {_RANGE_BYTES // 1024} KiB at random", rounds, size // 1_000_000, "MB")
    print(f"\n{begin}; load {machine.load()} at the end")


if __name__ == "__main__":
    main()
