"""Who may speak to the local server: this user's browser, which came by the one-time address, and programs with the session's token."""

import hmac
import os
import re
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HOST = "127.0.0.1"
#: A handler puts its own policy here; everything else gets the strict one.
CSP = web.RequestKey("csp", str)
#: Set by handlers whose answers a browser may keep: files whose names change with their content.
CACHEABLE = web.RequestKey("cacheable", bool)
STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), usb=(), serial=()",
}
#: Where the entrance may lead: a path of this server, in printable ASCII, of which browsers drop nothing.
_TARGET = re.compile(r"/(?!/)[!-\[\]-~]*")
_TCP = Path("/proc/net/tcp")


class Guard:
    """The checks of one server. `token` is what programs send as `Authorization: Bearer`; `entrance` takes a browser in, once."""

    def __init__(self, port: int, command: str = "mdm view") -> None:
        """Guard a port; refusals say which command printed the address."""
        self.port = port
        self._command = command
        self.origin = f"http://{HOST}:{port}"
        self.token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._once = secrets.token_urlsafe(32)
        self._cookie = f"mdm_view_{port}"
        self._peers: WeakKeyDictionary[object, bool] = WeakKeyDictionary()

    def entrance(self, path: str = "/") -> str:
        """Return the address that a browser opens first; it leads to `path`, and works once."""
        return f"{self.origin}/enter?{urlencode({'token': self._once, 'to': path})}"

    def install(self, app: web.Application) -> None:
        """Have an application check every request and protect every answer."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._check(request, handler)

        app.middlewares.append(check)
        app.on_response_prepare.append(self._protect)
        app.router.add_get("/enter", self._enter)

    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._same_user(request):
            return _refused(403, "another user's process")
        programme = self._bearer(request)
        # dicomweb-client sends Host without a port.
        if request.host != f"{HOST}:{self.port}" and not (programme and request.host == HOST):
            return _refused(403, "another host's name")
        if request.headers.get("Origin", self.origin) != self.origin:
            return _refused(403, "another origin")
        if request.path == "/enter":
            return await handler(request)
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return _refused(403, "another site")
        if not programme and not self._known(request.cookies.get(self._cookie, ""), self._session):
            return _refused(401, f"open the address that {self._command} printed; it works once, in one browser")
        return await handler(request)

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        """Exchange the one-time token for the session's cookie; a browser that has the cookie is just let through."""
        known = self._known(request.cookies.get(self._cookie, ""), self._session)
        if not known and not (self._once and self._known(request.query.get("token", ""), self._once)):
            return _refused(403, f"this address was used already, or is not the one that {self._command} printed")
        target = request.query.get("to", "/")
        response = web.Response(status=303, headers={"Location": target if _TARGET.fullmatch(target) else "/"})
        if not known:
            self._once = ""
            response.set_cookie(self._cookie, self._session, httponly=True, samesite="Strict", path="/")
        return response

    async def _protect(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)
        response.headers["Content-Security-Policy"] = request.get(CSP, STRICT)
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable" if request.get(CACHEABLE) else "no-store"
        response.headers.pop("Server", None)

    def _bearer(self, request: web.Request) -> bool:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._known(value.strip(), self.token)

    @staticmethod
    def _known(given: str, secret: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())

    def _same_user(self, request: web.Request) -> bool:
        """Return whether the other end of the connection is a process of this user, where the system says whose it is."""
        transport = request.transport
        if transport is None:
            return False
        if transport not in self._peers:
            peer = transport.get_extra_info("peername")
            owner = _owner(peer[0], peer[1], self.port) if peer else None
            self._peers[transport] = owner in (None, os.getuid())
        return self._peers[transport]


def _owner(address: str, port: int, server_port: int) -> int | None:
    """Return the user id of the process that has this end of a connection to us; None where the system does not say (not Linux)."""
    try:
        lines = _TCP.read_text().splitlines()[1:]
    except OSError:
        return None
    local, remote = _kernel_form(address, port), _kernel_form(HOST, server_port)
    for line in lines:
        fields = line.split()
        if fields[1] == local and fields[2] == remote:
            return int(fields[7])
    return None


def _kernel_form(address: str, port: int) -> str:
    number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    return f"{number:08X}:{port:04X}"


def _refused(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=f"{status}: {why}\n")
