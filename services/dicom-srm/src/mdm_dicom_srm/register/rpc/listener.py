"""The TCP side of the Storage SCP: what a host may hold of it, most of all before it has said who it is."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.transport import AssociationServer

MAX_CONNECTIONS = 64
MAX_PER_HOST = 32
#: A PDU of data is at most as long as we announce; a request for an association with every storage class is below this too.
MAX_PDU_BYTES = 1024 * 1024
PDU_SECONDS = 30.0


class GuardedServer(AssociationServer):
    """Accepts connections unless their host, or all hosts together, hold too many; further ones are closed at once."""

    request_queue_size = 128

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Tell whether a new connection may be taken."""
        held = Counter(association.requestor.address for association in self.active_associations)
        return held.total() < MAX_CONNECTIONS and held[client_address[0]] < MAX_PER_HOST

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Forget a connection that broke while it was taken; the default prints it with the peer's data."""


def make_server(ae: AE, address: tuple[str, int], store: Callable[[Any], Any]) -> GuardedServer:
    """Return a server that calls `store` for each C-STORE, bound to `address` but not yet serving."""
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _bound), (evt.EVT_C_STORE, store)]
    server = GuardedServer(ae, address, ae.ae_title, ae.supported_contexts, evt_handlers=handlers)
    # It removes itself from this list at shutdown.
    ae._servers.append(server)  # type: ignore[arg-type]
    return server


def _bound(event: Any) -> None:
    """Make the connection read PDUs by `_receive`: pynetdicom reads as many bytes as a peer announces, however slowly they come."""
    connection = event.assoc.dul.socket
    connection.recv = partial(_receive, connection.socket)


def _receive(connection: socket.socket, size: int) -> bytearray:
    """Return `size` bytes, or fewer when the peer closes.

    Raises:
        OSError: they are more than a PDU has, or late; the connection is shut down.
    """
    data = bytearray()
    before = connection.gettimeout()
    deadline = time.monotonic() + PDU_SECONDS
    try:
        if size > MAX_PDU_BYTES:
            raise OSError("the PDU is too long")
        while len(data) < size:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part = connection.recv(min(size - len(data), 64 * 1024))
            if not part:
                break
            data += part
        connection.settimeout(before)
    except OSError:
        _shut(connection)
        raise
    return data


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already
