"""WLCG Tape REST API v1, mapped to the requests of SRM: a stage request is a BringOnline, its id the request's token."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web
from mdm_wire.errors import NO_SUCH_FILE, Invalid, NotFound
from mdm_wire.url import is_token, lfn_of_surl, surl_of_lfn

from mdm_dicom_srm.door.http.address import DOOR, Door, base_of
from mdm_dicom_srm.door.http.answer import body_of, in_thread, peer_of
from mdm_dicom_srm.door.http.authentication import Activity, Peer
from mdm_dicom_srm.door.http.webdav import lfn_without_repeated_slashes
from mdm_dicom_srm.door.rules.service import Resource
from mdm_dicom_srm.stage.rules.active import RequestStatus
from mdm_dicom_srm.stage.rules.listing import Locality
from mdm_dicom_srm.stage.rules.model import GOOD, MAX_FILES, PENDING, Kind, StagedFile, State
from mdm_dicom_srm.stage.rules.service import Wish

BASE: Final = "/api/v1"
#: Clients ask about whole directories at once.
MOST_LOOKED_FOR: Final = 10 * MAX_FILES
_DURATION = re.compile(r"P(?:([0-9]{1,4})D)?(?:T(?:([0-9]{1,5})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,8})S)?)?")
_LOCALITIES = {
    Locality.ONLINE: "DISK",
    Locality.NEARLINE: "TAPE",
    Locality.ONLINE_AND_NEARLINE: "DISK_AND_TAPE",
    Locality.LOST: "LOST",
    Locality.NONE: "NONE",
    Locality.UNAVAILABLE: "UNAVAILABLE",
}
_NO_FILE = NO_SUCH_FILE


def add_routes(app: web.Application) -> None:
    """Register each path with and without a final slash, as clients differ."""
    add = app.router.add_route
    add("GET", "/.well-known/wlcg-tape-rest-api", discover)
    for end in ("", "/"):
        add("POST", f"{BASE}/stage{end}", stage)
        add("GET", f"{BASE}/stage/{{id}}{end}", poll)
        add("DELETE", f"{BASE}/stage/{{id}}{end}", delete)
        add("POST", f"{BASE}/stage/{{id}}/cancel{end}", cancel)
        add("POST", f"{BASE}/release/{{id}}{end}", release)
        add("POST", f"{BASE}/archiveinfo{end}", archive_info)


async def discover(request: web.Request) -> web.Response:
    """Answer where the API is."""
    door = request.config_dict[DOOR]
    endpoint = {"uri": base_of(request) + BASE, "version": "v1", "metadata": {}}
    return web.json_response({"sitename": door.site, "description": "Medical Data Manager", "endpoints": [endpoint]})


async def stage(request: web.Request) -> web.Response:
    """Ask for files; `diskLifetime` (ISO 8601) is the time of the pin, the longest counts for all."""
    files = _list(await _json(request), "files")
    paths, seconds = await in_thread(request, _wanted, files)
    peer = peer_of(request, Activity.STAGE, *filter(None, paths))
    door = request.config_dict[DOOR]
    wish = Wish([_surl(door, item) for item in paths], Kind.BRING_ONLINE, pin_seconds=seconds)
    token, _ = await in_thread(request, door.staging.prepare, peer.dn, wish)
    location = f"{base_of(request)}{BASE}/stage/{token}"
    return web.json_response({"requestId": token}, status=201, headers={"Location": location})


async def poll(request: web.Request) -> web.Response:
    """Answer how far a request is."""
    door, token = request.config_dict[DOOR], _id(request)
    peer = peer_of(request, Activity.STAGE)

    def work() -> dict[str, Any]:
        status = _request(door, peer, token)
        created = int(status.created)
        answer = {"id": token, "createdAt": created, "startedAt": created, "files": [_file(door, item) for item in status.files]}
        return answer if status.pending else {**answer, "completedAt": int(status.now)}

    return web.json_response(await in_thread(request, work))


async def delete(request: web.Request) -> web.Response:
    """End a request; its id is unknown from then on."""
    door, token = request.config_dict[DOOR], _id(request)
    peer = peer_of(request, Activity.STAGE)
    await in_thread(request, _request, door, peer, token)
    await in_thread(request, door.control.abort, peer.dn, token)
    return web.Response()


async def cancel(request: web.Request) -> web.Response:
    """End files of a request: all of those named, or none if one is not of the request."""
    door, token = request.config_dict[DOOR], _id(request)
    paths = await in_thread(request, _paths, _list(await _json(request), "paths"))
    peer = peer_of(request, Activity.STAGE)

    def work() -> None:
        status = _request(door, peer, token)
        named = {_lfn(door, item): item.surl for item in status.files}
        if foreign := sum(item not in named for item in paths):
            raise Invalid("FOREIGN_PATHS", f"{foreign} of the paths are not of this request; nothing was cancelled.")
        if paths:
            door.control.abort_files(peer.dn, token, [named[item] for item in paths])

    await in_thread(request, work)
    return web.Response()


async def release(request: web.Request) -> web.Response:
    """Release files of a request; with the id of no request of the caller's, its pins of any request on these paths."""
    door, token = request.config_dict[DOOR], request.match_info["id"]
    paths = await in_thread(request, _paths, _list(await _json(request), "paths"))
    peer = peer_of(request, Activity.RELEASE, *filter(None, paths))
    surls = [_surl(door, item) for item in paths]

    def work() -> None:
        if is_token(token):
            try:
                door.control.release(peer.dn, token, surls)
            except NotFound:
                pass
            else:
                return
        if surls:
            door.control.release(peer.dn, "", surls)

    await in_thread(request, work)
    return web.Response()


