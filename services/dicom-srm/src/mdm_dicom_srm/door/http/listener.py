"""The listener: TLS 1.3, one thread with an event loop, and limits against connections that only hold it."""

import asyncio
import logging
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aiohttp import web
from mdm_service.server.interceptor import CallLimit
from mdm_service.settings import Address, ConfigurationError, TlsSettings
from mdm_wire.errors import MdmError

from mdm_dicom_srm import metrics
from mdm_dicom_srm.door.http import drs, tape, webdav
from mdm_dicom_srm.door.http.address import DOOR, Door
from mdm_dicom_srm.door.http.answer import EXECUTOR, PEER, Handler, abort, failed, in_thread, unforeseen
from mdm_dicom_srm.door.http.authentication import Authentication

MAX_CONNECTIONS = 1024
MAX_BODY_BYTES = 8 * 1024 * 1024  # 10,000 paths of 800 bytes
#: How long a client may take for the TLS handshake, for the head of a request, and between two requests.
HANDSHAKE_SECONDS, HEAD_SECONDS, IDLE_SECONDS = 20.0, 20.0, 75.0
#: How long a body is read that nobody wants, so that its sender sees the answer.
LINGER_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_STOP_SECONDS = 10.0
_log = logging.getLogger(__name__)
# aiohttp's own messages hold what clients sent.
_silent = logging.getLogger(f"{__name__}.aiohttp")
_silent.disabled = True


@dataclass(frozen=True)
class Limits:
    """How many threads the door has, and how many requests one caller may have under way."""

    threads: int = 16
    requests_per_caller: int = 64


class _Connection(web.RequestHandler):
    """A connection that knows until when its client has to have sent the head of a request."""

    def __init__(
        self, server: web.Server, connections: "dict[asyncio.BaseTransport, _Connection]", loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=_silent,
            logger=_silent,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGER_SECONDS,
            debug=False,
        )
        self._connections = connections
        self._waits = True
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._connections) >= MAX_CONNECTIONS:
            abort(transport)
        self._connections[transport] = self
        self.deadline = time.monotonic() + HEAD_SECONDS
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._waits:  # the first bytes of a request's head
            self._waits, self.deadline = False, time.monotonic() + HEAD_SECONDS
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.transport is not None:
            self._connections.pop(self.transport, None)
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no request without repeating it, and end the connection."""
        response = web.Response(status=status, text="BAD_REQUEST: this is not an HTTP request.\n", headers={"Server": "mdm"})
        response.force_close()
        return response

    def begin(self) -> None:
        """Note that a request is being answered."""
        self.deadline = float("inf")

    def end(self) -> None:
        """Note that the next request may come."""
        self._waits, self.deadline = True, time.monotonic() + IDLE_SECONDS


class Listener:
    """Serves the door in a thread of its own. One caller has at most `requests_per_caller` requests under way."""

    def __init__(self, address: Address, tls: TlsSettings, authentication: Authentication, door: Door, limits: Limits) -> None:
        """Bind the port.

        Raises:
            ConfigurationError: it cannot be listened on, or a file of TLS cannot be used.
        """
        self._context = tls_context(tls, authentication.requires_certificate)
        self._authentication = authentication
        self._limit = CallLimit(limits.requests_per_caller)
        self._executor = ThreadPoolExecutor(limits.threads, "door")
        self._connections: dict[asyncio.BaseTransport, _Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._serving, self._stopping = threading.Event(), asyncio.Event()
        self._app = self._application(door)
        try:
            self._server, self._runner = self._loop.run_until_complete(self._listen(address))
        except OSError as error:
            self._loop.close()
            raise ConfigurationError(f"door: cannot listen on {address.host}:{address.port}: {error.strerror}") from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()
        self._serving.wait()
        _log.info("serving the door", extra={"port": self.port})

    def stop(self) -> None:
        """End: no new connections, requests under way may finish for ten seconds."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _application(self, door: Door) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._middleware])
        app[DOOR], app[EXECUTOR] = door, self._executor
        app.on_response_prepare.append(_name_server)
        tape.add_routes(app)
        drs.add_routes(app)
        webdav.add_routes(app)
        return app

    async def _listen(self, address: Address) -> tuple[asyncio.Server, web.AppRunner]:
        runner = web.AppRunner(self._app, handle_signals=False)
        await runner.setup()
        inner = runner.server
        assert inner is not None
        server = await self._loop.create_server(
            lambda: _Connection(inner, self._connections, self._loop),
            address.host,
            address.port,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            start_serving=False,
        )
        return server, runner

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        await self._server.start_serving()
        self._serving.set()
        watch = asyncio.create_task(self._watch())
        await self._stopping.wait()
        watch.cancel()
        self._server.close()
        await self._runner.shutdown()
        assert self._runner.server is not None
        await self._runner.server.shutdown(_STOP_SECONDS)
        await self._runner.cleanup()
        for transport in list(self._connections):
            assert isinstance(transport, asyncio.Transport)
            abort(transport)

    async def _watch(self) -> None:
        """End connections whose client does not send the head of a request."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            for transport, connection in list(self._connections.items()):
                if connection.deadline <= now and isinstance(transport, asyncio.Transport):
                    abort(transport)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = self._connections.get(request.transport) if request.transport is not None else None
        if connection is not None:
            connection.begin()
        status = 500
        try:
            response = await self._answer(request, handler)
            status = response.status
            return response
        finally:
            metrics.DOOR_REQUESTS.labels(request.method if request.method in metrics.DOOR_METHODS else "other", str(status)).inc()
            if connection is not None:
                connection.end()

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            peer = await in_thread(request, self._authentication.authenticate, request)
            request[PEER] = peer
            with self._limit.hold(peer.caller):
                return await handler(request)
        except MdmError as error:
            return failed(request, error)
        except web.HTTPException as error:
            answer = failed(request, MdmError(error.reason.upper().replace(" ", "_"), "The request was refused."), error.status)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            return failed(request, unforeseen(error))


async def _name_server(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers["Server"] = "mdm"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"


def tls_context(tls: TlsSettings, requires_certificate: bool = True) -> ssl.SSLContext:
    """Return what serves TLS 1.3 and nothing older, to clients with a certificate of the trusted roots.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED if requires_certificate else ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a resumed session would not show its certificate again
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(cafile=tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"door: the files of [tls] cannot be used: {error}") from error
    return context
