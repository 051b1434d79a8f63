"""DICOMweb over HTTP: the gateway's answers as an aiohttp application's routes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aiohttp import web
from mdm_wire.errors import Code, FailedPrecondition, Invalid, MdmError
from mdm_wire.retry import is_transient

from mdm_client.dicomweb import media
from mdm_client.dicomweb.gateway import Gateway, Listing, array_of, dumps
from mdm_client.dicomweb.rendering import Picture, explicit_frame, render
from mdm_client.image.instance import Instance, bulk_data, frame, frame_syntax

Answer = TypeVar("Answer")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_THREADS = 16
_PIECE = 4 * 1024 * 1024
_THUMBNAIL = (128, 128)
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.NOT_FOUND: 404,
    Code.PERMISSION_DENIED: 404,
    Code.FAILED_PRECONDITION: 406,
    Code.RESOURCE_EXHAUSTED: 507,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.CANCELLED: 503,
    Code.UNAUTHENTICATED: 403,
}


def error_response(error: MdmError) -> web.Response:
    """Return an error as HTTP says it, with reason and message as JSON."""
    body = json.dumps({"reason": error.reason, "message": error.message})
    headers = {"Retry-After": "5"} if is_transient(error) else {}
    return web.Response(status=_STATUS.get(error.code, 500), text=body, content_type="application/json", headers=headers)


class DicomWeb:
    """The routes of a gateway. `brief` ones answer metadata from records where these suffice."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dicomweb")

    def routes(self, prefix: str, *, brief: bool = False) -> list[web.RouteDef]:
        """Return the routes under a path."""
        study, series = f"{prefix}/studies/{{study}}", f"{prefix}/studies/{{study}}/series/{{series}}"
        instance = f"{series}/instances/{{instance}}"
        table: list[tuple[str, Handler]] = [
            (f"{prefix}/studies", self._studies),
            (f"{prefix}/series", self._series),
            (f"{study}/series", self._series),
            (f"{prefix}/instances", self._instances),
            (f"{study}/instances", self._instances),
            (f"{series}/instances", self._instances),
            *((place, self._files) for place in (study, series, instance)),
            *((f"{place}/metadata", self._brief if brief else self._metadata) for place in (study, series, instance)),
            (f"{instance}/frames/{{frames}}", self._frames),
            (f"{instance}/frames/{{frame}}/rendered", self._rendered),
            (f"{instance}/frames/{{frame}}/thumbnail", self._thumbnail),
            *((f"{place}/rendered", self._rendered) for place in (study, series, instance)),
            *((f"{place}/thumbnail", self._thumbnail) for place in (study, series, instance)),
            (f"{instance}/bulkdata/{{path:.+}}", self._bulk_data),
        ]
        return [web.get(path, _answering(handler)) for path, handler in table]

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, call: Callable[[], Answer]) -> Answer:
        """Return what a blocking call returns."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _studies(self, request: web.Request) -> web.StreamResponse:
        return await self._listing(request, lambda: self._gateway.search_studies(request.query.items()))

    async def _series(self, request: web.Request) -> web.StreamResponse:
        study = request.match_info.get("study")
        return await self._listing(request, lambda: self._gateway.search_series(study, request.query.items()))

    async def _instances(self, request: web.Request) -> web.StreamResponse:
        study, series, _ = _uids(request)
        return await self._listing(request, lambda: self._gateway.search_instances(study or None, series, request.query.items()))

    async def _listing(self, request: web.Request, search: Callable[[], Listing]) -> web.StreamResponse:
        _chosen(request, media.JSON, "application/json")
        listing = await self.run(search)
        response = web.Response(body=await self.run(lambda: dumps(listing)), content_type=media.JSON)
        for site, error in listing.failures.items():
            response.headers.add("Warning", f'299 mdm "{site} does not answer: {error.reason}"')
        return response

    async def _metadata(self, request: web.Request) -> web.StreamResponse:
        return await self._headers(request, brief=False)

    async def _brief(self, request: web.Request) -> web.StreamResponse:
        return await self._headers(request, brief=True)

    async def _headers(self, request: web.Request, *, brief: bool) -> web.StreamResponse:
        _chosen(request, media.JSON, "application/json")
        study, series, instance = _uids(request)
        pieces = await self.run(lambda: b"".join(array_of(self._gateway.metadata(study, series, instance, brief=brief))))
        return web.Response(body=pieces, content_type=media.JSON)

    async def _files(self, request: web.Request) -> web.StreamResponse:
        study, series, instance = _uids(request)
        _, multipart = _chosen(request, media.DICOM)
        if instance is not None and not multipart:
            if all(wanted.type == media.ANY for wanted in _accepted(request)):
                multipart = True  # as PS3.18 has it where a request does not care
            else:
                found, data = await self.run(lambda: self._gateway.instance(study, series, instance))
                _check_syntax(request, found)
                return await _stream(request, media.DICOM, _pieces(iter([data])))

        def files() -> Iterator[tuple[Instance, bytes]]:
            if instance is None:
                yield from self._gateway.instances(study, series)
            else:
                yield self._gateway.instance(study, series, instance)

        return await self._parts(request, files())

    async def _parts(self, request: web.Request, files: Iterator[tuple[Instance, bytes]]) -> web.StreamResponse:
        body = media.Multipart(media.DICOM)
        first = await self.run(lambda: next(files, None))
        if first is not None:
            _check_syntax(request, first[0])

        async def pieces() -> AsyncIterator[bytes | memoryview]:
            found = first
            while found is not None:
                instance, data = found
                headers = {"Content-Type": f"{media.DICOM}; transfer-syntax={instance.syntax}"}
                async for piece in _pieces(body.part(headers, data)):
                    yield piece
                found = data = None  # type: ignore[assignment]
                found = await self.run(lambda: next(files, None))
            yield body.end()

        return await _stream(request, body.content_type, pieces())

    async def _frames(self, request: web.Request) -> web.StreamResponse:
        study, series, uid = _uids(request)
        numbers = _frame_numbers(request.match_info["frames"])
        instance, data = await self.run(lambda: self._gateway.instance(study, series, uid or ""))
        wanted = _accepted(request)
        form, frames = await self.run(lambda: _formed(instance, data, numbers, wanted))
        kind = f"{form.type}; transfer-syntax={form.syntax}"
        if not form.multipart and len(frames) == 1:
            return web.Response(body=bytes(frames[0]), headers={"Content-Type": kind})
        body = media.Multipart(form.type)
        pieces = [piece for found_frame in frames for piece in body.part({"Content-Type": kind}, found_frame)]
        return web.Response(body=b"".join([*pieces, body.end()]), headers={"Content-Type": body.content_type})

    async def _rendered(self, request: web.Request) -> web.StreamResponse:
        return await self._picture(request, (0, 0))

    async def _thumbnail(self, request: web.Request) -> web.StreamResponse:
        return await self._picture(request, _THUMBNAIL)

    async def _picture(self, request: web.Request, size: tuple[int, int]) -> web.StreamResponse:
        study, series, uid = _uids(request)
        kind, multipart = _chosen(request, "image/jpeg", "image/png")
        picture = Picture.of_query(request.query, kind, size)
        asked = _frame_numbers(request.match_info["frame"])[0] if "frame" in request.match_info else 0

        def draw() -> bytes:
            instance, data = self._gateway.instance(study, series, uid) if uid else self._gateway.sample(study, series)
            number = asked or (instance.frames + 1) // 2
            if instance.has_pixels:
                frame(data, instance, number)
            # A thumbnail is only to be recognised.
            states = [] if size[0] else self._gateway.presentations(study)
            return render(data, number, picture, states)

        drawn = await self.run(draw)
        if not multipart:
            return web.Response(body=drawn, content_type=kind)
        body = media.Multipart(kind)
        return web.Response(
            body=b"".join([*body.part({"Content-Type": kind}, drawn), body.end()]), headers={"Content-Type": body.content_type}
        )

    async def _bulk_data(self, request: web.Request) -> web.StreamResponse:
        study, series, uid = _uids(request)
        path = request.match_info["path"]

        def found() -> list[tuple[bytes, str]]:
            instance, data = self._gateway.instance(study, series, uid or "")
            return list(bulk_data(data, instance, path))

        parts = await self.run(found)
        kind = parts[0][1]
        chosen = media.choose(_accepted(request), [kind, media.OCTETS])
        if chosen is None:
            raise FailedPrecondition("NOT_ACCEPTABLE", f"this bulk data is {kind}")
        if not chosen[1] and len(parts) == 1:
            return await _stream(request, chosen[0], _pieces(iter([parts[0][0]])))
        body = media.Multipart(chosen[0])
        pieces = [piece for value, _ in parts for piece in body.part({"Content-Type": chosen[0]}, value)]
        return await _stream(request, body.content_type, _pieces(iter([*pieces, body.end()])))


def _answering(handler: Handler) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except MdmError as error:
            return error_response(error)

    return answer


def _uids(request: web.Request) -> tuple[str, str | None, str | None]:
    names = request.match_info
    return names.get("study", ""), names.get("series"), names.get("instance")


def _accepted(request: web.Request) -> list[media.Accepted]:
    """Return what a request accepts; the parameter of the address wins over the header, as PS3.18 demands."""
    return media.parse_accept(request.query.get("accept") or request.headers.get("Accept") or "")


def _chosen(request: web.Request, *offered: str) -> tuple[str, bool]:
    found = media.choose(_accepted(request), offered)
    if found is None:
        raise FailedPrecondition("NOT_ACCEPTABLE", f"this is available as {' or '.join(offered)}")
    return found


def _check_syntax(request: web.Request, instance: Instance) -> None:
    if not any(wanted.syntax in ("", "*", str(instance.syntax)) for wanted in _accepted(request)):
        raise FailedPrecondition("NOT_ACCEPTABLE", f"files are sent as they are stored, this one in {instance.syntax}")


def _frame_numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and len(part) < 9 for part in parts):
        raise Invalid("FRAME_LIST", "frames are numbers, separated by commas")
    return [int(part) for part in parts]


def _formed(
    instance: Instance, data: bytes, numbers: Sequence[int], accepted: Sequence[media.Accepted]
) -> tuple[media.FrameForm, list[bytes | memoryview]]:
    """Return frames and the form in which they are sent: as they are stored wherever that is accepted, or cannot be helped."""
    stored = frame_syntax(instance)
    form = media.frame_form(accepted, stored)
    if form is None:
        raise FailedPrecondition("NOT_ACCEPTABLE", f"frames are sent in {stored}, or in explicit little endian")
    if form.decoded:
        try:
            return form, [explicit_frame(data, number) for number in numbers]
        except FailedPrecondition:
            if any(wanted.syntax == form.syntax for wanted in accepted):
                raise
    return media.FrameForm(form.type, stored, False, form.multipart), [frame(data, instance, number) for number in numbers]


async def _pieces(values: Iterator[Any]) -> AsyncIterator[bytes | memoryview]:
    """Yield values in pieces that a connection takes without holding all of them twice."""
    for value in values:
        view = memoryview(value)
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]


async def _stream(request: web.Request, content_type: str, pieces: AsyncIterator[bytes | memoryview]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    async for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response
