"""Prometheus metrics of calls, and the mutual-TLS listener that serves all metrics to operators and monitors."""

import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mdm_wire.errors import Unauthenticated
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from mdm_service.errors import ConfigurationError
from mdm_service.identity.authentication import Authenticator
from mdm_service.policy import MONITOR, OPERATOR
from mdm_service.settings import Address, TlsSettings

CALLS = Counter("mdm_rpc_calls_total", "Calls handled, by method and gRPC status code name.", ("method", "code"))
SECONDS = Histogram("mdm_rpc_seconds", "Time to handle a call, in seconds, streams included.", ("method",))

_PATIENCE_SECONDS = 10.0


def observe(method: str, code: str, seconds: float) -> None:
    """Count one call."""
    CALLS.labels(method, code).inc()
    SECONDS.labels(method).observe(seconds)


def of_workers(directory: Path) -> CollectorRegistry:
    """Return the sums over all processes that keep their numbers in a directory, those that have ended included."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return registry


def serve_metrics(
    address: Address, tls: TlsSettings, authenticator: Authenticator, registry: CollectorRegistry = REGISTRY
) -> Callable[[], None]:
    """Serve `/metrics` over HTTPS, TLS 1.3 with a client certificate, to the roles operator and monitor. Returns how to stop it.

    Raises:
        ConfigurationError: it cannot listen there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.ca)
    try:
        server = _Server((address.host, address.port), context, authenticator, registry)
    except OSError as error:
        raise ConfigurationError(f"metrics: cannot listen on {address.host}:{address.port}: {error}") from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return stop


class _Server(ThreadingHTTPServer):
    """One thread for each connection, TLS handshake included, so that a caller who stalls keeps nobody else waiting."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, authenticator: Authenticator, registry: CollectorRegistry
    ) -> None:
        super().__init__(address, _Handler)
        self._context = context
        self.authenticator = authenticator
        self.registry = registry

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        assert isinstance(request, socket.socket)
        request.settimeout(_PATIENCE_SECONDS)
        try:
            with self._context.wrap_socket(request, server_side=True) as secured:
                _Handler(secured, client_address, self)
        except OSError:
            # The handshake failed or the caller went away: its own concern, and nothing for the log that a stranger could fill.
            return


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        """Answer with the metrics, or say why not."""
        refusal = self._refusal()
        if refusal:
            self._answer(403, "text/plain; charset=utf-8", refusal.encode() + b"\n")
        elif self.path.partition("?")[0] != "/metrics":
            self._answer(404, "text/plain; charset=utf-8", b"Only /metrics is here.\n")
        else:
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))

    def log_message(self, format: str, *arguments: object) -> None:
        """Log no requests."""

    def _refusal(self) -> str:
        """Return why this caller gets nothing, empty if it may read."""
        certificate = ssl.DER_cert_to_PEM_cert(self.connection.getpeercert(binary_form=True) or b"")
        peer = {"ssl_tls_version": (str(self.connection.version()).encode(),), "x509_pem_cert": (certificate.encode(),)}
        try:
            caller = self.server.authenticator.authenticate(peer)
        except Unauthenticated as error:
            return error.message
        allowed = caller.has_role(OPERATOR) or caller.has_role(MONITOR)
        return "" if allowed else "Metrics are for the roles operator and monitor."

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
