"""C-STORE messages, read from the connection into one buffer and answered there (PS3.7 section 9.3.1, PS3.8 section 9.3.5).

pynetdicom takes a message through five copies, two threads and two queues that are looked at every millisecond. It negotiates and handles
everything else.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mdm_deid.encoding.element import EXPLICIT_LE, IMPLICIT_LE
from mdm_deid.encoding.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from mdm_deid.outcome import Malformed

from mdm_dicom_srm.pacs.connection import receive_exactly, shut

_P_DATA: Final = 0x04
_ESTABLISHED: Final = "Sta6"  # PS3.8 table 9-4: ready for data transfer
_PDU, _PDV = struct.Struct(">BxL"), struct.Struct(">LBB")
_COMMAND, _LAST = 0x01, 0x02  # message control header, PS3.8 annex E.2
_STORE_REQUEST, _STORE_RESPONSE, _NO_DATA_SET = 0x0001, 0x8001, 0x0101
# Elements of command sets, PS3.7 annex E.
_GROUP_LENGTH, _SOP_CLASS, _COMMAND_FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x00000000, 0x00000002, 0x00000100, 0x00000110, 0x00000120
_DATA_SET_TYPE, _STATUS, _ERROR_COMMENT, _SOP_INSTANCE = 0x00000800, 0x00000900, 0x00000902, 0x00001000
_LONGEST_COMMAND: Final = 64 * 1024
#: So long a connection is awaited before pynetdicom looks at what else there is to do.
_MOMENT: Final = 0.05
_FIRST_BUFFER: Final = 128 << 10
#: A buffer that became larger is not kept for the next instance.
_LARGEST_KEPT: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE: what its command set says, and the presentation context in which the data set comes."""

    sop_class: str
    sop_uid: str
    message_id: int
    context_id: int
    abstract_syntax: str
    transfer_syntax: str


#: Takes an instance as a Part 10 file; returns the status, and a comment for one that is no success.
Store = Callable[[StoreRequest, bytes], tuple[int, str]]


