"""WebDAV (RFC 4918) for reading: PROPFIND, HEAD, GET and OPTIONS of the catalog's paths, and TURLs."""

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import quote, unquote_to_bytes
from xml.sax.saxutils import escape

from aiohttp import web
from mdm_wire import path
from mdm_wire.errors import FailedPrecondition, Invalid, NotFound
from mdm_wire.path import Lfn
from mdm_wire.url import canonical_uuid, is_token

from mdm_dicom_srm.door.http import content
from mdm_dicom_srm.door.http.address import DOOR, address_of_holder
from mdm_dicom_srm.door.http.answer import in_thread, peer_of
from mdm_dicom_srm.door.http.authentication import Activity
from mdm_dicom_srm.door.rules.on_demand import Waiting
from mdm_dicom_srm.door.rules.service import Resource

ALLOW = "OPTIONS, GET, HEAD, PROPFIND"
_READING = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND"})
_HREF_SAFE = "/-._~"


def add_routes(app: web.Application) -> None:
    """Register TURLs, and every path that nothing else takes."""
    app.router.add_route("GET", "/turl/{token}/{guid}", read_turl)
    app.router.add_route("HEAD", "/turl/{token}/{guid}", read_turl)
    app.router.add_route("*", "/{path:.*}", dispatch, expect_handler=_expect)


