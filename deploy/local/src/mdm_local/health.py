"""Asking components how they are."""

import socket

import grpc
from grpc_health.v1 import health_pb2

from mdm_local.layout import Layout
from mdm_local.pacs.kind import LOCAL_AE_TITLE, VERIFICATION, Pacs

SERVING, NOT_SERVING, DOWN = "serving", "not serving", "down"
_HEALTHY_CODE = 0x0000


def of_service(layout: Layout, address: str, timeout: float = 2.0) -> str:
    """Return a service's gRPC health, asked over mutual TLS as the operator."""
    roots, key, certificate = ((layout.pki / name).read_bytes() for name in ("ca.crt", "operator.key", "operator.crt"))
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    with grpc.secure_channel(address, credentials, options=(("grpc.enable_http_proxy", 0),)) as channel:
        ask = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = ask(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return NOT_SERVING
    return SERVING if answer.status == health_pb2.HealthCheckResponse.SERVING else NOT_SERVING


def of_pacs(pacs: Pacs, timeout: float = 3.0) -> str:
    """Return whether the PACS answers C-ECHO."""
    if not is_listening(pacs.host, pacs.port):  # asked first because pynetdicom leaks the socket of a refused connection
        return NOT_SERVING
    from pynetdicom import AE  # takes a second to import, which most commands need not wait for

    ae = AE(LOCAL_AE_TITLE)
    ae.add_requested_context(VERIFICATION)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout
    association = ae.associate(pacs.host, pacs.port, ae_title=pacs.ae_title)
    if not association.is_established:
        return NOT_SERVING
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    return SERVING if "Status" in status and int(status.Status) == _HEALTHY_CODE else NOT_SERVING


def is_listening(host: str, port: int, timeout: float = 1.0) -> bool:
    """Tell whether a TCP connection is accepted."""
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False
