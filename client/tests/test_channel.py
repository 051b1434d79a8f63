"""Channels: identities checked before use, several addresses, refused connections explained."""

import socket
import threading

import grpc
import pytest
from mdm.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from mdm.common.v1.common_pb2 import ItemStatus
from mdm_client.catalog.client import CatalogClient
from mdm_client.name_syntax import parse_name
from mdm_client.service import Service
from mdm_wire.channel import RotatingChannel, check_identity, open_channel
from mdm_wire.errors import Code, FailedPrecondition, Invalid, MdmError, NotFound, Unauthenticated, Unavailable
from mdm_wire.retry import RetryPolicy
from mdm_wire.status import from_item, from_rpc_error, translated
from mdm_wire.tls import TlsFiles

DEAD = "127.0.0.1:1"
QUICK = RetryPolicy(call_seconds=3, retry_seconds=0.5)


def test_a_key_of_another_certificate_is_found_locally(pki):
    alice, bob = pki.issue(pki.subject("alice")), pki.issue(pki.subject("bob"))
    with pytest.raises(Invalid) as caught:
        check_identity(TlsFiles(alice.certificate, bob.key, alice.ca))
    assert caught.value.reason == "KEY_MISMATCH"


def test_unreadable_files_are_named(pki, tmp_path):
    alice = pki.issue(pki.subject("alice"))
    with pytest.raises(Invalid, match=r"none\.crt"):
        open_channel([DEAD], TlsFiles(tmp_path / "none.crt", alice.key, alice.ca))
    with pytest.raises(Invalid, match=r"none\.key"):
        open_channel([DEAD], TlsFiles(alice.certificate, tmp_path / "none.key", alice.ca))
    with pytest.raises(Invalid, match=r"alice\.key"):
        open_channel([DEAD], TlsFiles(alice.certificate, alice.key, alice.key))
    with pytest.raises(Invalid):
        open_channel([], alice)


def test_a_dead_address_is_skipped_and_then_avoided(grid):
    addresses = [DEAD, grid.addresses["catalog"]]
    with open_channel(addresses, grid.alice) as channel:
        assert isinstance(channel, RotatingChannel)
        stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        for _ in range(4):
            assert stub.Stat(catalog_pb2.StatRequest(), timeout=5) == catalog_pb2.StatResponse()
        assert channel.order()[0] == 1
        future = stub.Stat.future(catalog_pb2.StatRequest(), timeout=5)
        assert future.result() == catalog_pb2.StatResponse()
        grid.add("/b/1.dcm", b"one")
        assert len(list(stub.List(catalog_pb2.ListRequest(lfn="/b"), timeout=5))) == 1


def test_a_dead_address_is_avoided_after_a_streamed_call_too(grid):
    grid.add("/b/1.dcm", b"one")
    with open_channel([DEAD, grid.addresses["catalog"]], grid.alice) as channel:
        stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            list(stub.List(catalog_pb2.ListRequest(lfn="/b"), timeout=5))
        assert channel.order()[0] == 1
        for _ in range(4):
            assert len(list(stub.List(catalog_pb2.ListRequest(lfn="/b"), timeout=5))) == 1


def test_all_addresses_dead_is_unavailable(grid):
    with open_channel([DEAD, "127.0.0.1:2"], grid.alice) as channel, pytest.raises(Unavailable, match="catalog: cannot be reached"):
        CatalogClient(channel, QUICK).stat([parse_name("/b")])


def test_a_certificate_for_another_host_is_not_trusted(pki, grid):
    address = grid.addresses["catalog"].replace("127.0.0.1", "127.0.0.2")
    listener = socket.create_server(("127.0.0.2", 0))
    target = ("127.0.0.1", int(grid.addresses["catalog"].rpartition(":")[2]))
    threading.Thread(target=_forward, args=(listener, target), daemon=True).start()
    address = f"127.0.0.2:{listener.getsockname()[1]}"
    with listener, open_channel([address], grid.alice) as channel, pytest.raises(Unauthenticated) as caught:
        CatalogClient(channel, QUICK).stat([parse_name("/b")])
    assert caught.value.reason == "SERVER_NOT_TRUSTED"


def _forward(listener: socket.socket, target: tuple[str, int]) -> None:
    """Pass connections on, both ways, until the listener is closed."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            return
        finally:
            source.close()
            sink.close()

    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(target)
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def test_a_plain_text_server_is_explained(pki):
    alice = pki.issue(pki.subject("alice"))
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        except OSError:
            return

    threading.Thread(target=answer, daemon=True).start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with open_channel([address], alice) as channel, pytest.raises(MdmError) as caught:
        CatalogClient(channel, QUICK).stat([parse_name("/b")])
    listener.close()
    assert "TLS" in caught.value.message


class _Broken(grpc.RpcError, grpc.Call):
    """A failed call as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return ()

    initial_metadata = trailing_metadata

    def is_active(self):
        return False

    time_remaining = cancel = add_callback = is_active


def test_calls_are_repeated_while_a_service_is_away_and_not_otherwise():
    outcomes: list[object] = [
        _Broken(grpc.StatusCode.UNAVAILABLE, "connections to all backends failing; last error: Connection refused"),
        _Broken(grpc.StatusCode.UNAVAILABLE, "connections to all backends failing; last error: Socket closed"),
        "answer",
    ]

    def attempt(*_: object, **__: object) -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    service = Service("catalog", None, RetryPolicy(1, 5))
    assert service.repeat(attempt) == "answer"
    outcomes += [_Broken(grpc.StatusCode.NOT_FOUND, "no"), "never"]
    with pytest.raises(NotFound):
        service.repeat(attempt)
    assert outcomes == ["never"]
    outcomes[:0] = [_Broken(grpc.StatusCode.UNAVAILABLE, "connections to all backends failing; last error: Connection refused")]
    with pytest.raises(Unavailable):
        service.call(attempt, None)
    assert outcomes == ["never"], "what says nothing of itself is sent once"


def test_a_connection_lost_in_a_call_is_not_taken_for_a_refused_certificate():
    lost = from_rpc_error(_Broken(grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer"))
    refused = from_rpc_error(_Broken(grpc.StatusCode.UNAVAILABLE, "connections to all backends failing; last error: Socket closed"))
    assert (lost.reason, refused.reason) == ("UNAVAILABLE", "HANDSHAKE_REFUSED")


def test_errors_keep_code_reason_and_one_line():
    error = from_item(ItemStatus(code=9, reason="NOT_EMPTY", message="The directory\nis not empty."))
    assert isinstance(error, FailedPrecondition)
    assert (error.code, error.reason, error.message) == (Code.FAILED_PRECONDITION, "NOT_EMPTY", "The directory is not empty.")
    assert from_item(ItemStatus()) is None
    assert from_item(ItemStatus(code=99)).code is Code.UNKNOWN
    with pytest.raises(Unavailable, match="srm: "), translated("srm"):
        raise _Broken(grpc.StatusCode.UNAVAILABLE, "Connection refused")