async def dispatch(request: web.Request) -> web.StreamResponse:
    """Answer a request for a path. A space that takes results adds PUT, MKCOL and DELETE here, for paths below its own."""
    match request.method:
        case "OPTIONS":
            return web.Response(headers={"DAV": "1", "Allow": ALLOW})
        case "PROPFIND":
            return await list_path(request)
        case "GET" | "HEAD":
            return await read_path(request)
        case _:
            return _refused()


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Refuse a body before it is sent, where none is taken."""
    if request.method not in _READING:
        return _refused()
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


def _refused() -> web.Response:
    return web.Response(status=405, headers={"Allow": ALLOW}, text="METHOD_NOT_ALLOWED: this is for reading only.\n")


def lfn_of(request: web.Request) -> Lfn:
    """Return the path that a request names.

    Raises:
        Invalid: it cannot be a path of the catalog.
    """
    raw = request.raw_path.partition("?")[0].partition("#")[0]
    try:
        return lfn_without_repeated_slashes(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise Invalid("LFN_INVALID", "Not a valid LFN: it is not valid UTF-8.") from None


def lfn_without_repeated_slashes(text: str) -> Lfn:
    """Return the path of `text`; repeated and final slashes, as clients write them, do not count.

    Raises:
        Invalid: it cannot be a path of the catalog.
    """
    if not text.startswith("/") or len(text) > 2 * path.MAX_PATH_BYTES:
        raise Invalid("LFN_INVALID", "Not a valid LFN: it must be absolute and of at most 1,023 bytes.")
    return path.parse("/" + "/".join(name for name in text.split("/") if name))


async def list_path(request: web.Request) -> web.StreamResponse:
    """Answer PROPFIND with depth 0 or 1; what the body asks for does not matter, the same properties come always."""
    lfn, depth = lfn_of(request), request.headers.get("Depth", "infinity").strip()
    peer = peer_of(request, Activity.LOOK, lfn)
    if depth not in ("0", "1"):
        error = '<?xml version="1.0" encoding="utf-8"?>\n<D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>\n'
        return web.Response(status=403, text=error, content_type="application/xml")
    door = request.config_dict[DOOR].service
    resource = await in_thread(request, door.look, peer.dn, lfn)
    found = [resource]
    if depth == "1" and resource.is_directory:
        found += await in_thread(request, door.below, peer.dn, lfn)
    return web.Response(status=207, body=await in_thread(request, multistatus, found), content_type="application/xml", charset="utf-8")


def multistatus(resources: Iterable[Resource]) -> bytes:
    """Return the answer of PROPFIND."""
    parts = ['<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">\n']
    parts += map(_response, resources)
    parts.append("</D:multistatus>\n")
    return "".join(parts).encode()


def _response(resource: Resource) -> str:
    entry, directory = resource.entry, resource.is_directory
    href = quote(entry.lfn, safe=_HREF_SAFE) + ("/" if directory and entry.lfn != "/" else "")
    created = datetime.fromtimestamp(entry.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    properties = [
        f"<D:displayname>{escape(_shown(path.split(Lfn(entry.lfn))[1]))}</D:displayname>",
        f"<D:creationdate>{created}</D:creationdate>",
        f"<D:getlastmodified>{formatdate(entry.modified, usegmt=True)}</D:getlastmodified>",
        "<D:resourcetype><D:collection/></D:resourcetype>" if directory else "<D:resourcetype/>",
    ]
    if not directory and resource.size is not None:
        properties.append(f"<D:getcontentlength>{resource.size}</D:getcontentlength>")
    if resource.known is not None:
        properties.append(f'<D:getetag>"{resource.known.etag}"</D:getetag>')
    inner = "".join(properties)
    status = "<D:status>HTTP/1.1 200 OK</D:status>"
    return f"<D:response><D:href>{href}</D:href><D:propstat><D:prop>{inner}</D:prop>{status}</D:propstat></D:response>\n"


async def read_path(request: web.Request) -> web.StreamResponse:
    """Answer GET and HEAD of a path: the bytes, or 202 while they are being staged, which only GET begins."""
    lfn, door = lfn_of(request), request.config_dict[DOOR].service
    peer = peer_of(request, Activity.LOOK if request.method == "HEAD" else Activity.READ, lfn)
    resource = await in_thread(request, door.look, peer.dn, lfn)
    if resource.is_directory:
        if request.method == "HEAD":
            return web.Response(headers={"Content-Type": "httpd/unix-directory"})
        raise Invalid("IS_DIRECTORY", "That is a directory: list it by PROPFIND.")
    known = resource.known
    if known is not None and content.is_among(known.etag, request.headers.get("If-None-Match")):
        return web.Response(status=304, headers={"ETag": f'"{known.etag}"'})
    if request.method == "HEAD" and not resource.is_online:
        return _head(request, resource)
    if not resource.is_online:
        peer.check(Activity.STAGE, [lfn])
    try:
        found = await in_thread(request, door.open, peer.dn, resource)
    except FailedPrecondition as error:
        return await _at_holder(request, peer.dn, resource, error)
    if isinstance(found, Waiting):
        if request.method == "HEAD":
            return _head(request, resource)
        return web.Response(status=202, headers={"Retry-After": str(found.seconds)}, text="The file is being staged.\n")
    return await content.answer(request, door, found)


async def _at_holder(request: web.Request, dn: str, resource: Resource, error: FailedPrecondition) -> web.Response:
    """Send the caller to the instance that holds the file."""
    door = request.config_dict[DOOR]
    token = await in_thread(request, door.service.token, dn, resource)
    address = None if isinstance(token, Waiting) else address_of_holder(door, error)
    if address is None or resource.entry.guid is None:
        raise error
    return web.Response(status=302, headers={"Location": f"{address}/turl/{token}/{resource.entry.guid}"})


def _head(request: web.Request, resource: Resource) -> web.Response:
    """Return what is known of a file that is not staged."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if resource.size is not None:
        headers["Content-Length"] = str(resource.size)
    if (known := resource.known) is not None:
        headers |= {"ETag": f'"{known.etag}"', **content.digest_headers(known, content.wanted_digests(request))}
    return web.Response(headers=headers)


async def read_turl(request: web.Request) -> web.StreamResponse:
    """Answer GET and HEAD of a TURL: a file that a request of the caller's has pinned."""
    token, guid = request.match_info["token"], canonical_uuid(request.match_info["guid"])
    if guid is None or not is_token(token):
        raise NotFound("BAD_TURL", "Not a transfer URL of this site; they look like /turl/TOKEN/GUID.")
    peer, door = peer_of(request, Activity.READ), request.config_dict[DOOR].service
    if peer.scopes is not None:
        resource = await in_thread(request, door.look_by_guid, peer.dn, guid)
        peer.check(Activity.READ, [resource.entry.lfn])
    copy = await in_thread(request, door.open_turl, peer.dn, token, guid)
    return await content.answer(request, door, copy)


def _shown(name: str) -> str:
    """Return a name without what XML 1.0 cannot hold."""
    return name.translate({0xFFFE: "\ufffd", 0xFFFF: "\ufffd"})