class StoreReader:
    """Reads the connection of an association for pynetdicom, in the thread in which that would."""

    def __init__(self, association: Any, store: Store, seconds: float) -> None:
        """Read each PDU within `seconds`; `store` is called for each instance."""
        self._association = association
        self._dul = association.dul
        self._store = store
        self._seconds = seconds
        self._read_otherwise: Callable[[], None] = self._dul._read_pdu_data
        self._unread = bytearray()  # what pynetdicom reads instead of the connection
        self._held: list[bytes] = []  # PDUs of a command set that is not complete
        self._command = bytearray()
        self._request: StoreRequest | None = None
        self._buffer, self._size = bytearray(_FIRST_BUFFER), 0

    def attach(self) -> None:
        """Read this association's connection from now on."""
        connection = self._dul.socket
        if not isinstance(connection.socket, ssl.SSLSocket):
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv = self._receive
        self._dul._read_pdu_data = self.read

    def read(self) -> None:
        """Read PDUs for as long as they are those of C-STORE and there are more; one that is another's is read by pynetdicom."""
        while self._dul.state_machine.current_state == _ESTABLISHED:
            try:
                if not (self._read_pdu() and self._more()):
                    return
            except OSError:
                shut(self._dul.socket.socket)
                self._dul.event_queue.put("Evt17")  # transport connection closed
                return
            self._dul._idle_timer.restart()
        self._read_otherwise()

    def _read_pdu(self) -> bool:
        """Read a PDU; return whether it was one of a C-STORE."""
        connection = self._dul.socket.socket
        deadline = time.monotonic() + self._seconds
        connection.settimeout(self._seconds)
        head = self._exactly(bytearray(_PDU.size), deadline)
        kind, length = _PDU.unpack(head)
        if kind != _P_DATA:
            self._hand_over(head)
            return False
        if self._request is not None:
            return self._read_data(length, deadline)
        if length > _LONGEST_COMMAND:
            self._hand_over(head)
            return False
        return self._read_command(bytes(head), bytes(self._exactly(bytearray(length), deadline)))

    def _read_command(self, head: bytes, body: bytes) -> bool:
        self._held.append(head + body)
        pos = 0
        while pos < len(body):
            if pos + _PDV.size > len(body):
                return self._give_up()
            length, context_id, control = _PDV.unpack_from(body, pos)
            start, pos = pos + _PDV.size, pos + 4 + length
            if length < 2 or pos > len(body):
                return self._give_up()
            if self._request is not None:
                if not self._append(body[start:pos], context_id, control):
                    return False
                continue
            self._command += body[start:pos]
            if not control & _COMMAND or len(self._command) > _LONGEST_COMMAND:
                return self._give_up()
            if control & _LAST:
                self._request = self._request_of(bytes(self._command), context_id)
                if self._request is None:
                    return self._give_up()
                self._held.clear()
                self._command.clear()
                self._begin(self._request)
        return True

    def _read_data(self, left: int, deadline: float) -> bool:
        """Read the fragments of a PDU behind what was read of the data set before."""
        head = bytearray(_PDV.size)
        while left:
            if left < _PDV.size:
                return self._invalid()
            length, context_id, control = _PDV.unpack(self._exactly(head, deadline))
            left -= 4 + length
            if length < 2 or left < 0:
                return self._invalid()
            size = self._size + length - 2
            if size > len(self._buffer):
                self._buffer += bytes(max(size, 2 * len(self._buffer)) - len(self._buffer))
            with memoryview(self._buffer) as view:
                self._exactly(view[self._size : size], deadline)
            self._size = size
            if not self._advance(context_id, control):
                return False
        return True

    def _append(self, fragment: bytes, context_id: int, control: int) -> bool:
        """Take a fragment that came with the command set."""
        self._buffer[self._size : self._size + len(fragment)] = fragment
        self._size += len(fragment)
        return self._advance(context_id, control)

    def _advance(self, context_id: int, control: int) -> bool:
        """Finish the instance if its last fragment was read."""
        if self._request is None or control & _COMMAND or context_id != self._request.context_id:
            return self._invalid()
        if control & _LAST:
            self._finish(self._request)
        return True

    def _begin(self, request: StoreRequest) -> None:
        prologue = _prologue(request)
        self._buffer[: len(prologue)] = prologue
        self._size = len(prologue)

    def _finish(self, request: StoreRequest) -> None:
        with memoryview(self._buffer) as view:
            part10 = bytes(view[: self._size])
        self._forget()
        status, comment = self._store(request, part10)
        self._dul.socket.socket.sendall(_response(request, status, comment))

    def _forget(self) -> None:
        """Be ready for the next instance; it is of the same series, mostly, so that the buffer need not grow."""
        self._request = None
        if len(self._buffer) > _LARGEST_KEPT:
            self._buffer = bytearray(_FIRST_BUFFER)

    def _request_of(self, command: bytes, context_id: int) -> StoreRequest | None:
        """Return what a command set asks for; None if it is not a C-STORE that is complete and in an accepted context."""
        context = self._association._accepted_cx.get(context_id)
        try:
            values = _values(command)
            field, message_id, data_set = (values[tag] for tag in (_COMMAND_FIELD, _MESSAGE_ID, _DATA_SET_TYPE))
            sop_class, sop_uid = (values[tag].decode("ascii").strip(" \0") for tag in (_SOP_CLASS, _SOP_INSTANCE))
        except (KeyError, Malformed, UnicodeDecodeError):
            return None
        if context is None or IMPLICIT_LE.uint(field) != _STORE_REQUEST or IMPLICIT_LE.uint(data_set) == _NO_DATA_SET:
            return None
        syntax = str(context.transfer_syntax[0])
        return StoreRequest(sop_class, sop_uid, IMPLICIT_LE.uint(message_id), context_id, str(context.abstract_syntax), syntax)

    def _give_up(self) -> bool:
        """Have pynetdicom read the PDUs that do not begin a C-STORE."""
        held, self._held, self._command = self._held, [], bytearray()
        for pdu in held:
            self._hand_over(pdu)
        return False

    def _hand_over(self, data: bytes | bytearray) -> None:
        self._unread += data
        self._read_otherwise()

    def _invalid(self) -> bool:
        """Have the association aborted: in the middle of an instance there was something else."""
        self._forget()
        self._dul.event_queue.put("Evt19")  # unrecognised or invalid PDU
        return False

    def _more(self) -> bool:
        """Return whether the next PDU has begun to arrive, or does within a moment; not while there is something else to do."""
        connection = self._dul.socket.socket
        if self._dul.to_provider_queue.queue or self._dul._kill_thread or self._association._kill:
            return False
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        return bool(select.select([connection], [], [], _MOMENT)[0])

    def _exactly(self, target: Any, deadline: float) -> Any:
        """Fill a buffer from the connection.

        Raises:
            OSError: the peer closed, or sends too slowly.
        """
        connection = self._dul.socket.socket
        quick = not isinstance(connection, ssl.SSLSocket)
        with memoryview(target) as view:
            filled = 0
            while filled < len(view):
                if quick:
                    # A sender that waits for an acknowledgement before it sends the rest of a message gets it at once.
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                size = connection.recv_into(view[filled:])
                if not size or time.monotonic() > deadline:
                    raise OSError("the peer closed the connection, or is too slow")
                filled += size
        return target

    def _receive(self, size: int) -> bytearray:
        """Return bytes for pynetdicom: first those that were read already."""
        data = self._unread[:size]
        del self._unread[: len(data)]
        if len(data) < size:
            data += receive_exactly(self._dul.socket.socket, size - len(data), self._seconds)
        return data


