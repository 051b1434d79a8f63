"""What one caller can hold of a server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mdm.srm.v1 import srm_pb2, srm_pb2_grpc, transfer_pb2, transfer_pb2_grpc
from mdm_service.identity.caller import Authenticator
from mdm_service.server.server import ServiceServer
from mdm_site.pki import DevelopmentCa
from mdm_testing.process import eventually
from mdm_testing.server import RunningServer, channel, serve_in_process

PING = "/mdm.srm.v1.SrmService/Ping"


class Srm(srm_pb2_grpc.SrmServiceServicer):
    def Ping(self, request, context):
        return srm_pb2.PingResponse(site="here")


class Transfer(transfer_pb2_grpc.TransferServiceServicer):
    def __init__(self) -> None:
        self.ended = threading.Semaphore(0)

    def Read(self, request, context):
        try:
            while True:
                yield transfer_pb2.ReadResponse(data=bytes(1 << 20))
        finally:
            self.ended.release()


@pytest.fixture
def transfer() -> Transfer:
    return Transfer()


@contextmanager
def serving(pki: DevelopmentCa, transfer: Transfer, stall_seconds: float) -> Iterator[RunningServer]:
    def register(service: ServiceServer, _: Authenticator) -> None:
        srm_pb2_grpc.add_SrmServiceServicer_to_server(Srm(), service.grpc)
        transfer_pb2_grpc.add_TransferServiceServicer_to_server(transfer, service.grpc)

    identity = pki.issue(pki.subject("server"))
    with serve_in_process(identity, register, namespaces=(pki.namespace,), threads=4, stall_seconds=stall_seconds) as running:
        yield running


@contextmanager
def calls_without_a_request(server: RunningServer, identity, method: str, count: int) -> Iterator[list[grpc.Future]]:
    release = threading.Event()

    def never() -> Iterator[bytes]:
        release.wait(20)
        yield from ()

    with channel(server.address, identity) as opened:
        call = opened.stream_unary(method)
        try:
            yield [call.future(never(), timeout=20) for _ in range(count)]
        finally:
            release.set()


def ping(server: RunningServer, identity) -> srm_pb2.PingResponse:
    with channel(server.address, identity) as opened:
        return srm_pb2_grpc.SrmServiceStub(opened).Ping(srm_pb2.PingRequest(), timeout=5)


def health(server: RunningServer, identity) -> health_pb2.HealthCheckResponse:
    with channel(server.address, identity) as opened:
        return health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=5)


@pytest.mark.parametrize("method", [PING, "/grpc.health.v1.Health/Check", "/mdm.srm.v1.TransferService/Read"])
def test_calls_that_never_send_their_request_do_not_keep_others_out(pki, transfer, method):
    with serving(pki, transfer, 60) as server, calls_without_a_request(server, pki.issue(pki.subject("mallory")), method, 50) as held:
        eventually(lambda: sum(call.done() for call in held) >= 46)
        assert ping(server, pki.issue(pki.subject("alice"))).site == "here"
        assert health(server, pki.issue(pki.subject("alice"))).status == health_pb2.HealthCheckResponse.SERVING
        refused = [call for call in held if call.done()]
        assert {call.code() for call in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_a_stranger_is_refused_before_its_request_is_read(pki, transfer):
    outsider = pki.issue("/O=Other/CN=mallory", name="outsider")
    with serving(pki, transfer, 60) as server, calls_without_a_request(server, outsider, PING, 3) as held:
        assert {call.exception(timeout=5).code() for call in held} == {grpc.StatusCode.UNAUTHENTICATED}


def test_a_call_that_keeps_the_server_waiting_for_its_request_is_ended(pki, transfer):
    with serving(pki, transfer, 0.4) as server, calls_without_a_request(server, pki.issue(pki.subject("mallory")), PING, 2) as held:
        assert {call.exception(timeout=5).code() for call in held} == {grpc.StatusCode.CANCELLED}


def test_streams_that_are_never_read_are_ended_and_keep_nobody_out(pki, transfer):
    mallory = pki.issue(pki.subject("mallory"))
    with serving(pki, transfer, 0.4) as server, channel(server.address, mallory) as opened:
        stub = transfer_pb2_grpc.TransferServiceStub(opened)
        streams = [stub.Read(transfer_pb2.ReadRequest(), timeout=20) for _ in range(20)]
        assert ping(server, pki.issue(pki.subject("alice"))).site == "here"
        assert all(transfer.ended.acquire(timeout=5) for _ in range(2)), "the handlers of unread streams must end"
        for stream in streams:
            stream.cancel()


def test_a_call_without_any_request_is_refused(pki, transfer):
    with serving(pki, transfer, 60) as server, channel(server.address, pki.issue(pki.subject("alice"))) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            opened.stream_unary(PING)(iter(()), timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
