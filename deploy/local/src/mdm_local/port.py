"""Free TCP ports of the loopback interface."""

import random
import socket
from collections.abc import Collection, Iterable, Mapping

from mdm_site.error import SiteError

# Below the usual range of outgoing connections (32768 to 60999), so that a stopped service's port is not taken by one.
_RANGE = range(20000, 32000)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port, on loopback and on every interface."""
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104  Orthanc's DICOM server knows no other address
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def allocate(names: Iterable[str], known: Mapping[str, int], in_use: Collection[str]) -> dict[str, int]:
    """Return a port for each name: the known one while it is free or its component runs, else a free one.

    Raises:
        SiteError: no free port was found.
    """
    chosen: dict[str, int] = {}
    for name in names:
        port = known.get(name)
        if port is None or not (name in in_use or is_free(port)):
            port = _find({*chosen.values(), *known.values()})
        chosen[name] = port
    return chosen


def _find(taken: Collection[int]) -> int:
    for port in random.sample(_RANGE, 2000):
        if port not in taken and is_free(port):
            return port
    raise SiteError(f"no free port between {_RANGE.start} and {_RANGE.stop - 1}")
