"""The one interceptor: it authenticates callers, limits their calls, applies the policy, maps errors to statuses, counts calls.

A handler occupies a thread as long as its call lasts. gRPC lets a caller send headers without a request, or ask for a stream and
never read it; without limits a few such calls would block everybody else.
"""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import grpc
import psycopg
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from mdm_wire.delegation import METADATA_KEY
from mdm_wire.errors import Cancelled, Exhausted, Forbidden, Invalid, MdmError, Unauthenticated, Unavailable
from mdm_wire.status import to_status
from psycopg_pool import PoolTimeout, TooManyRequests

from mdm_service import policy
from mdm_service.identity.caller import Authenticator, Caller, set_caller
from mdm_service.policy import DICOM_SRM
from mdm_service.server import monitoring

_LOOK_SECONDS = 1.0


class CallLimit:
    """Limits how many calls one caller may have running. A dicom-srm calls for many users, so it has no limit."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, caller: Caller) -> Iterator[None]:
        """Count a call until the block ends.

        Raises:
            Exhausted: the caller already has its maximum of running calls.
        """
        if caller.has_role(DICOM_SRM):
            yield
            return
        with self._lock:
            if self._held[caller.dn] >= self._calls:
                raise Exhausted("TOO_MANY_CALLS", f"At most {self._calls} calls at a time; wait until some have ended.")
            self._held[caller.dn] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[caller.dn] -= 1
                if not self._held[caller.dn]:
                    del self._held[caller.dn]


class StallWatch:
    """Cancels calls whose caller neither sends its request nor reads the answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    @contextmanager
    def waiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count the call as waiting for its caller until the block ends."""
        self._waiting[context] = time.monotonic()
        try:
            yield
        finally:
            self._waiting.pop(context, None)

    def _watch(self) -> None:
        while not self._stopping.wait(min(_LOOK_SECONDS, self._seconds / 2)):
            too_early = time.monotonic() - self._seconds
            for context, since in self._waiting.copy().items():
                if since < too_early:
                    context.cancel()


HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_log = logging.getLogger(__name__)


class ServiceInterceptor(grpc.ServerInterceptor):
    """Stands before every method of a server.

    Towards gRPC every method takes a stream of requests: its own unary handlers wait for the request, as long as the caller
    likes, before any code of ours runs. So the caller is authenticated, and its calls are counted, before its request is read.
    """

    def __init__(
        self, authenticator: Authenticator, limit: CallLimit, stalls: StallWatch, health: tuple[CallLimit, ThreadPoolExecutor]
    ) -> None:
        self._authenticator = authenticator
        self._limit = limit
        self._stalls = stalls
        self._health_limit, self._health_threads = health

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wrap the handler that `continuation` finds."""
        handler = continuation(details)
        if handler is None:
            return None
        method: str = details.method
        kinds = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            streamed = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return grpc.stream_stream_rpc_method_handler(self._streaming(method, streamed, handler.request_streaming), **kinds)
        single = self._unary(method, handler.stream_unary if handler.request_streaming else handler.unary_unary, handler.request_streaming)
        if method == HEALTH_CHECK:
            # Threads of its own, so that a busy server is not taken for a dead one.
            cast(Any, single).experimental_thread_pool = self._health_threads
        return grpc.stream_unary_rpc_method_handler(single, **kinds)

    @contextmanager
    def _admitted(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        caller = self._authenticator.authenticate(cast(Mapping[str, Sequence[bytes]], context.auth_context()), _delegation(context))
        if not policy.allows(method, caller.roles):
            raise Forbidden("METHOD_FORBIDDEN", "Your role may not call this method.")
        with (self._health_limit if method == HEALTH_CHECK else self._limit).hold(caller):
            set_caller(caller)
            yield

    def _request(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        with self._stalls.waiting(context):
            request = next(requests, None)
        if request is None:
            raise Invalid("REQUEST_MISSING", "The call ended without a request.")
        return request

    def _requests(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        while True:
            with self._stalls.waiting(context):
                request = next(requests, None)
            if request is None:
                return
            yield request

    def _unary(self, method: str, behaviour: Callable[[Any, Any], Any], many: bool) -> Callable[[Any, Any], Any]:
        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with self._answered(method, context):
                return behaviour((self._requests if many else self._request)(requests, context), context)

        return handle

    def _streaming(self, method: str, behaviour: Callable[[Any, Any], Iterator[Any]], many: bool) -> Callable[[Any, Any], Iterator[Any]]:
        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._answered(method, context):
                for response in behaviour((self._requests if many else self._request)(requests, context), context):
                    with self._stalls.waiting(context):
                        yield response

        return handle

    @contextmanager
    def _answered(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Admit the caller, count the call, and end it with the status of the error that the block raises."""
        started = time.perf_counter()
        status, code = None, "OK"
        try:
            with self._admitted(method, context):
                yield
        except Exception as error:
            ended = cast(Any, context).code()
            if ended is not None:  # the handler has ended the call itself by `context.abort`
                code = ended.name
                raise
            # gRPC would log the text of what is raised because a caller has disconnected, and that may hold what must not be logged.
            status = status_of(error if context.is_active() else Cancelled())
            code = code_pb2.Code.Name(status.code)
        finally:
            monitoring.observe_call(method, code, time.perf_counter() - started)
        if status is not None:
            context.abort_with_status(rpc_status.to_status(status))


def _delegation(context: grpc.ServicerContext) -> str:
    """Return the token that a job sends; empty if there is none."""
    found = [value for key, value in context.invocation_metadata() or () if key == METADATA_KEY]
    if len(found) > 1 or not all(isinstance(value, str) and value for value in found):
        raise Unauthenticated("DELEGATION_MALFORMED", f"A call has one delegation at most, as text: `{METADATA_KEY}`.")
    return str(found[0]) if found else ""


def status_of(error: Exception) -> status_pb2.Status:
    """Return the status that a caller gets for `error`; an unforeseen one becomes INTERNAL with an id that is also in the log."""
    known = known_error(error)
    if known is None:
        incident = uuid.uuid4().hex[:12]
        # Neither the message nor locals: they may hold what must not be logged. The place and the type are enough to find it.
        _log.error("unexpected error", extra={"incident": incident, "error": type(error).__name__, "at": place_of(error)})
        return status_pb2.Status(code=code_pb2.INTERNAL, message=f"Internal error {incident}: ask the operator to look it up in the log.")
    return to_status(known)


def known_error(error: Exception) -> MdmError | None:
    """Return an error as callers may know it; None if nothing foresaw it."""
    if isinstance(error, MdmError):
        return error
    if isinstance(error, PoolTimeout | TooManyRequests | psycopg.OperationalError | psycopg.InterfaceError):
        return Unavailable("DATABASE_UNAVAILABLE", "The database is not available; try again later.")
    return None


def place_of(error: Exception) -> list[str]:
    """Return where an error was raised, for a log: modules, functions and lines, nothing of its text."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}.{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames
