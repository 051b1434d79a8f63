"""GA4GH Data Repository Service 1.5: a file is an object, its id the GUID; what is described and served is the ciphertext."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from mdm_wire.errors import Code, Invalid, MdmError, NotFound
from mdm_wire.url import canonical_uuid

from mdm_dicom_srm.door.http.address import DOOR, Door, base_of, url_of
from mdm_dicom_srm.door.http.answer import body_of, in_thread, peer_of, status_of
from mdm_dicom_srm.door.http.authentication import Activity, Peer
from mdm_dicom_srm.door.rules.on_demand import Waiting
from mdm_dicom_srm.door.rules.service import Resource

BASE: Final = "/ga4gh/drs/v1"
VERSION: Final = "1.5.0"
MAX_BULK: Final = 1_000
#: The one way to an object.
ACCESS: Final = "https"


class _Delayed(MdmError):
    """The object is being staged; ask again in so many seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__("BEING_STAGED", "The object is being staged; ask again later.", code=Code.UNAVAILABLE)
        self.seconds = seconds


def add_routes(app: web.Application) -> None:
    """Register the endpoints."""
    add = app.router.add_route
    add("GET", f"{BASE}/service-info", service_info)
    for method in ("GET", "POST"):
        add(method, f"{BASE}/objects/{{id}}", one_object)
        add(method, f"{BASE}/objects/{{id}}/access/{{access}}", one_access)
    add("OPTIONS", f"{BASE}/objects/{{id}}", one_authorization)
    add("OPTIONS", f"{BASE}/objects", many_authorizations)
    add("POST", f"{BASE}/objects", many_objects)
    add("POST", f"{BASE}/objects/access", many_accesses)


async def service_info(request: web.Request) -> web.Response:
    """Answer what serves here."""
    door = request.config_dict[DOOR]
    peer_of(request, Activity.LOOK)
    return web.json_response(
        {
            "id": f"mdm.{door.authority}",
            "name": f"Medical Data Manager, {door.site}",
            "type": {"group": "org.ga4gh", "artifact": "drs", "version": VERSION},
            "organization": {"name": door.site, "url": base_of(request)},
            "version": VERSION,
            "maxBulkRequestLength": MAX_BULK,
            "drs": {"maxBulkRequestLength": MAX_BULK},
        }
    )


async def one_object(request: web.Request) -> web.Response:
    """Answer what an object is; 202 while it is staged for the first time, since its checksum is known only then."""
    peer = peer_of(request, Activity.LOOK)
    try:
        return web.json_response(await in_thread(request, _object, request, peer, request.match_info["id"]))
    except _Delayed as delay:
        return _later(delay)


async def one_access(request: web.Request) -> web.Response:
    """Answer the URL of an object's bytes, pinned; 202 while they are staged."""
    peer = peer_of(request, Activity.READ)
    try:
        url = await in_thread(request, _access, request, peer, request.match_info["id"], request.match_info["access"])
    except _Delayed as delay:
        return _later(delay)
    return web.json_response({"url": url})


async def one_authorization(request: web.Request) -> web.Response:
    """Answer what a client must show for an object: the certificate of its connection is enough."""
    peer = peer_of(request, Activity.LOOK)
    await in_thread(request, _resource, request.config_dict[DOOR], peer, request.match_info["id"])
    return web.json_response(_authorization(request.match_info["id"]))


async def many_objects(request: web.Request) -> web.Response:
    """Answer what objects are."""
    peer, ids = peer_of(request, Activity.LOOK), await _bulk(request, "bulk_object_ids")
    found, unresolved = await in_thread(request, _each, ids, lambda item: _object(request, peer, item))
    return web.json_response(_summary(found, unresolved, "resolved_drs_object"))


async def many_authorizations(request: web.Request) -> web.Response:
    """Answer what a client must show for objects."""
    peer, ids = peer_of(request, Activity.LOOK), await _bulk(request, "bulk_object_ids")
    door = request.config_dict[DOOR]

    def one(item: object) -> dict[str, object]:
        _resource(door, peer, item)
        return _authorization(str(item))

    found, unresolved = await in_thread(request, _each, ids, one)
    return web.json_response(_summary(found, unresolved, "resolved_drs_object"))


async def many_accesses(request: web.Request) -> web.Response:
    """Answer the URLs of objects' bytes."""
    peer, items = peer_of(request, Activity.READ), await _bulk(request, "bulk_object_access_ids")
    pairs: list[tuple[object, object]] = []
    for item in items:
        names = item.get("bulk_access_ids") if isinstance(item, dict) else None
        if not isinstance(names, list):
            raise Invalid("BAD_BODY", "Each item needs bulk_object_id and a list called bulk_access_ids.")
        pairs += [(item.get("bulk_object_id"), name) for name in names]
    _check_length(pairs)

    def one(pair: tuple[object, object]) -> dict[str, object]:
        url = _access(request, peer, pair[0], pair[1])
        return {"drs_object_id": pair[0], "drs_access_id": pair[1], "url": url}

    found, unresolved = await in_thread(request, _each, pairs, one)
    return web.json_response(_summary(found, unresolved, "resolved_drs_object_access_urls"))


