"""Fair shares and one retrieval: one image while a whole study is staged, and sixteen callers of one study at two instances.

Needs Orthanc. Starts a local stack of its own with two instances of dicom-srm. Images are CT of 64 × 64 pixels, so that staging itself
counts, not the moving of pixels. Prints seconds from the request until an image is pinned, alone and beside the study, seconds of
the study, and how many files the spools hold after sixteen callers: as many as the study has images, if each was staged once.
"""

import argparse
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mdm.srm.v1 import srm_pb2
from mdm_client import Client
from mdm_client.fetch.srm import SrmClient, Want
from mdm_testing import machine
from mdm_testing.local_stack import LocalStack
from mdm_testing.study import Study, make_study
from mdm_testing.supply import ImageSupply
from mdm_wire.url import surl_of_lfn

SITE, CALLERS, SINGLES, WARM_UP = "hospital-a", 16, 7, 20
SIDE = 64
PINNED = srm_pb2.STATUS_CODE_FILE_PINNED


def store(supply: ImageSupply, count: int) -> list[str]:
    """Register a study and return the names of its images."""
    study = Study.new()
    with tempfile.TemporaryDirectory() as folder:
        supply.put(make_study(Path(folder), study, count, SIDE))
        supply.register(Path(folder), count)
    return supply.names(study)


def staged(srm: SrmClient, lfns: list[str]) -> tuple[str, float]:
    """Ask for images; return the request's token and the seconds until all are pinned."""
    began = time.perf_counter()
    response = srm.prepare_to_get([surl_of_lfn(SITE, lfn) for lfn in lfns], Want(levels=0))
    states = {file.surl: file.status for file in response.files}
    for message in srm.watch(response.token):
        states |= {file.surl: file.status for file in message.files}
    seconds = time.perf_counter() - began
    assert set(states.values()) == {PINNED}, states
    return response.token, seconds


def files_in_spools(srm: SrmClient) -> int:
    """Return how many files all spools hold, as the instances last said."""
    time.sleep(2)
    return sum(space.files for space in srm.spaces())


def one_image_beside_a_study(stack: LocalStack, supply: ImageSupply, count: int) -> list[str]:
    """Return the lines about one image, alone and while another caller has a study staged."""
    study, singles = store(supply, count), store(supply, 2 * SINGLES)
    with Client.load(stack.client_config("alice")) as alice, Client.load(stack.client_config("carol")) as carol:
        alone = [staged(carol.srm(), [lfn])[1] for lfn in singles[:SINGLES]]
        done: list[float] = []
        thread = threading.Thread(target=lambda: done.append(staged(alice.srm(), study)[1]))
        thread.start()
        time.sleep(0.5)
        during = []
        for lfn in singles[SINGLES:]:
            seconds = staged(carol.srm(), [lfn])[1]
            if thread.is_alive():
                during.append(seconds)
        thread.join()
    return [
        f"one image alone              median {statistics.median(alone):.2f} s, at most {max(alone):.2f} s",
        f"one image beside {count:6} images  median {statistics.median(during):.2f} s, at most {max(during):.2f} s ({len(during)} images)"
        if during
        else f"{count} images were staged before another caller asked: take more",
        f"{count} images of one caller     {done[0]:.1f} s, {count / done[0]:.0f} images/s",
    ]


def callers_of_one_study(stack: LocalStack, supply: ImageSupply, count: int) -> list[str]:
    """Return the lines about sixteen callers who ask for one study at the same time, at either instance."""
    study = store(supply, count)
    with Client.load(stack.client_config("alice")) as client:
        srm = client.srm()
        before = files_in_spools(srm)
        with ThreadPoolExecutor(CALLERS) as pool:
            times = [seconds for _, seconds in pool.map(lambda _: staged(srm, study), range(CALLERS))]
        files = files_in_spools(srm) - before
        by_instance = ", ".join(f"{space.token} {space.files}" for space in srm.spaces())
    return [
        f"{CALLERS} callers of {count} images  median {statistics.median(times):.1f} s, at most {max(times):.1f} s",
        f"staged for them              {files} files, {files / count:.2f} for each image (spools: {by_instance})",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500, help="of the study (default: 500)")
    parser.add_argument("--shared", type=int, default=100, help="of the study that all callers ask for (default: 100)")
    arguments = parser.parse_args()
    begin = machine.state()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        stack = LocalStack(folder / "stack", instances=2)
        try:
            stack.up()
            supply = ImageSupply(stack, folder)
            with Client.load(stack.client_config("alice")) as client:
                staged(client.srm(), store(supply, WARM_UP))
            lines = one_image_beside_a_study(stack, supply, arguments.images) + callers_of_one_study(stack, supply, arguments.shared)
        finally:
            stack.down()
    print("\n".join([f"{begin}; load {machine.load()} at the end; CT of {SIDE} × {SIDE}, {WARM_UP} images to warm up", *lines]))


if __name__ == "__main__":
    main()
