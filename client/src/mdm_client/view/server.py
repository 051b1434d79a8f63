"""The local server: the guard in front of the find page, its questions, the gateway, and OHIF."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from mdm_client.client import Client
from mdm_client.dicomweb.gateway import DEFAULT_MEMORY, Gateway
from mdm_client.dicomweb.server import DicomWeb
from mdm_client.name_syntax import Name
from mdm_client.view import ohif
from mdm_client.view.finder import Finder
from mdm_client.view.guard import Guard
from mdm_client.view.local import question, serve, take_port
from mdm_client.view.searches import Searches, default_file

DICOM_WEB, VIEWER_WEB = "/dicom-web", "/viewer-web"
_STATIC = {"/": "find.html", "/find.css": "find.css", "/find.js": "find.js", "/find.svg": "find.svg"}
_STATIC_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MAX_QUESTION = 256 * 1024


@dataclass(frozen=True)
class ViewOptions:
    """How to serve: `port` 0 takes a free one; `memory` in bytes; `cache` is a directory for encrypted files; `viewer` where OHIF is."""

    port: int = 0
    memory: int = DEFAULT_MEMORY
    cache: Path | None = None
    viewer: Path | None = None
    searches: Path | None = None


class ViewServer:
    """A server on 127.0.0.1 for the user of `client`; `run` serves until it is cancelled."""

    def __init__(self, client: Client, options: ViewOptions = ViewOptions()) -> None:
        """Take the port.

        Raises:
            Invalid: PORT_TAKEN.
        """
        self._socket = take_port(options.port)
        self.guard = Guard(self._socket.getsockname()[1])
        self.gateway = Gateway(client, self.guard.origin + DICOM_WEB, memory=options.memory, cache=options.cache)
        self._dicom_web = DicomWeb(self.gateway)
        self.finder = Finder(client, self.gateway)
        self._searches = Searches(options.searches or default_file())
        self._caller = client.caller
        folder = options.viewer or ohif.default_folder()
        self._ohif = ohif.Ohif(folder, ohif.app_config(DICOM_WEB, VIEWER_WEB)) if ohif.is_installed(folder) else None

    @property
    def has_viewer(self) -> bool:
        """Whether OHIF is there."""
        return self._ohif is not None

    def address(self, names: Sequence[Name] = (), sql: str | None = None) -> str:
        """Return the address to open: the page, the studies that names lead to, or a query in the page.

        Raises:
            NotFound: STUDY_NOT_FOUND.
        """
        studies = self.finder.studies_of(names) if names else []
        if sql:
            return self.guard.entrance(f"/#sql={quote(sql, safe='')}")
        if len(studies) == 1 and self.has_viewer:
            return self.guard.entrance(f"/viewer?StudyInstanceUIDs={studies[0]}")
        return self.guard.entrance(f"/#studies={','.join(studies)}" if studies else "/")

    def application(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=_MAX_QUESTION)
        self.guard.install(app)
        app.add_routes(self._dicom_web.routes(DICOM_WEB))
        app.add_routes(self._dicom_web.routes(VIEWER_WEB, brief=True))
        questions: Mapping[str, Callable[[dict[str, Any]], Any]] = {
            "facets": lambda _: {**self.finder.facets(), "viewer": self.has_viewer, "caller": self._caller},
            "search": lambda asked: self.finder.search(asked.get("filters", {}), int(asked.get("offset", 0))),
            "counts": lambda asked: self.finder.counts(str(asked["name"]), asked.get("filters", {})),
            "sql": lambda asked: self.finder.query(str(asked["sql"])),
            "deidentification": lambda asked: self.finder.deidentification(str(asked["study"])),
            "searches": lambda _: self._searches.all(),
            "save": lambda asked: self._searches.put(str(asked["name"]), asked.get("search")),
        }
        for name, answer in questions.items():
            app.router.add_post(f"/api/{name}", question(self._dicom_web.run, answer))
        app.router.add_get("/{path:.*}", self._page)
        return app

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if request.path in _STATIC:
            name = _STATIC[request.path]
            text = (resources.files("mdm_client.view") / "static" / name).read_text(encoding="utf-8")
            return web.Response(text=text, content_type=_STATIC_TYPES[Path(name).suffix])
        if self._ohif is not None and request.path in self._ohif:
            return await self._ohif.answer(request)
        return web.Response(status=404, text="404: no such page\n")

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; `ready` is called when requests are taken."""
        await serve(self.application(), self._socket, ready)

    def close(self) -> None:
        """Give up the port, stop all work and forget all images."""
        self._socket.close()
        self._dicom_web.close()
        self.gateway.close()
