"""The mutual-TLS gRPC server that every service is built on."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mdm_service import TLS_1_3_ONLY
from mdm_service.identity.caller import Authenticator
from mdm_service.server.interceptor import CallLimit, ServiceInterceptor, StallWatch
from mdm_service.settings import Address, ConfigurationError, TlsSettings

MAX_MESSAGE = 32 * 1024 * 1024
CONNECTION_AGE_MS = 10 * 60 * 1000  # so that revocation and role changes reach live connections
GRACE_SECONDS = 10.0
STALL_SECONDS = 60.0  # how long a call may wait for its caller
MAX_CALLS = 2048  # under way or waiting for a thread; more are refused at once
MAX_STREAMS = 256  # of one connection
HANDSHAKE_MS = 20_000
_HEALTH_THREADS, _HEALTH_CALLS = 4, 2


class ServiceServer:
    """A gRPC server with authentication, policy, health and, if asked, reflection.

    `grpc` is the server to register servicers on; `add_service` announces each one's full name to health and reflection.
    `stopping` is set when shutdown begins: a stream that does not end by itself has to watch it.
    One caller occupies at most half of the `threads`, and a call that waits `stall_seconds` for its caller is cancelled.
    With `shared`, several workers share the port, which their supervisor has reserved; otherwise a port in use is refused.
    """

    def __init__(
        self,
        address: Address,
        tls: TlsSettings,
        authenticator: Authenticator,
        *,
        threads: int = 32,
        stall_seconds: float = STALL_SECONDS,
        shared: bool = False,
    ) -> None:
        self.stopping = threading.Event()
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rpc")
        self._health_executor = ThreadPoolExecutor(_HEALTH_THREADS, "health")
        self._stalls = StallWatch(stall_seconds)
        limit, health_limit = CallLimit(max(1, threads // 2)), CallLimit(_HEALTH_CALLS)
        self.grpc = grpc.server(
            self._executor,
            interceptors=[ServiceInterceptor(authenticator, limit, self._stalls, (health_limit, self._health_executor))],
            maximum_concurrent_rpcs=MAX_CALLS,
            options=(
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", MAX_MESSAGE),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ),
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self._services: list[str] = []
        # A shared port takes connections as soon as it is bound; a worker that then fails to start would never answer them.
        self._bind_late = functools.partial(self._bind, address, tls) if shared else None
        self.port = address.port if shared else self._bind(address, tls)

    def add_service(self, full_name: str) -> None:
        """Announce a registered service, such as `mdm.catalog.v1.CatalogService`."""
        self._services.append(full_name)

    def set_health(self, name: str, serving: bool) -> None:
        """Report a dependency's health under `name`; the health of the service itself does not change."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._health.set(name, status)

    def enable_reflection(self) -> None:
        """Register the reflection service, which only operators may call."""
        reflection.enable_server_reflection((*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc)

    def start(self) -> None:
        """Serve in the background and report healthy."""
        self._stalls.start()
        if self._bind_late is not None:
            self._bind_late()
        self.grpc.start()
        for name in ("", *self._services):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Report unhealthy, refuse new calls, let running ones finish for `grace` seconds, then cancel them."""
        self.stopping.set()
        self._health.enter_graceful_shutdown()
        self.grpc.stop(grace).wait()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._health_executor.shutdown(wait=True, cancel_futures=True)
        self._stalls.stop()

    def _bind(self, address: Address, tls: TlsSettings) -> int:
        if not TLS_1_3_ONLY:
            raise ConfigurationError("listen: gRPC was imported before mdm_service, so TLS 1.2 would be accepted")
        try:
            credentials = grpc.ssl_server_credentials(
                [(tls.key.read_bytes(), tls.certificate.read_bytes())],
                root_certificates=tls.ca.read_bytes(),
                require_client_auth=True,
            )
            return int(self.grpc.add_secure_port(f"{address.host}:{address.port}", credentials))
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(f"listen: cannot listen on {address.host}:{address.port}: {error}") from error