def _resource(door: Door, peer: Peer, text: object) -> Resource:
    guid = canonical_uuid(text) if isinstance(text, str) else None
    if guid is None:
        raise NotFound("NO_SUCH_OBJECT", "No such object, or not for you.")
    resource = door.service.look_by_guid(peer.dn, guid)
    peer.check(Activity.LOOK, [resource.entry.lfn])
    return resource


def _object(request: web.Request, peer: Peer, text: object) -> dict[str, object]:
    door = request.config_dict[DOOR]
    resource = _resource(door, peer, text)
    known = resource.known
    if known is None:
        peer.check(Activity.READ if resource.is_online else Activity.STAGE, [resource.entry.lfn])
        copy = door.service.open(peer.dn, resource)
        if isinstance(copy, Waiting):
            raise _Delayed(copy.seconds)
        with copy:
            known = door.service.known(copy)
    entry, host = resource.entry, base_of(request).partition("://")[2].partition("/")[0]
    method = {
        "type": ACCESS,
        "access_id": ACCESS,
        "access_url": {"url": url_of(request, entry.lfn)},
        "available": resource.is_online,
        "cloud": "on-premises",
        "authorizations": _authorization(str(known.guid)),
    }
    return {
        "id": str(known.guid),
        "name": entry.lfn.rpartition("/")[2],
        "self_uri": f"drs://{host}/{known.guid}",
        "size": known.size,
        "created_time": _time(entry.created),
        "updated_time": _time(entry.modified),
        "version": known.etag,
        "mime_type": "application/octet-stream",
        "checksums": [{"type": "sha-256", "checksum": known.sha256.hex()}, {"type": "md5", "checksum": known.md5.hex()}],
        "access_methods": [method],
        "description": "Ciphertext of a de-identified DICOM file; `mdm decrypt` opens it.",
    }


def _access(request: web.Request, peer: Peer, text: object, access: object) -> str:
    door = request.config_dict[DOOR]
    resource = _resource(door, peer, text)
    if access != ACCESS:
        raise NotFound("NO_SUCH_ACCESS", f"There is one way to an object: {ACCESS}.")
    peer.check(Activity.READ, [resource.entry.lfn])
    if not resource.is_online:
        peer.check(Activity.STAGE, [resource.entry.lfn])
    token = door.service.token(peer.dn, resource)
    if isinstance(token, Waiting):
        raise _Delayed(token.seconds)
    return f"{base_of(request)}/turl/{token}/{resource.entry.guid}"


def _each(items: Sequence[Any], one: Any) -> tuple[list[Any], dict[int, list[str]]]:
    """Return what is answered of items, and the ids of the others by HTTP status."""
    found, unresolved = [], defaultdict(list)
    for item in items:
        try:
            found.append(one(item))
        except _Delayed:
            unresolved[202].append(_name(item))
        except MdmError as error:
            unresolved[status_of(error)].append(_name(item))
    return found, unresolved


def _name(item: object) -> str:
    return str(item[0] if isinstance(item, tuple) else item)[:64]


def _summary(found: Sequence[Any], unresolved: Mapping[int, Sequence[str]], name: str) -> dict[str, object]:
    failed = sum(map(len, unresolved.values()))
    return {
        "summary": {"requested": len(found) + failed, "resolved": len(found), "unresolved": failed},
        "unresolved_drs_objects": [{"error_code": code, "object_ids": list(ids)} for code, ids in unresolved.items()],
        name: list(found),
    }


async def _bulk(request: web.Request, name: str) -> Sequence[Any]:
    try:
        body = json.loads(await body_of(request))
    except (ValueError, RecursionError):
        body = None
    found = body.get(name) if isinstance(body, dict) else None
    if not isinstance(found, list):
        raise Invalid("BAD_BODY", f"The body has to be a JSON object with a list called {name}.")
    _check_length(found)
    return found


def _check_length(items: Sequence[object]) -> None:
    if len(items) > MAX_BULK:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_BULK, actual_size=len(items))


def _later(delay: _Delayed) -> web.Response:
    return web.Response(status=202, headers={"Retry-After": str(delay.seconds)})


def _authorization(text: str) -> dict[str, object]:
    # The vocabulary of DRS has no word for a client certificate.
    return {"drs_object_id": text, "supported_types": ["None"]}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
