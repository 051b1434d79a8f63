"""Errors as HTTP answers, in the form that each protocol wants, and work that waits, in threads."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from aiohttp import web
from mdm_service.server.interceptor import known_error, place_of
from mdm_wire.errors import Code, MdmError

from mdm_dicom_srm.door.http.authentication import Activity, Peer

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PEER = web.RequestKey("peer", Peer)
EXECUTOR = web.AppKey("executor", Executor)
RETRY_SECONDS = 30
BODY_SECONDS = 30.0
_log = logging.getLogger(__name__)
# Never 409: gfal2 then repeats its request without a pause, for ever.
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 503,
    Code.UNAVAILABLE: 503,
}
_LATER = frozenset({429, 503})


def status_of(error: MdmError) -> int:
    """Return the HTTP status of an error."""
    return _STATUS.get(error.code, 500)


def failed(request: web.BaseRequest, error: MdmError, status: int = 0) -> web.Response:
    """Return an error in the form of the protocol that a path belongs to: Tape REST (RFC 7807), DRS, or one line of text.

    `status` is that of HTTP, where it is no error of ours.
    """
    status = status or status_of(error)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in _LATER else {}
    if request.path.startswith("/api/"):
        problem = {"type": "about:blank", "title": error.reason, "detail": error.message, "status": status}
        return web.json_response(problem, status=status, headers=headers, content_type="application/problem+json")
    if request.path.startswith("/ga4gh/"):
        return web.json_response({"msg": f"{error.reason}: {error.message}", "status_code": status}, status=status, headers=headers)
    answer = web.Response(text=f"{error.reason}: {error.message}\n", status=status, headers=headers)
    if status == 401:  # whoever is nobody holds no connection
        answer.force_close()
    return answer


def unforeseen(error: Exception) -> MdmError:
    """Return what a caller may know of any error; one that nothing foresaw is logged, without its text."""
    if (known := known_error(error)) is not None:
        return known
    number = uuid4().hex[:12]
    _log.error("a request to the door failed", extra={"incident": number, "error": type(error).__name__, "at": place_of(error)})
    return MdmError("INTERNAL", f"The service failed; its log has more under {number}.", code=Code.INTERNAL)


async def in_thread(request: web.BaseRequest, work: Callable[..., T], *arguments: Any) -> T:
    """Return what `work` returns, called in a thread of the door."""
    executor = request.config_dict[EXECUTOR] if isinstance(request, web.Request) else None
    return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)


def peer_of(request: web.Request, activity: Activity, *lfns: str) -> Peer:
    """Return who made a request, if it may do that at these paths.

    Raises:
        Forbidden: see `Peer.check`.
    """
    peer = request[PEER]
    peer.check(activity, lfns)
    return peer


async def body_of(request: web.Request) -> bytes:
    """Return the body, which has to arrive within half a minute.

    Raises:
        web.HTTPRequestEntityTooLarge, web.HTTPRequestTimeout: it is too large or too slow.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def abort(transport: asyncio.Transport) -> None:
    """Break a connection at once; one that has ended stays so."""
    # Python 3.11.2, which Debian 12 has, raises for a TLS connection that has ended.
    with suppress(AttributeError):
        transport.abort()
