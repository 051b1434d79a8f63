"""Prometheus metrics of calls, and the mutual-TLS listener that serves all metrics."""

import ssl
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Histogram, start_http_server

from mdm_service.settings import Address, TlsSettings

CALLS = Counter("mdm_rpc_calls_total", "Calls handled, by method and gRPC status code name.", ("method", "code"))
SECONDS = Histogram("mdm_rpc_seconds", "Time to handle a call, in seconds, streams included.", ("method",))


def observe(method: str, code: str, seconds: float) -> None:
    """Count one call."""
    CALLS.labels(method, code).inc()
    SECONDS.labels(method).observe(seconds)


def serve_metrics(address: Address, tls: TlsSettings) -> Callable[[], None]:
    """Serve `/metrics` over HTTPS to clients with a certificate of the trusted roots; TLS 1.3 only. Returns how to stop it."""
    server, thread = start_http_server(
        address.port,
        addr=address.host,
        certfile=str(tls.certificate),
        keyfile=str(tls.key),
        client_cafile=str(tls.ca),
        client_auth_required=True,
    )
    _require_tls_1_3(server)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return stop


def _require_tls_1_3(server: WSGIServer) -> None:
    if not isinstance(server.socket, ssl.SSLSocket):
        raise TypeError("the metrics listener has no TLS")
    server.socket.context.minimum_version = ssl.TLSVersion.TLSv1_3
