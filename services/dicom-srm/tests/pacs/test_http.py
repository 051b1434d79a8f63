"""Connections with a DICOMweb server: kept, opened anew when the server closed them, and read as the answer says."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mdm_dicom_srm.pacs.http import HttpClient
from mdm_testing.process import eventually
from mdm_wire.errors import Unavailable


class RawServer:
    """Sends whole answers, as given, one per request; `connections` counts those that were opened, `asked` has the requests."""

    def __init__(self, answers: list[bytes], close_after: int = 100) -> None:
        self.answers, self.close_after = answers, close_after
        self.connections, self.closed = 0, 0
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/root"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                for _ in range(self.close_after):
                    request = connection.recv(10_000)
                    if not request or not self.answers:
                        break
                    self.asked.append(request)
                    connection.sendall(self.answers.pop(0))
            self.closed += 1

    def close(self) -> None:
        self._listener.close()


@contextmanager
def client_of(server: RawServer) -> Iterator[HttpClient]:
    threading.Thread(target=server.serve, daemon=True).start()
    client = HttpClient(server.url, credential=None, tls=None, seconds=5)
    yield client
    client.close()
    server.close()


def body(client: HttpClient, size: int = 1000) -> bytes:
    buffer, found = memoryview(bytearray(size)), b""
    with client.get("x", "*/*") as answer:
        while count := answer.read_into(buffer):
            found += buffer[:count]
    return found


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


def test_one_connection_serves_several_requests_however_their_ends_are_told() -> None:
    server = RawServer([LENGTH, CHUNKED, LENGTH, CHUNKED])
    with client_of(server) as client:
        assert [body(client) for _ in range(4)] == [b"hello"] * 4
    assert server.connections == 1
    assert all(b"Accept-Encoding: identity\r\n" in request and request.startswith(b"GET /root/x ") for request in server.asked)


def test_an_answer_may_end_with_its_connection() -> None:
    server = RawServer([UNTIL_CLOSE, UNTIL_CLOSE], close_after=1)
    with client_of(server) as client:
        assert [body(client), body(client)] == [b"hello"] * 2
    assert server.connections == 2


def test_a_small_rest_that_nobody_wants_costs_no_connection_and_a_large_one_is_not_read() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello"
    server = RawServer([LENGTH, large, LENGTH])
    with client_of(server) as client:
        for _ in range(2):
            with client.get("x", "*/*") as answer:
                assert answer.read_into(memoryview(bytearray(2))) == 2
        assert server.connections == 1
        assert body(client) == b"hello"
    assert server.connections == 2


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew() -> None:
    server = RawServer([LENGTH, LENGTH], close_after=1)
    with client_of(server) as client:
        assert body(client) == b"hello"
        eventually(lambda: server.closed == 1)
        assert body(client) == b"hello"


@pytest.mark.parametrize("cut", [LENGTH[:-1], CHUNKED[:-7], b"", b"nonsense\r\n\r\n"])
def test_an_answer_that_breaks_off_is_an_error(cut: bytes) -> None:
    server = RawServer([cut], close_after=1)
    with client_of(server) as client, pytest.raises(Unavailable) as caught:
        body(client)
    assert caught.value.reason == "PACS_BROKE_OFF"
