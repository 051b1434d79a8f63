"""Pictures for the page, kept in memory up to a limit and forgotten with the process."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from mdm_wire.errors import Invalid

from mdm_client.curator import CuratorClient, Region

_MEMORY = 128 * 1024 * 1024
_MAX_REGIONS = 64
_MOST = 1 << 31
# What a picture is of: GUID, frame, side, as it would leave, regions.
_Key = tuple[str, int, int, bool, tuple[Region, ...]]


class Pictures:
    """The pictures of one curator; safe for several threads. `memory` is in bytes."""

    def __init__(self, curator: Callable[[], CuratorClient], memory: int = _MEMORY) -> None:
        self._curator = curator
        self._memory = memory
        self._used = 0
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, guid: str, query: Mapping[str, str]) -> bytes:
        """Return the JPEG that an address asks for: `frame`, `side`, `released` and `regions` as L,T,W,H;L,T,W,H.

        Raises:
            MdmError: PICTURE_PARAMETER, or the site's refusal.
        """
        key = _key(guid, query)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        guid, frame, side, released, regions = key
        jpeg = self._curator().picture(guid, frame, side, released=released, regions=regions).jpeg
        self._keep(key, jpeg)
        return jpeg

    def head(self, guid: str) -> bytes:
        """Return as PNG the head that an image's series shows, which is not kept.

        Raises:
            MdmError: the site's refusal.
        """
        return self._curator().head(guid).png

    def forget(self) -> None:
        """Forget all, as rules have changed."""
        with self._lock:
            self._kept.clear()
            self._used = 0

    def _keep(self, key: _Key, jpeg: bytes) -> None:
        with self._lock:
            self._used += len(jpeg) - len(self._kept.get(key, b""))
            self._kept[key] = jpeg
            while self._used > self._memory:
                _, oldest = self._kept.popitem(last=False)
                self._used -= len(oldest)


def regions_of(value: object) -> tuple[Region, ...]:
    """Return regions that a page sends, as lists of four numbers.

    Raises:
        Invalid: REGIONS_MALFORMED.
    """
    well = isinstance(value, list) and len(value) <= _MAX_REGIONS
    if not well or not all(isinstance(item, list) and len(item) == 4 and all(type(part) is int for part in item) for item in value):  # type: ignore[attr-defined]
        raise Invalid("REGIONS_MALFORMED", f"regions are at most {_MAX_REGIONS} lists of left, top, width, height")
    return tuple((item[0], item[1], item[2], item[3]) for item in value)  # type: ignore[attr-defined]


def _key(guid: str, query: Mapping[str, str]) -> _Key:
    try:
        texts = query["regions"].split(";") if query.get("regions") else []
        regions = regions_of([[int(part) for part in text.split(",")] for text in texts])
        frame, side = (int(query.get(name, 0)) for name in ("frame", "side"))
        if not (0 <= frame < _MOST and 0 <= side < _MOST):
            raise ValueError("out of range")
        return guid, frame, side, query.get("released") == "1", regions
    except (ValueError, Invalid) as error:
        raise Invalid("PICTURE_PARAMETER", "frame and side are numbers, regions are L,T,W,H;L,T,W,H") from error
