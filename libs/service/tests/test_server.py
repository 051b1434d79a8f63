"""A server built by the library: who gets in, over real mutual TLS."""

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from mdm.acl.v1 import acl_pb2, acl_pb2_grpc
from mdm.srm.v1 import srm_pb2, srm_pb2_grpc
from mdm_service.identity.caller import Authenticator, current_caller
from mdm_service.server.server import ServiceServer
from mdm_site.pki import DevelopmentCa
from mdm_testing.server import RunningServer, channel, serve_in_process
from mdm_wire.errors import Invalid


class Srm(srm_pb2_grpc.SrmServiceServicer):
    def __init__(self):
        self.begun, self.alone = threading.Event(), threading.Event()

    def Ping(self, request, context):
        caller = current_caller()
        return srm_pb2.PingResponse(version=caller.dn, site=",".join(sorted(caller.groups)))

    def GetTransferProtocols(self, request, context):
        raise Invalid("BAD_THING", "That is bad.", fields={"x": "too long"})

    def AbortRequest(self, request, context):
        raise RuntimeError("secret of a patient")

    def StatusOfGetRequest(self, request, context):
        context.abort(grpc.StatusCode.DATA_LOSS, "as the handler says")

    def PrepareToGet(self, request, context):
        self._raise_once_alone(context)

    def WatchGetRequest(self, request, context):
        yield srm_pb2.WatchGetRequestResponse()
        if request.token:
            self._raise_once_alone(context)
        raise Invalid("BAD_STREAM", "That is bad.")

    def _raise_once_alone(self, context):
        assert context.add_callback(self.alone.set)
        self.begun.set()
        assert self.alone.wait(10)
        raise RuntimeError("secret of a patient")


class Acl(acl_pb2_grpc.AclServiceServicer):
    pass


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    return DevelopmentCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "groups.toml").write_text('[groups]\n"/biomed/neuro" = ["/O=MDM Test/CN=alice"]\n')
    (tmp_path / "banned").write_text("# nobody\n")
    return tmp_path


@pytest.fixture
def server(ca: DevelopmentCa, files: Path) -> Iterator[RunningServer]:
    def register(service: ServiceServer, _: Authenticator) -> None:
        srm_pb2_grpc.add_SrmServiceServicer_to_server(Srm(), service.grpc)
        acl_pb2_grpc.add_AclServiceServicer_to_server(Acl(), service.grpc)
        service.add_service("mdm.srm.v1.SrmService")

    with serve_in_process(
        ca.issue(ca.subject("server")),
        register,
        namespaces=(ca.namespace,),
        crl=ca.crl_file,
        ban_list=files / "banned",
        groups=files / "groups.toml",
        roles={"operator": (ca.subject("operator"),)},
    ) as running:
        yield running


def ping(server: RunningServer, identity) -> srm_pb2.PingResponse:
    with channel(server.address, identity) as opened:
        return srm_pb2_grpc.SrmServiceStub(opened).Ping(srm_pb2.PingRequest(), timeout=5)


def refusal(server: RunningServer, identity) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ping(server, identity)
    return caught.value.code(), reason_of(caught.value)


def reason_of(error) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    return info.reason if status and status.details and status.details[0].Unpack(info) else ""


def test_a_known_certificate_gives_its_subject_and_groups(server, ca):
    answer = ping(server, ca.issue(ca.subject("alice")))
    assert answer.version == "CN=alice,O=MDM Test"
    assert answer.site == "/biomed/neuro"


def test_health_answers_every_certificate_holder(server, ca):
    with channel(server.address, ca.issue(ca.subject("anyone"))) as opened:
        answer = health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(service="mdm.srm.v1.SrmService"), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_subject_outside_the_authoritys_namespace_is_refused(server, ca):
    code, reason = refusal(server, ca.issue("/O=Other/CN=alice", name="outsider"))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "SUBJECT_OUTSIDE_NAMESPACE")


def test_a_revoked_certificate_is_refused_on_the_next_call(server, ca):
    identity = ca.issue(ca.subject("leaver"))
    ping(server, identity)
    try:
        ca.revoke([identity.certificate])
        assert refusal(server, identity)[1] == "CERTIFICATE_REVOKED"
    finally:
        ca.revoke([])


def test_a_stale_revocation_list_refuses_everyone(server, ca):
    try:
        ca.revoke([], next_update=datetime.now(UTC) - timedelta(seconds=1))
        assert refusal(server, ca.issue(ca.subject("alice")))[1] == "CRL_STALE"
    finally:
        ca.revoke([])


def test_an_expired_certificate_is_refused_in_the_handshake(server, ca):
    past = datetime.now(UTC) - timedelta(minutes=1)
    identity = ca.issue(ca.subject("late"), not_after=past)
    assert refusal(server, identity)[0] == grpc.StatusCode.UNAVAILABLE


def test_a_short_rsa_key_is_refused(server, ca):
    identity = ca.issue(ca.subject("weak"), key=rsa.generate_private_key(65537, 1024))
    assert refusal(server, identity)[1] in {"KEY_TOO_SHORT", ""}


def test_a_subject_with_two_common_names_is_refused(server, ca, monkeypatch):
    from cryptography import x509
    from cryptography.x509.oid import NameOID
    from mdm_site import pki

    twice = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "MDM Test"),
            x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
            x509.NameAttribute(NameOID.COMMON_NAME, "operator"),
        ]
    )
    monkeypatch.setattr(pki.dn, "parse", lambda _: twice)
    assert refusal(server, ca.issue("unused", name="twice"))[1] == "DN_DUPLICATE_CN"