def _values(command: bytes) -> dict[int, bytes]:
    """Return the values of a command set, which is always in implicit little endian.

    Raises:
        Malformed: it is cut off.
    """
    values: dict[int, bytes] = {}
    pos = 0
    while pos < len(command):
        tag, _, start, length = IMPLICIT_LE.header(command, pos, len(command))
        pos = start + length
        if pos > len(command):
            raise Malformed("truncated")
        values[tag] = command[start:pos]
    return values


def _prologue(request: StoreRequest) -> bytes:
    """Return preamble and file meta information of an instance (PS3.10 section 7.1)."""
    elements = (
        (0x00020001, b"OB", b"\0\1"),
        (0x00020002, b"UI", request.sop_class.encode("ascii")),
        (0x00020003, b"UI", request.sop_uid.encode("ascii")),
        (0x00020010, b"UI", request.transfer_syntax.encode("ascii")),
        (0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        (0x00020013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")),
    )
    meta = b"".join(EXPLICIT_LE.element(*element) for element in elements)
    length = EXPLICIT_LE.element(0x00020000, b"UL", len(meta).to_bytes(4, "little"))
    return bytes(128) + b"DICM" + length + meta


def _response(request: StoreRequest, status: int, comment: str) -> bytes:
    """Return the PDU of a C-STORE-RSP (PS3.7 table 9.3-2)."""

    def number(value: int) -> bytes:
        return value.to_bytes(2, "little")

    elements = [
        (_SOP_CLASS, b"UI", request.sop_class.encode("ascii")),
        (_COMMAND_FIELD, b"US", number(_STORE_RESPONSE)),
        (_RESPONDED_TO, b"US", number(request.message_id)),
        (_DATA_SET_TYPE, b"US", number(_NO_DATA_SET)),
        (_STATUS, b"US", number(status)),
        *([(_ERROR_COMMENT, b"LO", comment[:64].encode("ascii", "replace"))] if comment else []),
        (_SOP_INSTANCE, b"UI", request.sop_uid.encode("ascii")),
    ]
    body = b"".join(IMPLICIT_LE.element(*element) for element in elements)
    command = IMPLICIT_LE.element(_GROUP_LENGTH, b"UL", len(body).to_bytes(4, "little")) + body
    return _PDU.pack(_P_DATA, _PDV.size + len(command)) + _PDV.pack(2 + len(command), request.context_id, _COMMAND | _LAST) + command