async def archive_info(request: web.Request) -> web.Response:
    """Answer where files are, in the order asked."""
    asked = _list(await _json(request), "paths", MOST_LOOKED_FOR)
    paths = await in_thread(request, _paths, asked)
    peer, door = peer_of(request, Activity.LOOK, *filter(None, paths)), request.config_dict[DOOR]

    def work() -> str:
        found = door.service.look_all(peer.dn, [_surl(door, item) for item in paths])
        return json.dumps([_located(text, resource) for text, resource in zip(asked, found, strict=True)])

    return web.json_response(text=await in_thread(request, work))


def _located(text: object, resource: Resource | None) -> dict[str, object]:
    if resource is None or resource.is_directory:
        return {"path": text, "error": _NO_FILE if resource is None else "that is a directory"}
    return {"path": text, "locality": _LOCALITIES[resource.locality]}


def _request(door: Door, peer: Peer, token: str) -> RequestStatus:
    """Return a request of the caller's that was made by this API, or by BringOnline.

    Raises:
        NotFound: there is none, or it was deleted. Forbidden: the credential does not cover its paths.
    """
    status = door.staging.status(peer.dn, token)
    peer.check(Activity.STAGE, [lfn for file in status.files if (lfn := _lfn(door, file))])
    if status.kind is not Kind.BRING_ONLINE or (status.state is State.ABORTED and all(f.state is State.ABORTED for f in status.files)):
        raise NotFound("REQUEST_NOT_FOUND", "No such request of yours; it may have ended.")
    return status


def _file(door: Door, file: StagedFile) -> dict[str, object]:
    answer: dict[str, object] = {"path": _lfn(door, file)}
    if file.state is State.FILE_PINNED:
        return {**answer, "onDisk": True}
    if file.state in PENDING:
        return {**answer, "state": "SUBMITTED" if file.state is State.REQUEST_QUEUED else "STARTED"}
    if file.state in GOOD or file.state is State.FILE_LIFETIME_EXPIRED:
        return {**answer, "state": "COMPLETED"}
    if file.state is State.ABORTED:
        return {**answer, "state": "CANCELLED"}
    return {**answer, "state": "FAILED", "error": f"{file.reason or file.state}"}


def _lfn(door: Door, file: StagedFile) -> str | None:
    return lfn_of_surl(door.authority, file.surl)


def _surl(door: Door, lfn: str | None) -> str:
    """Return the SURL of a path; of none, one that names nothing, so that this path alone fails."""
    return surl_of_lfn(door.authority, lfn or "/")


def _id(request: web.Request) -> str:
    token: str = request.match_info["id"]
    if not is_token(token):
        raise NotFound("REQUEST_NOT_FOUND", "No such request of yours; it may have ended.")
    return token


async def _json(request: web.Request) -> Mapping[str, Any]:
    try:
        found = await in_thread(request, json.loads, await body_of(request))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Invalid("BAD_BODY", "The body has to be a JSON object.")
    return found


def _list(body: Mapping[str, Any], name: str, most: int = MAX_FILES) -> Sequence[Any]:
    """Return a list of the body.

    Raises:
        Invalid: there is none. web.HTTPRequestEntityTooLarge: it has more than `most` items.
    """
    found = body.get(name)
    if not isinstance(found, list):
        raise Invalid("BAD_BODY", f"The body needs a list called {name}.")
    if len(found) > most:
        raise web.HTTPRequestEntityTooLarge(most, len(found))
    return found


def _path(item: object) -> str | None:
    """Return the LFN that an item of a list names; None if it can be none."""
    text = item.get("path") if isinstance(item, dict) else item
    if not isinstance(text, str):
        return None
    try:
        return lfn_without_repeated_slashes(text)
    except Invalid:
        return None


def _paths(items: Sequence[object]) -> list[str | None]:
    return [_path(item) for item in items]


def _wanted(files: Sequence[object]) -> tuple[list[str | None], int]:
    """Return the paths of files, and the longest time that one of them is wanted."""
    return _paths(files), max(map(_seconds, files), default=0)


def _seconds(item: object) -> int:
    """Return the seconds of a file's `diskLifetime`, 0 without one; years and months are too vague for a pin."""
    text = item.get("diskLifetime", "") if isinstance(item, dict) else ""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
