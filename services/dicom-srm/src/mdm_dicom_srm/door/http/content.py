"""The bytes of a staged copy: conditions, one range, digests, and a body that ends when its reader may read no longer."""

import asyncio
import base64
import re
from dataclasses import dataclass

from aiohttp import web
from mdm_wire.errors import MdmError

from mdm_dicom_srm import metrics
from mdm_dicom_srm.door.http.answer import abort, in_thread, unforeseen
from mdm_dicom_srm.door.rules.copy import Copy, Known
from mdm_dicom_srm.door.rules.service import DoorService

#: How long a reader may leave what it was sent.
STALL_SECONDS = 60.0
_CHUNK_BYTES = 1024 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_ETAG = re.compile(r'(?:W/)?"[^"]*"')
# RFC 3230 compares names without case; gfal2 looks for them as it sent them.
_ALGORITHMS = ("adler32", "md5", "sha-256")


class RangeNotSatisfiable(Exception):
    """No byte of the file is in the range."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` to `end`, which is not included."""

    start: int
    end: int


def range_of(header: str | None, size: int) -> Part | None:
    """Return the one range that a header asks for; None for none, several or something else: the whole file is sent then (RFC 9110).

    Raises:
        RangeNotSatisfiable: it lies beyond the file.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise RangeNotSatisfiable
        return Part(size - length, size)
    start, end = int(match[1]), min(int(match[2] or size), size - 1) + 1
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable
    return Part(start, end)


def is_among(etag: str, header: str | None) -> bool:
    """Return whether a list of ETags, or `*`, names this one."""
    if header is None:
        return False
    return header.strip() == "*" or f'"{etag}"' in (found.removeprefix("W/") for found in _ETAG.findall(header))


def wanted_digests(request: web.Request) -> tuple[str, str]:
    """Return the algorithms of `Want-Digest` (RFC 3230), as it was spelt, and of `Want-Repr-Digest` (RFC 9530); empty for none."""
    plain = _preferred(request.headers.get("Want-Digest", ""), ";q=")
    structured = _preferred(request.headers.get("Want-Repr-Digest", ""), "=")
    return plain, structured if structured.lower() != "adler32" else ""  # which RFC 9530 has made obsolete


def _preferred(header: str, separator: str) -> str:
    best, weight = "", 0.0
    for item in header.split(",")[:16]:
        name, _, value = item.replace(" ", "").partition(separator)
        try:
            found = float(value or 1)
        except ValueError:
            continue
        if name.lower() in _ALGORITHMS and found > weight:
            best, weight = name, found
    return best


def digest_headers(known: Known, wanted: tuple[str, str]) -> dict[str, str]:
    """Return the headers of digests of the whole ciphertext."""
    plain, structured = wanted
    headers = {}
    if plain:
        value = f"{known.adler32:08x}" if plain.lower() == "adler32" else _base64(known, plain)
        headers["Digest"] = f"{plain}={value}"
    if structured:
        headers["Repr-Digest"] = f"{structured.lower()}=:{_base64(known, structured)}:"
    return headers


def _base64(known: Known, algorithm: str) -> str:
    return base64.b64encode(known.md5 if algorithm.lower() == "md5" else known.sha256).decode()


async def answer(request: web.Request, door: DoorService, copy: Copy) -> web.StreamResponse:
    """Answer GET and HEAD of a staged copy, and close it."""
    try:
        headers = {"ETag": f'"{copy.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = wanted_digests(request)
        if any(wanted):
            headers |= digest_headers(await in_thread(request, door.known, copy), wanted)
        status, part = 200, Part(0, copy.size)
        if "If-Match" in request.headers and not is_among(copy.etag, request.headers["If-Match"]):
            return web.Response(status=412, headers=headers)
        if is_among(copy.etag, request.headers.get("If-None-Match")):
            return web.Response(status=304, headers=headers)
        condition = request.headers.get("If-Range")
        if condition is None or condition.strip() == headers["ETag"]:  # strong comparison; a date never matches
            try:
                found = range_of(request.headers.get("Range"), copy.size)
            except RangeNotSatisfiable:
                return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{copy.size}"})
            if found is not None and request.method == "GET":
                status, part = 206, found
                headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{copy.size}"
        if request.method == "HEAD":
            return web.Response(status=status, headers=headers | {"Content-Length": str(part.end - part.start)})
        return await _send(request, copy, part, status, headers)
    finally:
        copy.close()


async def _send(request: web.Request, copy: Copy, part: Part, status: int, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = part.end - part.start
    position = part.start
    # Before the first byte an error is still an answer.
    chunk = await in_thread(request, copy.read, position, min(_CHUNK_BYTES, part.end - position))
    await response.prepare(request)
    try:
        while True:
            async with asyncio.timeout(STALL_SECONDS):
                await response.write(chunk)
            metrics.DOOR_BYTES.inc(len(chunk))
            position += len(chunk)
            if position >= part.end:
                break
            chunk = await in_thread(request, copy.read, position, min(_CHUNK_BYTES, part.end - position))
        await response.write_eof()
    except ConnectionError:
        raise
    except Exception as error:
        # The length has been said already, so only a broken connection tells: of READ_REVOKED, of a reader that stopped, of a disk.
        if request.transport is not None:
            abort(request.transport)
        if not isinstance(error, MdmError | TimeoutError):
            unforeseen(error)
    return response
