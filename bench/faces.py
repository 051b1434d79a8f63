"""How much of a face the mask covers and how much of a brain it cuts: heads in many poses, as CT and MR in each plane.

    python bench/faces.py [--fsaverage DIR]

Always a head of ellipsoids (mdm_testing.head). With --fsaverage also the mean head of 40 adults: DIR holds fsaverage-head.fif and
fsaverage-inner_skull-bem.fif, which the wheel of mne (BSD-3-Clause) has under mne/data/fsaverage.
"""

import argparse
import dataclasses
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mdm_deid.faces.region import FaceRegion
from mdm_deid.faces.series import make_rule, read_slice
from mdm_deid.outcome import FaceUnmasked
from mdm_testing.head import Pose, Scan, brain, face, points, series, tissue, volume
from scipy import ndimage

CT, MR = Scan(slice=4), Scan("MR", slice=4, noise=15)
POSES = {
    "straight": Pose(),
    "chin down 20": Pose(20),
    "chin down 30": Pose(30),
    "chin up 20": Pose(-20),
    "chin up 30": Pose(-30),
    "turned 30": Pose(yaw=30),
    "leant 20": Pose(roll=20),
    "all at once": Pose(15, -25, 12),
    "newborn's size": Pose(size=0.62),
    "large": Pose(size=1.1),
}
SCANS = {
    "CT": CT,
    "CT, noise 40, table": dataclasses.replace(CT, noise=40, table=True),
    "CT, vertex cut off": dataclasses.replace(CT, high=(120, 150, 78)),
    "CT, from below the nose": dataclasses.replace(CT, low=(-120, -135, -70)),
    "CT, from the eyes up": dataclasses.replace(CT, low=(-120, -135, -20)),
    "CT, 8 mm": dataclasses.replace(CT, slice=8),
    "MR axial": MR,
    "MR coronal": dataclasses.replace(MR, plane="coronal"),
    "MR sagittal": dataclasses.replace(MR, plane="sagittal"),
}
#: Of a place in the straight head: tissue, brain, face.
Anatomy = tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]
ORIGIN = np.array([-110.0, -120.0, -180.0])


def fsaverage(folder: Path) -> Anatomy:
    """Return the anatomy of fsaverage: brain is what is within the inner skull, the face the skin between brow and chin, and the nose."""
    head, inner = (_solid(*_surface(folder / f"fsaverage-{name}.fif")) for name in ("head", "inner_skull-bem"))
    skin = head & ~ndimage.binary_erosion(head, iterations=3)

    def at(mask: Any, places: Any) -> Any:
        index = np.rint(places - ORIGIN).astype(int)
        good = ((index >= 0) & (index < mask.shape)).all(axis=-1)
        return mask[tuple(np.moveaxis(np.clip(index, 0, np.array(mask.shape) - 1), -1, 0))] & good

    def shown(places: Any) -> Any:
        front = (places[..., 1] < -45) & (places[..., 2] < -15) & (places[..., 2] > -105) & (np.abs(places[..., 0]) < 50)
        nose = (places[..., 1] < -80) & (places[..., 2] < -25)
        return (at(skin, places) & front) | (at(head, places) & nose)

    return lambda places: at(head, places), lambda places: at(inner, places), shown


def _surface(path: Path) -> tuple[Any, Any]:
    """Return nodes in mm (left, back, up) and triangles of a surface in a FIF file."""
    data, found = path.read_bytes(), {}
    pos = 0
    while pos + 16 <= len(data):
        kind, _, size, after = struct.unpack(">iiii", data[pos : pos + 16])
        found[kind] = data[pos + 16 : pos + 16 + size]
        if after == -1:
            break
        pos = after or pos + 16 + size
    # A matrix ends with its dimensions and their number. 3105: nodes in metres, right, front, up; 3106: triangles, counted from 1.
    nodes = np.frombuffer(found[3105][:-12], ">f4").reshape(-1, 3).astype(float) * [-1000, -1000, 1000]
    return nodes, np.frombuffer(found[3106][:-12], ">i4").reshape(-1, 3).astype(int) - 1


def _solid(nodes: Any, triangles: Any) -> Any:
    """Return what a surface encloses, in voxels of 1 mm."""
    shape = np.array([221, 261, 301])
    solid = np.zeros(shape, bool)
    a, b, c = (nodes[triangles[:, n]] for n in range(3))
    count = int(2 * max(np.linalg.norm(a - b, axis=1).max(), np.linalg.norm(a - c, axis=1).max())) + 2
    for i in range(count + 1):
        for j in range(count + 1 - i):
            index = np.rint(a + (b - a) * i / count + (c - a) * j / count - ORIGIN).astype(int)
            solid[tuple(np.clip(index, 0, shape - 1).T)] = True
    return ndimage.binary_fill_holes(solid)


def cases() -> Iterator[tuple[str, Pose, Scan]]:
    """Yield each pose as CT, and the straight head in each scan."""
    for name, pose in POSES.items():
        yield name, pose, CT
    for name, scan in SCANS.items():
        yield name, Pose(3, -4, 2), scan


def measure(pose: Pose, scan: Scan, anatomy: Anatomy, own: bool) -> str:
    """Return a row's end: face masked, brain cut, seconds; or why there is no mask."""
    solid, inside, shown = anatomy
    at = points(scan)
    head = pose.to_head(at)
    here, air = (40.0, -1000.0) if scan.modality == "CT" else (400.0, 0.0)
    values = volume(pose, scan) if own else np.where(solid(head), here, air)
    if not own and scan.noise:
        values = values + np.random.default_rng(1).normal(0, scan.noise, values.shape)
    files = series(values, scan)
    began = time.perf_counter()
    try:
        rule = make_rule(read_slice(file) for file in files)
    except FaceUnmasked as error:
        return f"held back: {error.detail} | | "
    seconds = time.perf_counter() - began
    masked = FaceRegion.from_numbers(rule.region).contains(at)
    face_share = (masked & shown(head)).sum() / max(1, shown(head).sum())
    brain_share = (masked & inside(head)).sum() / max(1, inside(head).sum())
    return f"{100 * face_share:.1f} % | {100 * brain_share:.3f} % | {seconds:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fsaverage", type=Path)
    heads: list[tuple[str, Anatomy, bool]] = [("ellipsoids", (tissue, brain, face), True)]
    if folder := parser.parse_args().fsaverage:
        heads.append(("fsaverage", fsaverage(folder), False))
    print("| head | case | face masked | brain cut | seconds |\n|---|---|---|---|---|")
    for head, anatomy, own in heads:
        for name, pose, scan in cases():
            print(f"| {head} | {name} | {measure(pose, scan, anatomy, own)} |", flush=True)


if __name__ == "__main__":
    main()
