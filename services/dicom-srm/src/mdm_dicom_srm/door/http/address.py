"""Addresses: under which URL callers reach this door, and those of the site's other instances."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from aiohttp import web
from mdm_wire.errors import FailedPrecondition, Invalid

from mdm_dicom_srm.door.rules.service import DoorService
from mdm_dicom_srm.stage.rules.control import RequestControl
from mdm_dicom_srm.stage.rules.service import StagingService

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Door:
    """What handlers need: the use cases, and how the site and its addresses are called. `url` is empty where callers' own word counts."""

    service: DoorService
    staging: StagingService
    control: RequestControl
    site: str
    authority: str
    url: str = ""
    instances: Mapping[str, str] = field(default_factory=dict)


DOOR = web.AppKey("door", Door)


def base_of(request: web.Request) -> str:
    """Return the URL under which the caller reaches this door, without a final slash.

    Raises:
        Invalid: it is not configured, and the caller does not say it.
    """
    door = request.config_dict[DOOR]
    if door.url:
        return door.url
    if not _HOST.fullmatch(request.headers.get("Host", "")):
        raise Invalid("BAD_HOST", "The header Host is missing or malformed.")
    return f"https://{request.headers['Host']}"


def url_of(request: web.Request, lfn: str) -> str:
    """Return the URL of a path."""
    return base_of(request) + quote(lfn)


def address_of_holder(door: Door, error: FailedPrecondition) -> str | None:
    """Return the address of the instance that has a file, as an error of staging names it; None if that is not known."""
    match = re.search(r"staged at ([a-z0-9-]+)", error.message)
    return door.instances.get(match[1]) if match and error.reason == "OTHER_INSTANCE" else None