def test_a_banned_subject_is_refused_as_soon_as_the_list_changes(server, ca, files):
    identity = ca.issue(ca.subject("bad"))
    ping(server, identity)
    (files / "banned").write_text("/O=MDM Test/CN=bad\n")
    assert refusal(server, identity)[1] == "SUBJECT_BANNED"


def test_an_unreadable_ban_list_refuses_everyone(server, ca, files):
    (files / "banned").write_text("not a dn\n")
    assert refusal(server, ca.issue(ca.subject("alice")))[1] == "SUBJECT_BANNED"


def test_a_foreign_authority_is_refused_in_the_handshake(server, ca, tmp_path):
    foreign = DevelopmentCa(tmp_path / "foreign").issue("/O=MDM Test/CN=alice")
    mixed = type(foreign)(foreign.certificate, foreign.key, ca.certificate_file)
    assert refusal(server, mixed)[0] == grpc.StatusCode.UNAVAILABLE


def test_a_method_that_the_role_may_not_call_is_forbidden(server, ca):
    with channel(server.address, ca.issue(ca.subject("peer"))) as opened:
        call = opened.unary_unary("/mdm.srm.v1.RegistrationService/RegisterStudies")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED  # not registered here at all
    with channel(server.address, ca.issue(ca.subject("operator"))) as opened, pytest.raises(grpc.RpcError) as caught:
        acl_pb2_grpc.AclServiceStub(opened).GetAcls(acl_pb2.GetAclsRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED  # admitted by the policy, not implemented by the fake


def test_a_foreseen_error_carries_reason_and_fields(server, ca):
    with channel(server.address, ca.issue(ca.subject("alice"))) as opened, pytest.raises(grpc.RpcError) as caught:
        srm_pb2_grpc.SrmServiceStub(opened).GetTransferProtocols(srm_pb2.GetTransferProtocolsRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "BAD_THING"
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[1].Unpack(bad)
    assert bad.field_violations[0].field == "x"


def test_an_error_in_the_middle_of_a_stream_is_mapped_too(server, ca):
    with channel(server.address, ca.issue(ca.subject("alice"))) as opened:
        stream = srm_pb2_grpc.SrmServiceStub(opened).WatchGetRequest(srm_pb2.WatchGetRequestRequest(), timeout=5)
        next(stream)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
    assert reason_of(caught.value) == "BAD_STREAM"


def test_an_unforeseen_error_tells_only_an_incident_id_and_logs_no_message(server, ca, caplog):
    with channel(server.address, ca.issue(ca.subject("alice"))) as opened, pytest.raises(grpc.RpcError) as caught:
        srm_pb2_grpc.SrmServiceStub(opened).AbortRequest(srm_pb2.AbortRequestRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    record = next(record for record in caplog.records if record.message == "unexpected error")
    assert record.incident in caught.value.details()
    assert "patient" not in str(record.__dict__)


@pytest.mark.parametrize("method", ["PrepareToGet", "WatchGetRequest"])
def test_an_error_after_the_caller_has_gone_is_logged_by_nobody(ca, method, caplog):
    servicer = Srm()

    def register(service: ServiceServer, _: Authenticator) -> None:
        srm_pb2_grpc.add_SrmServiceServicer_to_server(servicer, service.grpc)

    served = serve_in_process(ca.issue(ca.subject("server")), register, namespaces=(ca.namespace,))
    with served as server, channel(server.address, ca.issue(ca.subject("alice"))) as opened:
        stub = srm_pb2_grpc.SrmServiceStub(opened)
        if method == "PrepareToGet":
            call = stub.PrepareToGet.future(srm_pb2.PrepareToGetRequest(), timeout=30)
        else:
            call = stub.WatchGetRequest(srm_pb2.WatchGetRequestRequest(token="alone"), timeout=30)
            next(call)
        assert servicer.begun.wait(10)
        call.cancel()
        assert servicer.alone.wait(10)
    # The server has stopped, so what its threads had to log is logged.
    assert "patient" not in caplog.text + str([record.__dict__ for record in caplog.records])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_handler_ends_a_call_by_itself(server, ca, caplog):
    with channel(server.address, ca.issue(ca.subject("alice"))) as opened, pytest.raises(grpc.RpcError) as caught:
        srm_pb2_grpc.SrmServiceStub(opened).StatusOfGetRequest(srm_pb2.StatusOfGetRequestRequest(), timeout=5)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "as the handler says")
    assert not caplog.records


def tls_context(identity, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(identity.ca))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    return context


def test_tls_1_2_is_refused(server, ca):
    identity = ca.issue(ca.subject("alice"))
    context = tls_context(identity, ssl.TLSVersion.TLSv1_2)
    context.load_cert_chain(identity.certificate, identity.key)
    host, port = server.address.split(":")
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection((host, int(port)), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        assert not wrapped.recv(1), "the server spoke HTTP/2 over TLS 1.2"
        raise ConnectionError


def test_no_certificate_and_plaintext_are_refused(server, ca):
    identity = ca.issue(ca.subject("alice"))
    credentials = grpc.ssl_channel_credentials(identity.ca.read_bytes())
    for opened in (grpc.secure_channel(server.address, credentials), grpc.insecure_channel(server.address)):
        with opened, pytest.raises(grpc.RpcError) as caught:
            srm_pb2_grpc.SrmServiceStub(opened).Ping(srm_pb2.PingRequest(), timeout=3)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
