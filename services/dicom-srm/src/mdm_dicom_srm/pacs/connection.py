"""Reading from a peer that may be slow, silent or endless: within bounds of time and size."""

import socket
import time

#: A peer that sends less than this in the time in which it has to answer counts as silent.
STEADY_BYTES = 64 * 1024
#: A PDU of data is at most as long as we announce; a request for an association with every storage class is below this too.
MAX_PDU_BYTES = 1024 * 1024


class Patience:
    """How long a peer may go on without progress."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._bytes = 0
        self.renew()

    @property
    def left(self) -> float:
        """The seconds that are left, 0 when it is over."""
        return max(0.0, self._until - time.monotonic())

    def renew(self) -> None:
        """Begin anew: there was progress."""
        self._bytes = 0
        self._until = time.monotonic() + self._seconds

    def received(self, size: int) -> None:
        """Count bytes; enough of them are progress."""
        self._bytes += size
        if self._bytes >= STEADY_BYTES:
            self.renew()


def receive_exactly(connection: socket.socket, size: int, seconds: float) -> bytearray:
    """Return `size` bytes, or fewer when the peer closes.

    Raises:
        OSError: they are more than a PDU has, or late; the connection is closed.
    """
    data = bytearray()
    try:
        before = connection.gettimeout()
        deadline = time.monotonic() + seconds
        if size > MAX_PDU_BYTES:
            raise OSError("the PDU is too long")
        while len(data) < size:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part = connection.recv(min(size - len(data), 64 * 1024))
            if not part:
                connection.close()  # pynetdicom leaves it to the garbage collector
                return data
            data += part
        connection.settimeout(before)
    except OSError:
        shut(connection)
        connection.close()
        raise
    return data


def shut(connection: socket.socket) -> None:
    """Shut a connection down, both ways; whoever waits for it goes on."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already
