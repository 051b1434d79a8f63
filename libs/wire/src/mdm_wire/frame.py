"""`ReadFilesResponse` as bytes: encoded and decoded without copying the data of files through a message.

It is the message's ordinary encoding, which any generated code reads and writes. The generated code of Python copies each file twice
more at either end; see decision 0026.
"""

from collections.abc import Iterable, Sequence

from mdm.srm.v1.transfer_pb2 import FilePart, ReadFilesResponse

# Of the fields `parts` and `data`, both length-delimited (https://protobuf.dev/programming-guides/encoding/).
_PARTS, _DATA = 0x0A, 0x12


def encode(parts: Iterable[FilePart], data: Sequence[bytes]) -> bytes:
    """Return a message of parts and the bytes of their data, in pieces."""
    head = ReadFilesResponse(parts=parts).SerializeToString()
    if not data:
        return head
    return b"".join((head, bytes((_DATA,)), _varint(sum(map(len, data))), *data))


def decode(message: bytes) -> tuple[ReadFilesResponse, memoryview]:
    """Return a message, perhaps without its data, and the data: bytes of `message` where its last field is `data`.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    at = 0
    while at < len(message) and message[at] == _PARTS:
        length, start = _read_varint(message, at + 1)
        at = start + length
    if at < len(message) and message[at] == _DATA:
        length, start = _read_varint(message, at + 1)
        if start + length == len(message):
            return ReadFilesResponse.FromString(message[:at]), memoryview(message)[start:]
    whole = ReadFilesResponse.FromString(message)  # in an order of its own, or with fields that are not known here
    return whole, memoryview(whole.data)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where the next byte is; what ends too early is as long as everything, and so no message."""
    number = shift = 0
    while at < len(data):
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
    return number, len(data) + 1
