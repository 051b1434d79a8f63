"""A port that several processes of one service share, and nobody else."""

import socket
from dataclasses import dataclass

from mdm_service.errors import ConfigurationError
from mdm_service.settings import Address


@dataclass(frozen=True)
class Reservation:
    """A port kept for this process's workers until `close`; no connection ever reaches the sockets that keep it."""

    port: int
    sockets: tuple[socket.socket, ...]

    def close(self) -> None:
        """Give the port up."""
        for kept in self.sockets:
            kept.close()


def reserve(address: Address) -> Reservation:
    """Keep the port of an address, any free one for port 0, for processes that ask to share it.

    Raises:
        ConfigurationError: another process listens there or keeps it, or this machine does not have the address.
    """
    kept: list[socket.socket] = []
    port = address.port
    try:
        found = socket.getaddrinfo(address.host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in dict.fromkeys(found):
            kept.append(socket.socket(family, kind, protocol))
            _bind(kept[-1], (place[0], port, *place[2:]))
            port = int(kept[-1].getsockname()[1])
    except OSError as error:
        Reservation(port, tuple(kept)).close()
        raise ConfigurationError(f"listen: cannot listen on {address.host}:{address.port}: {error}") from error
    return Reservation(port, tuple(kept))


def _bind(kept: socket.socket, place: tuple[str | int, ...]) -> None:
    """Bind as one who shares with nobody, then allow sharing: so the kernel itself refuses a second service, without a moment between.

    Reusing addresses is allowed for the binding alone, in which it passes over connections of an earlier process that have ended.
    """
    if kept.family == socket.AF_INET6:
        kept.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(place)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
