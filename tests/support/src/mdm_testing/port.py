"""Free TCP ports of the loopback interface."""

import random
import socket

from mdm_local.port import is_free

# Below the ports of outgoing connections (from 32768) and beside those of mdm-local (from 20000): nobody takes one unasked.
_RANGE = range(12000, 20000)
_reservations: list[socket.socket] = []


def free_port() -> int:
    """Return a port that is free and that no other call returns, in any process of this machine, while this process lives.

    Prefer port 0 where a server can report the port that it got; this is for ports that two sides have to know beforehand.
    """
    for port in random.sample(_RANGE, len(_RANGE)):
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reservation.bind(f"\0mdm-testing-port-{port}")  # an abstract name: one holder, and it ends with the process
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        if is_free(port):
            return port
    raise RuntimeError(f"no free port between {_RANGE.start} and {_RANGE.stop - 1}")
