"""Monitoring of a service: JSON logs, Prometheus metrics over mutual TLS, the health of its dependencies."""

import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mdm_wire.errors import MdmError, Unauthenticated
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pythonjsonlogger.json import JsonFormatter

from mdm_service.identity.caller import Authenticator
from mdm_service.policy import MONITOR, OPERATOR
from mdm_service.settings import Address, ConfigurationError, TlsSettings

CALLS = Counter("mdm_rpc_calls_total", "Calls handled, by method and gRPC status code name.", ("method", "code"))
SECONDS = Histogram("mdm_rpc_seconds", "Time to handle a call, in seconds, streams included.", ("method",))

_PATIENCE_SECONDS = 10.0
_ASK_SECONDS = 30.0
_UP = Gauge(
    "mdm_dependency_up", "Whether a dependency answered when it was last asked: 1 or 0.", ("dependency",), multiprocess_mode="livemin"
)
_log = logging.getLogger(__name__)


def configure_log(service: str, level: str, worker: int | None = None) -> None:
    """Send this process's log to standard error as JSON lines with time, level, logger, service, the number of a worker, and message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"service": service} if worker is None else {"service": service, "worker": worker},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Libraries log request URLs and association details, which hold original identifiers.
    for chatty in ("httpx", "httpcore", "pynetdicom", "pydicom", "sqlglot", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)


def observe_call(method: str, code: str, seconds: float) -> None:
    """Count one call."""
    CALLS.labels(method, code).inc()
    SECONDS.labels(method).observe(seconds)


def registry_of_workers(directory: Path) -> CollectorRegistry:
    """Return the sums over all processes that keep their metrics in a directory.

    Counts of processes that have ended stay in the sums; what they measured of their present state does not.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return registry


def serve_metrics(
    address: Address, tls: TlsSettings, authenticator: Authenticator, registry: CollectorRegistry = REGISTRY
) -> Callable[[], None]:
    """Serve `/metrics` over HTTPS, TLS 1.3 with a client certificate, to the roles operator and monitor. Return a function that stops it.

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
    """An HTTPS server with a thread per connection, TLS handshake included, so that a stalling caller delays nobody else."""

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
            # The handshake failed or the caller disconnected: its own concern, and nothing for the log, which a stranger could fill.
            return


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        """Answer with the metrics, or with the reason of the refusal."""
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
        """Return why this caller may not read the metrics; empty if it may."""
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


class DependencyWatch:
    """Checks a dependency at intervals, in a thread of its own. The health of the service itself does not depend on the result."""

    def __init__(self, name: str, ask: Callable[[], object], report: Callable[[str, bool], None], seconds: float = _ASK_SECONDS) -> None:
        """`ask` raises where the dependency does not answer; `report` gets the name and whether it does."""
        self._name, self._ask, self._report, self._seconds = name, ask, report, seconds
        self._up: bool | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        """Start checking. Until the first result the dependency counts as unavailable."""
        self._report(self._name, False)
        self._thread.start()

    def stop(self) -> None:
        """Stop checking, without waiting for an outstanding answer."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            reason = self._reason()
            if not self._stopped.is_set():
                self._note(not reason, reason)
            self._stopped.wait(self._seconds)

    def _reason(self) -> str:
        """Return why the dependency does not answer; empty if it does."""
        try:
            self._ask()
        except MdmError as error:
            return error.reason
        except Exception as error:
            return type(error).__name__
        return ""

    def _note(self, up: bool, reason: str) -> None:
        _UP.labels(self._name).set(up)
        self._report(self._name, up)
        if up is not self._up:
            if not up:
                _log.warning("a dependency does not answer", extra={"dependency": self._name, "reason": reason})
            elif self._up is not None:
                _log.info("a dependency answers again", extra={"dependency": self._name})
        self._up = up
