"""What Siemens' private attributes say of a mosaic: how many tiles it has, and in which direction they follow each other."""

import struct
from typing import Any

import numpy as np
from pydicom import Dataset

_CREATOR_COUNT = (0x0019, "SIEMENS MR HEADER", 0x0A)
_CREATOR_CSA = (0x0029, "SIEMENS CSA HEADER", 0x10)
_MOST_TILES = 1024
_MOST_VALUES = 1000


def tiles(dataset: Dataset) -> tuple[int, Any]:
    """Return the number of tiles, 0 where the header does not say it, and the unit vector from one to the next, None likewise."""
    header = _csa(dataset)
    counted = _private(dataset, *_CREATOR_COUNT)
    count = int.from_bytes(counted[:2], "little") if isinstance(counted, bytes) else int(counted or 0)
    if not count and header.get("NumberOfImagesInMosaic"):
        count = int(float(header["NumberOfImagesInMosaic"][0]))
    normal = np.array([float(value) for value in header.get("SliceNormalVector", [])[:3]])
    length = float(np.linalg.norm(normal)) if normal.size == 3 else 0.0
    return count if 0 < count <= _MOST_TILES else 0, normal / length if length > 0 else None


def _private(dataset: Dataset, group: int, creator: str, element: int) -> Any:
    try:
        return dataset.private_block(group, creator)[element].value
    except KeyError:
        return None


def _csa(dataset: Dataset) -> dict[str, list[str]]:
    """Return the elements of the image's CSA header (format 2, which begins with SV10) by name; empty where there is none to be read."""
    data = _private(dataset, *_CREATOR_CSA)
    found: dict[str, list[str]] = {}
    if not isinstance(data, bytes) or data[:4] != b"SV10":
        return found
    try:
        (count,) = struct.unpack_from("<I", data, 8)
        place = 16
        for _ in range(min(count, _MOST_VALUES)):
            name = data[place : place + 64].split(b"\0")[0].decode("ascii", "replace")
            (items,) = struct.unpack_from("<I", data, place + 76)
            place += 84
            values = []
            for _ in range(min(items, _MOST_VALUES)):
                (size,) = struct.unpack_from("<I", data, place + 4)
                place += 16
                values.append(data[place : place + size].split(b"\0")[0].decode("ascii", "replace").strip())
                place += -(-size // 4) * 4
            found[name] = [value for value in values if value]
    except struct.error:
        return {}
    return found
