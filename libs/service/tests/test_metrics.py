"""The metrics listener: mutual TLS 1.3 like every other."""

import http.client
import socket
import ssl
from collections.abc import Iterator

import pytest
from mdm_service.identity.caller import Authenticator, Membership
from mdm_service.identity.trust import Authority, TrustStore
from mdm_service.policy import MONITOR
from mdm_service.server import monitoring
from mdm_service.settings import Address, TlsSettings
from mdm_testing.process import free_port
from mdm_wire import dn


@pytest.fixture
def port(pki) -> Iterator[int]:
    free = free_port()
    files = pki.issue(pki.subject("metrics"))
    pki.revoke([])
    trust = TrustStore((Authority.load(pki.certificate_file, (pki.namespace,), pki.crl_file),))
    authenticator = Authenticator(trust, Membership(None), {MONITOR: (dn.canonical(pki.subject("monitor")),)})
    stop = monitoring.serve_metrics(
        Address(port=free), TlsSettings(certificate=files.certificate, key=files.key, ca=files.ca), authenticator
    )
    yield free
    stop()


def fetch(port: int, context: ssl.SSLContext) -> str:
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def client_context(pki, name: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.certificate_file))
    if name:
        files = pki.issue(pki.subject(name))
        context.load_cert_chain(files.certificate, files.key)
    return context


def test_a_certificate_holder_reads_the_counters(port, pki):
    monitoring.observe_call("/mdm.test.v1.Test/Call", "OK", 0.01)
    assert 'mdm_rpc_calls_total{code="OK",method="/mdm.test.v1.Test/Call"} 1.0' in fetch(port, client_context(pki, "monitor"))


def test_a_user_reads_no_metrics(port, pki):
    refusal = fetch(port, client_context(pki, "alice"))
    assert "mdm_rpc" not in refusal
    assert "operator and monitor" in refusal


def test_a_revoked_certificate_reads_no_metrics(port, pki):
    context = client_context(pki, "monitor")
    pki.revoke([pki.directory / "monitor.crt"])
    try:
        assert "revoked" in fetch(port, context)
    finally:
        pki.revoke([])


def test_one_who_stalls_in_the_handshake_keeps_nobody_else_waiting(port, pki):
    with socket.create_connection(("127.0.0.1", port)):
        assert "mdm_rpc" in fetch(port, client_context(pki, "monitor"))


def test_without_a_certificate_nothing_is_told(port, pki):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(port, client_context(pki, None))


def test_tls_1_2_is_refused(port, pki):
    context = client_context(pki, "monitor")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(port, context)
