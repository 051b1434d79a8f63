"""The local server of the desk: the guard in front of its page, questions and pictures."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from aiohttp import web
from mdm_wire.errors import MdmError

from mdm_client.client import Client
from mdm_client.desk.pictures import Pictures
from mdm_client.desk.work import Work
from mdm_client.dicomweb.server import error_response
from mdm_client.view.guard import Guard
from mdm_client.view.local import question, serve, take_port

_STATIC = {"/": "desk.html", "/desk.css": "desk.css", "/desk.js": "desk.js", "/drawing.js": "drawing.js"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_MAX_QUESTION = 64 * 1024
_THREADS = 8


class DeskServer:
    """A server on 127.0.0.1 for the curator of `client` and one site; `run` serves until it is cancelled."""

    def __init__(self, client: Client, site: str = "", port: int = 0) -> None:
        """Take the port; 0 means a free one.

        Raises:
            Invalid: PORT_TAKEN; SITE_UNKNOWN or SITE_AMBIGUOUS, see `Client.curator`.
        """
        client.curator(site)
        self._socket = take_port(port)
        self.guard = Guard(self._socket.getsockname()[1], "mdm desk")
        self._pictures = Pictures(lambda: client.curator(site))
        self._work = Work(lambda: client.curator(site), self._pictures, client.caller)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="desk")

    def application(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=_MAX_QUESTION)
        self.guard.install(app)
        for name, answer in self._work.questions().items():
            app.router.add_post(f"/api/{name}", question(self._run, answer))
        app.router.add_get("/picture/{guid}", self._picture)
        app.router.add_get("/head/{guid}", self._head)
        for path in _STATIC:
            app.router.add_get(path, self._page)
        return app

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; `ready` is called when requests are taken."""
        await serve(self.application(), self._socket, ready)

    def close(self) -> None:
        """Give up the port and forget all pictures."""
        self._socket.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pictures.forget()

    async def _run(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        guid, query = request.match_info["guid"], dict(request.query)
        try:
            return web.Response(body=await self._run(lambda: self._pictures.get(guid, query)), content_type="image/jpeg")
        except MdmError as error:
            return error_response(error)

    async def _head(self, request: web.Request) -> web.StreamResponse:
        guid = request.match_info["guid"]
        try:
            return web.Response(body=await self._run(lambda: self._pictures.head(guid)), content_type="image/png")
        except MdmError as error:
            return error_response(error)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        name = _STATIC[request.path]
        text = (resources.files("mdm_client.desk") / "static" / name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=_TYPES[Path(name).suffix])
